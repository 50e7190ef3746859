import numpy as np

from tests.tracking.crowd import gait
from utils.evaluation.similarity import keypoint_similarity
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import AREA_OF_BOX, SIGMAS
from utils.tracking.similarity import follow_box, paired_oks, pairwise_iou

RNG = np.random.default_rng(0)


def some_boxes(count):
    corner = RNG.uniform(0, 200, (count, 2))
    return np.concatenate([corner, corner + RNG.uniform(20, 100, (count, 2))], 1)


def test_iou():
    one = np.array([[0, 0, 10, 10.0], [0, 0, 0, 0]])
    other = np.array([[0, 0, 10, 10.0], [5, 0, 15, 10], [10, 0, 20, 10]])
    np.testing.assert_allclose(pairwise_iou(one, other), [[1, 1 / 3, 0], [0, 0, 0]])


def test_oks_is_that_of_the_evaluation():
    boxes = some_boxes(6)
    points = gait(boxes, 0, np.zeros(6))
    other = points + RNG.normal(0, 3, points.shape) * [1, 1, 0]
    area = AREA_OF_BOX * (boxes[:, 2:] - boxes[:, :2]).prod(1)
    ground_truth = GroundTruth(boxes, np.zeros(6, int), points, area, np.zeros(6, bool))
    expected = keypoint_similarity(other, ground_truth, SIGMAS)[1].diagonal()
    np.testing.assert_allclose(paired_oks(points, other, boxes, sigmas=SIGMAS), expected)


def test_points_nobody_is_sure_of_do_not_count():
    boxes = some_boxes(1)
    points = gait(boxes, 0, np.zeros(1))
    other = points.copy()
    other[:, 3:, :2] += 1000
    other[:, 3:, 2] = 0
    assert paired_oks(points, other, boxes, sigmas=SIGMAS) == 1
    assert paired_oks(points * [1, 1, 0], other, boxes, sigmas=SIGMAS) == 0


def test_keypoints_follow_their_box():
    before, now = some_boxes(4), some_boxes(4)
    moved = follow_box(gait(before, 7, np.ones(4)), before, now)
    np.testing.assert_allclose(moved, gait(now, 7, np.ones(4)))
