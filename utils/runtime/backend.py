"""What all model files have in common when they run: `load_backend("x.onnx", "cpu")` in load.py.

A Backend maps (B, 3, H, W) float RGB 0..1 to raw predictions (B, N, 5 + nc + 3K). What it is
(shape, dtype, names, keypoints, embedded NMS or not) is read off the file, never from flags.
torch, onnxruntime and tensorrt are imported by the backend that needs them and by no other.
"""

from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from utils.pose.detections import Detections
from utils.pose.keypoints import Skeleton
from utils.pose.layout import Layout
from utils.pose.letterbox import MAX_SIZE
from utils.pose.poses import Poses
from utils.runtime.metadata import EmbeddedNms, Identity

if TYPE_CHECKING:
    from utils.arrays import Array
    from utils.pose.fixed_nms import NmsSettings

# What a model says of a batch: (B, N, 5 + nc + 3K) raw predictions, or Detections of embedded NMS
Output = Union["Array", Detections]
Found = Union[Output, List[Poses], List[np.ndarray]]  # see Backend.find
MAX_BATCH, MAX_PIXELS = 1024, 1 << 26  # images at once, and their pixels: 0.8 GB as float32


def check_input_dims(dims: Sequence[Optional[int]]) -> None:
    """Raise ValueError (reason only) for an input (B, 3, H, W) that no memory would hold.

    Args: dims: None where dynamic.
    """
    batch, height, width = (1 if d is None else d for d in (dims[0], *dims[2:]))
    sides = 1 <= min(height, width) <= max(height, width) <= MAX_SIZE
    if not (sides and 1 <= batch <= MAX_BATCH and batch * height * width <= MAX_PIXELS):
        raise ValueError(
            "input %s: expected at most %d images of at most %d px a side, %d megapixels together"
            % (format_shape(dims), MAX_BATCH, MAX_SIZE, MAX_PIXELS / 1e6)
        )


class Backend:
    """What all backends share.

    Attributes:
        description: one line for people: runtime, device, precision.
        precision: of its arithmetic: FP32, FP16, ...
        on_gpu: where it runs.
        input_shape: (B, 3, H, W); None where the model is dynamic.
        dtype: NumPy dtype of the input.
        names: class names. nc, nkpt: classes and keypoints. stride: px the size is a multiple of.
        skeleton: what the keypoints are.
        imgsz: (height, width) the model was trained or exported for, None if unknown.
        embedded_nms: the embedded NMS, None if it has none.
        layout: how another exporter lays the output out, None: as we do.
        max_batch: most images at once where `input_shape` says any, None: no limit.
        workers: calls that may run at the same time, from as many threads.
        takes_pixels: it takes (B, H, W, 3) uint8 BGR and makes RGB 0..1 of them on the device.
        takes_floats: it takes (B, 3, H, W) RGB 0..1. Where it takes both, pixels are faster.
    """

    description: str
    precision: str
    on_gpu: bool
    input_shape: Tuple[Optional[int], int, Optional[int], Optional[int]]
    dtype: np.dtype
    names: List[str]
    nkpt: int
    skeleton: Skeleton
    stride: int
    imgsz: Optional[Tuple[int, int]]
    embedded_nms: Optional[EmbeddedNms] = None
    layout: Optional[Layout] = None
    max_batch: Optional[int] = None
    workers: int = 1
    takes_pixels: bool = False
    takes_floats: bool = True

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def end2end(self) -> bool:
        """NMS is inside the model."""
        return self.embedded_nms is not None

    @property
    def batch(self) -> Optional[int]:
        """Images the model takes at once, None = any number."""
        return self.input_shape[0]

    @property
    def static_hw(self) -> Optional[Tuple[int, int]]:
        """(height, width) the model is bound to, None if it takes several sizes."""
        _, _, h, w = self.input_shape
        return None if h is None or w is None else (h, w)

    def new_batch(self, shape: Tuple[int, int, int]) -> np.ndarray:
        """An array to put (B, H, W) images into: (B, H, W, 3) uint8 or (B, 3, H, W) float32.

        A backend may return memory from which its device copies faster.
        """
        batch, height, width = shape
        if self.takes_pixels:
            return np.empty((batch, height, width, 3), np.uint8)
        return np.empty((batch, 3, height, width), np.float32)

    def __call__(self, images: np.ndarray) -> Output:
        """(B, 3, H, W) float32 -> (B, N, 5 + nc + 3K) float32, NumPy or torch tensor.

        With embedded NMS: -> Detections.
        """
        raise NotImplementedError

    def find(self, images: np.ndarray, settings: "NmsSettings") -> Found:
        """What the model says, and as little of it as its device can leave.

        Returns List[Poses] on the canvas where the device suppressed itself; a list of (n, 5 + nc
        + 3K) arrays, one an image, where it filtered the candidates; else what __call__ returns.
        The last two are for nms.raw_to_poses. Embedded NMS: Detections.
        """
        return self(images)

    def warm_up(self, images: np.ndarray, settings: "NmsSettings") -> None:
        """Pay what the first calls of a GPU cost before somebody waits for them.

        Args: images: a batch as `find` takes it.
        """

    def engine_ms(self) -> Optional[np.ndarray]:
        """GPU times, ms, of the network alone on the last input, None where they are not known."""
        return None

    def _set_input_shape(self, shape: List[Optional[int]]) -> None:
        """(B, 3, H, W) of a float input, (B, H, W, 3) of one of `dtype` uint8; None: any."""
        self.takes_pixels = self.dtype == np.uint8
        self.takes_floats = not self.takes_pixels
        if self.takes_pixels:
            shape = [shape[0], shape[3], shape[1], shape[2]]
        self.input_shape = tuple(shape)  # type: ignore

    def _set_identity(self, found: Identity) -> None:
        """Adopt what utils/runtime/metadata.py read off the file."""
        self.names, self.nkpt, self.stride, self.imgsz, self.skeleton = found.info
        self.embedded_nms, self.layout, self._outputs = (
            found.embedded_nms,
            found.layout,
            found.outputs,
        )

    def _read(self, found: List[Any]) -> Any:
        """The outputs named `_outputs` -> what __call__ returns."""
        if self.layout is None:
            return found[0] if self.embedded_nms is None else Detections(*map(_on_host, found))
        if self.layout.suppressed:
            return Detections(*self.layout.to_detections(found[0]))
        return self.layout.to_raw(found[0])

    def _check_input(self, images: np.ndarray) -> None:
        wanted, pixels = self.input_shape, images.dtype == np.uint8
        if not (self.takes_pixels if pixels else self.takes_floats):
            kinds = ("(B, 3, H, W) RGB 0..1", "(B, H, W, 3) uint8 BGR")
            raise ValueError(
                "the model takes %s, got %s" % (kinds[self.takes_pixels], images.dtype)
            )
        if pixels:
            wanted = (wanted[0], wanted[2], wanted[3], 3)  # type: ignore
        if images.ndim != 4 or any(w is not None and w != g for w, g in zip(wanted, images.shape)):
            raise ValueError(
                "the model takes %s, got %s" % (format_shape(wanted), format_shape(images.shape))
            )


def too_large(asked: int, fits: int) -> str:
    """The line for a batch that does not fit into the memory of the GPU. Args: fits: what does."""
    if not fits:
        return "the GPU memory does not suffice for one image; choose a smaller `img_size`"
    return (
        "`batch_size` %d: the GPU memory does not suffice; choose `batch_size` %d, which fits"
        % (
            asked,
            fits,
        )
    )


def largest_that_runs(count: int, run: Callable[[int], bool]) -> int:
    """The half, quarter, ... of a batch of `count` that `run` manages, 0: none of them."""
    count //= 2
    while count and not run(count):
        count //= 2
    return count


def _on_host(value: Any) -> np.ndarray:
    return value.cpu().numpy() if hasattr(value, "cpu") else value


def format_shape(shape: Iterable[Optional[int]]) -> str:
    """(1, 3, None, None) -> `1x3x?x?`."""
    return "x".join("?" if s is None else str(s) for s in shape)
