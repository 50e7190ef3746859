"""Poses: the detections of one image, the type everything after NMS speaks."""

from typing import List, NamedTuple, Sequence, Tuple, Union

import numpy as np


class Poses(NamedTuple):
    """n detections of one image with K keypoints each, host NumPy, sorted by score.

    `boxes`, `keypoints` are pixels of one frame: network input or original image, as the
    function that returns the Poses says.
    """

    boxes: np.ndarray  # (n, 4) float32 xyxy px
    scores: np.ndarray  # (n,) float32 in 0..1, descending
    classes: np.ndarray  # (n,) int64
    keypoints: np.ndarray  # (n, K, 3) float32 x px, y px, confidence 0..1

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        """Number of detections (`len()` of a NamedTuple would be its number of fields)."""
        return int(self.boxes.shape[0])

    def check(self) -> "Poses":
        """These Poses. Raises ValueError with the shapes if the fields do not fit together."""
        n, points = self.scores.shape[0], self.keypoints.shape
        fits = self.boxes.shape == (n, 4) and self.classes.shape == self.scores.shape == (n,)
        if not (fits and len(points) == 3 and points[0] == n and points[2] == 3):
            raise ValueError(
                "Poses: expected boxes (n, 4), scores (n,), classes (n,), keypoints (n, K, 3); got "
                + ", ".join("%s" % (field.shape,) for field in self)
            )
        return self

    def select(self, index: Union[np.ndarray, slice]) -> "Poses":
        """The detections at `index` (mask, slice or integer array), all four fields alike."""
        return Poses(*(field[index] for field in self))

    def clip(self, image_hw: Tuple[int, int]) -> "Poses":
        """Boxes limited to the image; keypoints may lie outside, so they stay."""
        h, w = image_hw
        boxes = self.boxes.copy()
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, w)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, h)
        return self._replace(boxes=boxes)


def empty_poses(nkpt: int) -> Poses:
    """Poses of an image in which nobody was found."""
    return Poses(
        np.zeros((0, 4), np.float32),
        np.zeros((0,), np.float32),
        np.zeros((0,), np.int64),
        np.zeros((0, nkpt, 3), np.float32),
    )


def join_poses(found: Sequence[Poses]) -> Poses:
    """Poses of n >= 1 images, one image after the other; not sorted by score."""
    return found[0] if len(found) == 1 else Poses(*map(np.concatenate, zip(*found)))


def split_poses(poses: Poses, counts: Sequence[int]) -> List[Poses]:
    """The Poses that were joined. Args: counts: of each image."""
    ends = np.cumsum(counts).tolist()
    return [poses.select(slice(end - count, end)) for count, end in zip(counts, ends)]


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) x1 y1 x2 y2 -> x1 y1 width height (the box format of COCO JSON)."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def xyxy_to_cxcywh(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) x1 y1 x2 y2 -> centre x y, width height (the box format of label files)."""
    return np.concatenate(
        [(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1
    )


def cxcywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) centre x y, width height -> x1 y1 x2 y2."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)
