"""Detections: what a model with embedded NMS returns for a batch of images."""

from typing import NamedTuple

import numpy as np

MAX_PX = 1e7  # of a coordinate; what is larger overflows on the way to the pixels of the image


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

    def check_values(self, nc: int) -> None:
        """Raise ValueError (reason only) unless the rows up to num_dets can be poses of a model
        with `nc` classes."""
        most = self.det_scores.shape[1]
        counts = self.num_dets[:, 0]
        if ((counts < 0) | (counts > most)).any():
            raise ValueError("num_dets %d, expected 0 to %d" % (counts[np.argmax(counts)], most))
        used = np.arange(most) < counts[:, None]
        classes = self.det_indices[..., 1][used]
        if ((classes < 0) | (classes >= nc)).any():
            bad = classes[(classes < 0) | (classes >= nc)][0]
            raise ValueError("class %d, expected 0 to %d" % (bad, nc - 1))
        for name, low, high in (
            ("det_scores", 0, 1.001), ("det_boxes", -MAX_PX, MAX_PX), ("det_pose", -MAX_PX, MAX_PX)
        ):  # fmt: skip
            values = getattr(self, name)[used]
            if not ((values >= low) & (values <= high)).all():  # NaN is not, either
                raise ValueError("%s outside %g to %g" % (name, low, high))
