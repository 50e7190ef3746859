"""Detections: what a model with embedded NMS returns for a batch of images."""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """What a model with embedded NMS returns, NumPy; rows from num_dets on are empty."""

    num_dets: np.ndarray  # (B, 1) int32
    det_indices: np.ndarray  # (B, topk, 3) int32 image, class, row of the raw output (-1: unknown)
    det_boxes: np.ndarray  # (B, topk, 4) float32 xyxy, network pixels
    det_pose: np.ndarray  # (B, topk, 3K) float32 x y conf a keypoint
    det_scores: np.ndarray  # (B, topk, 1) float32, descending

    def check(self) -> "Detections":
        """These Detections. Raises ValueError with the shapes if they do not fit together."""
        b, k = self.det_scores.shape[:2]
        given = tuple(field.shape for field in self)
        points = given[3][-1]
        if given != ((b, 1), (b, k, 3), (b, k, 4), (b, k, points), (b, k, 1)) or points % 3:
            raise ValueError(
                "Detections: expected num_dets (B, 1), det_indices (B, k, 3), det_boxes (B, k, 4), "
                "det_pose (B, k, 3K), det_scores (B, k, 1); got " + ", ".join(map(str, given))
            )
        return self
