import numpy as np
import pytest

from tests.evaluation.test_metrics import random_image
from utils.dataset.coco_results import Rows
from utils.evaluation import similarity
from utils.evaluation.similarity import box_iou, keypoint_similarity, oks, score_images
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import SIGMAS


def reference_oks(points, ground_truth, sigmas):
    """(D, G), pair by pair, as pycocotools computes it."""
    found = np.zeros((len(points), ground_truth.count))
    variances = (2 * np.asarray(sigmas)) ** 2
    for i, mine in enumerate(points):
        for j, theirs in enumerate(ground_truth.keypoints):
            labelled = theirs[:, 2] > 0
            x, y, w, h = ground_truth.boxes[j]
            if labelled.any():
                dx, dy = mine[:, 0] - theirs[:, 0], mine[:, 1] - theirs[:, 1]
            else:
                low, high = (x - w, y - h), (x + 2 * w, y + 2 * h)
                dx, dy = (
                    np.maximum(0, low[k] - mine[:, k]) + np.maximum(0, mine[:, k] - high[k])
                    for k in (0, 1)
                )
                labelled[:] = True
            e = (dx**2 + dy**2) / variances / (ground_truth.areas[j] + np.spacing(1)) / 2
            found[i, j] = np.exp(-e[labelled]).mean()
    return found


def test_oks_by_hand():
    """One point 10 px off on a person of 100 px^2: exp(-100 / (2 (2 sigma)^2 100))."""
    keypoints = np.zeros((1, 2, 3))
    keypoints[0, 0] = 50, 50, 2
    ground_truth = GroundTruth(np.array([[40.0, 40, 20, 20]]), np.zeros(1, int), keypoints,
                  np.array([100.0]), np.zeros(1, bool))  # fmt: skip
    rows = Rows(np.zeros((1, 4)), np.ones(1), np.zeros(1, int), keypoints + [10, 0, 0])
    assert oks(rows, ground_truth, (0.5, 0.1))[0, 0] == pytest.approx(np.exp(-0.5))


def test_equals_the_formula_pair_by_pair():
    rng = np.random.default_rng(0)
    blank = 0
    for _ in range(60):
        ground_truth, rows = random_image(rng)
        expected = reference_oks(rows.keypoints, ground_truth, SIGMAS)
        np.testing.assert_allclose(oks(rows, ground_truth, SIGMAS), expected, rtol=1e-12)
        blank += int((~(ground_truth.keypoints[..., 2] > 0).any(1)).sum())
    assert blank > 10


@pytest.mark.parametrize("pairs", [1, 30, 1 << 14])
def test_many_images_equal_each_alone(monkeypatch, pairs):
    """To the last bit, whatever is compared together; predictions need not be sorted."""
    rng = np.random.default_rng(1)
    images = []
    for i in range(40):
        ground_truth, rows = random_image(rng, predictions=130 if i % 8 == 0 else 12)
        mixed = rng.permutation(rows.count) if i % 3 else np.arange(rows.count)
        images.append((Rows(*(field[mixed] for field in rows)), ground_truth))
    monkeypatch.setattr(similarity, "MAX_PAIRS", pairs)
    for (rows, there), (poses, boxes) in zip(images, score_images(images, SIGMAS)):
        order = np.argsort(-rows.scores, kind="stable")[: similarity.MAX_BOXES]
        few = order[: similarity.MAX_POSES]
        blank = ~(there.keypoints[..., 2] > 0).any(1)
        expected = keypoint_similarity(rows.keypoints[few], there, SIGMAS)[1]
        np.testing.assert_array_equal(poses.similarity, expected)
        np.testing.assert_array_equal(poses.ignored, there.crowd | blank)
        expected = box_iou(rows.boxes[order], there.boxes, there.crowd)
        np.testing.assert_array_equal(boxes.similarity, expected)
        np.testing.assert_array_equal(boxes.ignored, there.crowd)
        for scored, best in ((poses, few), (boxes, order)):
            np.testing.assert_array_equal(scored.scores, rows.scores[best])
            np.testing.assert_array_equal(scored.areas, rows.boxes[best, 2:].prod(1))
            assert scored.ground_truth_areas is there.areas and scored.crowd is there.crowd


def test_iou_by_hand():
    boxes = np.array([[0.0, 0, 10, 10], [100, 100, 10, 10]])
    persons = np.array([[5.0, 0, 10, 10], [0, 0, 40, 40]])
    iou = box_iou(boxes, persons, np.array([False, True]))  # of the crowd: the part inside
    assert iou.tolist() == [[50 / 150, 1.0], [0.0, 0.0]]
