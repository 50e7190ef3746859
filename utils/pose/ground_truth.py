"""Truth: what is really on an image, in pixels; what predictions are measured against."""

from typing import NamedTuple, Tuple

import numpy as np

from utils.dataset.labels import Labels
from utils.pose.keypoints import AREA_OF_BOX


class Truth(NamedTuple):
    """The n annotated persons of one image, in its pixels."""

    boxes: np.ndarray  # (n, 4) float64 x y width height px, as COCO JSON has them
    classes: np.ndarray  # (n,) int64
    keypoints: np.ndarray  # (n, K, 3) float64 x px, y px, v (0 not labelled, 1 hidden, 2 visible)
    areas: np.ndarray  # (n,) float64 px^2 of the person, the scale of the OKS
    crowd: np.ndarray  # (n,) bool; a group nobody is expected to separate

    @property
    def count(self) -> int:
        """Number of persons (`len()` of a NamedTuple would be its number of fields)."""
        return int(self.boxes.shape[0])


def empty_truth(nkpt: int) -> Truth:
    """Truth of an image with nobody on it."""
    none = np.zeros(0)
    return Truth(
        np.zeros((0, 4)), none.astype(np.int64), np.zeros((0, nkpt, 3)), none, none.astype(bool)
    )


def from_labels(labels: Labels, image_hw: Tuple[int, int]) -> Truth:
    """Labels over image size -> Truth. Areas are AREA_OF_BOX of the boxes, nobody is a crowd."""
    h, w = image_hw
    boxes = labels.boxes * np.array([w, h, w, h], np.float64)
    boxes[:, :2] -= boxes[:, 2:] / 2
    keypoints = labels.keypoints * np.array([w, h, 1.0])
    areas = boxes[:, 2] * boxes[:, 3] * AREA_OF_BOX
    return Truth(boxes, labels.classes, keypoints, areas, np.zeros(labels.count, bool))


def to_labels(truth: Truth, image_hw: Tuple[int, int]) -> Labels:
    """Truth -> labels over image size. Areas and what is a crowd are lost."""
    h, w = image_hw
    boxes = truth.boxes.copy()
    boxes[:, :2] += boxes[:, 2:] / 2
    size = np.array([w, h, w, h], np.float64)
    return Labels(truth.classes, boxes / size, truth.keypoints / np.array([w, h, 1.0]))
