import numpy as np

from utils.evaluation import matching
from utils.evaluation.matching import AREAS, POSE_AREAS, THRESHOLDS, Scored, match, match_areas


def random_scored(rng, persons, predictions, near):
    """Args: near: share of the pairs that may match."""
    shape = predictions, persons
    similarity = np.round(rng.uniform(0.45, 1, shape), 2) * (rng.random(shape) < near)
    return Scored(
        similarity,
        np.sort(np.round(rng.random(predictions), 1))[::-1],
        10 ** rng.uniform(2, 5, predictions),
        10 ** rng.uniform(2, 5, persons),
        rng.random(persons) < 0.2,
        rng.random(persons) < 0.2,
    )


def reference(image, area, threshold):
    """(person found, ignored) of each prediction: the loops of COCO's evaluation."""
    low, high = AREAS[area]
    ignored = image.ignored | (image.ground_truth_areas < low) | (image.ground_truth_areas > high)
    order = np.argsort(ignored, kind="stable")  # real ones first
    taken, found = set(), []
    for d, similar in enumerate(image.similarity):
        best, match_of = min(threshold, 1 - 1e-10), -1
        for g in order:
            if g in taken and not image.crowd[g]:
                continue
            if match_of >= 0 and not ignored[match_of] and ignored[g]:
                break
            if similar[g] >= best:
                best, match_of = similar[g], int(g)
        if match_of >= 0:
            taken.add(match_of)
            found.append((match_of, bool(ignored[match_of])))
        else:
            found.append((-1, bool(image.areas[d] < low or image.areas[d] > high)))
    return found


def test_equals_the_loops_of_coco():
    """Images in which nobody can choose, crowds, persons near each other, nobody at all."""
    rng = np.random.default_rng(0)
    images = [
        random_scored(rng, int(rng.integers(0, 6)), int(rng.integers(0, 12)), near)
        for near in np.repeat([0.0, 0.1, 0.3, 0.9], 30)
    ]
    found = match_areas([images], POSE_AREAS)
    several = 0
    for area in POSE_AREAS:
        matches, start = found[area][0], 0
        for image in images:
            stop = start + len(image.scores)
            for t, threshold in enumerate(THRESHOLDS):
                expected = reference(image, area, threshold)
                mine = zip(matches.person[t, start:stop], matches.ignored[t, start:stop])
                assert list(mine) == expected
            assert matches.rank[start:stop].tolist() == list(range(stop - start))
            several += bool(((image.similarity >= 0.5).sum(1) > 1).any())
            start = stop
        np.testing.assert_array_equal(matches.scores, np.concatenate([i.scores for i in images]))
    assert 3 * 30 < several < 3 * 90


def test_few_at_a_time_equal_many(monkeypatch):
    rng = np.random.default_rng(1)
    images = [random_scored(rng, 4, 8, 0.6) for _ in range(20)]
    many = match(images, "medium")
    monkeypatch.setattr(matching, "_CHUNK", 3)
    for one, other in zip(match(images, "medium")[:4], many):
        np.testing.assert_array_equal(one, other)
