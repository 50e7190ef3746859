"""Frames in batches, their order, and the warm-up of a GPU, on a backend that answers at once."""

import concurrent.futures
import threading
from typing import NamedTuple

import numpy as np
import pytest

from utils.errors import InputError, InputWarning
from utils.pose.keypoints import plain_skeleton
from utils.runtime.backend import Backend
from utils.runtime.detect import process
from utils.runtime.detect_config import DetectConfig
from utils.runtime.detector import Detector
from utils.runtime.predictor import Predictor
from utils.runtime.sources import Frame
from utils.runtime.writers import ResultWriter


class FakeBackend(Backend):
    """Finds one pose an image, whose score is the brightness of the image."""

    description, precision, on_gpu = "fake", "FP32", False
    names, nkpt, stride, imgsz = ["person"], 1, 32, (64, 64)
    skeleton = plain_skeleton(1)
    dtype = np.dtype(np.float32)

    def __init__(self, batch=None, max_batch=None, on_gpu=False):
        self.input_shape = (batch, 3, None, None)
        self.max_batch, self.on_gpu = max_batch, on_gpu
        self.batches, self.warm_ups = [], 0

    def warm_up(self, images, settings):
        self.warm_ups += 1

    def __call__(self, images):
        self.batches.append(images.shape)
        raw = np.zeros((len(images), 1, 9), np.float32)
        raw[:, 0] = [32, 32, 20, 20, 1, 0, 32, 32, 1]
        raw[:, 0, 5] = images[:, 0, 16, 16]
        return raw


class FakeSource(NamedTuple):
    frames: list
    live: bool = False
    images: tuple = ()
    videos: tuple = ("clip.mp4",)
    streams: tuple = ()
    total: int = 100
    decode_s: float = 0.0

    def __iter__(self):
        return iter(self.frames)

    def close(self):
        pass


def frames(values, hw=(64, 64)):
    return [
        Frame(np.full((*hw, 3), v, np.uint8), "%d.png" % v, i, "image", 25.0)
        for i, v in enumerate(values)
    ]


def found(source, backend, **options):
    detector = Detector(source, Predictor(backend, conf_thres=0.001), **options)
    results = list(detector.run())
    return detector, [(frame.path, round(float(poses.scores[0]) * 255)) for frame, poses in results]


VALUES = list(range(40, 51))
WANTED = [("%d.png" % v, v) for v in VALUES]


@pytest.mark.parametrize("batch_size", [None, 1, 4, 20])
def test_each_frame_has_its_own_poses_in_order(batch_size):
    backend = FakeBackend()
    _, results = found(FakeSource(frames(VALUES)), backend, batch_size=batch_size)
    assert results == WANTED
    size = batch_size or 1
    assert [b[0] for b in backend.batches] == [min(size, 11 - i) for i in range(0, 11, size)]


def test_images_of_other_shapes_begin_a_new_batch():
    backend = FakeBackend()
    mixed = frames([40, 41]) + frames([42, 43, 44], (32, 64)) + frames([45])
    _, results = found(FakeSource(mixed), backend, batch_size=4)
    assert [v for _, v in results] == [40, 41, 42, 43, 44, 45]
    assert [b[0] for b in backend.batches] == [2, 3, 1]
    assert backend.batches[1][2:] == (32, 64)


def test_a_model_of_fixed_batch_is_filled_up():
    backend = FakeBackend(batch=4)
    _, results = found(FakeSource(frames(VALUES)), backend)
    assert results == WANTED and {b[0] for b in backend.batches} == {4}


@pytest.mark.parametrize(
    "backend, words",
    [
        (FakeBackend(batch=4), "`batch_size` 2: the model has a fixed batch of 4"),
        (FakeBackend(max_batch=1), "`batch_size` 2: the engine takes up to 1 images"),
    ],
)
def test_a_batch_that_the_model_does_not_take(backend, words):
    with pytest.raises(InputError, match=words):
        Detector(FakeSource([]), Predictor(backend), batch_size=2)


def test_live_streams_share_a_batch_and_no_more_than_there_are():
    backend = FakeBackend()
    source = FakeSource(frames(VALUES), live=True, streams=("a", "b", "c"), total=None)
    _, results = found(source, backend, batch_size=8, max_wait_ms=1000)
    assert results == WANTED
    assert max(b[0] for b in backend.batches) <= 3
    backend = FakeBackend()
    found(FakeSource(frames(VALUES), live=True, streams=("a",)), backend, batch_size=8)
    assert {b[0] for b in backend.batches} == {1}


def test_a_gpu_is_warmed_up_once_and_not_for_a_few_images():
    for on_gpu, total, wanted in ((True, 100, 1), (True, None, 1), (True, 5, 0), (False, 100, 0)):
        backend = FakeBackend(on_gpu=on_gpu)
        detector, results = found(FakeSource(frames(VALUES), total=total), backend)
        assert results == WANTED and backend.warm_ups == wanted
        assert (detector.warm_up_s > 0) == bool(wanted)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_thread_that_writes_does_not_encode_images_or_convert_colours(
    tmp_path, monkeypatch, kind
):
    threads, real = [], ResultWriter.encoded

    def encoded(*args):
        threads.append(threading.current_thread())
        return real(*args)

    monkeypatch.setattr(ResultWriter, "encoded", encoded)
    items = [
        f if kind == "image" else f._replace(path="x.avi", kind="video") for f in frames(range(5))
    ]
    detector = Detector(FakeSource(items), Predictor(FakeBackend()))
    writer = ResultWriter(tmp_path, ["person"])
    assert process(DetectConfig("x"), detector, writer).frames == 5
    assert len(threads) == 5 and threading.main_thread() not in threads
    assert len(list(tmp_path.iterdir())) == (5 if kind == "image" else 1)


def test_what_could_not_be_written_is_told_after_ctrl_c_too(tmp_path, monkeypatch):
    def stops(*args):
        raise KeyboardInterrupt

    def full(*args):
        raise InputError("clip.mp4: disk full?")

    monkeypatch.setattr(ResultWriter, "write_image", stops)
    monkeypatch.setattr(ResultWriter, "close", full)
    detector = Detector(FakeSource(frames([90, 91])), Predictor(FakeBackend(), (64, 64)))
    with pytest.warns(InputWarning, match="disk full"), pytest.raises(InputError):
        process(DetectConfig("x"), detector, ResultWriter(tmp_path, ["person"]))


def test_ctrl_c_while_the_last_video_is_finished_keeps_it(tmp_path, monkeypatch):
    wait, stopped = concurrent.futures.wait, []

    def interrupted(futures):
        if not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr(concurrent.futures, "wait", interrupted)
    clip = [f._replace(path="clip.avi", kind="video") for f in frames([90, 91, 92])]
    detector = Detector(FakeSource(clip), Predictor(FakeBackend(), (64, 64)))
    writer = ResultWriter(tmp_path, ["person"], json_rows=True)
    run = process(DetectConfig("x"), detector, writer)
    assert stopped and run.interrupted and run.frames == 3
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["categories.json", "clip.mp4", "predictions.json"]
