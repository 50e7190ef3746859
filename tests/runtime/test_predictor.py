import numpy as np
import pytest

from tests.conftest import make_pose_onnx, pose_row
from utils.errors import InputError, InputWarning
from utils.pose.detections import Detections
from utils.pose.keypoints import COCO
from utils.runtime.backend import Backend
from utils.runtime.load import load_backend
from utils.runtime.metadata import EmbeddedNms
from utils.runtime.predictor import Predictor, resolve_size


class SpotBackend(Backend):
    """Finds the brightest pixel: a box 20 px wide around it, keypoint k at its (k, 0) offset.

    On a mirrored image it names left and right as it sees them, like a trained network.
    """

    def __init__(self, hw=None, batch=None):
        self.input_shape = (batch, 3, *(hw or (None, None)))
        self.dtype, self.names, self.nkpt = np.dtype(np.float32), ["spot"], 17
        self.stride, self.imgsz, self.description = 32, None, "spot"
        self.skeleton = COCO
        self.seen = []

    def __call__(self, images):
        self._check_input(images)
        self.seen.append(images.shape)
        raw = []
        for image in images:
            y, x = np.unravel_index(image.sum(0).argmax(), image.shape[1:])
            found = image.sum(0).max() > 2.5
            row = pose_row(x + 0.5, y + 0.5, 20, 20, 0.9 if found else 0.0)
            side = np.array([{"left": 5, "right": -5, "center": 0}[s] for s in COCO.sides])
            row[6::3] = x + 0.5 + side
            raw.append(row[None])
        return np.stack(raw)


def spot(h, w, y, x):
    """Grey image with a bright 3 x 3 spot at pixel (y, x)."""
    image = np.full((h, w, 3), 60, np.uint8)
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    return image


def center(poses, i=0):
    return poses.keypoints[i, 0, :2]  # the nose is on the spot; boxes are clipped at the edge


def test_finds_the_spot_in_original_pixels():
    images = [spot(100, 200, 30, 150), spot(64, 64, 20, 10), spot(300, 30, 200, 9)]
    for hw in (None, (160, 192)):
        predictor = Predictor(SpotBackend(hw), None if hw else (320, 320))
        for poses, want in zip(predictor(images), ([150.5, 30.5], [10.5, 20.5], [9.5, 200.5])):
            assert poses.count == 1
            np.testing.assert_allclose(center(poses), want, atol=2.5)


def test_no_more_images_at_a_time_than_the_model_takes():
    backend = SpotBackend()
    backend.max_batch = 2
    assert len(Predictor(backend, (64, 64))([spot(64, 64, 20, 20)] * 5)) == 5
    assert [shape[0] for shape in backend.seen] == [2, 2, 1]


def test_rectangular_only_where_dynamic():
    backend = SpotBackend()
    Predictor(backend, (320, 320))([spot(100, 200, 30, 150)])
    Predictor(backend, (320, 320), auto=False)([spot(100, 200, 30, 150)])
    static = SpotBackend((96, 160))
    Predictor(static)([spot(100, 200, 30, 150)])
    assert backend.seen == [(1, 3, 160, 320), (1, 3, 320, 320)]
    assert static.seen == [(1, 3, 96, 160)]


def test_fixed_batch_is_filled_and_order_stays():
    backend = SpotBackend((64, 64), batch=4)
    images = [spot(64, 64, 20, 5 + 5 * i) for i in range(6)]
    poses = Predictor(backend)(images)
    assert backend.seen == [(4, 3, 64, 64)] * 2
    np.testing.assert_allclose([center(p)[0] for p in poses], [5, 10, 15, 20, 25, 30], atol=1.6)


def test_batch_of_one_gets_one():
    backend = SpotBackend((64, 64), batch=1)
    Predictor(backend)([spot(64, 64, 20, 20)] * 3)
    assert backend.seen == [(1, 3, 64, 64)] * 3


def test_dynamic_batches_hold_one_shape():
    backend = SpotBackend()
    shapes = [(64, 64), (64, 64), (64, 128), (64, 64)]
    Predictor(backend, (64, 64))([spot(h, w, 20, 20) for h, w in shapes])
    assert [s[0] for s in backend.seen] == [2, 1, 1]


def test_empty_image_has_nobody():
    (poses,) = Predictor(SpotBackend(), (64, 64))([np.zeros((30, 40, 3), np.uint8)])
    assert poses.count == 0 and poses.keypoints.shape == (0, 17, 3)


def test_sizes():
    assert resolve_size(SpotBackend((96, 160)), None) == (96, 160)
    assert resolve_size(SpotBackend((96, 160)), (96, 160)) == (96, 160)
    assert resolve_size(SpotBackend(), None) == (640, 640)
    with pytest.warns(InputWarning, match="rounded up to 128 64"):
        assert resolve_size(SpotBackend(), (100, 64)) == (128, 64)
    with pytest.raises(InputError, match="64 64.*96 160"):
        resolve_size(SpotBackend((96, 160)), (64, 64))


def test_size_of_the_metadata_is_the_default(tmp_path):
    rows = pose_row(10, 10, 5, 5)[None]
    path = make_pose_onnx(tmp_path / "x.onnx", rows, hw=None, imgsz=[128, 192])
    assert Predictor(load_backend(str(path), "cpu")).net_hw == (128, 192)


def test_classes_out_of_range():
    with pytest.raises(InputError, match=r"`classes` 3: .*0 to 0"):
        Predictor(SpotBackend(), classes=[0, 3])


def test_fixed_batch_of_any_size_takes_mixed_images():
    backend = SpotBackend()
    backend.input_shape = (2, 3, None, None)
    wide, tall = spot(100, 1000, 50, 700), spot(200, 160, 100, 80)
    for images in ([wide, tall], [tall, wide], [tall, tall]):
        for poses, image in zip(Predictor(backend, (320, 320))(images), images):
            y, x = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
            np.testing.assert_allclose(center(poses), [x + 1.5, y + 1.5], atol=6)
    assert backend.seen == [(2, 3, 320, 320)] * 2 + [(2, 3, 320, 256)]


def test_one_dynamic_side_is_not_rectangular():
    backend = SpotBackend()
    backend.input_shape = (1, 3, 320, None)
    Predictor(backend, (320, 320))([spot(100, 200, 30, 150)])
    assert backend.seen == [(1, 3, 320, 320)]


class InnerBackend(SpotBackend):
    """SpotBackend with embedded NMS: the spot in each image, twice in the first."""

    embedded_nms = EmbeddedNms(0.25, 0.45, 5)

    def __call__(self, images):
        raw = super().__call__(images)
        b = len(raw)
        boxes, pose = np.zeros((b, 5, 4), np.float32), np.zeros((b, 5, 51), np.float32)
        index, scores = np.full((b, 5, 3), -1, np.int32), np.zeros((b, 5, 1), np.float32)
        count = np.zeros((b, 1), np.int32)
        for i, row in enumerate(raw[:, 0]):
            n = int(row[4] > 0) * (1 + (i == 0))
            count[i], scores[i, :n, 0], index[i, :n] = n, (0.9, 0.4)[:n], (i, 0, 7)
            boxes[i, :n] = np.concatenate([row[:2] - row[2:4] / 2, row[:2] + row[2:4] / 2])
            pose[i, :n] = row[6:]
        return Detections(count, index, boxes, pose, scores)


def test_nms_inside_is_not_repeated():
    images = [spot(100, 200, 30, 150), spot(64, 64, 20, 10), spot(300, 30, 200, 9)]
    images.append(np.zeros((64, 64, 3), np.uint8))
    found = Predictor(InnerBackend((160, 192), batch=8))(images)
    assert [p.count for p in found] == [2, 1, 1, 0]  # both copies stay
    outside = Predictor(SpotBackend((160, 192)))(images)
    for poses, other in zip(found, outside):
        for value, want in zip(poses.select(slice(1)), other):
            np.testing.assert_allclose(value, want, rtol=1e-5)
    strict = Predictor(InnerBackend((160, 192)), conf_thres=0.5)(images)
    assert [p.count for p in strict] == [1, 1, 1, 0]
    assert Predictor(InnerBackend((160, 192)), max_det=1)(images[:1])[0].count == 1
    assert Predictor(InnerBackend((160, 192)), classes=[])(images[:1])[0].count == 0


def test_thresholds_inside_the_model(recwarn):
    predictor = Predictor(InnerBackend((64, 64)))
    assert (predictor.conf_thres, predictor.iou_thres) == (0.25, 0.45)
    Predictor(InnerBackend((64, 64)), conf_thres=0.3, iou_thres=0.45, agnostic=True)
    assert not recwarn.list
    with pytest.warns(InputWarning, match="`conf_thres` 0.1: .* below 0.25") as found:
        Predictor(InnerBackend((64, 64)), conf_thres=0.1, iou_thres=0.6)
    assert "`iou_thres` 0.6 is ignored" in str(found[1].message)
    backend = InnerBackend((64, 64))
    backend.names = ["a", "b"]
    with pytest.warns(InputWarning, match="`agnostic_nms` is ignored"):
        Predictor(backend, agnostic=True)


def test_attributes_are_the_thresholds_that_hold():
    with pytest.warns(InputWarning):
        low = Predictor(InnerBackend((64, 64)), conf_thres=0.1, iou_thres=0.6)
    assert (low.conf_thres, low.iou_thres) == (0.25, 0.45)
    high = Predictor(InnerBackend((64, 64)), conf_thres=0.5)
    assert (high.conf_thres, high.iou_thres) == (0.5, 0.45)


@pytest.mark.parametrize("name", ["conf_thres", "iou_thres"])
@pytest.mark.parametrize("value", [7, -0.1, float("nan")])
def test_thresholds_that_are_none(name, value):
    with pytest.raises(InputError, match="`%s` %g: expected 0 to 1" % (name, value)):
        Predictor(SpotBackend(), **{name: value})
    Predictor(SpotBackend(), **{name: 1.0})
