"""Do the anchors fit the boxes of a dataset? If not, find some that do."""

from typing import Tuple

import cv2
import numpy as np

from utils.pose.letterbox import HW
from utils.training.train_set import TrainSet

ENOUGH = 0.98  # of the boxes have an anchor of similar shape: no new anchors are needed
RUNS = 10  # of k-means, the best is kept
MIN_BOX = 2.0  # px; smaller boxes are no measure


def box_sizes(train_set: TrainSet, size: HW) -> np.ndarray:
    """(n, 2) w h px of all boxes, with images fitted to (height, width) px."""
    sizes = [
        labels.boxes[:, 2:] * np.array([w, h]) * min(size[0] / h, size[1] / w)
        for labels, (h, w) in zip(train_set.labels, train_set.sizes)
    ]
    wh = np.concatenate(sizes)
    return wh[(wh >= MIN_BOX).all(1)]


def best_recall(wh: np.ndarray, anchors: np.ndarray, anchor_t: float) -> float:
    """Share of boxes (n, 2) that some anchor (m, 2) matches: both sides within a factor."""
    if not len(wh):
        return 1.0
    ratio = wh[:, None] / anchors[None]
    return float((np.maximum(ratio, 1 / ratio).max(2).min(1) < anchor_t).mean())


def fit_anchors(wh: np.ndarray, shape: Tuple[int, int], seed: int = 0) -> np.ndarray:
    """(levels, anchors, 2) px: centres of k-means over the logarithms of the sizes, so that a
    factor counts alike at any size; ascending areas.

    Args:
        shape: (levels, anchors a level). `wh` has at least as many distinct rows.
    """
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 300, 1e-5)
    data = np.log(wh).astype(np.float32)
    labels = np.zeros((len(data), 1), np.int32)
    _, _, centers = cv2.kmeans(
        data, shape[0] * shape[1], labels, criteria, RUNS, cv2.KMEANS_PP_CENTERS
    )
    sizes = np.exp(centers)
    sizes = sizes[np.argsort(sizes.prod(1))]
    return sizes.reshape(shape[0], shape[1], 2)


def check(
    train_set: TrainSet, anchors: np.ndarray, size: HW, *, anchor_t: float
) -> Tuple[float, np.ndarray]:
    """(share of boxes the anchors match, the anchors to use).

    The anchors given, (levels, anchors, 2) px, unless less than ENOUGH of the boxes have one and
    others are better.
    """
    wh = box_sizes(train_set, size)
    recall = best_recall(wh, anchors.reshape(-1, 2), anchor_t)
    wanted = anchors.shape[0] * anchors.shape[1]
    if recall >= ENOUGH or len(np.unique(wh.round(1), axis=0)) <= wanted:
        return recall, anchors
    found = fit_anchors(wh, (anchors.shape[0], anchors.shape[1]))
    if best_recall(wh, found.reshape(-1, 2), anchor_t) <= recall:
        return recall, anchors
    return recall, found
