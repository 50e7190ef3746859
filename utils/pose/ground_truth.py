"""GroundTruth: the annotated persons of one image, in pixels.

Predictions are measured against it.
"""

from typing import NamedTuple

import numpy as np


class GroundTruth(NamedTuple):
    """The n annotated persons of one image, in its pixels."""

    boxes: np.ndarray  # (n, 4) float64 x y width height px, as COCO JSON has them
    classes: np.ndarray  # (n,) int64
    keypoints: np.ndarray  # (n, K, 3) float64 x px, y px, v (0 not labelled, 1 hidden, 2 visible)
    areas: np.ndarray  # (n,) float64 px^2 of the person, the scale of the OKS
    crowd: np.ndarray  # (n,) bool; a group nobody is expected to separate

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        """Number of persons (`len()` of a NamedTuple would be its number of fields)."""
        return int(self.boxes.shape[0])


def empty_ground_truth(nkpt: int) -> GroundTruth:
    """GroundTruth of an image without persons."""
    none = np.zeros(0)
    return GroundTruth(
        np.zeros((0, 4)), none.astype(np.int64), np.zeros((0, nkpt, 3)), none, none.astype(bool)
    )
