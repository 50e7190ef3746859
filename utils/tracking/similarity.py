"""How alike a track and a detection are: overlap of boxes and likeness of poses, each 0..1."""

from typing import Sequence

import numpy as np

from utils.pose.keypoints import AREA_OF_BOX


def pairwise_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(T, 4) and (D, 4) xyxy px -> (T, D) intersection over union; 0 where both are empty."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (high - low).clip(0).prod(-1)
    union = _areas(one)[:, None] + _areas(other) - common
    return common / np.maximum(union, 1e-9)


def paired_oks(
    one: np.ndarray, other: np.ndarray, boxes: np.ndarray, *, sigmas: Sequence[float]
) -> np.ndarray:
    """Two times (P, K, 3) keypoints -> (P,) object keypoint similarity of each pair.

    exp(-d^2 / (2 (2 sigma)^2 area)) as COCO has it (cocodataset.org/#keypoints-eval), averaged
    with the lower of the two confidences as the weight of each keypoint; 0 where all are 0.

    Args: boxes: (P, 4) xyxy px, the area of a person is AREA_OF_BOX of its box.
    """
    area = AREA_OF_BOX * np.maximum(_areas(boxes), 1)
    scale = 2 * (2 * np.asarray(sigmas)) ** 2 * area[:, None]  # (P, K)
    squared = ((one[..., :2] - other[..., :2]) ** 2).sum(-1)
    weight = np.minimum(one[..., 2], other[..., 2])
    return (np.exp(-squared / scale) * weight).sum(-1) / np.maximum(weight.sum(-1), 1e-9)


def follow_box(keypoints: np.ndarray, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(T, K, 3) keypoints of boxes `before`, moved and scaled with them to `now`, (T, 4) xyxy."""
    size = np.maximum(before[:, 2:] - before[:, :2], 1e-6)
    scale = (now[:, 2:] - now[:, :2]) / size
    moved = keypoints.copy()
    moved[..., :2] = (keypoints[..., :2] - before[:, None, :2]) * scale[:, None] + now[:, None, :2]
    return moved


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
