"""The commands of docs/ run as typed, page by page, in a copy of the working tree.

For the time: a network of a few layers, 64 px, one epoch, TensorRT as a stand-in of 8.5. A command
that needs more says so at its end (`# needs ...`), or reads an engine or a camera.
README.md has test_readme.py, docs/custom-keypoints.md test_custom_keypoints.py.
"""

import re
import shlex
import shutil
import types

import cv2
import numpy as np
import pytest
import yaml

from tests.checkout import make_checkout
from tests.conftest import ROOT, randomized, small_cfg
from tests.foreign_net import make_foreign
from tests.test_docs import BLOCKS, is_script

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxslim")

from models.checkpoint import save_checkpoint  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.models.test_export_TRT import run  # noqa: E402

ELSEWHERE = ("README.md", "docs/README.zh-CN.md", "docs/custom-keypoints.md", "docs/cli.md")
NEEDS = re.compile(r"#.*\b(needs|after an interruption)\b")
SMALL = {"--img-size": "64", "--epochs": "1", "--batch-size": "4", "--device": "cpu",
         "--workers": "0", "--calib_num": "4", "--freeze": "1", "--cfg": "small.yaml"}  # fmt: skip
MORE = {"models/export_INT8.py": ["--no-bias-correction"], "test_multi_backend.py": ["--no-report"],
        "train.py": ["--noautoanchor"]}  # fmt: skip


def lines_of(block):
    """Its commands, one a line, with the comment behind."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield types.SimpleNamespace(text=line, words=words)


def only_parsed(line):
    """Whether the command says that it needs more, or reads an engine or a camera."""
    words = line.words
    engine = words[1] != "models/export_deploy.py" and any(w.endswith(".trt") for w in words)
    return bool(NEEDS.search(line.text)) or engine or any("rtsp://" in w for w in words)


RUN = {}
for _block in BLOCKS:
    if _block.language == "bash" and not _block.not_run and _block.page not in ELSEWHERE:
        for _line in lines_of(_block):
            if is_script(_line.words) and not only_parsed(_line):
                RUN.setdefault(_block.page, []).append(_line)


def typed(words):
    """The command, small enough for a test."""
    script, *flags = words[1:]
    for i, word in enumerate(flags[:-1]):
        assert word != "--cfg" or (ROOT / flags[i + 1]).is_file(), flags[i + 1]
        if word in SMALL and (word != "--batch-size" or script == "train.py"):
            flags[i + 1] = SMALL[word]
    flags += [w for w in MORE.get(script, []) if w not in flags]
    if script == "test_multi_backend.py" and "study" in flags:
        flags += ["--study-sizes", "64", "128"]
    return script, flags


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working tree after the first steps of docs/data.md, and files of the user's."""
    model = randomized(Model(small_cfg()))
    folder = make_checkout(tmp_path / "checkout", model, imgsz=[64, 64])
    monkeypatch.chdir(folder)
    shutil.copytree("tests/data/people", "data/custom_kpts")
    for name in ("x.pt", "weights/x.pt", "fetched/yolov5s6_pose.pt"):
        save_checkpoint(folder / name, model)
    for epoch, name in ((300, "best.pt"), (175, "epoch175.pt"), (300, "epoch300.pt")):
        save_checkpoint(folder / name, model, {"epoch": epoch})
    (folder / "small.yaml").write_text(yaml.safe_dump(small_cfg()))
    make_foreign(folder / "yolo11n-pose.onnx", hw=(128, 128))
    for name in ("video.mp4", "street.mp4"):
        film = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
        for i in range(3):
            film.write(np.full((64, 96, 3), 80 * i, np.uint8))
        film.release()
    return folder


def before(page):
    """Words of the commands that a page takes as done."""
    custom = "data/custom_kpts"
    lines = [
        "escalator/json2yolo.py --json_dir {0}/annotations --label_dir {0}/labels",
        "escalator/split.py --image_dir {0}/images --prefix_path ./images/ --out_path {0} "
        "--split 0.7 0.2 0.1",
        "escalator/json2coco.py --json_dir {0}/train.txt --save_file "
        "{0}/annotations-trainval/person_keypoints_train.json",
        "escalator/json2coco.py --json_dir {0}/val.txt --save_file "
        "{0}/annotations-trainval/person_keypoints_val.json",
    ]
    exported = {"docs/tensorrt.md": "x", **dict.fromkeys(
        ("docs/detect.md", "docs/test.md", "docs/deploy.md"), "yolov5s6_pose")}  # fmt: skip
    if page in exported:
        lines.append("models/export_onnx.py --img-size 64 --weights weights/%s.pt" % exported[page])
    return [shlex.split(line.format(custom)) for line in lines]


@pytest.mark.parametrize("page", sorted(RUN))
def test_commands_run_in_order(page, place):
    for script, *flags in before(page):
        done = run(None, script, *flags)
        assert done.returncode == 0, "%s\n%s%s" % (script, done.stdout, done.stderr)
    for line in RUN[page]:
        script, flags = typed(line.words)
        done = run("v85" if script == "models/export_TRT.py" else None, script, *flags)
        assert done.returncode == 0, "%s\n%s%s" % (line.text, done.stdout, done.stderr)


def test_most_commands_run():
    """Else a change of the pages or of the rules above went unseen."""
    assert sum(map(len, RUN.values())) >= 40 and len(RUN) >= 9
