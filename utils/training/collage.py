"""Images smaller than the training size, several of them as one.

    collage = arrange(rng, 7, small, hws, (640, 640))
    draw(collage, canvas, read)
    labels = merge(collage, [labels of each image], hws)

A mosaic enlarges a small image to the full size: its persons become large and blurred, unlike
those of large images. In a collage they have about their own size, in cells that show all of a
image or cut persons off, as doors, tables and the border of an image do.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from utils.dataset.labels import Labels, empty_labels, join_labels
from utils.pose.letterbox import HW, PAD_VALUE

GRIDS = (2, 3)  # cells along each side
ZOOM = (0.8, 3.0)  # of an image in its cell, uniform in the logarithm
MIN_SHARE = 0.1  # of a person's box that has to be in the cell


class Collage(NamedTuple):
    """k images of the set side by side. A collage point is source px * scale + origin."""

    images: np.ndarray  # (k,) int64
    scale: np.ndarray  # (k,) float64
    origin: np.ndarray  # (k, 2) float64 x, y px of the collage
    cells: np.ndarray  # (k, 4) int64 xyxy px: where the image may be seen
    size: HW


def arrange(
    rng: np.random.Generator, first: int, others: np.ndarray, *, hws: np.ndarray, size: HW
) -> Collage:
    """Decide how a collage is made.

    Args:
        first: an image that has to be in it.
        others: images of which the rest is drawn.
        hws: (n, 2) height, width px of all images.
        size: (height, width) px of the collage.
    """
    grid = int(rng.choice(GRIDS))
    images = rng.choice(others, grid * grid)
    images[rng.integers(len(images))] = first
    edges = [np.linspace(0, side, grid + 1).round().astype(np.int64) for side in size]
    y, x = np.divmod(np.arange(grid * grid), grid)
    cells = np.stack([edges[1][x], edges[0][y], edges[1][x + 1], edges[0][y + 1]], 1)
    # the zooms of a grid of smaller cells are smaller, too
    low, high = np.log(ZOOM) - np.log(grid / min(GRIDS))
    scale = np.exp(rng.uniform(low, high, len(images)))
    room = (cells[:, 2:] - cells[:, :2]) - hws[images][:, ::-1] * scale[:, None]
    origin = cells[:, :2] + room * rng.random((len(images), 2))
    return Collage(images, scale, origin, cells, size)


def draw(
    collage: Collage, out: np.ndarray, read: Callable[[int], Optional[np.ndarray]]
) -> List[int]:
    """Paint a collage.

    Args:
        out: (h, w, 3) uint8 of the collage's size.
        read: image of the set -> (h, w, 3) uint8, or None for one that is broken: it stays grey.

    Returns the places (0..k-1) of the broken ones.
    """
    broken = []
    grey = (PAD_VALUE,) * 3
    for i, image in enumerate(collage.images):
        x0, y0, x1, y1 = (int(v) for v in collage.cells[i])
        pixels = read(int(image))
        if pixels is None:
            out[y0:y1, x0:x1] = PAD_VALUE
            broken.append(i)
            continue
        s = collage.scale[i]
        # OpenCV counts from the middle of the first pixel, we from its corner
        shift = collage.origin[i] - (x0, y0) + 0.5 * s - 0.5
        matrix = np.array([[s, 0, shift[0]], [0, s, shift[1]]])
        if s < 0.5:  # bilinear look-up alone would skip pixels
            hw = [max(round(side * s), 1) for side in pixels.shape[:2]]
            pixels = cv2.resize(pixels, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
            matrix[:, :2] = np.eye(2)
            matrix[:, 2] = collage.origin[i] - (x0, y0)
        out[y0:y1, x0:x1] = cv2.warpAffine(
            pixels, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=grey,
        )  # fmt: skip
    return broken


def merge(
    collage: Collage, labels: Sequence[Labels], hws: np.ndarray, *, without: Sequence[int] = ()
) -> Labels:
    """The persons of all images, coordinates over the size of the collage.

    Boxes end where the cell ends, keypoints outside it are not labelled any more.

    Args:
        labels: of each of the k images.
        hws: (n, 2) px of all images of the set.
        without: places whose image is broken.
    """
    h, w = collage.size
    parts = [empty_labels(labels[0].keypoints.shape[1])]
    for i, (image, item) in enumerate(zip(collage.images, labels)):
        if i in without or not item.count:
            continue
        side = hws[image][::-1] * collage.scale[i]  # w, h px of the whole image
        origin, cell = collage.origin[i], collage.cells[i].astype(np.float64)
        center, half = item.boxes[:, :2] * side + origin, item.boxes[:, 2:] * side / 2
        low = np.clip(center - half, cell[:2], cell[2:])
        high = np.clip(center + half, cell[:2], cell[2:])
        area = np.maximum((2 * half).prod(1), 1e-9)
        kept = (high - low).prod(1) >= MIN_SHARE * area
        points = item.keypoints.copy()
        points[..., :2] = points[..., :2] * side + origin
        xy = points[..., :2]
        inside = (xy >= cell[:2]).all(2) & (xy < cell[2:]).all(2)
        points[~(inside & (points[..., 2] > 0))] = 0
        points[..., :2] /= (w, h)
        boxes = np.concatenate([(low + high) / 2, high - low], 1) / (w, h, w, h)
        parts.append(Labels(item.classes[kept], boxes[kept], points[kept]))
    return join_labels(parts)
