"""How much of an AP is luck of the images: confidence intervals by the bootstrap.

    drawn = pose_draws(classes, 1000)           # (1000, 2) keypoint AP and AP50
    low, high = interval(drawn)[0]

Images are drawn with replacement, as many as there are, and the AP of each draw is that of the
whole (B. Efron, Bootstrap methods, 1979; percentile interval). Two files on the same images share
their draws, so the interval of their difference is much narrower than those of each.
"""

from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np

from utils.evaluation.matching import Matches, Scored, match
from utils.evaluation.metrics import RECALLS

LEVEL = 0.95
FIGURES = ("AP", "AP50")


def pose_draws(
    classes: Iterable[Sequence[Scored]], draws: int, seed: int = 0
) -> Optional[np.ndarray]:
    """(draws, 2) keypoint AP and AP50 of [class][image]; None for no draws.

    NaN where a draw holds nobody.
    """
    if not draws:
        return None
    rng = np.random.default_rng(seed)
    parts = [_Class(images) for images in classes]
    count = len(parts[0].positives) if parts else 0
    found = np.full((draws, len(FIGURES)), np.nan)
    if not count:
        return found
    for row in found:
        times = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
        precisions = [p for p in (part.precision(times) for part in parts) if p is not None]
        if precisions:
            mean = np.mean(precisions, 0)
            row[:] = mean.mean(), mean[0].mean()
    return found


class _Class:
    """Matches of one class, whose images may count several times or not at all."""

    def __init__(self, images: Sequence[Scored]):
        matches: Matches = match(images)
        self.positives = np.array([int((~i.ignored).sum()) for i in images], np.float64)
        image = np.repeat(np.arange(len(images)), [len(i.scores) for i in images])
        order = np.argsort(-matches.scores, kind="stable")
        self.image = image[order]
        counts = ~matches.ignored[:, order]
        self.right = counts & (matches.person[:, order] >= 0)
        self.wrong = counts & (matches.person[:, order] < 0)

    def precision(self, times: np.ndarray) -> Any:
        """(T, 101) as metrics.average_precision; None where nobody is to be found.

        Args: times: (images,) how often each image counts.
        """
        positives = float((self.positives * times).sum())
        if not positives:
            return None
        weight = times[self.image]
        right, wrong = np.cumsum(self.right * weight, 1), np.cumsum(self.wrong * weight, 1)
        precise = right / np.maximum(right + wrong, np.spacing(1))
        precise = np.maximum.accumulate(precise[:, ::-1], 1)[:, ::-1]
        found = np.zeros((len(right), len(RECALLS)))
        for t, reached in enumerate(right / positives):
            index = np.searchsorted(reached, RECALLS, side="left")
            inside = index < len(reached)
            found[t, inside] = precise[t, index[inside]]
        return found


def interval(drawn: np.ndarray) -> List[List[float]]:
    """[[low, high], ...] of the middle 95 % of each column of draws."""
    edge = 50 * (1 - LEVEL)
    return np.nanpercentile(drawn, [edge, 100 - edge], axis=0).T.tolist()


def summary(pose: Dict[str, float], drawn: np.ndarray, images: int) -> str:
    """One line: the figures with their intervals."""
    parts = ["keypoint %s %.4f (%.4f to %.4f)" % (name, pose[name], low, high)
             for name, (low, high) in zip(FIGURES, interval(drawn))]  # fmt: skip
    return "95 %% intervals, %d draws of %d images: %s" % (len(drawn), images, ", ".join(parts))


def change(name: str, drawn: np.ndarray, first: np.ndarray) -> str:
    """One line: by how much the AP differs from that of the first file, on the same draws."""
    difference = drawn - first
    (low, high), _ = interval(difference)
    verdict = "no clear difference" if low <= 0 <= high else "a clear difference"
    return "keypoint AP against %s: %+.4f on average (%+.4f to %+.4f), %s" % (
        name, float(np.nanmean(difference[:, 0])), low, high, verdict
    )  # fmt: skip
