"""Predictions beside their ground truth, image by image, as they come out of the network.

scores = Scores(classes=1, sigmas=SIGMAS, images=98)
scores.add(index, rows, ground_truth)       # in any order, while the network is at the next image
poses, boxes = scores.ordered(image_ids)    # [class][image] of Scored
"""

from typing import List, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.coco_results import Rows
from utils.evaluation import metrics
from utils.evaluation.metrics import Scored
from utils.pose.ground_truth import GroundTruth

PerClass = List[List[Scored]]


class Scores:
    """Args: classes: how many. sigmas: (K,) of the keypoints. images: how many."""

    def __init__(self, classes: int, sigmas: Sequence[float], images: int):
        self._classes, self._sigmas = classes, sigmas
        self._found: List[Optional[List[Tuple[Scored, Scored]]]] = [None] * images

    def add(self, index: int, rows: Rows, ground_truth: GroundTruth) -> None:
        """Compare what was found in an image with who is there."""
        scored = []
        for c in range(self._classes):
            r, t = metrics.of_class(rows, ground_truth, c)
            scored.append((metrics.score_poses(r, t, self._sigmas), metrics.score_boxes(r, t)))
        self._found[index] = scored

    def ordered(self, order: np.ndarray) -> Tuple[PerClass, PerClass]:
        """Poses and boxes of [class][image], images in the order given.

        Raises ValueError if an image is missing.
        """
        images = [self._found[i] for i in order]
        if any(image is None for image in images):
            raise ValueError("%d images were not added" % sum(i is None for i in images))
        poses = [[image[c][0] for image in images] for c in range(self._classes)]
        boxes = [[image[c][1] for image in images] for c in range(self._classes)]
        return poses, boxes
