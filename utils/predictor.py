"""Images -> Poses in original pixels: letterbox, backend, NMS, and back.

    predictor = Predictor(load_backend("weights/x.onnx"))
    poses = predictor([image])[0]

detect, test and calibration all come through here, so that one preprocessing and one NMS serve
them all. The three stages are methods of their own so that a pipeline can overlap them.
"""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils import letterbox, nms
from utils.backends import Backend
from utils.errors import InputError
from utils.keypoints import skeleton
from utils.letterbox import HW, Letterbox
from utils.poses import Poses, empty_poses

DEFAULT_SIZE = 640
# Scale and mirroring of the extra views of --augment
AUGMENT_VIEWS: Tuple[Tuple[float, bool], ...] = ((1.0, False), (0.83, True), (0.67, False))


class Prepared(NamedTuple):
    """A network batch and where each image lies on it."""

    batch: np.ndarray  # (B, 3, net_h, net_w) float32 RGB 0..1
    letterboxes: List[Letterbox]  # one an image; fewer than B if the batch was filled up


class Predictor:
    """A backend with an input size and thresholds.

    Args:
        img_size: (height, width) px asked for, None: the model's own. Rounded up to a multiple of
            the model's stride; a model of fixed size accepts only its own.
        conf_thres, iou_thres, agnostic, max_det, classes: see nms.raw_to_poses.
        auto: crop the canvas to the image's shape (rectangular input) where the model is dynamic.
        augment: look three times (full size, 0.83 mirrored, 0.67) and merge before NMS.

    Raises InputError if the size or the classes do not fit the model.
    """

    def __init__(
        self,
        backend: Backend,
        img_size: Optional[HW] = None,
        conf_thres: float = 0.25,
        iou_thres: float = 0.45,
        agnostic: bool = False,
        max_det: int = 300,
        classes: Optional[Sequence[int]] = None,
        auto: bool = True,
        augment: bool = False,
    ):
        self.backend = backend
        self.net_hw = resolve_size(backend, img_size)
        self.auto = auto and backend.static_hw is None
        self.conf_thres, self.iou_thres = conf_thres, iou_thres
        self.agnostic, self.max_det = agnostic, max_det
        self.classes = None if classes is None else list(classes)
        if self.classes is not None:
            bad = [c for c in self.classes if not 0 <= c < backend.nc]
            if bad:
                raise InputError(
                    "--classes %s: the model has classes 0 to %d (%s)"
                    % (" ".join(map(str, bad)), backend.nc - 1, ", ".join(backend.names))
                )
        self.augment = augment
        self.flip_index = skeleton(backend.nkpt).flip_index
        if augment and backend.nkpt and self.flip_index is None:
            raise InputError(
                "--augment mirrors images and needs left/right pairs, known for 17 keypoints; "
                "this model has %d" % backend.nkpt
            )

    def __call__(self, images: Sequence[np.ndarray]) -> List[Poses]:
        """(H, W, 3) uint8 BGR images of any sizes -> one Poses each, in image pixels."""
        poses: List[Poses] = []
        for chunk in self.chunks(images):
            if self.augment:
                poses += self.predict_augmented(chunk)
            else:
                prepared = self.preprocess(chunk)
                poses += self.postprocess(self.infer(prepared), prepared)
        return poses

    def chunks(self, images: Sequence[np.ndarray]) -> List[List[np.ndarray]]:
        """Cut a list of images into batches the model takes.

        A model bound to batch B gets B at a time; others get runs of images of one shape.
        """
        if self.backend.batch is not None:
            size = self.backend.batch
            return [list(images[i : i + size]) for i in range(0, len(images), size)]
        chunks: List[List[np.ndarray]] = []
        for image in images:
            if chunks and (not self.auto or chunks[-1][0].shape == image.shape):
                chunks[-1].append(image)
            else:
                chunks.append([image])
        return chunks

    def preprocess(self, images: Sequence[np.ndarray], scale: float = 1.0) -> Prepared:
        """Letterbox a batch. With `auto`, images must share one shape (see `chunks`).

        Args:
            scale: shrink the picture inside the canvas (the views of --augment).
        """
        hw = images[0].shape[:2]
        net_hw = self.net_hw
        if self.auto:
            net_hw = letterbox.rectangle((hw[0], hw[1]), net_hw, self.backend.stride)
        inner = (max(round(net_hw[0] * scale), 1), max(round(net_hw[1] * scale), 1))
        boxes = [
            letterbox.fit((i.shape[0], i.shape[1]), inner, center=scale == 1.0) for i in images
        ]
        batch = letterbox.to_batch(images, boxes, net_hw)
        size = self.backend.batch
        if size is not None and len(batch) < size:  # the last batch of a fixed-batch model
            fill = np.zeros((size - len(batch),) + batch.shape[1:], batch.dtype)
            batch = np.concatenate([batch, fill])
        return Prepared(batch, boxes)

    def infer(self, prepared: Prepared) -> Any:
        """Raw predictions, NumPy or torch on its device; see Backend.__call__."""
        return self.backend(prepared.batch)

    def postprocess(self, raw: Any, prepared: Prepared) -> List[Poses]:
        """Raw predictions -> Poses in image pixels."""
        poses = nms.raw_to_poses(
            raw[: len(prepared.letterboxes)],
            self.backend.nc,
            self.conf_thres,
            self.iou_thres,
            self.agnostic,
            self.max_det,
            self.classes,
        )
        return [box.to_original(p) for box, p in zip(prepared.letterboxes, poses)]

    def predict_augmented(self, images: Sequence[np.ndarray]) -> List[Poses]:
        """Poses from several views of each image (AUGMENT_VIEWS), merged by one NMS."""
        views: List[List[Poses]] = []
        for scale, mirrored in AUGMENT_VIEWS:
            seen = [np.ascontiguousarray(i[:, ::-1]) for i in images] if mirrored else images
            prepared = self.preprocess(seen, scale)
            raw = self.infer(prepared)[: len(images)]
            found = nms.candidates(raw, self.backend.nc, self.conf_thres, self.classes)
            found = [b.to_original(p) for b, p in zip(prepared.letterboxes, found)]
            if mirrored:
                found = [self.mirror(p, i.shape[1]) for p, i in zip(found, images)]
            views.append(found)
        merged = []
        for per_image in zip(*views):
            together = Poses(*(np.concatenate(field) for field in zip(*per_image)))
            merged.append(nms.suppress(together, self.iou_thres, self.agnostic, self.max_det))
        return merged

    def mirror(self, poses: Poses, width: int) -> Poses:
        """Poses of a mirrored image -> Poses of the image: x flipped, left and right swapped."""
        boxes = poses.boxes.copy()
        boxes[:, [0, 2]] = width - poses.boxes[:, [2, 0]]
        keypoints = poses.keypoints.copy()
        if self.flip_index is not None:
            keypoints = keypoints[:, list(self.flip_index)]
        keypoints[..., 0] = width - keypoints[..., 0]
        return poses._replace(boxes=boxes, keypoints=keypoints)

    def warm_up(self) -> None:
        """One inference on a blank canvas: allocations and kernel choice before the clock runs."""
        batch = self.backend.batch or 1
        self.backend(np.zeros((batch, 3) + self.net_hw, np.float32))

    def empty(self) -> Poses:
        return empty_poses(self.backend.nkpt)


def resolve_size(backend: Backend, img_size: Optional[HW]) -> HW:
    """(height, width) to run at. Raises InputError if it contradicts a model of fixed size."""
    static = backend.static_hw
    if img_size is None:
        return static or backend.imgsz or (DEFAULT_SIZE, DEFAULT_SIZE)
    if min(img_size) < 1:
        raise InputError("--img-size %d %d: expected positive sizes" % img_size)
    rounded = letterbox.stride_multiple(img_size, backend.stride)
    if static is not None:
        if rounded != static and tuple(img_size) != static:
            raise InputError(
                "--img-size %d %d: the model is fixed to %d %d; drop --img-size or export it "
                "again" % (img_size + static)
            )
        return static
    warn_if_rounded(img_size, rounded, backend.stride)
    return rounded


def warn_if_rounded(asked: HW, rounded: HW, stride: int) -> None:
    """Say so when --img-size is not what the network will see."""
    if tuple(asked) != tuple(rounded):
        print(
            "warning: --img-size %d %d rounded up to %d %d, multiples of the stride %d"
            % (*asked, *rounded, stride)
        )
