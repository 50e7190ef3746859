import numpy as np
import pytest

from utils.dataset.coco_results import Rows
from utils.evaluation import metrics
from utils.evaluation import scores as scores_module
from utils.evaluation.matching import BOX_AREAS, POSE_AREAS, match_areas
from utils.evaluation.scores import Scores
from utils.evaluation.similarity import score_images
from utils.pose.ground_truth import GroundTruth

SIGMAS = (0.1, 0.1)


def image(seed, nc=2):
    """Predictions and persons of two classes."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 100, (6, 4)) + 1
    points = rng.uniform(0, 100, (6, 2, 3))
    rows = Rows(boxes, rng.random(6), rng.integers(0, nc, 6), points)
    there = GroundTruth(
        boxes[:4] + 1, rng.integers(0, nc, 4), points[:4] + 1, np.full(4, 50.0), np.zeros(4, bool)
    )
    return rows, there


def test_order_of_arrival_does_not_matter():
    images = [image(i) for i in range(5)]
    scores = Scores(2, SIGMAS, 5)
    for i in (3, 0, 4, 1, 2):
        scores.add(i, *images[i])
    order = np.array([4, 2, 0, 1, 3])
    poses, boxes = scores.ordered(order)
    for c in range(2):
        for place, i in enumerate(order):
            alone = score_images([metrics.of_class(*images[i], c)], SIGMAS)[0]
            for found, wanted in zip((poses[c][place], boxes[c][place]), alone):
                for a, b in zip(found, wanted):
                    np.testing.assert_array_equal(a, b)


def test_a_missing_image_is_noticed():
    scores = Scores(2, SIGMAS, 2)
    scores.add(1, *image(0))
    with pytest.raises(ValueError, match="1 images were not added"):
        scores.ordered(np.arange(2))


def test_matches_do_not_depend_on_what_was_matched_together(monkeypatch):
    images = [image(i) for i in range(9)]
    order = np.random.default_rng(0).permutation(9)
    found = []
    for at_once in (1, 2, 4, 100):
        monkeypatch.setattr(scores_module, "AT_ONCE", at_once)
        scores = Scores(2, SIGMAS, 9)
        for i in np.random.default_rng(at_once).permutation(9):
            scores.add(int(i), *images[i])
        found.append(scores.matches(order))
        poses, boxes = scores.ordered(order)
        wanted = match_areas(poses, POSE_AREAS), match_areas(boxes, BOX_AREAS)
        for mine, theirs in zip(found[-1], wanted):
            assert list(mine) == list(theirs)
            for area in mine:
                for a, b in zip(mine[area], theirs[area]):
                    for one, other in zip(a[:5], b[:5]):
                        np.testing.assert_array_equal(one, other)
                    np.testing.assert_array_equal(a.by_score, np.argsort(-a.scores, kind="stable"))
