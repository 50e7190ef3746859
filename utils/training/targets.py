"""Which anchors of which cells have to find a person.

A person is given to every anchor of similar shape, in the cell of its centre and the (up to two)
neighbours that the centre is nearest to. YOLOv5's rule, kept by YOLO-Pose (arXiv 2204.06806).
All of it is NumPy, in the processes that load: the training step then has only to look things up.
"""

from typing import Any, List, NamedTuple, Sequence

import numpy as np

from utils.pose.letterbox import HW
from utils.training.augment import Persons

Array = Any  # np.ndarray where it is made, torch.Tensor from the loader on


class Targets(NamedTuple):
    """Matches of all levels, one after the other; n of them."""

    index: Array  # (n, 4) int64 image, anchor, row, column
    classes: Array  # (n,) int64
    boxes: Array  # (n, 4) float32 cxcywh, cells of the level, centre from the cell's corner
    keypoints: Array  # (n, K, 3) float32 x, y (cells, from the cell's corner), v
    counts: List[int]  # matches of each level


def match(
    persons: Persons,
    anchors: np.ndarray,
    strides: Sequence[float],
    *,
    size: HW,
    anchor_t: float,
) -> Targets:
    """Args:
    persons: of all samples, px.
    anchors: (levels, anchors, 2) w, h px.
    strides: px a cell of each level.
    size: (height, width) px of the samples.
    anchor_t: largest ratio of a side of box and anchor, either way.
    """
    image, classes, boxes, keypoints = persons
    centers, wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    parts: List[List[np.ndarray]] = [[], [], [], []]
    counts = []
    for level, stride in enumerate(strides):
        person, anchor, cell = _match_level(
            centers / stride,
            wh,
            anchors[level],
            cells_hw=(size[0] // stride, size[1] // stride),
            anchor_t=anchor_t,
        )
        index = np.stack([image[person], anchor, cell[:, 1], cell[:, 0]], 1)
        box = np.concatenate([centers[person] / stride - cell, wh[person] / stride], 1)
        points = keypoints[person].copy()
        points[..., :2] = points[..., :2] / stride - cell[:, None]
        for part, value in zip(parts, (index, classes[person], box, points)):
            part.append(value)
        counts.append(len(person))
    index, classes, boxes, keypoints = (np.concatenate(part) for part in parts)
    return Targets(
        index.astype(np.int64),
        classes.astype(np.int64),
        boxes.astype(np.float32),
        keypoints.astype(np.float32),
        counts,
    )


def _match_level(centers: np.ndarray, wh: np.ndarray, anchors: np.ndarray, *, cells_hw, anchor_t):
    """(person, anchor, cell x y) of each match; centers in cells, wh and anchors in px."""
    ratio = np.maximum(wh[:, None], 1e-9) / anchors[None]
    similar = np.maximum(ratio, 1 / ratio).max(2) < anchor_t  # [n, a]
    person, anchor = np.nonzero(similar)
    limit = np.array([cells_hw[1], cells_hw[0]])
    center = np.minimum(centers[person], limit - 1e-6)  # a centre on the far border
    own = np.floor(center).astype(np.int64)
    inside = center - own
    found = [(person, anchor, own)]
    for axis in (0, 1):
        step = np.zeros(2, np.int64)
        step[axis] = 1
        before = (inside[:, axis] < 0.5) & (own[:, axis] > 0)
        after = (inside[:, axis] > 0.5) & (own[:, axis] < limit[axis] - 1)
        found.append((person[before], anchor[before], own[before] - step))
        found.append((person[after], anchor[after], own[after] + step))
    return tuple(np.concatenate(parts) for parts in zip(*found))
