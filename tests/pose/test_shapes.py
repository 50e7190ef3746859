"""Poses, Letterbox and Detections say which shapes they expected and which they got."""

import time

import numpy as np
import pytest

from utils.pose.detections import Detections
from utils.pose.letterbox import fit, to_batch
from utils.pose.poses import Poses


def poses(n, **changes):
    fields = {
        "boxes": np.zeros((n, 4)), "scores": np.zeros(n), "classes": np.zeros(n, np.int64),
        "keypoints": np.zeros((n, 17, 3)),
    }  # fmt: skip
    return Poses(**{**fields, **changes})


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("boxes", (3, 4)), ("boxes", (2, 5)), ("scores", (2, 1)), ("classes", (1,)),
        ("keypoints", (2, 51)), ("keypoints", (3, 17, 3)), ("keypoints", (2, 17, 2)),
    ],
)  # fmt: skip
def test_poses(field, shape):
    good = poses(2)
    assert good.check() is good and poses(0).check().count == 0
    with pytest.raises(ValueError, match=r"expected boxes \(n, 4\)") as e:
        fit((10, 20), (64, 64)).to_original(poses(2, **{field: np.zeros(shape)}))
    assert str(shape) in str(e.value)


def test_letterbox():
    letterbox = fit((10, 20), (64, 64))
    assert to_batch([np.zeros((10, 20, 3), np.uint8)], [letterbox], (64, 64)).shape[1] == 3
    for image, canvas, words in (
        ((20, 10, 3), (64, 64), "expected an image (10, 20, 3), got (20, 10, 3)"),
        ((10, 20), (64, 64), "got (10, 20)"),
        ((10, 20, 3), (64, 32), "expected a canvas of at least (48, 64), got (64, 32)"),
    ):
        with pytest.raises(ValueError) as e:
            to_batch([np.zeros(image, np.uint8)], [letterbox], canvas)
        assert words in str(e.value)


@pytest.mark.parametrize("shapes", [{2: (2, 5, 3)}, {3: (2, 5, 50)}, {0: (2,)}, {4: (1, 5, 1)}])
def test_detections(shapes):
    good = [(2, 1), (2, 5, 3), (2, 5, 4), (2, 5, 51), (2, 5, 1)]
    Detections(*map(np.zeros, good)).check()
    bad = [shapes.get(i, shape) for i, shape in enumerate(good)]
    with pytest.raises(ValueError, match=r"expected num_dets \(B, 1\)") as e:
        Detections(*map(np.zeros, bad)).check()
    assert str(bad[2]) in str(e.value)


def test_a_check_takes_microseconds():
    found, count = poses(50), 2000
    started = time.process_time()
    for _ in range(count):
        found.check()
    assert (time.process_time() - started) / count < 500e-6  # about 1 us; detect takes ms
