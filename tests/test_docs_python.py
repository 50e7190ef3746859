"""The Python blocks of README and docs run: on a tiny network, the twelve people, without a GPU.

train and build_engine are not run here (test_train.py and test_export_TRT.py do that); their
configs are made. Blocks that need a server or a package of others are compiled by test_docs.py.
"""

import os
import shutil

import numpy as np
import pytest

import utils
from tests.conftest import ROOT, randomized
from tests.test_docs import BLOCKS

pytest.importorskip("torch")
pytest.importorskip("onnx")

NOT_RUN = (
    "docs/deploy.md",  # a Triton server
    "docs/training.md",  # optuna
    "docs/other-models.md",  # a file of another exporter, see runtime/test_foreign_models.py
    "docs/README.zh-CN.md",  # the block of README.md, as test_docs.py sees to
)
CFG = {
    "nc": 1, "nkpt": 17, "depth_multiple": 1.0, "width_multiple": 0.125,
    "anchors": [[8, 8, 16, 24, 30, 30]],
    "backbone": [[-1, 1, "Focus", [64, 3]], [-1, 1, "Conv", [64, 3, 2]]],
    "head": [[[1], 1, "Detect", ["nc", "anchors", "nkpt"]]],
}  # fmt: skip
RUN = [b for b in BLOCKS if b.language == "python" and not str(b).startswith(NOT_RUN)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder like the repository, with a tiny network in place of the shipped weights."""
    import cv2

    from escalator.json2coco import json2coco
    from escalator.json2yolo import json2yolo
    from escalator.split import split
    from models.checkpoint import save_checkpoint
    from models.yolo import Model

    data = tmp_path / "data"
    custom = data / "custom_kpts"
    shutil.copytree(str(ROOT / "tests" / "data" / "people"), str(custom))
    shutil.copytree(str(ROOT / "data" / "images"), str(data / "images"))
    shutil.copyfile(str(ROOT / "data" / "custom_kpts.yaml"), str(data / "custom_kpts.yaml"))
    os.makedirs(str(tmp_path / "weights"))
    model = randomized(Model(CFG))
    save_checkpoint(tmp_path / "weights" / "yolov5s6_pose.pt", model, {"imgsz": [128, 128]})
    monkeypatch.chdir(tmp_path)
    json2yolo("data/custom_kpts/annotations", "data/custom_kpts/labels")
    split("data/custom_kpts/images", "./images/", "data/custom_kpts", ratios=[0.7, 0.2, 0.1])
    for task in ("train", "val"):
        name = "data/custom_kpts/annotations-trainval/person_keypoints_%s.json" % task
        json2coco("data/custom_kpts/%s.txt" % task, name)
    video = cv2.VideoWriter("street.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for i in range(3):
        video.write(np.full((64, 96, 3), 80 * i, np.uint8))
    video.release()
    return tmp_path


@pytest.fixture
def export(place):
    """weights/yolov5s6_pose.onnx, as the README makes it."""
    utils.export_checkpoint(utils.ExportConfig("weights/yolov5s6_pose.pt", img_size=[64]))


@pytest.mark.parametrize("block", RUN, ids=str)
def test_python_blocks_run(block, export, monkeypatch):
    made = []
    monkeypatch.setattr(utils, "train", made.append, raising=False)
    monkeypatch.setattr(utils, "build_engine", made.append, raising=False)
    text = block.text.replace(
        '"weights/yolov5s6_pose.pt", simplify=True', '"weights/yolov5s6_pose.pt", img_size=[64]'
    )
    found = {}
    exec(compile(text, str(block), "exec"), found)
    assert isinstance(found["poses"], utils.Poses) or found["poses"].count >= 0
    if block.text.startswith("import utils\n"):
        assert [type(config).__name__ for config in made] == ["TrainConfig", "EngineConfig"]
        assert os.path.isfile("weights/yolov5s6_pose-INT8.onnx")


def test_there_are_blocks_to_run():
    assert {str(b).split(":")[0] for b in RUN} >= {"README.md", "docs/detect.md"}
