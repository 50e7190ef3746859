import numpy as np
import pytest

from tests.evaluation.test_metrics import random_image
from utils.evaluation import bootstrap, metrics
from utils.evaluation.scores import Scores
from utils.pose.keypoints import SIGMAS


def scored(rng, count=12, nc=1):
    """Of random images; no two predictions have one score, so that order does not matter."""
    pairs = [random_image(rng, nc) for _ in range(count)]
    rows = [r._replace(scores=np.sort(rng.random(len(r.scores)))[::-1]) for _, r in pairs]
    scores = Scores(nc, SIGMAS, len(rows))
    for i, (r, (t, _)) in enumerate(zip(rows, pairs)):
        scores.add(i, r, t)
    return scores.ordered(np.arange(len(rows)))[0]


@pytest.mark.parametrize("seed", range(4))
def test_images_that_count_twice_are_as_if_they_were_there_twice(seed):
    rng = np.random.default_rng(seed)
    (images,) = scored(rng)
    times = rng.integers(0, 4, len(images))
    repeated = [image for image, n in zip(images, times) for _ in range(n)]
    found = bootstrap._Class(images).precision(times.astype(float))
    if not sum(int((~i.ignored).sum()) for i in repeated):
        assert found is None
        return
    figures = metrics.pose_figures([repeated])
    assert found.mean() == pytest.approx(figures["AP"], abs=1e-12)
    assert found[0].mean() == pytest.approx(figures["AP50"], abs=1e-12)


def test_draws_lie_around_the_figure_and_are_the_same_each_time():
    classes = scored(np.random.default_rng(1), count=60, nc=2)
    drawn = bootstrap.pose_draws(classes, 200)
    assert (drawn == bootstrap.pose_draws(classes, 200)).all()
    ap = metrics.pose_figures(classes)["AP"]
    (low, high), _ = bootstrap.interval(drawn)
    assert low < ap < high and high - low < 0.5
    text = bootstrap.summary({"AP": ap, "AP50": 0.5}, drawn, 60)
    assert "200 draws of 60 images" in text and "%.4f (%.4f to %.4f)" % (ap, low, high) in text
    assert "+0.0000 on average (+0.0000 to +0.0000), no clear" in bootstrap.change(
        "x", drawn, drawn
    )
    assert "-0.1000 on average" in bootstrap.change("x", drawn - 0.1, drawn)
    assert ", a clear difference" in bootstrap.change("x", drawn - 0.1, drawn)


def test_nobody_to_be_found():
    assert np.isnan(bootstrap.pose_draws([[]], 3)).all()
    assert bootstrap.pose_draws([[]], 0) is None
