import copy

import numpy as np
import pytest

from utils.dataset.coco_results import Rows, coco_api_figures, result_json
from utils.evaluation import matching, metrics
from utils.evaluation.matching import Scored
from utils.evaluation.similarity import MAX_BOXES, score_images
from utils.pose.ground_truth import GroundTruth, empty_ground_truth
from utils.pose.keypoints import SIGMAS

NKPT = 17


def random_image(rng, nc=1, persons=5, predictions=12, nkpt=NKPT):
    """GroundTruth and Rows with crowds, hidden persons, near and far predictions."""
    n = int(rng.integers(0, persons + 1))
    wh = rng.uniform(8, 220, (n, 2))
    xy = rng.uniform(0, 400, (n, 2))
    keypoints = np.concatenate(
        [xy[:, None] + rng.uniform(0, 1, (n, nkpt, 2)) * wh[:, None], np.zeros((n, nkpt, 1))], -1
    )
    keypoints[..., 2] = rng.choice([0, 1, 2], (n, nkpt), p=[0.3, 0.2, 0.5])
    keypoints[rng.random(n) < 0.2, :, 2] = 0
    keypoints[keypoints[..., 2] == 0] = 0
    areas = wh[:, 0] * wh[:, 1] * rng.uniform(0.3, 0.9, n)
    ground_truth = GroundTruth(
        np.concatenate([xy, wh], 1), rng.integers(0, nc, n), keypoints, areas, rng.random(n) < 0.15
    )
    m = int(rng.integers(0, predictions + 1)) if n else int(rng.integers(0, 3))
    source = rng.integers(0, n, m) if n else np.zeros(m, int)
    noise = rng.choice([0.0, 0.02, 0.1, 0.5], (m, 1, 1))
    if n:
        size = wh[source]
        boxes = np.concatenate([xy, wh], 1)[source] + rng.normal(size=(m, 4)) * noise[:, 0] * 50
        points = keypoints[source].copy()
        points[..., :2] += rng.normal(size=(m, nkpt, 2)) * noise * size[:, None]
    else:
        boxes, points = rng.uniform(0, 400, (m, 4)), rng.uniform(0, 400, (m, nkpt, 3))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    scores = np.sort(rng.integers(1, 20, m) / 20)[::-1]  # many equal ones
    classes = rng.integers(0, nc, m)
    return ground_truth, Rows(np.round(boxes, 3), scores, classes, np.round(points, 3))


def as_coco(ground_truths, nc):
    """The content of a COCO JSON."""
    annotations = []
    for image_id, ground_truth in ground_truths.items():
        for i in range(ground_truth.count):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(ground_truth.classes[i]) + 1,
                    "bbox": ground_truth.boxes[i].tolist(),
                    "keypoints": ground_truth.keypoints[i].ravel().tolist(),
                    "num_keypoints": int((ground_truth.keypoints[i, :, 2] > 0).sum()),
                    "area": float(ground_truth.areas[i]),
                    "iscrowd": int(ground_truth.crowd[i]),
                }
            )
    return {
        "images": [{"id": i, "width": 640, "height": 640} for i in ground_truths],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": str(c)} for c in range(nc)],
    }


def both(images, nc, sigmas=SIGMAS):
    """(ours, pycocotools') poses and boxes of {image id: (ground truth, rows)}."""
    ground_truths = {k: t for k, (t, _) in images.items()}
    results = [r for k, (_, rows) in images.items() for r in result_json(rows, k, range(1, nc + 1))]
    pairs = [images[k] for k in sorted(images)]
    poses, boxes = [], []
    for c in range(nc):
        split = [metrics.of_class(rows, ground_truth, c) for ground_truth, rows in pairs]
        poses.append([s[0] for s in score_images(split, sigmas)])
        boxes.append([s[1] for s in score_images(split, sigmas)])
    ours = metrics.pose_figures(poses), metrics.box_figures(boxes)
    theirs = tuple(
        coco_api_figures(
            copy.deepcopy(as_coco(ground_truths, nc)), results, list(images), kind, sigmas
        )
        for kind in ("keypoints", "bbox")
    )
    return ours, theirs


@pytest.mark.parametrize("nc", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_figures_equal_pycocotools(seed, nc):
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(seed)
    # more than a chunk of images, and image ids that are not in order
    ids = rng.permutation(1000)[: int(rng.choice([1, 5, 40, 150]))]
    images = {int(i): random_image(rng, nc, 5, int(rng.choice([4, 12, 40]))) for i in ids}
    ours, theirs = both(images, nc)
    for mine, reference in zip(ours, theirs):
        assert list(mine.values()) == pytest.approx(reference, abs=1e-9)


def test_more_predictions_than_count():
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(5)
    images = {i: random_image(rng, 1, 30, 300) for i in range(1, 6)}
    assert max(r.count for _, r in images.values()) > MAX_BOXES
    ours, theirs = both(images, 1)
    for mine, reference in zip(ours, theirs):
        assert list(mine.values()) == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("nkpt", [1, 4, 21])
def test_other_keypoints(nkpt):
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(nkpt)
    images = {i: random_image(rng, nkpt=nkpt) for i in range(1, 30)}
    ours, theirs = both(images, 1, tuple(rng.uniform(0.02, 0.2, nkpt)))
    for mine, reference in zip(ours, theirs):
        assert list(mine.values()) == pytest.approx(reference, abs=1e-9)
    assert 0 < ours[0]["AP"] < 1


def test_other_sigmas():
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(6)
    images = {i: random_image(rng) for i in range(1, 30)}
    ours, theirs = both(images, 1, (0.05,) * NKPT)
    assert list(ours[0].values()) == pytest.approx(theirs[0], abs=1e-9)
    assert ours[0]["AP"] != both(images, 1)[0][0]["AP"]


def no_rows():
    return Rows(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros((0, NKPT, 3)))


@pytest.mark.parametrize("what", ["no predictions", "no ground truth", "neither", "perfect"])
def test_edges_equal_pycocotools(what):
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(1)
    images = {i: random_image(rng) for i in range(1, 9)}
    for i, (ground_truth, rows) in images.items():
        points = np.concatenate(
            [ground_truth.keypoints[..., :2], np.full((ground_truth.count, NKPT, 1), 2)], -1
        )
        ground_truth = ground_truth._replace(
            crowd=np.zeros(ground_truth.count, bool), keypoints=points
        )
        if what in ("no ground truth", "neither"):
            ground_truth = empty_ground_truth(NKPT)
        if what in ("no predictions", "neither"):
            rows = no_rows()
        if what == "perfect":
            count = ground_truth.count
            rows = Rows(
                ground_truth.boxes,
                np.linspace(1, 0.5, count),
                ground_truth.classes,
                ground_truth.keypoints,
            )
        images[i] = (ground_truth, rows)
    ours, theirs = both(images, 1)
    for mine, reference in zip(ours, theirs):
        assert list(mine.values()) == pytest.approx(reference, abs=1e-9)
    expected = {"no predictions": 0.0, "perfect": 1.0}.get(what, -1.0)
    assert ours[1]["AP"] == pytest.approx(expected) and ours[0]["AP"] == pytest.approx(expected)


def scored(similarity, scores, **changes):
    similarity = np.asarray(similarity, float)
    d, g = similarity.shape
    plenty, nobody = np.full(max(d, g), 5000.0), np.zeros(g, bool)
    fields = {"similarity": similarity, "scores": np.asarray(scores, float)}
    fields.update(areas=plenty[:d], ground_truth_areas=plenty[:g], ignored=nobody, crowd=nobody)
    fields.update(changes)
    return Scored(**fields)


def test_a_person_is_found_once():
    found = matching.match([scored([[0.9], [0.95]], [0.8, 0.7])], thresholds=np.array([0.5]))
    assert found.person.tolist() == [[0, -1]] and found.positives == 1


def test_the_better_prediction_takes_the_more_similar_person():
    found = matching.match(
        [scored([[0.6, 0.9], [0.7, 0.95]], [0.8, 0.7])], thresholds=np.array([0.5, 0.65])
    )
    assert found.person.tolist() == [[1, 0], [1, 0]]


def test_a_crowd_may_be_found_again_and_counts_for_nothing():
    image = scored([[0.9], [0.9]], [0.8, 0.7], ignored=np.array([True]), crowd=np.array([True]))
    found = matching.match([image], thresholds=np.array([0.5, 0.75]))
    assert (found.person == 0).all() and found.ignored.all() and found.positives == 0
    assert metrics.average_precision(found) is None


def test_confidence_curve():
    """Right at 0.9, wrong at 0.8 twice, right at 0.7: of equal scores all or none."""
    image = scored([[0.9, 0], [0, 0], [0, 0], [0, 0.9]], [0.9, 0.8, 0.8, 0.7])
    curve = metrics.confidence_curve(matching.match([image]))
    assert curve.confidence.tolist() == [0.9, 0.8, 0.7]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 3, 0.5])
    assert curve.recall.tolist() == [0.5, 0.5, 1.0]
    assert curve.best() == pytest.approx((0.9, 1.0, 0.5, 2 / 3))
    nothing = metrics.confidence_curve(matching.match([]))
    assert nothing.best() == (0.0, 0.0, 0.0, 0.0)


def test_order_of_images_does_not_matter_without_equal_scores():
    rng = np.random.default_rng(3)
    images = []
    for _ in range(300):
        ground_truth, rows = random_image(rng)
        rows = rows._replace(scores=np.sort(rng.random(rows.count))[::-1])
        images.append(score_images([(rows, ground_truth)], SIGMAS)[0][0])
    one = metrics.pose_figures([images])
    other = metrics.pose_figures([[images[i] for i in rng.permutation(len(images))]])
    assert one == pytest.approx(other, abs=1e-12)


def test_mean_curve_of_a_class_that_is_silent():
    """Above its best score a class has found nobody, as one without any prediction."""
    right = metrics.confidence_curve(matching.match([scored([[0.9]], [0.9])]))
    none = metrics.confidence_curve(matching.match([scored(np.zeros((0, 1)), [])]))
    wrong = metrics.confidence_curve(matching.match([scored([[0.0]], [0.1])]))
    silent, late = metrics.mean_curve([right, none]), metrics.mean_curve([right, wrong])
    for one, other in zip(silent, late):
        assert one.tolist() == other.tolist()
    assert silent.best()[1:] == pytest.approx((0.5, 0.5, 0.5))


def test_one_class_is_not_copied():
    ground_truth, rows = random_image(np.random.default_rng(0))
    mine, persons = metrics.of_class(rows, ground_truth, 0)
    assert mine.keypoints is rows.keypoints and persons.keypoints is ground_truth.keypoints
    mine, persons = metrics.of_class(rows, ground_truth, 1)
    assert mine.count == persons.count == 0
