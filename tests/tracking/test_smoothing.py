import math

import numpy as np
import pytest

from tests.tracking.walkers import FPS, WALK, drawn, jitter, lag_ms
from utils.errors import InputError
from utils.pose.poses import Poses, empty_poses
from utils.tracking.smoothing import KeypointSmoother, SmoothConfig


def test_who_stands_stands_still():
    smooth, true, raw = drawn(SmoothConfig())
    assert jitter(smooth) < 0.25 * jitter(raw)
    assert (smooth - true).std() < 0.5 * (raw - true).std()


def test_who_walks_lags_by_less_than_a_frame():
    smooth, true, raw = drawn(SmoothConfig(), speed=WALK, swing=True)
    assert lag_ms(smooth, true) < 20 < 1000 / FPS
    assert np.sqrt(((smooth - true) ** 2).mean()) < 1.1 * np.sqrt(((raw - true) ** 2).mean())


def test_beta_is_what_takes_the_lag_away_and_cutoff_the_jitter():
    still = [jitter(drawn(SmoothConfig(min_cutoff_hz=hz))[0]) for hz in (0.5, 1, 2)]
    assert still[0] < still[1] < still[2]
    lags = [lag_ms(*drawn(SmoothConfig(beta=b), speed=WALK)[:2]) for b in (0, 5, 20)]
    assert lags[0] > 100 > 30 > lags[1] > lags[2]


def test_size_of_the_person_does_not_matter():
    small, _, _ = drawn(SmoothConfig(), speed=WALK, size=60.0)
    large, _, _ = drawn(SmoothConfig(), speed=WALK, size=900.0)
    np.testing.assert_allclose(small, large, atol=1e-4)


def test_unsure_points_are_smoother_and_stay_with_the_body():
    sure, _, _ = drawn(SmoothConfig(), conf=0.9)
    unsure, _, _ = drawn(SmoothConfig(), conf=0.2)
    assert jitter(unsure) < 0.5 * jitter(sure)
    smooth, true, _ = drawn(SmoothConfig(), conf=0.2, speed=WALK)
    assert lag_ms(smooth, true) < 20


def poses(x, conf=0.8):
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, :, 0], keypoints[0, :, 2] = x, conf
    box = np.array([[0, 0, 100, 200]], np.float32)
    return Poses(box, np.ones(1, np.float32), np.zeros(1, np.int64), keypoints)


def test_a_step_as_in_the_paper():
    """One value, all points alike, full confidence: the formulas of the paper by hand."""
    config = SmoothConfig(1.5, 4.0, 2.0)
    smoother = KeypointSmoother(config)
    values, ids = [10.0, 30.0, 35.0], np.array([1])
    found = [
        smoother.update(poses(x, 1.0), ids, t / 20).keypoints[0, 3, 0] for t, x in enumerate(values)
    ]
    smooth, speed, expected = values[0], 0.0, [values[0]]
    for x in values[1:]:

        def alpha(cutoff):
            return 1 / (1 + (1 / (2 * math.pi * cutoff)) / (1 / 20))

        a = alpha(2.0)
        speed = a * (x - smooth) * 20 + (1 - a) * speed
        a = alpha(1.5 + 4.0 * abs(speed) / 200)
        smooth = a * x + (1 - a) * smooth
        expected.append(smooth)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_only_points_change_and_the_input_stays():
    smoother, first, second = KeypointSmoother(), poses(10), poses(20)
    smoother.update(first, np.array([1]), 0.0)
    found = smoother.update(second, np.array([1]), 0.1)
    assert (second.keypoints[0, :, 0] == 20).all() and (found.keypoints[0, :, 0] < 20).all()
    assert found.keypoints.dtype == np.float32
    for field in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(found, field), getattr(second, field))
    np.testing.assert_array_equal(found.keypoints[..., 2], second.keypoints[..., 2])


def test_persons_do_not_mix_and_are_forgotten():
    smoother = KeypointSmoother()
    smoother.update(poses(10), np.array([1]), 0.0)
    assert smoother.update(poses(50), np.array([2]), 0.1).keypoints[0, 0, 0] == 50
    assert smoother.update(poses(20), np.array([1]), 9.0).keypoints[0, 0, 0] == 20
    assert smoother.update(empty_poses(17), np.zeros(0, int), 9.1).count == 0


def test_frames_of_one_time():
    smoother = KeypointSmoother()
    for x in (10, 20, 30):
        found = smoother.update(poses(x), np.array([1]), 1.0).keypoints
        assert np.isfinite(found).all() and 10 <= found[0, 0, 0] <= 30


@pytest.mark.parametrize(
    "values, word",
    [
        ({"min_cutoff_hz": 0}, "min_cutoff_hz"),
        ({"speed_cutoff_hz": -1}, "speed_cutoff_hz"),
        ({"beta": float("nan")}, "beta"),
    ],
)
def test_values_that_cannot_be(values, word):
    with pytest.raises(InputError, match="`%s`" % word):
        SmoothConfig(**values)
