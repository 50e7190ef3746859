"""Keypoints of tracked persons without jitter: the One-Euro filter.

smoother = KeypointSmoother(SmoothConfig())
poses = smoother.update(tracked.poses, tracked.ids, time_s)
"""

import dataclasses
import math
from typing import Dict, NamedTuple, Optional

import numpy as np

from utils.errors import InputError
from utils.pose.poses import Poses

FORGET_S = 2.0  # a person who was away for longer starts anew
SHORTEST_S = 1e-3  # two frames of a stream may carry the same time


@dataclasses.dataclass(frozen=True)
class SmoothConfig:
    """How strong the filter is. Raises InputError for values that cannot be."""

    min_cutoff_hz: float = 1.0  # of a point at rest; lower: less jitter, more lag
    beta: float = 10.0  # Hz more for each body length a second; higher: less lag in fast motion
    speed_cutoff_hz: float = 1.0  # of the speed that beta looks at

    def __post_init__(self) -> None:
        for name in ("min_cutoff_hz", "speed_cutoff_hz"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError("`%s` %g: expected Hz above 0" % (name, getattr(self, name)))
        if not 0 <= self.beta < math.inf:
            raise InputError("`beta` %g: expected at least 0" % self.beta)


class _State(NamedTuple):
    """The filter of one person."""

    points: np.ndarray  # (K, 2) float64 px, smooth
    speeds: np.ndarray  # (K, 2) float64 px/s, smooth
    time_s: float


class KeypointSmoother:
    """A One-Euro filter (Casiez, Roussel and Vogel, CHI 2012) for each keypoint of each track.

    A low-pass filter of first order whose cutoff frequency grows with the speed of the point:
    slow points lose their jitter, fast ones do not lag. Two things are added to the paper. Speeds
    are in body lengths (the longer side of the box) a second, so that near and far persons are
    treated alike. And a new value counts as much as the model is sure of it: a point with
    confidence c makes c of its own step, and 1 - c of the mean step of the person's points, so
    that a hidden point neither jumps nor stays behind.
    """

    def __init__(self, config: Optional[SmoothConfig] = None):
        self.config = config or SmoothConfig()
        self._states: Dict[int, _State] = {}

    def update(self, poses: Poses, ids: np.ndarray, time_s: float) -> Poses:
        """Poses of one frame, `ids` (n,) of their tracks -> with smooth x, y of the keypoints.

        Args: time_s: of the frame, on any clock that goes forward. Boxes, scores and confidences
            stay as they are.
        """
        self._forget(time_s)
        keypoints = poses.keypoints.copy()
        if not poses.count:
            return poses
        points, sure = keypoints[..., :2].astype(np.float64), keypoints[..., 2:].clip(0, 1)
        before = [self._states.get(i) for i in ids.tolist()]
        known = np.array([state is not None for state in before])
        speeds = np.zeros_like(points)
        if known.any():
            states = [state for state in before if state is not None]
            sides = poses.boxes[known, 2:] - poses.boxes[known, :2]
            points[known], speeds[known] = self._filter(
                states, points[known], sure[known], sizes=sides.max(1), time_s=time_s
            )
        for row, i in enumerate(ids.tolist()):
            self._states[i] = _State(points[row], speeds[row], time_s)
        keypoints[..., :2] = points
        return poses._replace(keypoints=keypoints)

    def _filter(self, states, new, sure, *, sizes, time_s):
        """The next (m, K, 2) points and speeds of m persons of these sizes, px."""
        config = self.config
        old = np.stack([state.points for state in states])
        speeds = np.stack([state.speeds for state in states])
        passed = np.array([time_s - state.time_s for state in states])
        passed = np.maximum(passed, SHORTEST_S)[:, None, None]
        step = new - old
        speeds = speeds + sure * share(config.speed_cutoff_hz, passed) * (step / passed - speeds)
        lengths = np.linalg.norm(speeds, axis=-1, keepdims=True)  # px/s
        lengths = lengths / np.maximum(sizes, 1)[:, None, None]
        cutoff = config.min_cutoff_hz + config.beta * lengths
        moves = share(cutoff, passed) * step
        body = (sure * moves).sum(1, keepdims=True) / np.maximum(sure.sum(1, keepdims=True), 1e-9)
        return old + sure * moves + (1 - sure) * body, speeds

    def _forget(self, time_s: float) -> None:
        gone = [i for i, s in self._states.items() if time_s - s.time_s > FORGET_S]
        for i in gone:
            del self._states[i]


def share(cutoff_hz, seconds):
    """Share of a new value that a low-pass filter of first order takes after `seconds`.

    1 / (1 + tau / seconds) with tau = 1 / (2 pi cutoff), as in the paper; arrays broadcast.
    """
    return 1 / (1 + 1 / (2 * math.pi * cutoff_hz * seconds))
