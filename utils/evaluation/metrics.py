"""How good predictions are: average precision, average recall and their curves, as in COCO.

    scored = [Scored(oks(...), ...) for each image]    # similarity.py
    result = average_precision(match(scored))          # AP, AP50, AP75, ...

Every rule is that of COCO's evaluation (cocodataset.org/#detection-eval, #keypoints-eval): crowds
and persons without a labelled keypoint are nobody's fault, at most 20 poses (100 boxes) an image
count, precision is read off at 101 recalls. The figures equal pycocotools' to 1e-9.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.coco_results import Rows
from utils.evaluation.matching import (
    BOX_AREAS,
    POSE_AREAS,
    ByArea,
    Matches,
    Scored,
    match_areas,
)
from utils.pose.ground_truth import GroundTruth

RECALLS = np.linspace(0.0, 1.0, 101)
_TINY = np.spacing(1)


def of_class(rows: Rows, ground_truth: GroundTruth, index: int) -> Tuple[Rows, GroundTruth]:
    """The predictions and the persons of one class."""
    r, t = rows.classes == index, ground_truth.classes == index
    mine = rows if r.all() else Rows(*(f[r] for f in rows))  # most data has one class: no copy
    return mine, ground_truth if t.all() else GroundTruth(*(f[t] for f in ground_truth))


class Precision(NamedTuple):
    """Precision and recall of a class at T thresholds."""

    precision: np.ndarray  # (T, 101) at RECALLS
    recall: np.ndarray  # (T,) the largest reached


def average_precision(matches: Matches, most: Optional[int] = None) -> Optional[Precision]:
    """Precision at each recall, made monotonic; None where nobody is to be found.

    Args: most: count only that many predictions an image.
    """
    if not matches.positives:
        return None
    right, wrong = _ranked(matches, most)
    steps = len(matches.person)
    precision, recall = np.zeros((steps, len(RECALLS))), np.zeros(steps)
    for t in range(steps):
        # precision rises, and recall changes, only where a prediction is right
        at = np.flatnonzero(right[t])
        if not len(at):
            continue
        hits = np.arange(1.0, len(at) + 1)
        precise = hits / (hits + np.cumsum(wrong[t])[at] + _TINY)
        precise = np.maximum.accumulate(precise[::-1])[::-1]
        reached = hits / matches.positives
        index = np.searchsorted(reached, RECALLS, side="left")
        inside = index < len(reached)
        precision[t, inside] = precise[index[inside]]
        recall[t] = reached[-1]
    return Precision(precision, recall)


def _order(matches: Matches) -> np.ndarray:
    """(n,) predictions by descending score."""
    if matches.by_score is not None:
        return matches.by_score
    return np.argsort(-matches.scores, kind="stable")


def _ranked(matches: Matches, most: Optional[int] = None) -> Tuple[np.ndarray, np.ndarray]:
    """(T, n) bool right and wrong predictions by descending score."""
    order = _order(matches)
    if most is not None:
        order = order[matches.rank[order] < most]
    found, counts = matches.person >= 0, ~matches.ignored
    return (found & counts)[:, order], (~found & counts)[:, order]


class Curve(NamedTuple):
    """Precision, recall and F1 over the confidence threshold, at one OKS or IoU threshold."""

    confidence: np.ndarray  # (n,) descending, each once
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def best(self) -> Tuple[float, float, float, float]:
        """(confidence, precision, recall, F1) where F1 is largest; zeros without predictions."""
        if not len(self.f1):
            return 0.0, 0.0, 0.0, 0.0
        i = int(self.f1.argmax())
        return tuple(float(field[i]) for field in self)  # type: ignore


def confidence_curve(matches: Matches, threshold: int = 0) -> Curve:
    """Args: threshold: index of the OKS or IoU threshold."""
    order = _order(matches)
    scores = matches.scores[order]
    found, counts = matches.person[threshold] >= 0, ~matches.ignored[threshold]
    right = np.cumsum((found & counts)[order]).astype(np.float64)
    wrong = np.cumsum((~found & counts)[order]).astype(np.float64)
    # between equal scores no threshold can cut
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], [True] * bool(len(scores))))
    right, wrong, scores = right[last], wrong[last], scores[last]
    precision = right / np.maximum(right + wrong, 1)
    recall = right / max(matches.positives, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, _TINY)
    return Curve(scores, precision, recall, f1)


POSE_FIGURES = "AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl".split()
BOX_FIGURES = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()


def pose_figures(
    classes: Sequence[Sequence[Scored]], matches: Optional[ByArea] = None
) -> Dict[str, float]:
    """COCO's ten keypoint figures of [class][image]; -1 where nobody is to be found.

    Args: matches: match() of POSE_AREAS, if they are known already.
    """
    by_area = matches or match_areas(classes, POSE_AREAS)
    areas = {"m": "medium", "l": "large"}
    found = {a: [average_precision(m) for m in part] for a, part in by_area.items()}
    figures = _figures(found, "AP", areas, mean=_mean_precision)
    figures.update(_figures(found, "AR", areas, mean=_mean_recall))
    return {name: figures[name] for name in POSE_FIGURES}


def box_figures(
    classes: Sequence[Sequence[Scored]], matches: Optional[ByArea] = None
) -> Dict[str, float]:
    """COCO's twelve box figures of [class][image]; see pose_figures. Args: of BOX_AREAS."""
    by_area = matches or match_areas(classes, BOX_AREAS)
    areas = {"s": "small", "m": "medium", "l": "large"}
    found = {a: [average_precision(m) for m in part] for a, part in by_area.items()}
    figures = _figures(found, "AP", areas, mean=_mean_precision)
    figures.update(_figures(found, "AR", areas, mean=_mean_recall))
    for most in (1, 10, 100):
        parts = [average_precision(m, most) for m in by_area["all"]]
        figures["AR%d" % most] = _mean_recall(parts, slice(None))
    return {name: figures[name] for name in BOX_FIGURES}


def _figures(by_area, prefix, areas, *, mean) -> Dict[str, float]:
    figures = {prefix: mean(by_area["all"], slice(None))}
    figures[prefix + "50"] = mean(by_area["all"], slice(0, 1))
    figures[prefix + "75"] = mean(by_area["all"], slice(5, 6))
    for letter, area in areas.items():
        figures[prefix + letter] = mean(by_area[area], slice(None))
    return figures


def _mean_precision(parts: List[Optional[Precision]], thresholds: slice) -> float:
    values = [p.precision[thresholds] for p in parts if p is not None]
    return float(np.mean(values)) if values else -1.0


def _mean_recall(parts: List[Optional[Precision]], thresholds: slice) -> float:
    values = [p.recall[thresholds] for p in parts if p is not None]
    return float(np.mean(values)) if values else -1.0


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over classes, at 1,001 confidences; a single class keeps its own."""
    if len(curves) == 1:
        return curves[0]
    grid = np.linspace(1, 0, 1001)
    if not curves:
        return Curve(grid[:0], grid[:0], grid[:0], grid[:0])
    parts = []
    for curve in curves:
        if not len(curve.confidence):
            parts.append(np.zeros((2, len(grid))))
            continue
        # at a threshold counts whoever is at least as sure
        index = np.searchsorted(-curve.confidence, -grid, side="right") - 1
        values = np.stack([curve.precision, curve.recall])[:, index.clip(0)]
        values[:, index < 0] = 0  # nobody yet: as a class without predictions
        parts.append(values)
    precision, recall = np.mean(parts, 0)
    f1 = 2 * precision * recall / np.maximum(precision + recall, _TINY)
    return Curve(grid, precision, recall, f1)
