import numpy as np
import pytest

from utils.dataset.labels import Labels, empty_labels
from utils.training import collage

HWS = np.array([[120, 90], [80, 150], [60, 60], [100, 40]])
SIZE = (256, 320)


def spots(rng):
    """Black images with a white spot, and labels that say where it is."""
    images, labels = [], []
    for h, w in HWS:
        image = np.zeros((h, w, 3), np.uint8)
        x, y = rng.integers(14, w - 14), rng.integers(14, h - 14)
        image[y - 6 : y + 6, x - 6 : x + 6] = 255  # its middle is (x, y)
        images.append(image)
        box = np.array([[x / w, y / h, 12 / w, 12 / h]])
        labels.append(Labels(np.zeros(1, np.int64), box, np.array([[[x / w, y / h, 2.0]]])))
    return images, labels


def made(seed):
    rng = np.random.default_rng(seed)
    images, labels = spots(rng)
    found = collage.arrange(rng, 2, np.arange(4), hws=HWS, size=SIZE)
    return images, labels, found


@pytest.mark.parametrize("seed", range(12))
def test_pixels_and_labels_move_together(seed):
    """Around each keypoint it is white, and so it is at the middle of each box."""
    images, labels, found = made(seed)
    canvas = np.empty((*SIZE, 3), np.uint8)
    assert collage.draw(found, canvas, lambda i: images[i]) == []
    merged = collage.merge(found, [labels[i] for i in found.images], HWS)
    wh = np.array(SIZE[::-1])
    seen = 0
    for box, points in zip(merged.boxes, merged.keypoints):
        low, high = (box[:2] - box[2:] / 2) * wh, (box[:2] + box[2:] / 2) * wh
        assert (low >= -1e-9).all() and (high <= wh + 1e-9).all()
        x, y = (points[0, :2] * wh).astype(int)
        if points[0, 2] == 2:
            seen += 1
            assert canvas[y, x].min() > 200
            cut = canvas[round(low[1]) : round(high[1]), round(low[0]) : round(high[0])]
            assert cut.mean() > 170  # the box is the spot
        else:
            assert (points == 0).all()
    assert seen and merged.count <= len(found.images)


def test_the_first_image_is_in_and_cells_cover_all():
    for seed in range(20):
        _, _, found = made(seed)
        assert 2 in found.images and len(found.images) in (4, 9)
        area = (found.cells[:, 2:] - found.cells[:, :2]).prod(1)
        assert area.sum() == SIZE[0] * SIZE[1]


def test_a_broken_image_is_grey_and_nobody_is_on_it():
    images, labels, found = made(0)
    canvas = np.zeros((*SIZE, 3), np.uint8)
    broken = collage.draw(found, canvas, lambda i: None)
    assert broken == list(range(len(found.images))) and (canvas == 114).all()
    assert collage.merge(found, [labels[i] for i in found.images], HWS, without=broken).count == 0


def test_nobody_on_any_image():
    _, _, found = made(0)
    merged = collage.merge(found, [empty_labels(17)] * len(found.images), HWS)
    assert merged.count == 0 and merged.keypoints.shape == (0, 17, 3)


def test_a_person_beyond_the_cell_is_cut_off():
    """Half of it is in sight: the box ends at the border, the keypoint outside is not labelled."""
    cells = np.array([[0, 0, 50, 100]])
    found = collage.Collage(np.array([0]), np.ones(1), np.zeros((1, 2)), cells, (100, 100))
    points = np.array([[[0.2, 0.5, 2], [0.6, 0.5, 2], [0, 0, 0]]])
    one = Labels(np.zeros(1, np.int64), np.array([[0.5, 0.5, 0.8, 0.4]]), points)
    merged = collage.merge(found, [one], np.array([[100, 100]]))
    np.testing.assert_allclose(merged.boxes, [[0.3, 0.5, 0.4, 0.4]])
    np.testing.assert_allclose(merged.keypoints[0], [[0.2, 0.5, 2], [0, 0, 0], [0, 0, 0]])
