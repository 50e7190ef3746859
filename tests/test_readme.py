"""The commands of the README, in their order, in a copy of the working tree."""

import re
import shlex
import subprocess

import pytest

from tests.checkout import make_checkout
from tests.conftest import randomized, tiny_cfg
from tests.scripts import run_inside
from tests.test_docs import BLOCKS, is_script

NEEDS_MORE = re.compile(r"#.*(needs a GPU|after an interruption)")
# for the time: fewer pixels, no fit of the weights, no charts; everything else is as typed
SMALLER = {"640": "128", "320": "128"}
QUICKER = {"models/export_INT8.py": ["--no-bias-correction"],
           "test_multi_backend.py": ["--no-report"],
           "train.py": ["--noautoanchor", "--epochs", 1]}  # fmt: skip


def readme_lines():
    """Lines of the README's blocks that run on what is shipped: all that do not say what else."""
    for block in BLOCKS:
        if block.page == "README.md" and block.language == "bash" and not block.not_run:
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not NEEDS_MORE.search(line):
                    yield line


@pytest.fixture
def checkout(tmp_path):
    """A copy of the working tree without results; a tiny network stands for the shipped s6."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxslim")
    from models.yolo import Model

    return make_checkout(tmp_path / "checkout", randomized(Model(tiny_cfg())))


def test_commands_of_the_readme_run_in_order(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    done, prepared = [], ""
    for line in readme_lines():
        words = [SMALLER.get(word, word) for word in shlex.split(line, comments=True)]
        if words[0] == "cp":
            subprocess.run(words, check=True)
        elif is_script(words):
            found = run_inside(words[1], *words[2:], *QUICKER.get(words[1], []))
            assert found.returncode == 0, "%s\n%s%s" % (line, found.stdout, found.stderr)
            done.append(words[1])
            prepared += found.stdout if words[1].startswith("escalator/") else ""
    assert len(done) >= 8 and {"train.py", "models/export_INT8.py"} <= set(done)
    (shown,) = [b.text for b in BLOCKS if b.page == "README.md" and "label files" in b.text]
    assert prepared.rstrip("\n") == shown
    made = ["weights/yolov5s6_pose.onnx", "weights/yolov5s6_pose-INT8.onnx", "runs/detect/exp",
            "runs/train/exp/weights/last.pt", "caches/yolov5s6_pose.cache.json"]  # fmt: skip
    assert all((checkout / name).exists() for name in made)
    # again, from the cache: it belongs to this ONNX
    twice = run_inside("models/export_INT8.py", "--onnx", made[0], "--no-bias-correction")
    assert twice.returncode == 0 and "warning" not in twice.stdout
