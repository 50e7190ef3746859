import os
import signal

import cv2
import numpy as np
import pytest

from tests.dataset.test_eval_set import read, write_set
from utils.errors import InputError
from utils.evaluation import loading
from utils.evaluation.loading import ProcessLoader, ThreadLoader, open_loader
from utils.evaluation.predict import STAGES, batches, predict
from utils.pipeline import StageTimer
from utils.pose.fixed_nms import NmsSettings
from utils.pose.keypoints import COCO
from utils.pose.poses import Poses
from utils.runtime.backend import Backend
from utils.runtime.predictor import Predictor
from utils.runtime.tta import FlipPredictor


class PixelBackend(Backend):
    """Says the mean of the pixels of each image, as a GPU that takes bytes would."""

    on_gpu, takes_pixels, takes_floats, description = True, True, False, "stand-in"
    dtype, names, nkpt, stride, skeleton, imgsz = np.dtype(np.uint8), ["person"], 17, 32, COCO, None

    def __init__(self, batch=None, hw=(None, None)):
        self.input_shape = (batch, 3, *hw)

    def find(self, images: np.ndarray, settings: NmsSettings) -> list:
        return [poses_of(image) for image in images]


def poses_of(image):
    box = np.array([[0, 0, image.mean(), 1 + image[..., 0].mean()]], np.float32)
    one = np.ones(1, np.float32)
    return Poses(box, one, np.zeros(1, np.int64), np.ones((1, 17, 3), np.float32))


def set_of(tmp_path, shapes):
    names = ["%d.png" % i for i in range(1, len(shapes) + 1)]
    data = write_set(tmp_path, tuple(names))
    rng = np.random.default_rng(0)
    for name, hw in zip(names, shapes):
        cv2.imwrite(str(tmp_path / "images" / name), rng.integers(0, 255, (*hw, 3), np.uint8))
    return read(data)


def predictor(batch=None, hw=(None, None), auto=True):
    return Predictor(PixelBackend(batch, hw), (64, 96), auto=auto)


SHAPES = [(48, 64)] * 5 + [(100, 90)] * 3 + [(30, 200)] * 6


@pytest.mark.parametrize("auto", [True, False])
@pytest.mark.parametrize("batch", [None, 6])
def test_processes_load_what_threads_load(tmp_path, auto, batch):
    """Canvas, places and pixels, also of the grey and of what fills the batch up."""
    eval_set = set_of(tmp_path, SHAPES)
    p = predictor(batch, (None, None) if batch is None else (64, 96), auto)
    timer = StageTimer(STAGES)
    processes = ProcessLoader(p, eval_set, timer, batch_size=6, processes=2)
    threads = ThreadLoader(p, eval_set, StageTimer(STAGES))
    try:
        plan = batches(p, eval_set, 6)
        assert len({len(indices) for indices in plan}) > 1
        for indices in plan:
            ours, theirs = processes.load(indices), threads.load(indices)
            assert ours.indices == theirs.indices and ours.sizes == theirs.sizes
            (one,), (other,) = ours.prepared, theirs.prepared
            assert one.letterboxes == other.letterboxes
            assert one.batch.dtype == np.uint8 and np.array_equal(one.batch, other.batch)
    finally:
        processes.close()
    assert timer.seconds["decode"] > 0 < timer.seconds["preprocess"]


def test_images_of_several_shapes_in_one_batch(tmp_path):
    eval_set = set_of(tmp_path, SHAPES)
    p = predictor()
    loader = ProcessLoader(p, eval_set, StageTimer(STAGES), batch_size=8, processes=2)
    mixed = [0, 5, 13, 1, 2, 3, 4, 6]
    try:
        found = loader.load(mixed).prepared[0].batch
    finally:
        loader.close()
    assert np.array_equal(
        found, ThreadLoader(p, eval_set, StageTimer(STAGES)).load(mixed).prepared[0].batch
    )


def test_predict_is_the_same_and_the_memory_is_used_again(tmp_path, monkeypatch):
    eval_set = set_of(tmp_path, SHAPES * 4)
    expected = list(predict(predictor(), eval_set, 5, timer=StageTimer(STAGES)))
    monkeypatch.setattr(loading, "FROM_IMAGES", 1)
    monkeypatch.setattr(loading, "PIECE", 2)
    monkeypatch.setattr(loading, "available_cores", lambda: 4)
    loaders = []
    load = ProcessLoader.load
    monkeypatch.setattr(ProcessLoader, "load", lambda *a: loaders.append(1) or load(*a))
    found = list(predict(predictor(), eval_set, 5, timer=StageTimer(STAGES)))
    assert len(loaders) == len(found) == len(expected) > 8
    for ours, theirs in zip(found, expected):
        for (i, hw, poses), (j, other_hw, other) in zip(ours, theirs):
            assert (i, hw) == (j, other_hw)
            assert np.array_equal(poses.boxes, other.boxes)


def test_processes_are_for_many_images_on_a_gpu(tmp_path, monkeypatch):
    eval_set = set_of(tmp_path, SHAPES)
    monkeypatch.setattr(loading, "available_cores", lambda: 8)

    def kind(p, batch_size=8):
        loader = open_loader(p, eval_set, batch_size=batch_size, timer=StageTimer(STAGES))
        loader.close()
        return type(loader)

    assert kind(predictor()) is ThreadLoader  # 14 images
    monkeypatch.setattr(loading, "FROM_IMAGES", 14)
    assert kind(predictor()) is ProcessLoader
    assert kind(predictor(), batch_size=1) is ThreadLoader
    assert kind(FlipPredictor(PixelBackend(), (64, 96))) is ThreadLoader
    p = predictor()
    p.backend.on_gpu = False
    assert kind(p) is ThreadLoader
    monkeypatch.setattr(loading, "available_cores", lambda: 2)
    assert kind(predictor()) is ThreadLoader


def test_faults_of_images_come_from_processes_in_one_line(tmp_path):
    eval_set = set_of(tmp_path, SHAPES)
    with open(eval_set.paths[2], "wb") as f:
        f.write(b"no image")
    loader = ProcessLoader(predictor(), eval_set, StageTimer(STAGES), batch_size=6, processes=2)
    try:
        with pytest.raises(InputError, match=r"3\.png: "):
            loader.load([0, 1, 2, 3])
        sizes = list(eval_set.sizes)
        sizes[3] = (48, 65)
        loader._eval_set = eval_set._replace(sizes=sizes, annotations="val.json")
        with pytest.raises(InputError, match=r"4\.png: 48x64 px .* val\.json says 48x65"):
            loader.load([3, 4])
        assert loader.load([0, 1]).sizes == [(48, 64)] * 2  # it goes on
    finally:
        loader.close()


def test_a_process_that_is_killed_is_told(tmp_path):
    loader = ProcessLoader(
        predictor(), set_of(tmp_path, SHAPES), StageTimer(STAGES), batch_size=6, processes=2
    )
    try:
        for pid in list(loader._pool._processes):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(InputError, match="a process that loads images ended"):
            loader.load([0, 1])
    finally:
        loader.close()
