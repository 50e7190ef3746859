import numpy as np
import pytest

from utils.training.augment import Persons
from utils.training.targets import match

ANCHORS = np.array([[[10, 20], [20, 10], [30, 60]], [[60, 60], [100, 50], [50, 120]]], float)
STRIDES = [8, 16]


def slow_match(persons, size, anchor_t):
    """The rule, person by person: rows (level, image, anchor, row, column, person)."""
    found = set()
    for n, (image, box) in enumerate(zip(persons.image, persons.boxes)):
        w, h = box[2:] - box[:2]
        for level, stride in enumerate(STRIDES):
            cx, cy = (box[:2] + box[2:]) / 2 / stride
            rows, columns = size[0] // stride, size[1] // stride
            for a, (aw, ah) in enumerate(ANCHORS[level]):
                if max(w / aw, aw / w, h / ah, ah / h) >= anchor_t:
                    continue
                x, y = int(cx), int(cy)
                cells = [(x, y)]
                cells.append((x - 1, y) if cx - x < 0.5 else (x + 1, y) if cx - x > 0.5 else None)
                cells.append((x, y - 1) if cy - y < 0.5 else (x, y + 1) if cy - y > 0.5 else None)
                for cell in cells:
                    if cell and 0 <= cell[0] < columns and 0 <= cell[1] < rows:
                        found.add((level, int(image), a, cell[1], cell[0], n))
    return found


def random_persons(rng, n, size, nkpt=3):
    center = rng.uniform(2, np.array(size[::-1]) - 2, (n, 2))
    half = rng.uniform(2, 60, (n, 2))
    low = np.maximum(center - half, 0)
    boxes = np.concatenate([low, np.minimum(center + half, size[::-1])], 1)
    points = np.concatenate([rng.uniform(0, 64, (n, nkpt, 2)), rng.integers(0, 3, (n, nkpt, 1))], 2)
    return Persons(rng.integers(0, 4, n), rng.integers(0, 2, n), boxes, points)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("anchor_t", [2.0, 4.0])
def test_equals_the_rule(seed, anchor_t):
    rng = np.random.default_rng(seed)
    size = (128, 192)
    persons = random_persons(rng, 30, size)
    found = match(persons, ANCHORS, STRIDES, size=size, anchor_t=anchor_t)
    wanted = slow_match(persons, size, anchor_t)
    level = np.repeat([0, 1], found.counts)
    stride = np.array(STRIDES)[level, None]
    cell = found.index[:, [3, 2]]
    centers = (found.boxes[:, :2] + cell) * stride
    got = set()
    for i in range(len(level)):
        middle = (persons.boxes[:, :2] + persons.boxes[:, 2:]) / 2
        n = int(np.abs(middle - centers[i]).sum(1).argmin())
        np.testing.assert_allclose(centers[i], middle[n], atol=1e-3)
        side = persons.boxes[n, 2:] - persons.boxes[n, :2]
        np.testing.assert_allclose(found.boxes[i, 2:] * stride[i], side, rtol=1e-5)
        points = (found.keypoints[i, :, :2] + cell[i]) * stride[i]
        np.testing.assert_allclose(points, persons.keypoints[n, :, :2], atol=1e-3)
        assert found.classes[i] == persons.classes[n]
        got.add((int(level[i]), *found.index[i].tolist(), n))
    assert got == wanted and len(got) == len(level)


def test_the_centre_can_be_reached():
    """The decode gives -0.5 to 1.5 cells from the corner of a cell."""
    persons = random_persons(np.random.default_rng(0), 200, (128, 192))
    found = match(persons, ANCHORS, STRIDES, size=(128, 192), anchor_t=4.0)
    assert found.boxes[:, :2].min() >= -0.5 and found.boxes[:, :2].max() <= 1.5


def test_nobody():
    persons = random_persons(np.random.default_rng(0), 0, (64, 64))
    found = match(persons, ANCHORS, STRIDES, size=(64, 64), anchor_t=4.0)
    assert found.counts == [0, 0] and found.keypoints.shape == (0, 3, 3)
    assert (found.index.dtype, found.boxes.dtype) == (np.int64, np.float32)


def test_centre_on_the_far_border():
    persons = Persons(np.zeros(1, int), np.zeros(1, int), np.array([[54.0, 54, 74, 74]]),
                      np.zeros((1, 1, 3)))  # fmt: skip
    found = match(persons, ANCHORS, STRIDES, size=(64, 64), anchor_t=4.0)
    assert found.counts[0] and found.index[:, 2:].max() == 7
