import numpy as np
import pytest

from tests.runtime.test_predictor import InnerBackend, SpotBackend, center, spot
from utils.errors import InputError
from utils.pose.keypoints import COCO, plain_skeleton
from utils.pose.poses import Poses
from utils.runtime.predictor import Predictor
from utils.runtime.tta import FlipPredictor, MultiScalePredictor, fuse, predictor_class, unflip


@pytest.mark.parametrize("hw", [None, (160, 160)])
def test_augment_merges_views_and_swaps_sides_back(hw):
    backend = SpotBackend(hw)
    image = spot(160, 120, 50, 80)
    (plain,) = Predictor(backend, (160, 160))([image])
    backend.seen.clear()
    (poses,) = MultiScalePredictor(backend, (160, 160), iou_thres=0.3)([image])
    assert len(backend.seen) == 3
    assert poses.count == 1
    np.testing.assert_allclose(center(poses), center(plain), atol=2.5)
    predictor = Predictor(backend, (160, 160))
    (flipped,) = predictor([np.ascontiguousarray(image[:, ::-1])])
    back = unflip(flipped, 120, COCO.flip_index)
    np.testing.assert_allclose(back.boxes, plain.boxes, atol=2.5)
    # this backend sees left on the right-hand side, flipped or not: it must stay there
    np.testing.assert_allclose(back.keypoints, plain.keypoints, atol=2.5)
    assert (back.keypoints[0, 1::2, 0] > back.keypoints[0, 2::2, 0]).all()


@pytest.mark.parametrize("parameter", ["augment", "flip_test"])
def test_flipping_needs_pairs(parameter):
    backend = SpotBackend()
    backend.nkpt, backend.skeleton = 5, plain_skeleton(5)
    with pytest.raises(InputError, match="`%s`" % parameter):
        predictor_class(**{parameter: True})(backend)


def test_views_before_nms_need_a_model_without_it():
    with pytest.raises(InputError, match="`augment` .*embedded NMS"):
        MultiScalePredictor(InnerBackend((64, 64)))
    assert (
        FlipPredictor(InnerBackend((64, 64)))([spot(64, 64, 30, 10)])[0].count == 2
    )  # InnerBackend


class OneEyedBackend(SpotBackend):
    """SpotBackend that does not see flipped images."""

    def __call__(self, images):
        raw = super().__call__(images)
        raw[:, :, 4] *= raw[:, :, 0] < images.shape[3] / 2
        return raw


def test_flip_test_keeps_the_threshold():
    image = spot(64, 64, 30, 10)
    (found,) = FlipPredictor(OneEyedBackend((64, 64)))([image])
    assert found.scores == pytest.approx([0.45])
    assert FlipPredictor(OneEyedBackend((64, 64)), conf_thres=0.5)([image])[0].count == 0


def look(boxes, scores, points=0.0, conf=0.5, classes=None):
    n = len(boxes)
    keypoints = np.full((n, 2, 3), points, np.float32)
    keypoints[..., 2] = conf
    classes = np.zeros(n, np.int64) if classes is None else np.array(classes)
    return Poses(np.array(boxes, np.float32).reshape(n, 4), np.array(scores, np.float32),
                 classes, keypoints)  # fmt: skip


def test_fuse_averages_those_seen_twice():
    one = look([[0, 0, 10, 10], [50, 50, 60, 60]], [0.8, 0.6], points=1.0, conf=0.9)
    other = look([[0, 0, 12, 10], [80, 80, 90, 90]], [0.6, 0.5], points=5.0, conf=0.3)
    found = fuse(one, other, 0.5)
    assert found.scores == pytest.approx([0.7, 0.3, 0.25])
    assert found.boxes[0].tolist() == [0, 0, 11, 10]
    assert found.keypoints[0, 0] == pytest.approx([2.0, 2.0, 0.6])  # the surer counts thrice
    assert found.keypoints[1, 0] == pytest.approx([1.0, 1.0, 0.9])


def test_fuse_takes_each_once_and_looks_at_classes():
    one = look([[0, 0, 10, 10], [0, 0, 10, 9]], [0.8, 0.6])
    other = look([[0, 0, 10, 10]], [0.6])
    assert fuse(one, other, 0.5).scores == pytest.approx([0.7, 0.3])
    dog = other._replace(classes=np.array([1]))
    assert fuse(one, dog, 0.5).count == 3
    assert fuse(one, dog, 0.5, agnostic=True).count == 2
    nobody = look([], [])
    assert fuse(nobody, nobody, 0.5).count == 0
    assert fuse(nobody, other, 0.5).scores == pytest.approx([0.3])
