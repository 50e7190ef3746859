import numpy as np
import pytest

from tests.conftest import ROOT
from utils.dataset.labels import Labels
from utils.pose.keypoints import COCO
from utils.pose.letterbox import fit
from utils.training import augment
from utils.training.hyper_parameters import read_hyp

HYP = read_hyp(ROOT / "data" / "hyp.scratch.yaml")
WILD = HYP._replace(degrees=30, shear=10, perspective=0.0005, flipud=0.5, mixup=0.5, mosaic=0.5)


def labels_of(rng, counts, nkpt=17):
    """Random persons of several images, one after the other, and where each begins."""
    n = sum(counts)
    half = rng.uniform(0.05, 0.2, (n, 2))
    center = rng.uniform(0.2, 0.8, (n, 2))
    points = center[:, None] + rng.uniform(-1, 1, (n, nkpt, 2)) * half[:, None]
    v = rng.integers(0, 3, (n, nkpt, 1))
    labels = Labels(
        np.zeros(n, np.int64),
        np.concatenate([center, 2 * half], 1),
        np.concatenate([points, v], 2),
    )
    return labels, np.concatenate([[0], np.cumsum(counts)])


@pytest.mark.parametrize("size", [(64, 64), (128, 192)])
def test_plain_is_the_letterbox(size):
    rng = np.random.default_rng(0)
    hws = np.array([[50, 100], [60, 40]])
    labels, starts = labels_of(rng, [2, 3])
    samples = augment.draw(rng, HYP, np.array([0, 1]), hws=hws, size=size, plain=True)
    found = augment.transform_labels(
        samples, labels, starts, hws=hws, size=size, flip_index=COCO.flip_index
    )
    assert found.image.tolist() == [0, 0, 1, 1, 1]
    for i, hw in enumerate(hws):
        box = fit(tuple(hw), size)
        for j in np.flatnonzero(found.image == i):
            points = labels.keypoints[j, :, :2] * hw[::-1]
            seen = labels.keypoints[j, :, 2] > 0
            wanted = box.to_network(points)  # rounds the resized size to whole pixels
            assert np.abs(found.keypoints[j, seen, :2] - wanted[seen]).max() < 1.01
            assert (found.keypoints[j, ~seen] == 0).all()


def test_nobody():
    rng = np.random.default_rng(0)
    labels, starts = labels_of(rng, [0, 0])
    hws = np.array([[50, 100], [300, 20]])
    samples = augment.draw(rng, WILD, np.array([0, 1]), hws=hws, size=(64, 64))
    found = augment.transform_labels(
        samples, labels, starts, hws=hws, size=(64, 64), flip_index=COCO.flip_index
    )
    assert found.boxes.shape == (0, 4) and found.keypoints.shape == (0, 17, 3)


@pytest.mark.parametrize("seed", range(5))
def test_all_in_sight(seed):
    """Whatever happens, boxes and labelled keypoints lie in the image, and v never rises."""
    rng = np.random.default_rng(seed)
    hws = rng.integers(20, 200, (12, 2))
    labels, starts = labels_of(rng, rng.integers(0, 6, 12).tolist())
    samples = augment.draw(rng, WILD, np.arange(8), hws=hws, size=(96, 128))
    found = augment.transform_labels(
        samples, labels, starts, hws=hws, size=(96, 128), flip_index=COCO.flip_index
    )
    assert len(found.boxes)
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] <= [128, 96]).all()
    assert (found.boxes[:, 2:] - found.boxes[:, :2] >= augment.MIN_SIDE).all()
    seen = found.keypoints[..., 2] > 0
    points = found.keypoints[..., :2]
    assert (points[seen] >= 0).all() and (points[seen] < [128, 96]).all()
    assert (found.keypoints[~seen] == 0).all()
    assert set(np.unique(found.keypoints[..., 2])) <= {0, 1, 2}


def test_out_of_sight_is_unlabelled_not_moved():
    labels = Labels(
        np.zeros(1, np.int64),
        np.array([[0.5, 0.5, 0.9, 0.9]]),
        np.array([[[0.1, 0.5, 2], [0.9, 0.5, 2]]]),
    )
    hyp = HYP._replace(mosaic=0, translate=0, scale=0, fliplr=0, zoom=1)
    hws = np.array([[64, 64]])
    samples = augment.draw(np.random.default_rng(0), hyp, np.array([0]), hws=hws, size=(64, 64))
    samples.matrix[0, 0, 2] -= 32  # half the image to the left
    found = augment.transform_labels(
        samples, labels, np.array([0, 1]), hws=hws, size=(64, 64), flip_index=COCO.flip_index
    )
    assert found.keypoints[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.keypoints[0, 1], [0.9 * 64 - 32, 32, 2])


@pytest.mark.parametrize("fliplr, flipud, swapped", [(1, 0, True), (0, 1, True), (1, 1, False)])
def test_mirrors_swap_left_and_right(fliplr, flipud, swapped):
    """Two mirrors are a rotation: left stays left."""
    rng = np.random.default_rng(0)
    labels, starts = labels_of(rng, [1])
    labels.keypoints[..., 2] = np.arange(17) % 2 + 1
    hyp = HYP._replace(
        mosaic=0, translate=0, scale=0, fliplr=fliplr, flipud=flipud, hsv_h=0, hsv_s=0, hsv_v=0
    )
    hws = np.array([[64, 64]])
    samples = augment.draw(rng, hyp, np.array([0]), hws=hws, size=(64, 64))
    found = augment.transform_labels(
        samples, labels, starts, hws=hws, size=(64, 64), flip_index=COCO.flip_index
    )
    order = list(COCO.flip_index) if swapped else list(range(17))
    np.testing.assert_array_equal(found.keypoints[0, :, 2], labels.keypoints[0, order, 2])
    xy = labels.keypoints[0, order, :2] * 64
    wanted = np.where([fliplr, flipud], 64 - xy, xy)
    np.testing.assert_allclose(found.keypoints[0, :, :2], wanted, atol=1e-9)
    np.testing.assert_allclose(samples.color[0], np.eye(3), atol=1e-9)


def test_colors_keep_grey_grey():
    colors = augment.random_colors(np.random.default_rng(0), HYP._replace(hsv_v=0), 50)
    np.testing.assert_allclose(colors @ [1, 1, 1], 1, atol=2e-3)  # the matrix's three digits
    assert np.abs(colors - np.eye(3)).max() > 0.3


def test_partners_come_from_everywhere():
    samples = augment.draw(
        np.random.default_rng(0), HYP, np.arange(64), hws=np.full((200, 2), 50), size=(64, 64)
    )
    assert (samples.images == np.arange(64)[:, None]).any(1).all()
    assert len(np.unique(samples.images)) > 120 and not samples.single.any()


def test_mixup_adds_the_persons_of_the_partner():
    rng = np.random.default_rng(1)
    hws = np.full((4, 2), 64)
    labels, starts = labels_of(rng, [1, 1, 1, 1])
    hyp = HYP._replace(mosaic=0, mixup=1, translate=0, scale=0)
    samples = augment.draw(rng, hyp, np.arange(4), hws=hws, size=(64, 64))
    found = augment.transform_labels(
        samples, labels, starts, hws=hws, size=(64, 64), flip_index=COCO.flip_index
    )
    blended = samples.blend < 1
    assert blended.any()
    assert np.bincount(found.image, minlength=4).tolist() == (1 + blended).tolist()


def test_select():
    rng = np.random.default_rng(0)
    labels, starts = labels_of(rng, [2, 0, 3, 1])
    part, ends = augment.select(labels, starts, np.array([2, 1, 0, 2]))
    assert ends.tolist() == [0, 3, 3, 5, 8]
    np.testing.assert_array_equal(part.boxes, labels.boxes[[2, 3, 4, 0, 1, 2, 3, 4]])


def test_multi_scale_sizes():
    rng = np.random.default_rng(0)
    sizes = {augment.multi_scale_hw(rng, (640, 640), 64) for _ in range(300)}
    assert min(sizes) == (320, 320) and max(sizes) == (960, 960)
    assert all(h % 64 == 0 == w % 64 for h, w in sizes)
