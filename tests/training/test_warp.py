import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.conftest import ROOT  # noqa: E402
from utils.dataset.labels import Labels  # noqa: E402
from utils.pose import letterbox  # noqa: E402
from utils.training import augment  # noqa: E402
from utils.training.hyper_parameters import read_hyp  # noqa: E402
from utils.training.warp import blend, make_plan, warp  # noqa: E402

HYP = read_hyp(ROOT / "data" / "hyp.scratch.yaml")


def pack(images):
    """(flat bytes, first byte of each, (n, 2) sizes)."""
    sizes = np.array([i.size for i in images])
    flat = np.concatenate([i.ravel() for i in images])
    return torch.from_numpy(flat), np.cumsum(sizes) - sizes, np.array([i.shape[:2] for i in images])


def test_plain_is_the_letterbox_of_detect():
    """Without a change of scale, bit for bit."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, hw + (3,), np.uint8) for hw in ((64, 40), (48, 64))]
    pixels, offsets, hws = pack(images)
    samples = augment.draw(rng, HYP, np.arange(2), hws=hws, size=(64, 64), plain=True)
    found = warp(make_plan(samples, offsets, hws), pixels, (64, 64)).numpy()
    for image, warped in zip(images, found):
        box = letterbox.fit(image.shape[:2], (64, 64))
        wanted = letterbox.draw_canvas(image, box, (64, 64)).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(warped, wanted, atol=1e-6)


def test_enlarged_is_close_to_opencv():
    import cv2

    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (50, 50, 3), np.uint8), (0, 0), 3)
    pixels, offsets, hws = pack([image])
    samples = augment.draw(rng, HYP, np.arange(1), hws=hws, size=(128, 128), plain=True)
    found = warp(make_plan(samples, offsets, hws), pixels, (128, 128))[0].numpy()
    wanted = cv2.resize(image, (128, 128)).transpose(2, 0, 1) / 255
    assert np.abs(found - wanted).max() < 1.5 / 255


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_pixels_and_labels_move_together(seed, mosaic):
    """A white spot on each keypoint is found where transform_labels says it is."""
    rng = np.random.default_rng(seed)
    images, boxes, points = [], [], []
    for _ in range(6):
        h, w = rng.integers(80, 160, 2)
        image = np.zeros((h, w, 3), np.uint8)
        x, y = rng.integers(20, w - 20), rng.integers(20, h - 20)
        image[y - 6 : y + 6, x - 6 : x + 6] = 255  # its middle is (x, y)
        images.append(image)
        boxes.append([x / w, y / h, 12 / w, 12 / h])
        points.append([[x / w, y / h, 2]])
    labels = Labels(np.zeros(6, np.int64), np.array(boxes), np.array(points))
    pixels, offsets, hws = pack(images)
    hyp = HYP._replace(mosaic=mosaic, degrees=20, shear=5, perspective=0.0003, flipud=0.5, hsv_v=0)
    samples = augment.draw(rng, hyp, np.arange(6), hws=hws, size=(160, 192))
    warped = warp(make_plan(samples, offsets, hws), pixels, (160, 192)).numpy()
    found = augment.transform_labels(
        samples, labels, np.arange(7), hws=hws, size=(160, 192), flip_index=[0]
    )
    seen = found.keypoints[:, 0, 2] > 0
    assert seen.sum() >= 2
    for image, box, (x, y, _) in zip(
        found.image[seen], found.boxes[seen], found.keypoints[seen, 0]
    ):
        assert warped[image, :, int(y), int(x)].min() > 0.9
        x1, y1, x2, y2 = box  # and there is nothing white just outside its box
        for u, v in ((x1 - 4, (y1 + y2) / 2), (x2 + 4, (y1 + y2) / 2), ((x1 + x2) / 2, y1 - 4)):
            others = found.boxes[found.image == image]
            covered = ((others[:, :2] < [u + 2, v + 2]) & (others[:, 2:] > [u - 2, v - 2])).all(1)
            if 0 <= u < 192 and 0 <= v < 160 and not covered.any():
                assert warped[image, :, int(v), int(u)].max() < 0.5


def test_outside_is_grey():
    image = np.full((10, 10, 3), 255, np.uint8)
    pixels, offsets, hws = pack([image])
    hyp = HYP._replace(mosaic=1, hsv_h=0, hsv_s=0, hsv_v=0, scale=0, zoom=0.2)
    samples = augment.draw(np.random.default_rng(0), hyp, np.zeros(1, int), hws=hws, size=(64, 64))
    found = warp(make_plan(samples, offsets, hws), pixels, (64, 64))
    values = np.unique((found.numpy() * 255).round())
    assert values.min() == letterbox.PAD_VALUE and values.max() == 255


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_blank_images_show_nobody_and_nothing(mosaic):
    rng = np.random.default_rng(0)
    pixels, offsets, hws = pack([rng.integers(0, 255, (40, 32, 3), np.uint8) for _ in range(40)])
    hyp = HYP._replace(mosaic=mosaic, blank=0.5, perspective=0.0005, degrees=20, mixup=0.9)
    samples = augment.draw(rng, hyp, np.arange(40), hws=hws, size=(64, 64))
    assert 10 < samples.blank.sum() < 30
    plan = make_plan(samples, offsets, hws)
    warped = blend(plan, warp(plan, pixels, (64, 64))).numpy()
    assert (samples.blend < 1).any()
    uniform = np.ptp(warped, axis=(2, 3)).max(1) < 1e-6
    np.testing.assert_array_equal(uniform, samples.blank)
    assert len(np.unique(warped[samples.blank, 0, 0, 0])) > 5  # of many greys
    box, point = [[0.5, 0.5, 0.4, 0.4]] * 40, [[[0.5, 0.5, 2]]] * 40
    labels = Labels(np.zeros(40, np.int64), np.array(box), np.array(point, np.float64))
    found = augment.transform_labels(
        samples, labels, np.arange(41), hws=hws, size=(64, 64), flip_index=[0]
    )
    assert len(found.image) and not samples.blank[found.image].any()
    seen = samples._replace(origin=np.where(samples.blank[:, None, None], 0, samples.origin))
    again = augment.transform_labels(
        seen, labels, np.arange(41), hws=hws, size=(64, 64), flip_index=[0]
    )
    assert not samples.blank[again.image].any()  # whatever the geometry says


def test_blend():
    rng = np.random.default_rng(0)
    pixels, offsets, hws = pack([rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(2)])
    samples = augment.draw(rng, HYP, np.arange(2), hws=hws, size=(32, 32), plain=True)
    samples = samples._replace(blend=np.array([0.25, 1.0]), partner=np.array([1, 1]))
    plan = make_plan(samples, offsets, hws)
    plain = warp(plan, pixels, (32, 32))
    mixed = blend(plan, plain)
    torch.testing.assert_close(mixed[0], 0.25 * plain[0] + 0.75 * plain[1])
    torch.testing.assert_close(mixed[1], plain[1])


def test_parts_equal_the_whole(monkeypatch):
    """Batches larger than the memory bound are made in pieces."""
    from utils.training import warp as module

    rng = np.random.default_rng(0)
    pixels, offsets, hws = pack([rng.integers(0, 255, (32, 48, 3), np.uint8) for _ in range(5)])
    samples = augment.draw(rng, HYP, np.arange(5), hws=hws, size=(64, 64))
    plan = make_plan(samples, offsets, hws)
    whole = warp(plan, pixels, (64, 64))
    monkeypatch.setattr(module, "CHUNK_PIXELS", 2 * 64 * 64)
    torch.testing.assert_close(warp(plan, pixels, (64, 64)), whole, rtol=0, atol=0)
