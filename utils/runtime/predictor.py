"""Images -> Poses in original pixels: letterbox, backend, NMS, and back.

    predictor = Predictor(load_backend("weights/x.onnx"))
    poses = predictor([image])[0]

detect, test and calibration all come through here, so that one preprocessing and one NMS serve
them all. The three stages are methods of their own so that a pipeline can overlap them.
"""

from typing import List, NamedTuple, Optional, Sequence, cast

import numpy as np

from utils.errors import InputError, warn
from utils.pose import letterbox, nms
from utils.pose.detections import MAX_PX, Detections
from utils.pose.fixed_nms import NmsSettings
from utils.pose.letterbox import HW, Letterbox
from utils.pose.poses import Poses, join_poses
from utils.runtime.backend import Backend, Found
from utils.runtime.metadata import EmbeddedNms

DEFAULT_SIZE = 640
DEFAULT_CONF, DEFAULT_IOU = 0.25, 0.45


class BrokenModelError(InputError):
    """A model answers with coordinates that cannot be; its file and the image are readable."""


class View(NamedTuple):
    """A network batch and where each image lies on it."""

    # (B, 3, net_h, net_w) float32 RGB 0..1, or (B, net_h, net_w, 3) uint8 BGR where the backend
    # takes pixels; None once it was used
    batch: Optional[np.ndarray]
    letterboxes: List[Letterbox]  # one an image; fewer than B if the batch was filled up


Prepared = List[View]  # one view; the predictors of tta.py look several times


class Predictor:
    """A backend with an input size and thresholds.

    Args:
        img_size: (height, width) px asked for, None: the model's own. Rounded up to a multiple of
            the model's stride; a model of fixed size accepts only its own.
        conf_thres, iou_thres, agnostic, max_det, classes: see nms.raw_to_poses. None: the
            thresholds of the embedded NMS, else 0.25 and 0.45. A higher conf_thres, max_det
            and classes filter what embedded NMS found; the others change nothing there,
            which a warning says: the attributes are what really happens.
        auto: crop the canvas to the image's shape (rectangular input) where the model is dynamic.

    Raises InputError if the size or the classes do not fit the model, or a threshold is not 0..1.
    utils/runtime/tta.py has the predictors that look at each image several times.
    """

    def __init__(
        self,
        backend: Backend,
        img_size: Optional[HW] = None,
        conf_thres: Optional[float] = None,
        *,
        iou_thres: Optional[float] = None,
        agnostic: bool = False,
        max_det: int = 300,
        classes: Optional[Sequence[int]] = None,
        auto: bool = True,
    ):
        for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
            if value is not None and not 0 <= value <= 1:  # NaN is not, either
                raise InputError("`%s` %g: expected 0 to 1" % (name, value))
        self.backend = backend
        self.net_hw = resolve_size(backend, img_size)
        self.auto = auto and backend.input_shape[2:] == (None, None)
        if backend.embedded_nms is not None:
            agnostic = agnostic and backend.nc > 1  # with one class it is the same
            warn_about_embedded_nms(backend.embedded_nms, conf_thres, iou_thres, agnostic=agnostic)
            if backend.embedded_nms.conf_thres is not None:
                conf_thres = max(conf_thres or 0.0, backend.embedded_nms.conf_thres)
                iou_thres = backend.embedded_nms.iou_thres
            agnostic = False
        self.conf_thres = DEFAULT_CONF if conf_thres is None else conf_thres
        self.iou_thres = DEFAULT_IOU if iou_thres is None else iou_thres
        self.agnostic, self.max_det = agnostic, max_det
        self.classes = None if classes is None else list(classes)
        if self.classes is not None:
            bad = [c for c in self.classes if not 0 <= c < backend.nc]
            if bad:
                raise InputError(
                    "`classes` %s: the model has classes 0 to %d (%s)"
                    % (" ".join(map(str, bad)), backend.nc - 1, ", ".join(backend.names))
                )
        self.settings = NmsSettings(
            self.conf_thres,
            self.iou_thres,
            agnostic,
            max_det,
            None if self.classes is None else tuple(self.classes),
        )

    def __call__(self, images: Sequence[np.ndarray]) -> List[Poses]:
        """(H, W, 3) uint8 BGR images of any sizes -> one Poses each, in image pixels."""
        poses: List[Poses] = []
        for chunk in self.chunks(images):
            prepared = self.preprocess(chunk)
            poses += self.postprocess(self.infer(prepared), prepared)
        return poses

    def chunks(self, images: Sequence[np.ndarray]) -> List[List[np.ndarray]]:
        """Cut a list of images into batches the model takes.

        A model bound to batch B gets B at a time; others get runs of images of one shape, as many
        as the model takes.
        """
        if self.backend.batch is not None:
            size = self.backend.batch
            return [list(images[i : i + size]) for i in range(0, len(images), size)]
        most = self.backend.max_batch or len(images)
        chunks: List[List[np.ndarray]] = []
        for image in images:
            fits = chunks and (not self.auto or chunks[-1][0].shape == image.shape)
            if fits and len(chunks[-1]) < most:
                chunks[-1].append(image)
            else:
                chunks.append([image])
        return chunks

    def preprocess(self, images: Sequence[np.ndarray]) -> Prepared:
        """Letterbox a batch: at most as many images as the model takes."""
        return [self.view(images)]

    def view(self, images: Sequence[np.ndarray], scale: float = 1.0) -> View:
        """Args: scale: shrink the images inside the canvas."""
        sizes = [(i.shape[0], i.shape[1]) for i in images]
        canvas = self.net_hw
        if self.auto:
            fitting = {letterbox.rectangle(s, self.net_hw, self.backend.stride) for s in sizes}
            canvas = fitting.pop() if len(fitting) == 1 else self.net_hw
        inner = tuple(max(round(side * scale), 1) for side in self.net_hw)
        boxes = [letterbox.fit(size, (inner[0], inner[1]), canvas) for size in sizes]
        size = self.backend.batch or len(images)
        # The last batch of a model of fixed batch is filled up with zeros.
        batch = self.backend.new_batch((size, *canvas))
        if self.backend.takes_pixels:
            letterbox.to_pixels(images, boxes, canvas, out=batch)
        else:
            letterbox.to_batch(images, boxes, canvas, out=batch)
        return View(batch, boxes)

    def warm_up(self, prepared: Prepared) -> None:
        """Let a GPU choose kernels and record graphs for batches of this shape."""
        self.backend.warm_up(prepared[0].batch, self.settings)  # type: ignore

    def infer(self, prepared: Prepared) -> List[Found]:
        """What the model says of each view, see Backend.find."""
        return [self.backend.find(view.batch, self.settings) for view in prepared]  # type: ignore

    def postprocess(self, raws: Sequence[Found], prepared: Prepared) -> List[Poses]:
        """What the model said of each view -> Poses in image pixels, one an image."""
        return self.suppress(raws[0], prepared[0])

    def suppress(self, raw: Found, view: View) -> List[Poses]:
        """NMS on the canvas, as a model with embedded NMS does it, then Poses in image pixels."""
        boxes = view.letterboxes
        if isinstance(raw, Detections):  # a batch that was filled up has more images than boxes
            self._check(raw)
            found = nms.detections_to_poses(
                raw, self.conf_thres, self.max_det, classes=self.classes
            )
        elif isinstance(raw, list) and raw and isinstance(raw[0], Poses):
            found = raw  # suppressed on the device
        else:
            rows = cast(nms.Rows, raw)[: len(boxes)]
            found = nms.raw_to_poses(rows, self.backend.nc, **self.settings._asdict())
        found = found[: len(boxes)]
        everybody = join_poses(found)
        far = (np.abs(f).max(initial=0) for f in (everybody.boxes, everybody.keypoints))
        if max(far) > MAX_PX:
            raise BrokenModelError(
                "the model predicts coordinates beyond %g px; it is broken" % MAX_PX
            )
        return letterbox.to_originals(boxes, found)

    def _check(self, found: Detections) -> None:
        """Raise InputError for outputs of embedded NMS that contradict themselves."""
        try:
            found.check().check_values(self.backend.nc)
        except ValueError as e:
            raise InputError(
                "the embedded NMS of the model is inconsistent: %s; export it again" % e
            ) from e


def resolve_size(backend: Backend, img_size: Optional[HW]) -> HW:
    """(height, width) to run at. Raises InputError if it contradicts a model of fixed size."""
    static = backend.static_hw
    if img_size is None:
        usual = backend.imgsz or (DEFAULT_SIZE, DEFAULT_SIZE)
        one = [bound or side for bound, side in zip(backend.input_shape[2:], usual)]
        return static or (one[0], one[1])  # a model may be bound to a height or a width alone
    img_size = letterbox.parse_size(img_size)
    rounded = letterbox.stride_multiple(img_size, backend.stride)
    if static is not None:
        if rounded != static and img_size != static:
            raise InputError(
                "`img_size` %d %d: the model is fixed to %d %d; drop `img_size` or export it "
                "again" % (img_size + static)
            )
        return static
    warn_if_rounded(img_size, rounded, backend.stride)
    return rounded


def warn_about_embedded_nms(
    embedded_nms: EmbeddedNms,
    conf_thres: Optional[float],
    iou_thres: Optional[float],
    *,
    agnostic: bool,
) -> None:
    """Say which settings the embedded NMS a model does not take; None: not asked for."""
    if embedded_nms.conf_thres is None:
        if iou_thres is not None:
            warn("`iou_thres` %g is ignored: the model has embedded NMS" % iou_thres)
    elif conf_thres is not None and conf_thres < embedded_nms.conf_thres:
        warn(
            "`conf_thres` %g: the model has embedded NMS and returns nothing below %g; "
            "export it again for a lower one" % (conf_thres, embedded_nms.conf_thres)
        )
    if embedded_nms.iou_thres is not None and iou_thres not in (None, embedded_nms.iou_thres):
        warn(
            "`iou_thres` %g is ignored: the model has embedded NMS, with %g"
            % (iou_thres, embedded_nms.iou_thres)
        )
    if agnostic:
        warn(
            "`agnostic_nms` is ignored (`single_cls` asks for it, too): the model has NMS "
            "inside, within each class"
        )


def warn_if_rounded(asked: HW, rounded: HW, stride: int) -> None:
    """Say so when --img-size is not what the network will see."""
    if asked != rounded:
        warn(
            "`img_size` %d %d rounded up to %d %d, multiples of the stride %d"
            % (*asked, *rounded, stride)
        )
