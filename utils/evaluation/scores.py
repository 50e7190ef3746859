"""Predictions beside their ground truth, image by image, as they come out of the network.

scores = Scores(classes=1, sigmas=SIGMAS, images=98)
scores.add(index, rows, ground_truth)       # in any order, while the network is at the next image
poses, boxes = scores.ordered(image_ids)    # [class][image] of Scored
of_poses, of_boxes = scores.matches(image_ids)
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.coco_results import Rows
from utils.evaluation import metrics
from utils.evaluation.matching import (
    BOX_AREAS,
    POSE_AREAS,
    ByArea,
    Scored,
    join,
    match_areas,
)
from utils.evaluation.similarity import score_images
from utils.pose.ground_truth import GroundTruth

PerClass = List[List[Scored]]
AT_ONCE = 256  # images whose predictions are compared and matched together


class _Matched(NamedTuple):
    """Images in the order in which they were matched."""

    images: List[int]
    poses: ByArea
    boxes: ByArea


class Scores:
    """Args: classes: how many. sigmas: (K,) of the keypoints. images: how many."""

    def __init__(self, classes: int, sigmas: Sequence[float], images: int):
        self._classes, self._sigmas = classes, sigmas
        self._found: List[Optional[List[Tuple[Scored, Scored]]]] = [None] * images
        # images that are not compared and matched yet
        self._waiting: List[Tuple[int, Rows, GroundTruth]] = []
        self._matched: List[_Matched] = []

    def add(self, index: int, rows: Rows, ground_truth: GroundTruth) -> None:
        """Compare what was found in an image with who is there, now or a little later."""
        self._waiting.append((index, rows, ground_truth))
        if len(self._waiting) >= AT_ONCE:
            self._match()

    def _match(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        classes = [
            score_images([metrics.of_class(r, t, c) for _, r, t in waiting], self._sigmas)
            for c in range(self._classes)
        ]
        images = [index for index, _, _ in waiting]
        for index, *scored in zip(images, *classes):
            self._found[index] = scored
        poses, boxes = self.ordered(np.array(images))
        self._matched.append(
            _Matched(
                images,
                match_areas(poses, POSE_AREAS),
                match_areas(boxes, BOX_AREAS),
            )
        )

    def ordered(self, order: np.ndarray) -> Tuple[PerClass, PerClass]:
        """Poses and boxes of [class][image], images in the order given.

        Raises ValueError if an image is missing.
        """
        self._match()
        images = [self._found[i] for i in order]
        if any(image is None for image in images):
            raise ValueError("%d images were not added" % sum(i is None for i in images))
        poses = [[image[c][0] for image in images] for c in range(self._classes)]
        boxes = [[image[c][1] for image in images] for c in range(self._classes)]
        return poses, boxes

    def matches(self, order: np.ndarray) -> Tuple[ByArea, ByArea]:
        """matching.match_areas of poses and boxes, images in the order given, which holds all."""
        self._match()
        images = [i for part in self._matched for i in part.images]
        place = np.empty(len(images), np.int64)
        place[images] = np.arange(len(images))
        poses, boxes = self.ordered(np.array(images, np.int64))
        return (
            self._joined([part.poses for part in self._matched], poses, place[order]),
            self._joined([part.boxes for part in self._matched], boxes, place[order]),
        )

    def _joined(self, parts: List[ByArea], scored: PerClass, order: np.ndarray) -> ByArea:
        joined: ByArea = {area: [] for area in (parts[0] if parts else ())}
        for c, images in enumerate(scored):
            counts = np.array([len(image.scores) for image in images], np.int64)
            for area, found in zip(joined, join(parts, c, counts, order=order)):
                joined[area].append(found)
        return joined
