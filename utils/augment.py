"""What happens to each training image, as numbers; warp.py does it to the pixels.

A training picture ("sample") shows one image, or four around a centre (mosaic), through one 3 x 3
matrix. `draw` decides all of that from a random generator, `transform_labels` moves the persons.

Coordinates are continuous pixels: (0, 0) is the corner of the first pixel. Three frames follow one
another: source (an image as loaded), canvas (where images lie side by side), output (the sample).
"""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.hyper_parameters import Hyp
from utils.keypoints import skeleton
from utils.labels import Labels
from utils.letterbox import HW

# A person is kept if this much of its box, and this many px of each side, are still in sight
MIN_SHARE, MIN_SIDE = 0.1, 2.0
NO_CENTER = -1e7  # a mosaic centre so far out that the fourth tile covers everything
MIXUP_BETA = 32.0  # shape of the distribution of the blend: near one half


class Tile(NamedTuple):
    """One image on the canvas: canvas = source * scale + origin."""

    image: int  # which one, see the caller
    scale: Tuple[float, float]  # (y, x)
    origin: Tuple[float, float]  # (y, x) px of the canvas


class Sample(NamedTuple):
    """How one training picture is made."""

    tiles: List[Tile]  # one, or top-left, top-right, bottom-left, bottom-right of the centre
    center: Tuple[float, float]  # (y, x) px of the canvas where the four tiles meet
    matrix: np.ndarray  # (3, 3) float64, canvas (x, y, 1) -> output
    color: np.ndarray  # (3, 3) float64, RGB -> RGB


class Persons(NamedTuple):
    """The n persons of a sample, output pixels."""

    classes: np.ndarray  # (n,) int64
    boxes: np.ndarray  # (n, 4) float64 xyxy
    keypoints: np.ndarray  # (n, K, 3) float64 x, y, v


def draw(
    rng: np.random.Generator,
    hyp: Hyp,
    images: Sequence[int],
    hws: Sequence[HW],
    size: HW,
    mosaic: bool,
    plain: bool = False,
) -> Sample:
    """Decide how a sample is made.

    Args:
        images: candidates; the first is the one whose turn it is, partners come from all.
        hws: (height, width) px of each, as loaded.
        size: (height, width) px of the output.
        mosaic: whether hyp.mosaic has a say.
        plain: nothing random at all: the image, letterboxed.
    """
    h, w = size
    tiles_wanted = mosaic and rng.random() < hyp.mosaic
    if not tiles_wanted or plain:
        tile = _single(images[0], hws[0], size)
        center = (NO_CENTER, NO_CENTER)
        pivot = (h / 2, w / 2)
    else:
        center = (rng.uniform(0.5, 1.5) * h, rng.uniform(0.5, 1.5) * w)
        picks = [0, *rng.integers(0, len(images), 3).tolist()]
        rng.shuffle(picks)
        tiles = [
            _quarter(images[p], hws[p], size, center, right, below)
            for p, (below, right) in zip(picks, ((0, 0), (0, 1), (1, 0), (1, 1)))
        ]
        pivot = (float(h), float(w))
    if not tiles_wanted or plain:
        tiles = [tile]
    if plain:
        return Sample(tiles, center, np.eye(3), np.eye(3))
    matrix = random_matrix(rng, hyp, size, pivot)
    return Sample(tiles, center, matrix, random_color(rng, hyp))


def _single(image: int, hw: HW, size: HW) -> Tile:
    """The image in the middle of the output, as large as fits."""
    ratio = min(size[0] / hw[0], size[1] / hw[1])
    origin = ((size[0] - hw[0] * ratio) / 2, (size[1] - hw[1] * ratio) / 2)
    return Tile(image, (ratio, ratio), origin)


def _quarter(
    image: int, hw: HW, size: HW, center: Tuple[float, float], right: int, below: int
) -> Tile:
    """The image with one corner at the centre of the mosaic."""
    ratio = min(size[0] / hw[0], size[1] / hw[1])
    y = center[0] if below else center[0] - hw[0] * ratio
    x = center[1] if right else center[1] - hw[1] * ratio
    return Tile(image, (ratio, ratio), (y, x))


def random_matrix(
    rng: np.random.Generator, hyp: Hyp, size: HW, pivot: Tuple[float, float]
) -> np.ndarray:
    """(3, 3) canvas -> output: perspective, rotation, zoom, shear about `pivot` (y, x), a shift
    about the middle of the output, flips."""
    h, w = size
    center = np.array([[1, 0, -pivot[1]], [0, 1, -pivot[0]], [0, 0, 1]])
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, 2)
    angle = math.radians(rng.uniform(-hyp.degrees, hyp.degrees))
    zoom = rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, 2)))
    x, y = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2)
    shift = np.array([[1, 0, x * w], [0, 1, y * h], [0, 0, 1]])
    matrix = shift @ shear @ rotation @ perspective @ center
    if rng.random() < hyp.fliplr:
        matrix = np.array([[-1, 0, w], [0, 1, 0], [0, 0, 1.0]]) @ matrix
    if rng.random() < hyp.flipud:
        matrix = np.array([[1, 0, 0], [0, -1, h], [0, 0, 1.0]]) @ matrix
    return matrix


def random_color(rng: np.random.Generator, hyp: Hyp) -> np.ndarray:
    """(3, 3) RGB -> RGB: hue turned, saturation and brightness scaled.

    The matrices hueRotate and saturate of the W3C Filter Effects Module (section 8.10.2), times
    the brightness: linear, so that it is one product for each pixel.
    """
    hue, saturation, value = rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    angle = hue * 2 * math.pi
    luma = np.tile([0.213, 0.715, 0.072], (3, 1))
    turned = np.array(
        [[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]]
    )  # the matrix's sine part
    rotate = luma + math.cos(angle) * (np.eye(3) - luma) + math.sin(angle) * turned
    saturate = luma + (1 + saturation) * (np.eye(3) - luma)
    return (1 + value) * (saturate @ rotate)


def transform_labels(
    sample: Sample, labels: Sequence[Labels], hws: Sequence[HW], size: HW
) -> Persons:
    """Persons of all tiles in output pixels; those hardly in sight are left out.

    A keypoint out of sight is not labelled any more (v = 0, coordinates 0), rather than moved to
    the border. Left and right change places if the matrix mirrors.

    Args:
        labels, hws: of each tile's image; hws as loaded.
    """
    parts = [_move(sample, tile, one, hw, size) for tile, one, hw in zip(sample.tiles, labels, hws)]
    return join(parts, labels[0].keypoints.shape[1])


def join(parts: Sequence[Persons], nkpt: int) -> Persons:
    """All persons together."""
    empty = Persons(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros((0, nkpt, 3)))
    parts = [empty, *parts]
    return Persons(*(np.concatenate([p[i] for p in parts]) for i in range(3)))


def _move(sample: Sample, tile: Tile, labels: Labels, hw: HW, size: HW) -> Persons:
    if not labels.count:
        return join([], labels.keypoints.shape[1])
    wh, scale, origin = (np.array(v[::-1], np.float64) for v in (hw, tile.scale, tile.origin))
    canvas = wh * scale  # px of the whole image on the canvas
    points = labels.keypoints[..., :2] * canvas + origin
    half = labels.boxes[:, 2:] / 2
    low, high = labels.boxes[:, :2] - half, labels.boxes[:, :2] + half
    corners = np.stack(
        [low, np.stack([high[:, 0], low[:, 1]], 1), high, np.stack([low[:, 0], high[:, 1]], 1)], 1
    )  # [n, 4, 2]
    corners = project(sample.matrix, corners * canvas + origin)
    points = project(sample.matrix, points)
    whole = np.concatenate([corners.min(1), corners.max(1)], 1)
    h, w = size
    limit = np.array([w, h, w, h], np.float64)
    boxes = np.clip(whole, 0, limit)
    side, full = boxes[:, 2:] - boxes[:, :2], whole[:, 2:] - whole[:, :2]
    share = side.prod(1) / np.maximum(full.prod(1), 1e-9)
    kept = (side >= MIN_SIDE).all(1) & (share >= MIN_SHARE) & np.isfinite(whole).all(1)
    v = labels.keypoints[..., 2]
    inside = (points >= 0).all(2) & (points < limit[:2]).all(2)
    v = np.where(inside, v, 0)
    keypoints = np.concatenate([np.where(v[..., None] > 0, points, 0), v[..., None]], 2)
    flip_index = skeleton(keypoints.shape[1]).flip_index
    if mirrors(sample.matrix) and flip_index is not None:
        keypoints = keypoints[:, list(flip_index)]
    return Persons(labels.classes[kept], boxes[kept], keypoints[kept])


def mirrors(matrix: np.ndarray) -> bool:
    """Whether left becomes right: the orientation of the plane changes."""
    return bool(np.linalg.det(matrix[:2, :2]) < 0)


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 2) x y through a (3, 3) homogeneous matrix."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def reduced_hw(hw: HW, longest: int) -> HW:
    """(height, width) px at which an image is kept in memory: its long side at most `longest`."""
    ratio = min(longest / max(hw), 1.0)
    return max(round(hw[0] * ratio), 1), max(round(hw[1] * ratio), 1)


def multi_scale_hw(rng: np.random.Generator, hw: HW, stride: int) -> HW:
    """A size between half and one and a half of `hw`, its sides multiples of `stride`."""
    factor = rng.uniform(0.5, 1.5)
    sides = [max(round(side * factor / stride), 1) * stride for side in hw]
    return sides[0], sides[1]


def mixup_share(rng: np.random.Generator, hyp: Hyp) -> Optional[float]:
    """Share of the sample's own pixels if it is blended with another one, else None."""
    if rng.random() >= hyp.mixup:
        return None
    return float(rng.beta(MIXUP_BETA, MIXUP_BETA))
