"""Two agents of torchrun stand for two hosts; each has a copy of the data."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

from models.checkpoint import load_checkpoint  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.people import make_people  # noqa: E402

EPOCHS = 4


def start(folder, project, *words, resume=False):
    """train.py under torchrun with these words, from the data in `folder`."""
    flags = [
        "--cfg", folder / "tiny.yaml", "--data", folder / "data.yaml", "--epochs", EPOCHS,
        "--batch-size", 4, "--img-size", 64, "--workers", 0, "--noautoanchor",
    ]  # fmt: skip
    command = ["-m", "torch.distributed.run", *words, ROOT / "train.py", "--device", "cpu",
               "--project", project, *(["--resume"] if resume else flags)]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=str(ROOT), encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def two_hosts(folders, projects, *, resume=False):
    """An agent for each; the first one leads."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ("--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1",
             "--master-port", port)  # fmt: skip
    return [
        start(folder, project, *words, "--node-rank", rank, resume=resume)
        for rank, (folder, project) in enumerate(zip(folders, projects))
    ]


def ended(process):
    """(exit code, output, errors)"""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_two_hosts_train_lose_one_and_go_on(tmp_path):
    """After kill -9 of the second host's agent both end; --resume then gives the weights of one
    host with two processes, bit for bit. The second host has no file of the run."""
    folders = [make_people(tmp_path / name, val=1) for name in ("a", "b")]
    projects = [tmp_path / "runs_a", tmp_path / "runs_b"]
    last = projects[0] / "exp" / "weights" / "last.pt"

    first, second = two_hosts(folders, projects)
    while not last.is_file() and first.poll() is None:
        time.sleep(0.005)
    os.kill(second.pid, signal.SIGKILL)
    whole = start(folders[0], tmp_path / "whole", "--standalone", "--nproc-per-node", 2)
    code, out, err = ended(first)
    assert code == 1 and "2 processes, batch 4" in out, out + err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "ended" in line and line.endswith("--resume %s" % last)
    ended(second)  # its process does not outlive it: it holds the other end of the pipe
    assert not list(tmp_path.glob("**/.tmp*")) and not projects[1].exists()

    first, second = (ended(process) for process in two_hosts(folders, projects, resume=True))
    assert first[0] == 0 and "goes on after epoch" in first[1], first
    assert "warning" not in first[1]
    assert second[0] == 0 and "the first process, on another host, prints" in second[1], second
    code, out, err = ended(whole)
    assert code == 0 and out.count("best keypoint AP") == 1, out + err
    mine, theirs = (load_checkpoint(path).model.state_dict() for path in
                    (last, tmp_path / "whole" / "exp" / "weights" / "last.pt"))  # fmt: skip
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
