import cv2
import numpy as np
import pytest

from utils.pose import letterbox
from utils.pose.poses import Poses

SIZES = [
    (1, 1),
    (20000, 100),
    (100, 20000),
    (20000, 1),
    (720, 1280),
    (427, 640),
    (641, 639),
    (3, 7),
]


def poses_at(points, boxes):
    n = len(boxes)
    keypoints = np.concatenate([points, np.ones((*points.shape[:2], 1))], -1)
    return Poses(
        boxes.astype(np.float32), np.ones(n, np.float32), np.zeros(n, np.int64),
        keypoints.astype(np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("net_hw", [(640, 640), (384, 640), (64, 128)])
@pytest.mark.parametrize("image_hw", SIZES)
def test_inverse_is_exact_after_rounding(image_hw, net_hw):
    box = letterbox.fit(image_hw, net_hw)
    rng = np.random.default_rng(0)
    h, w = image_hw
    points = rng.random((5, 17, 2)) * [w, h]
    corners = np.sort(rng.random((5, 2, 2)), 1) * [w, h]
    network = poses_at(box.to_network(points), box.to_network(corners).reshape(5, 4))
    back = box.to_original(network)
    tolerance = 1e-6 * max(image_hw) + 1e-3 / min(1, *box.scale)
    np.testing.assert_allclose(back.keypoints[..., :2], points, atol=tolerance)
    np.testing.assert_allclose(back.boxes.reshape(5, 2, 2), corners, atol=tolerance)


@pytest.mark.parametrize("image_hw", SIZES)
def test_image_lies_where_the_letterbox_says(image_hw):
    net_hw = (192, 256)
    box = letterbox.fit(image_hw, net_hw)
    image = np.full((*image_hw, 3), 255, np.uint8)
    canvas = letterbox.draw_canvas(image, box, net_hw)
    assert canvas.shape == (*net_hw, 3)
    ys, xs = np.nonzero(canvas[..., 0] == 255)
    (top, left), (h, w) = box.pad, box.resized_hw
    assert (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1) == (top, left, top + h, left + w)
    assert (canvas == 255).sum() + (canvas == letterbox.PAD_VALUE).sum() == canvas.size
    # the scale is the applied one: both far corners of the image land on the image's corner
    np.testing.assert_allclose(
        box.to_network(np.array([image_hw[1], image_hw[0]])), [left + w, top + h]
    )
    assert h == net_hw[0] or w == net_hw[1]


def test_scale_is_the_rounded_one():
    box = letterbox.fit((333, 500), (640, 640))
    assert box.resized_hw == (426, 640)
    assert box.scale == (426 / 333, 640 / 500) and box.scale[0] != box.scale[1]


@pytest.mark.parametrize("image_hw", SIZES)
def test_rectangle_is_small_and_holds_the_image(image_hw):
    h, w = letterbox.rectangle(image_hw, (640, 640), 64)
    assert h % 64 == 0 and w % 64 == 0 and max(h, w) == 640
    full = letterbox.fit(image_hw, (640, 640)).resized_hw
    assert h - full[0] < 64 and w - full[1] < 64


def test_batch_is_rgb_in_unit_range():
    image = np.zeros((4, 8, 3), np.uint8)
    image[..., 0], image[..., 2] = 255, 51  # blue 255, red 51
    box = letterbox.fit((4, 8), (8, 8))
    batch = letterbox.to_batch([image, image], [box, box], (8, 8))
    assert batch.shape == (2, 3, 8, 8) and batch.dtype == np.float32
    np.testing.assert_allclose(batch[1, :, 4, 4], [0.2, 0, 1], atol=1e-6)
    np.testing.assert_allclose(batch[0, :, 0, 0], 114 / 255, atol=1e-6)


def test_boxes_are_clipped_by_columns_and_keypoints_are_not():
    box = letterbox.fit((100, 200), (200, 200))
    poses = poses_at(np.array([[[-10.0, 40.0]]]), np.array([[-10.0, 40, 250, 190]]))
    back = box.to_original(poses)
    np.testing.assert_allclose(back.boxes, [[0, 0, 200, 100]])
    np.testing.assert_allclose(back.keypoints[0, 0, :2], [-10, -10])


def test_rectangle_never_shrinks_the_image():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4000, (2000, 2)).tolist() + [[2234, 225]]
    for h, w in sizes:
        canvas = letterbox.rectangle((h, w), (640, 640), 64)
        box = letterbox.fit((h, w), (640, 640), canvas)
        assert box.resized_hw == letterbox.fit((h, w), (640, 640)).resized_hw
        assert box.pad[0] + box.resized_hw[0] <= canvas[0]
        assert box.pad[1] + box.resized_hw[1] <= canvas[1]
        assert min(box.pad) >= 0


def test_a_batch_is_what_opencv_makes_bit_for_bit():
    """cv2.dnn.blobFromImages is the usual way, and six times as slow."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((30, 50), (64, 64), (90, 20))]
    boxes = [letterbox.fit(i.shape[:2], (64, 96)) for i in images]
    canvases = letterbox.to_pixels(images, boxes, (64, 96))
    wanted = cv2.dnn.blobFromImages(canvases, 1 / 255.0, swapRB=True)
    np.testing.assert_array_equal(letterbox.to_batch(images, boxes, (64, 96)), wanted)
    out = np.full((4, 3, 64, 96), np.nan, np.float32)
    assert letterbox.to_batch(images, boxes, (64, 96), out=out) is out
    np.testing.assert_array_equal(out[:3], wanted)
    assert not out[3].any()  # a batch that is filled up
    filled = np.full((4, 64, 96, 3), 9, np.uint8)
    assert letterbox.to_pixels(images, boxes, (64, 96), out=filled) is filled
    np.testing.assert_array_equal(filled[:3], canvases)
    assert not filled[3].any()


@pytest.mark.parametrize("image_hw", [*SIZES, (1, 1), (1, 500), (500, 1), (64, 96), (128, 192)])
@pytest.mark.parametrize("center", [True, False])
def test_a_canvas_is_resized_and_padded(image_hw, center):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*image_hw, 3), np.uint8)
    box = letterbox.fit(image_hw, (64, 96), (128, 96), center=center)
    (h, w), (top, left) = box.resized_hw, box.pad
    resized = image if (h, w) == image_hw else cv2.resize(image, (w, h))
    wanted = cv2.copyMakeBorder(
        resized, top, 128 - h - top, left, 96 - w - left, cv2.BORDER_CONSTANT, value=(114,) * 3
    )
    np.testing.assert_array_equal(letterbox.draw_canvas(image, box, (128, 96)), wanted)


@pytest.mark.parametrize("counts", [[], [3], [0, 0], [5, 0, 1, 90]])
def test_a_batch_goes_back_as_each_image_alone(counts):
    rng = np.random.default_rng(0)
    boxes = [letterbox.fit(SIZES[i + 3], (64, 128)) for i in range(len(counts))]
    found = [poses_at(rng.uniform(-9, 99, (n, 5, 2)), rng.uniform(-9, 150, (n, 4))) for n in counts]
    before = [poses.keypoints.copy() for poses in found]
    together = letterbox.to_originals(boxes, found)
    assert [poses.count for poses in together] == counts
    for box, poses, back in zip(boxes, found, together):
        for one, other in zip(back, box.to_original(poses)):
            assert one.dtype == other.dtype and np.array_equal(one, other)
    assert all(np.array_equal(p.keypoints, b) for p, b in zip(found, before))
