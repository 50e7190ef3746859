"""What happens to the training images of a batch, as numbers; warp.py does it to the pixels.

A training image ("sample") shows one image, or four around a centre (mosaic), through one 3 x 3
matrix. `draw` decides all of that from a random generator, `transform_labels` moves the persons;
both do a whole batch at once, since NumPy's calls cost more than its work here.

Coordinates are continuous pixels: (0, 0) is the corner of the first pixel. Three frames follow one
another: source (an image as loaded), canvas (where images lie side by side), output (the sample).
"""

from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.labels import Labels
from utils.pose.letterbox import HW
from utils.training.hyper_parameters import Hyp

# A person is kept if this much of its box, and this many px of each side, are still in sight
MIN_SHARE, MIN_SIDE = 0.1, 2.0
NO_CENTER = -1e7  # a mosaic centre so far out that the fourth tile covers everything
FAR = 1e6  # px away on the canvas: out of sight
MIXUP_BETA = 32.0  # shape of the distribution of the blend: near one half
TILES = 4


class Samples(NamedTuple):
    """How B training images are made. A canvas point is source * scale + origin."""

    images: np.ndarray  # (B, 4) int64: top-left, top-right, bottom-left, bottom-right image
    scale: np.ndarray  # (B, 4) float64
    origin: np.ndarray  # (B, 4, 2) float64 x, y px of the canvas
    center: np.ndarray  # (B, 2) float64 x, y px of the canvas where the four tiles meet
    matrix: np.ndarray  # (B, 3, 3) float64, canvas (x, y, 1) -> output
    color: np.ndarray  # (B, 3, 3) float64, RGB -> RGB
    single: np.ndarray  # (B,) bool: only the bottom-right tile is there
    blend: np.ndarray  # (B,) float64 share of the own pixels; 1: not blended
    partner: np.ndarray  # (B,) int64 sample it is blended with
    blank: np.ndarray  # (B,) bool: shows nothing, its images are out of sight


class Persons(NamedTuple):
    """The n persons of a batch, output pixels."""

    image: np.ndarray  # (n,) int64 sample they are on
    classes: np.ndarray  # (n,) int64
    boxes: np.ndarray  # (n, 4) float64 xyxy
    keypoints: np.ndarray  # (n, K, 3) float64 x, y, v


def draw(
    rng: np.random.Generator,
    hyp: Hyp,
    own: np.ndarray,
    *,
    hws: np.ndarray,
    size: HW,
    mosaic: bool = True,
    plain: bool = False,
) -> Samples:
    """Decide how the samples of a batch are made.

    Args:
        own: (B,) the image whose turn it is; partners come from all.
        hws: (W, 2) height, width px of all images, as loaded.
        size: (height, width) px of the output.
        mosaic: whether hyp.mosaic has a say.
        plain: nothing random at all: the images, letterboxed.
    """
    count = len(own)
    wh = np.array(size[::-1], np.float64)
    single = rng.random(count) >= (hyp.mosaic if mosaic and not plain else 0.0)
    center = rng.uniform(0.5, 1.5, (count, 2)) * wh
    images = np.concatenate([own[:, None], rng.integers(0, len(hws), (count, TILES - 1))], 1)
    images = rng.permuted(images, axis=1)
    images[single] = own[single, None]
    shapes = hws[images][..., ::-1].astype(np.float64)  # [B, 4, 2] w h
    scale = (wh / shapes).min(2)
    covered = shapes * scale[..., None]
    right_below = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    origin = np.where(right_below, center[:, None], center[:, None] - covered)
    origin[single] = ((wh - covered) / 2)[single]
    pivot = np.where(single[:, None], wh / 2, wh)
    center[single] = NO_CENTER
    matrix, color = np.eye(3)[None].repeat(count, 0), np.eye(3)[None].repeat(count, 0)
    blend, partner, blank = np.ones(count), np.arange(count), np.zeros(count, bool)
    if not plain:
        matrix = random_matrices(rng, hyp, size, pivot=pivot)
        color = random_colors(rng, hyp, count)
        if hyp.blank:
            blank = rng.random(count) < hyp.blank
            origin[blank] += FAR
        blended = rng.random(count) < (hyp.mixup if mosaic else 0.0)
        partner = np.where(blended, rng.integers(0, count, count), partner)
        blend = np.where(blended, rng.beta(MIXUP_BETA, MIXUP_BETA, count), blend)
        alone = (partner == np.arange(count)) | blank | blank[partner]
        blend = np.where(alone, 1.0, blend)
    return Samples(
        images=images,
        scale=scale,
        origin=origin,
        center=center,
        matrix=matrix,
        color=color,
        single=single,
        blend=blend,
        partner=partner,
        blank=blank,
    )


def random_matrices(
    rng: np.random.Generator, hyp: Hyp, size: HW, *, pivot: np.ndarray
) -> np.ndarray:
    """(B, 3, 3) canvas -> output: perspective, rotation, zoom and shear about `pivot` (B, 2) x y, a
    shift about the middle of the output, flips."""
    count = len(pivot)
    w, h = size[1], size[0]

    def eyes() -> np.ndarray:
        return np.eye(3)[None].repeat(count, 0)

    center = eyes()
    center[:, :2, 2] = -pivot
    perspective = eyes()
    perspective[:, 2, :2] = rng.uniform(-hyp.perspective, hyp.perspective, (count, 2))
    angle = np.radians(rng.uniform(-hyp.degrees, hyp.degrees, count))
    zoom = hyp.zoom * rng.uniform(1 - hyp.scale, 1 + hyp.scale, count)
    rotation = eyes()
    rotation[:, 0, 0] = rotation[:, 1, 1] = zoom * np.cos(angle)
    rotation[:, 0, 1] = zoom * np.sin(angle)
    rotation[:, 1, 0] = -rotation[:, 0, 1]
    shear = eyes()
    shears = np.tan(np.radians(rng.uniform(-hyp.shear, hyp.shear, (count, 2))))
    shear[:, 0, 1], shear[:, 1, 0] = shears[:, 0], shears[:, 1]
    shift = eyes()
    shift[:, :2, 2] = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, (count, 2)) * (w, h)
    flip = eyes()
    flipped = rng.random((count, 2)) < (hyp.fliplr, hyp.flipud)
    for axis, side in enumerate((w, h)):
        flip[:, axis, axis] = np.where(flipped[:, axis], -1, 1)
        flip[:, axis, 2] = np.where(flipped[:, axis], side, 0)
    return flip @ shift @ shear @ rotation @ perspective @ center


def random_colors(rng: np.random.Generator, hyp: Hyp, count: int) -> np.ndarray:
    """(count, 3, 3) RGB -> RGB: hue turned, saturation and brightness scaled.

    The matrices hueRotate and saturate of the W3C Filter Effects Module (feColorMatrix), times the
    brightness: linear, so that it is one product for each pixel.
    """
    hue, saturation, value = rng.uniform(-1, 1, (3, count, 1, 1))
    angle = hue * hyp.hsv_h * 2 * np.pi
    luma = np.tile([0.213, 0.715, 0.072], (3, 1))
    turned = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    rotate = luma + np.cos(angle) * (np.eye(3) - luma) + np.sin(angle) * turned
    saturate = luma + (1 + saturation * hyp.hsv_s) * (np.eye(3) - luma)
    return (1 + value * hyp.hsv_v) * (saturate @ rotate)


def transform_labels(
    samples: Samples,
    labels: Labels,
    starts: np.ndarray,
    *,
    hws: np.ndarray,
    size: HW,
    flip_index: Optional[Sequence[int]] = None,
) -> Persons:
    """The persons of all tiles in output pixels; those hardly in sight are left out.

    A keypoint out of sight is not labelled any more (v = 0, coordinates 0), rather than moved to
    the border. Left and right change places where the matrix mirrors.

    Args:
        labels, starts: persons of all W images one after the other; (W + 1,) where each begins.
        hws: (W, 2) height, width px of the images as loaded.
        flip_index: see Skeleton; None where no matrix mirrors.

    Raises ValueError for mirrored samples without a flip_index.
    """
    tiles = np.where(samples.single[:, None], np.arange(TILES) == TILES - 1, True)
    sample, tile = np.nonzero(tiles)
    images = samples.images[sample, tile]
    counts = starts[images + 1] - starts[images]
    row = np.repeat(starts[images] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    sample, tile, images = (np.repeat(v, counts) for v in (sample, tile, images))
    canvas = hws[images][:, ::-1] * samples.scale[sample, tile, None]  # px w h of the whole image
    origin, matrix = samples.origin[sample, tile], samples.matrix[sample]
    center, half = labels.boxes[row, :2], labels.boxes[row, 2:] / 2
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = center[:, None] + signs * half[:, None]  # [n, 4, 2]
    points = labels.keypoints[row, :, :2]
    both = np.concatenate([corners, points], 1) * canvas[:, None] + origin[:, None]
    both = project(matrix, both)
    corners, points = both[:, :TILES], both[:, TILES:]
    whole = np.concatenate([corners.min(1), corners.max(1)], 1)
    limit = np.array([size[1], size[0], size[1], size[0]], np.float64)
    boxes = np.clip(whole, 0, limit)
    side, full = boxes[:, 2:] - boxes[:, :2], whole[:, 2:] - whole[:, :2]
    share = side.prod(1) / np.maximum(full.prod(1), 1e-9)
    kept = (side >= MIN_SIDE).all(1) & (share >= MIN_SHARE) & np.isfinite(whole).all(1)
    kept &= ~samples.blank[sample]  # perspective might bring something far away back
    inside = (points >= 0).all(2) & (points < limit[:2]).all(2)
    v = np.where(inside, labels.keypoints[row, :, 2], 0)
    keypoints = np.concatenate([np.where(v[..., None] > 0, points, 0), v[..., None]], 2)
    swapped = is_reflection(matrix)
    if swapped.any():
        if flip_index is None:
            raise ValueError("flipped images, and nothing tells left keypoints from right ones")
        keypoints[swapped] = keypoints[swapped][:, list(flip_index)]
    found = Persons(sample, labels.classes[row], boxes, keypoints)
    return _blended(Persons(*(part[kept] for part in found)), samples)


def _blended(persons: Persons, samples: Samples) -> Persons:
    """A blended sample shows the persons of its partner, too."""
    parts = [persons]
    for i in np.flatnonzero(samples.blend < 1):
        theirs = persons.image == samples.partner[i]
        parts.append(Persons(*(part[theirs] for part in persons)))
        parts[-1] = parts[-1]._replace(image=np.full(int(theirs.sum()), i, np.int64))
    if len(parts) == 1:
        return persons
    return Persons(*(np.concatenate([p[k] for p in parts]) for k in range(len(persons))))


def is_reflection(matrices: np.ndarray) -> np.ndarray:
    """(n,) bool for (n, 3, 3): whether left becomes right, the orientation of the plane changes."""
    return np.linalg.det(matrices[:, :2, :2]) < 0


def project(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, m, 2) x y through (n, 3, 3) homogeneous matrices."""
    moved = points @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2]
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


def select(labels: Labels, starts: np.ndarray, images: np.ndarray) -> Tuple[Labels, np.ndarray]:
    """(labels of some images one after the other, where each begins); see transform_labels."""
    counts = starts[images + 1] - starts[images]
    ends = np.cumsum(counts)
    row = np.repeat(starts[images] - ends + counts, counts) + np.arange(counts.sum())
    return Labels(*(part[row] for part in labels)), np.concatenate([[0], ends])
