"""data/scripts/*.sh with a `python` that writes down what it is asked; each command is understood.

prepare_custom.sh also runs for real, on the twelve people.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.test_docs import check_command

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
SCRIPTS = sorted(p.name for p in (ROOT / "data" / "scripts").glob("*.sh"))
RECORDER = '#!/bin/sh\nprintf "%s\\n" "$@" end >> "$RECORD"\n'
END = "end"
# arguments -> how many commands it gives, on files of the shipped names
COUNTS = {
    ("export.sh",): 4, ("int8_search.sh",): 36, ("mix_coco.sh",): 1, ("prepare_custom.sh",): 6,
    ("speed.sh",): 2, ("test.sh",): 2, ("train.sh",): 1, ("train.sh", "finetune"): 1,
}  # fmt: skip


def commands(folder, *words, **environment):
    """Words of each command that a script gives in `folder`."""
    python = folder / "python"
    python.write_text(RECORDER)
    python.chmod(0o755)
    record = folder / "record.txt"
    record.write_text("")
    env = {**os.environ, "PYTHON": str(python), "RECORD": str(record), **environment}
    done = run(folder, *words, env=env)
    assert done.returncode == 0, done.stderr
    found = [[]]
    for line in record.read_text().splitlines():
        if line == END:
            found.append([])
        else:
            found[-1].append(line)
    return found[:-1]


def run(folder, *words, env):
    script = ROOT / "data" / "scripts" / words[0]
    return subprocess.run(
        ["bash", str(script), *words[1:]], cwd=str(folder), env=env, capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path):
    """Two of the files that test.sh and speed.sh look for."""
    (tmp_path / "weights").mkdir()
    for name in ("yolov5s6_pose.pt", "yolov5s6_pose.onnx"):
        (tmp_path / "weights" / name).touch()
    return tmp_path


@pytest.mark.parametrize("words", COUNTS, ids=" ".join)
def test_commands_are_understood(folder, words):
    found = commands(folder, *words)
    assert len(found) == COUNTS[words]
    for script, *flags in found:
        check_command(script, flags)


def test_every_script_is_known():
    """prepare_coco.sh downloads 20 GB and is not run."""
    assert {words[0] for words in COUNTS} | {"prepare_coco.sh"} == set(SCRIPTS)
    done = run(ROOT, "train.sh", "tune", env=dict(os.environ))
    assert done.returncode == 1 and "usage: " in done.stderr


def test_from_scratch(folder):
    (words,) = commands(folder, "train.sh", WEIGHTS="")
    assert words[words.index("--weights") + 1] == ""


@pytest.mark.parametrize("script", ["test.sh", "speed.sh"])
def test_nothing_to_test(tmp_path, script):
    done = run(tmp_path, script, env={**os.environ, "STEM": "weights/none"})
    assert done.returncode == 1 and "neither weights/none.pt nor" in done.stderr


@pytest.mark.parametrize(
    ("root", "data", "mine"),
    [
        ("data/custom_kpts", "data/custom_kpts.yaml", ""),
        ("data/own/", "data/own/data.yaml", ""),
        ("data/own", "data/own/data.yaml", "train: train.txt\nval: val.txt\nnames: [worker]\n"),
    ],
)
def test_prepare_custom(tmp_path, root, data, mine):
    for name in ("escalator", "utils"):
        shutil.copytree(str(ROOT / name), str(tmp_path / name))
    shutil.copytree(str(ROOT / "tests/data/people"), str(tmp_path / root))
    shutil.copy(str(ROOT / "data/custom_kpts.yaml"), str(tmp_path / "data"))
    if mine:  # completed by hand
        (tmp_path / data).write_text(mine)
    env = {**os.environ, "PYTHON": sys.executable, "ROOT": root}
    done = run(tmp_path, "prepare_custom.sh", env=env)
    assert done.returncode == 0, done.stderr
    assert not mine or (tmp_path / data).read_text() == mine and "is kept as" in done.stdout
    assert "errors" in done.stdout and len(list((tmp_path / "runs/visual").iterdir())) == 5
    report = json.loads((tmp_path / "runs/check/report.json").read_text())
    assert report["data"] == data and report["train"]["images"] == 8
