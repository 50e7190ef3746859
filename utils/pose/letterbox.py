"""Image <-> network coordinates: the only preprocessing in the toolkit.

letterbox = fit(image_hw=(720, 1280), net_hw=(640, 640))
batch = to_batch([image], [letterbox], (640, 640))     # (1, 3, 640, 640) RGB 0..1
poses = letterbox.to_original(network_poses)
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from utils.errors import InputError
from utils.pose.poses import Poses, join_poses, split_poses

MAX_SIZE = 8192  # px; about 10 GB of activations for s6
PAD_VALUE = 114  # grey level of the border, as in training
UNIT = np.float32(1 / 255.0)  # pixels -> 0..1
HW = Tuple[int, int]


class Letterbox(NamedTuple):
    """Where an image lies on the network canvas: net = orig * scale + pad, both axes (y, x).

    The scale is the one really applied: resized size / image size, after rounding the resized
    size to whole pixels. Coordinates are continuous, (0, 0) is the corner of the first pixel.
    """

    scale: Tuple[float, float]  # (y, x)
    pad: Tuple[int, int]  # (top, left) px
    image_hw: HW
    resized_hw: HW

    def check(self, image_shape: Sequence[int], canvas_hw: HW) -> None:
        """Raises ValueError if it was not made for such an image and canvas."""
        (h, w), (top, left) = self.resized_hw, self.pad
        if tuple(image_shape) != (*self.image_hw, 3):
            raise ValueError(
                "Letterbox: expected an image (%d, %d, 3), got %s" % (*self.image_hw, image_shape)
            )
        if top + h > canvas_hw[0] or left + w > canvas_hw[1]:
            raise ValueError(
                "Letterbox: expected a canvas of at least (%d, %d), got %s"
                % (top + h, left + w, tuple(canvas_hw))
            )

    def to_original(self, poses: Poses) -> Poses:
        """Poses in canvas pixels -> Poses in image pixels, boxes clipped to the image."""
        poses.check()
        (sy, sx), (top, left) = self.scale, self.pad
        shift = np.array([left, top, left, top], np.float32)
        factor = np.array([sx, sy, sx, sy], np.float32)
        boxes = (poses.boxes - shift) / factor
        keypoints = poses.keypoints.copy()
        keypoints[..., :2] = (keypoints[..., :2] - shift[:2]) / factor[:2]
        return Poses(boxes, poses.scores, poses.classes, keypoints).clip(self.image_hw)

    def to_network(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) x y in image pixels -> canvas pixels."""
        (sy, sx), (top, left) = self.scale, self.pad
        return points * np.array([sx, sy]) + np.array([left, top])


def to_originals(letterboxes: Sequence[Letterbox], found: Sequence[Poses]) -> List[Poses]:
    """Letterbox.to_original of each image; those of a batch all at once.

    So few calls of NumPy give the interpreter's lock away, which other threads keep for a while.
    """
    if len(found) < 2:
        return [box.to_original(poses) for box, poses in zip(letterboxes, found)]
    counts = [poses.count for poses in found]
    poses = join_poses(found).check()
    places = np.array([(*b.pad[::-1], *b.scale[::-1], *b.image_hw[::-1]) for b in letterboxes])
    places = np.repeat(places.astype(np.float32), counts, 0)
    shift, factor, image_wh = (places[:, None, i : i + 2] for i in (0, 2, 4))
    corners = (poses.boxes.reshape(-1, 2, 2) - shift) / factor
    boxes = corners.clip(0, image_wh).reshape(-1, 4)
    keypoints = poses.keypoints.copy()
    keypoints[..., :2] = (keypoints[..., :2] - shift) / factor
    return split_poses(poses._replace(boxes=boxes, keypoints=keypoints), counts)


def fit(
    image_hw: HW, net_hw: HW, canvas_hw: Optional[HW] = None, *, center: bool = True
) -> Letterbox:
    """Largest placement of an image inside net_hw that keeps its aspect ratio.

    Args:
        image_hw, net_hw: (height, width) px, both at least 1.
        canvas_hw: the canvas it is placed on, if that is not net_hw (see `rectangle`).
        center: border on both sides; otherwise only right and bottom.
    """
    canvas_h, canvas_w = canvas_hw or net_hw
    (h, w), (net_h, net_w) = image_hw, net_hw
    ratio = min(net_h / h, net_w / w)
    new_h = min(max(round(h * ratio), 1), net_h)
    new_w = min(max(round(w * ratio), 1), net_w)
    top, left = ((canvas_h - new_h) // 2, (canvas_w - new_w) // 2) if center else (0, 0)
    return Letterbox((new_h / h, new_w / w), (top, left), (h, w), (new_h, new_w))


def stretch(image_hw: HW, net_hw: HW) -> Letterbox:
    """An image resized to fill net_hw, whatever becomes of its aspect ratio.

    Args: image_hw, net_hw: (height, width) px, both at least 1.
    """
    (h, w), (net_h, net_w) = image_hw, net_hw
    return Letterbox((net_h / h, net_w / w), (0, 0), (h, w), (net_h, net_w))


def parse_size(values: Sequence[int], name: str = "img_size") -> HW:
    """One number or height width -> (height, width) px.

    Raises InputError, which names the parameter `name`, for another count and sizes outside 1 to
    MAX_SIZE.
    """
    if len(values) not in (1, 2):
        raise InputError("`%s`: expected one number or height width" % name)
    hw = (values[0], values[-1])
    if not 1 <= min(hw) <= max(hw) <= MAX_SIZE:
        raise InputError("`%s` %d %d: expected 1 to %d" % (name, *hw, MAX_SIZE))
    return hw


def stride_multiple(hw: HW, stride: int) -> HW:
    """(height, width) rounded up to multiples of `stride`."""
    return -(-hw[0] // stride) * stride, -(-hw[1] // stride) * stride


def rectangle(image_hw: HW, net_hw: HW, stride: int) -> HW:
    """Smallest canvas, in multiples of `stride`, that holds the image as large as net_hw would.

    Saves the border of a non-square image; only for models with a dynamic input size.
    """
    h, w = stride_multiple(fit(image_hw, net_hw).resized_hw, stride)
    return min(h, net_hw[0]), min(w, net_hw[1])


def draw_canvas(
    image: np.ndarray, letterbox: Letterbox, net_hw: HW, *, out: Optional[np.ndarray] = None
) -> np.ndarray:
    """(H, W, 3) uint8 image -> (net_h, net_w, 3) uint8 canvas with the image on grey.

    Args: out: a canvas to draw on, C-contiguous.

    Raises ValueError if the letterbox is that of another image or canvas.
    """
    letterbox.check(image.shape, net_hw)
    (h, w), (top, left) = letterbox.resized_hw, letterbox.pad
    if out is None:
        out = np.empty((*net_hw, 3), np.uint8)
    out[:top], out[top + h :] = PAD_VALUE, PAD_VALUE
    rows = out[top : top + h]
    rows[:, :left], rows[:, left + w :] = PAD_VALUE, PAD_VALUE
    place = rows[:, left : left + w]
    if image.shape[:2] == (h, w):
        place[:] = image
    else:
        cv2.resize(image, (w, h), dst=place, interpolation=cv2.INTER_LINEAR)
    return out


def to_pixels(
    images: Sequence[np.ndarray],
    letterboxes: Sequence[Letterbox],
    net_hw: HW,
    *,
    out: Optional[np.ndarray] = None,
) -> np.ndarray:
    """(H, W, 3) uint8 BGR images -> (B, net_h, net_w, 3) uint8 BGR canvases.

    Args: out: uint8 array to fill, see to_batch.
    """
    if out is None:
        out = np.empty((len(images), *net_hw, 3), np.uint8)
    out[len(images) :] = 0
    for canvas, image, box in zip(out, images, letterboxes):
        draw_canvas(image, box, net_hw, out=canvas)
    return out


def to_batch(
    images: Sequence[np.ndarray],
    letterboxes: Sequence[Letterbox],
    net_hw: HW,
    *,
    out: Optional[np.ndarray] = None,
) -> np.ndarray:
    """(H, W, 3) uint8 BGR images -> (B, 3, net_h, net_w) float32 RGB 0..1.

    Args:
        out: float32 array to fill, for example page-locked memory; B may be larger than the number
            of images, the rest becomes zero.
    """
    if out is None:
        out = np.empty((len(images), 3) + tuple(net_hw), np.float32)
    out[len(images) :] = 0
    for planes, image, box in zip(out, images, letterboxes):
        canvas = draw_canvas(image, box, net_hw)
        for plane, channel in zip(planes, (2, 1, 0)):
            # plane by plane: a sixth of the time of cv2.dnn.blobFromImages, the same bits
            np.multiply(cv2.extractChannel(canvas, channel), UNIT, out=plane, dtype=np.float32)
    return out
