"""Test-time augmentation: predictors that look at each image several times.

predictor = FlipPredictor(load_backend("weights/x.onnx"), conf_thres=0.001)
poses = predictor([image])[0]
"""

from typing import Any, List, Optional, Sequence, Tuple, Type, cast

import numpy as np

from utils.errors import InputError
from utils.pose import nms
from utils.pose.greedy import iou_one_to_many
from utils.pose.keypoints import Skeleton
from utils.pose.letterbox import HW
from utils.pose.poses import Poses
from utils.runtime.backend import Backend, Found
from utils.runtime.predictor import Predictor, Prepared

# Scale and flip of the views of MultiScalePredictor
VIEWS: Tuple[Tuple[float, bool], ...] = ((1.0, False), (0.83, True), (0.67, False))


def predictor_class(*, augment: bool = False, flip_test: bool = False) -> Type[Predictor]:
    """The Predictor of the flags of detect and test."""
    return MultiScalePredictor if augment else FlipPredictor if flip_test else Predictor


class FlipPredictor(Predictor):
    """Looks at each image as it is and flipped, and averages the Poses after NMS, see `fuse`."""

    def __init__(
        self, backend: Backend, img_size: Optional[HW] = None, conf_thres: Optional[float] = None,
        **options: Any,
    ):  # fmt: skip
        super().__init__(backend, img_size, conf_thres, **options)
        self._flip_index = _flip_index(backend.skeleton, "flip_test")

    def preprocess(self, images: Sequence[np.ndarray]) -> Prepared:
        return [self.view(images), self.view(_flipped(images))]

    def postprocess(self, raws: Sequence[Found], prepared: Prepared) -> List[Poses]:
        plain, flipped = map(self.suppress, raws, prepared)
        fused = []
        for letterbox, one, other in zip(prepared[1].letterboxes, plain, flipped):
            other = unflip(other, letterbox.image_hw[1], self._flip_index)
            poses = fuse(one, other, self.iou_thres, agnostic=self.agnostic)
            # the mean of two looks may be below the threshold that each has passed
            poses = poses.select(poses.scores > self.conf_thres)
            fused.append(poses.select(slice(self.max_det)))
        return fused


class MultiScalePredictor(Predictor):
    """Looks at each image in three sizes (VIEWS), the middle one flipped; merges before NMS.

    Raises InputError for a model with embedded NMS.
    """

    def __init__(
        self, backend: Backend, img_size: Optional[HW] = None, conf_thres: Optional[float] = None,
        **options: Any,
    ):  # fmt: skip
        if backend.end2end:
            raise InputError(
                "`augment` merges views before NMS, and this model has embedded NMS; drop "
                "`augment`, or export without `end2end`"
            )
        super().__init__(backend, img_size, conf_thres, **options)
        self._flip_index = _flip_index(backend.skeleton, "augment")

    def preprocess(self, images: Sequence[np.ndarray]) -> Prepared:
        return [
            self.view(_flipped(images) if flipped else images, scale) for scale, flipped in VIEWS
        ]

    def infer(self, prepared: Prepared) -> List[Found]:
        return [self.backend(view.batch) for view in prepared]  # type: ignore

    def postprocess(self, raws: Sequence[Found], prepared: Prepared) -> List[Poses]:
        views = []
        for raw, view, (_, flipped) in zip(raws, prepared, VIEWS):
            rows = cast(nms.Rows, raw)[: len(view.letterboxes)]
            found = nms.candidates(rows, self.backend.nc, self.conf_thres, classes=self.classes)
            found = [box.to_original(poses) for box, poses in zip(view.letterboxes, found)]
            if flipped:
                widths = [box.image_hw[1] for box in view.letterboxes]
                found = [unflip(p, width, self._flip_index) for p, width in zip(found, widths)]
            views.append(found)
        merged = [Poses(*map(np.concatenate, zip(*per_image))) for per_image in zip(*views)]
        return [
            nms.suppress(poses, self.iou_thres, self.agnostic, max_det=self.max_det)
            for poses in merged
        ]


def _flip_index(skel: Skeleton, parameter: str) -> Tuple[int, ...]:
    if skel.flip_index is None:
        raise InputError(
            "`%s` flips images and needs left/right pairs; this model of %d keypoints has none: "
            "they are flip_idx of the data yaml that it is trained with" % (parameter, skel.count)
        )
    return skel.flip_index


def _flipped(images: Sequence[np.ndarray]) -> List[np.ndarray]:
    return [np.ascontiguousarray(image[:, ::-1]) for image in images]


def unflip(poses: Poses, width: int, flip_index: Sequence[int]) -> Poses:
    """Poses of a flipped image -> Poses of the image: x flipped, left and right swapped.

    Args: width: px of the image. flip_index: see Skeleton.
    """
    boxes = poses.boxes.copy()
    boxes[:, [0, 2]] = width - poses.boxes[:, [2, 0]]
    keypoints = poses.keypoints[:, list(flip_index)]
    keypoints[..., 0] = width - keypoints[..., 0]
    return poses._replace(boxes=boxes, keypoints=keypoints)


def fuse(one: Poses, other: Poses, iou_thres: float, *, agnostic: bool = False) -> Poses:
    """Two looks at one image, each after NMS -> their mean, best first.

    A detection of `one`, best first, is averaged with the free detection of `other` (of its
    class, unless `agnostic`) that overlaps it most, with IoU > iou_thres. Who is seen once keeps
    its place at half its score. In the mean of two keypoints each counts as much as it is sure.
    """
    free = np.ones(other.count, bool)
    areas = (other.boxes[:, 2] - other.boxes[:, 0]) * (other.boxes[:, 3] - other.boxes[:, 1])
    partner = np.full(one.count, -1)
    for i in range(one.count):
        box = one.boxes[i]
        area = (box[2] - box[0]) * (box[3] - box[1])
        iou = np.nan_to_num(iou_one_to_many(box, area, other.boxes, areas=areas))
        iou[~free if agnostic else ~free | (other.classes != one.classes[i])] = -1
        if other.count and iou.max() > iou_thres:
            partner[i] = iou.argmax()
            free[partner[i]] = False
    seen = partner >= 0
    a, b = one.select(seen), other.select(partner[seen])
    half = np.float32(0.5)
    total = np.maximum(a.keypoints[..., 2:] + b.keypoints[..., 2:], np.float32(1e-9))
    share = a.keypoints[..., 2:] / total
    points = b.keypoints + (a.keypoints - b.keypoints) * share
    points[..., 2:] = total * half
    boxes, scores = (a.boxes + b.boxes) * half, (a.scores + b.scores) * half
    both = Poses(boxes, scores, a.classes, points)
    once = [p._replace(scores=p.scores * half) for p in (one.select(~seen), other.select(free))]
    merged = Poses(*map(np.concatenate, zip(both, *once)))
    return merged.select(np.argsort(-merged.scores, kind="stable"))
