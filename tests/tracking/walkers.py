"""Persons who stand or walk, with noise in their keypoints: what a smoother has to cope with."""

import numpy as np

from tests.tracking.crowd import gait
from utils.pose.poses import Poses
from utils.tracking.smoothing import KeypointSmoother

FPS, HEIGHT, PERSONS, FRAMES = 30.0, 160.0, 8, 150
WALK = 0.8  # body lengths a second, a usual pace


def drawn(config, *, speed=0.0, swing=False, noise=0.01, conf=0.9, size=HEIGHT):
    """(T, n, 17, 2) smooth, true and raw points of persons who stand or walk, in heights."""
    rng = np.random.default_rng(0)
    smoother = KeypointSmoother(config)
    box = np.tile([0, 0, 0.4 * size, size], (PERSONS, 1))
    rows = []
    for t in range(FRAMES):
        boxes = box + np.array([1, 0, 1, 0]) * (t * speed * size / FPS)
        true = gait(boxes, t if swing else 0, np.zeros(PERSONS))
        raw = true.copy()
        raw[..., :2] += rng.normal(0, noise * size, raw[..., :2].shape)
        raw[..., 2] = conf
        poses = Poses(
            boxes.astype(np.float32),
            np.ones(PERSONS, np.float32),
            np.zeros(PERSONS, np.int64),
            raw.astype(np.float32),
        )
        smooth = smoother.update(poses, np.arange(1, PERSONS + 1), 5 + t / FPS)
        rows.append([p[..., :2] / size for p in (smooth.keypoints, true, raw)])
    return [np.array(part)[FRAMES // 5 :] for part in zip(*rows)]


def jitter(points):
    return np.diff(points, axis=0).std()


def lag_ms(smooth, true):
    """How far the trunk stays behind a walk."""
    trunk = [0, 5, 6, 11, 12]
    return 1000 * float((true - smooth)[:, :, trunk, 0].mean() / WALK)
