"""Drawing poses on images. The colours of left and right are in keypoints.py.

In few calls of OpenCV: each gives the interpreter's lock up and has to wait for it again, which
takes longer than the drawing itself when other threads decode, infer and encode.
"""

import functools
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import Color, Skeleton, hue_color, skeleton
from utils.pose.poses import Poses

# BGR, one a class, repeated when they run out
CLASS_COLORS: Tuple[Tuple[int, int, int], ...] = (
    (255, 144, 30),
    (60, 60, 240),
    (60, 200, 90),
    (0, 190, 255),
    (220, 80, 200),
    (200, 200, 40),
)
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
_CORNERS = [0, 1, 2, 1, 2, 3, 0, 3]  # of x1 y1 x2 y2
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def default_line_width(image_hw: Tuple[int, int]) -> int:
    """Line width in px that looks alike on small and large images."""
    return max(round(sum(image_hw) / 2 * 0.003), 1)


def draw_poses(
    image: np.ndarray,
    poses: Poses,
    names: Sequence[str],
    *,
    skel: Optional[Skeleton] = None,
    line_width: int = 0,
    labels: bool = True,
    confidences: bool = True,
    kpt_thres: float = 0.5,
    ids: Optional[np.ndarray] = None,
) -> None:
    """Draw boxes, limbs and keypoints into a (H, W, 3) uint8 BGR image, in place.

    Args:
        poses: in pixels of this image.
        names: class names.
        skel: what the keypoints are. None: COCO's if they are 17, else points without limbs.
        line_width: px, 0: by image size.
        labels, confidences: class name and score above each box.
        kpt_thres: keypoints with a confidence of at most this are not drawn.
        ids: (n,) of the tracks; boxes have the colour of their ID instead of their class's.

    Left is green, right is orange, seen from the person. Better poses are drawn last, on top.
    """
    width = line_width or default_line_width((image.shape[0], image.shape[1]))
    skel = skel or skeleton(poses.keypoints.shape[1])
    if ids is None:
        colors = [CLASS_COLORS[c % len(CLASS_COLORS)] for c in poses.classes.tolist()]
    else:
        colors = [id_color(i) for i in ids.tolist()]
    shown, points = _shown(poses.keypoints, kpt_thres), _fixed(poses.keypoints[..., :2])
    strokes = _strokes(points, shown, skel, width=width)
    for persons in _apart(poses.boxes, points, shown, reach=2 * width):
        _draw_boxes(image, poses.boxes[persons], [colors[i] for i in persons], width=width)
        _draw_persons(image, persons, strokes)
    if not labels:
        return
    boxes, classes, scores = poses.boxes.tolist(), poses.classes.tolist(), poses.scores.tolist()
    for i in range(poses.count - 1, -1, -1):
        text = names[classes[i]]
        if ids is not None:
            text += " %d" % ids[i]
        if confidences:
            text += " %.2f" % scores[i]
        draw_label(image, text, boxes[i], color=colors[i], width=width)


def id_color(track_id: int) -> Tuple[int, int, int]:
    """BGR of a track ID: hues a golden angle apart, so that IDs near each other look different."""
    return hue_color(track_id * 0.618034)


def _draw_boxes(
    image: np.ndarray, boxes: np.ndarray, colors: Sequence[Color], *, width: int
) -> None:
    """(n, 4) xyxy boxes with sub-pixel corners; which is on top is left open."""
    lines = list(_fixed(boxes)[:, _CORNERS].reshape(-1, 4, 2))
    for color in dict.fromkeys(colors):
        chosen = [line for line, c in zip(lines, colors) if c == color]
        _polylines(image, chosen, color, closed=True, width=width)


class _Stroke(NamedTuple):
    """The limbs or the points of one colour, of n persons."""

    color: Color
    lines: np.ndarray  # (n, m, k, 2) int32, fixed point; limbs have k 2, points 1
    shown: np.ndarray  # (n, m) bool
    closed: bool
    width: int  # px


def _shown(keypoints: np.ndarray, kpt_thres: float = 0.0) -> np.ndarray:
    """(n, K) bool of (n, K, 3) x y confidence."""
    return (keypoints[..., 2] > kpt_thres) & np.isfinite(keypoints).all(2)


def _strokes(points: np.ndarray, shown: np.ndarray, skel: Skeleton, *, width: int) -> List[_Stroke]:
    """What is to draw of (n, K, 2) points in fixed point, from the back to the front."""
    limbs, dots = _layers(skel)
    strokes = [
        _Stroke(color, points[:, ends], both, closed=False, width=width)
        for color, ends in limbs
        for both in [shown[:, ends[:, 0]] & shown[:, ends[:, 1]]]
    ]
    # a closed line of one point is its round cap: the disc that cv2.circle draws
    return strokes + [
        _Stroke(color, points[:, k, None], shown[:, k], closed=True, width=2 * (width + 1))
        for color, k in dots
    ]


def _apart(
    boxes: np.ndarray, points: np.ndarray, shown: np.ndarray, *, reach: int
) -> List[List[int]]:
    """Groups of persons that do not touch each other, in the order in which to draw them.

    The image is the same as with one person after the other, the first on top: of two that touch,
    the one that is in front is in a later group. Args: reach: px that lines reach beyond points.
    """
    corners = _fixed(boxes).reshape(-1, 2, 2)
    every = np.concatenate([corners, np.where(shown[..., None], points, corners[:, :1])], 1)
    margin = (reach + 2) << SHIFT
    low, high = every.min(1) - margin, every.max(1) + margin
    below = (low[:, None] <= high).all(2)
    touch = below & below.T
    groups: List[List[int]] = []
    level = np.zeros(len(boxes), int)
    for i in range(len(boxes) - 1, -1, -1):
        level[i] = level[i + 1 :][touch[i, i + 1 :]].max(initial=-1) + 1
        if level[i] == len(groups):
            groups.append([])
        groups[level[i]].append(i)
    return groups


def _draw_persons(image: np.ndarray, persons: Sequence[int], strokes: List[_Stroke]) -> None:
    """Limbs and points of persons who do not touch each other.

    The result is that of a cv2.line and a cv2.circle each, but where limbs of different colours
    cross, the one of the later stroke is on top.
    """
    for color, lines, shown, closed, width in strokes:
        chosen = list(lines[persons][shown[persons]])
        if chosen:
            _polylines(image, chosen, color, closed=closed, width=width)


def _polylines(
    image: np.ndarray, lines: List[np.ndarray], color: Color, *, closed: bool, width: int
) -> None:
    """Args: lines: (k, 2) int32 each, fixed point."""
    cv2.polylines(
        image, lines, isClosed=closed, color=color, thickness=width, lineType=cv2.LINE_AA,
        shift=SHIFT,
    )  # fmt: skip


_Layers = List[Tuple[Color, np.ndarray]]


@functools.lru_cache(maxsize=16)
def _layers(skel: Skeleton) -> Tuple[_Layers, _Layers]:
    """Limbs (m, 2) and points (m,) of each colour, from the back to the front.

    The colour of the last limb comes last, so that few crossings look different than with one limb
    after the other; points as their colours come.
    """
    limbs: Dict[Color, List[Tuple[int, int]]] = {}
    for a, b in skel.limbs:
        color = skel.limb_color(a, b)
        limbs[color] = [*limbs.pop(color, []), (a, b)]
    dots: Dict[Color, List[int]] = {}
    for k in range(skel.count):
        dots.setdefault(skel.color(k), []).append(k)
    return (
        [(color, np.array(ends)) for color, ends in limbs.items()],
        [(color, np.array(numbers)) for color, numbers in dots.items()],
    )


def draw_ground_truth(
    image: np.ndarray,
    ground_truth: GroundTruth,
    names: Sequence[str],
    *,
    skel: Optional[Skeleton] = None,
    line_width: int = 0,
    ids: bool = False,
) -> None:
    """Draw annotated persons into a (H, W, 3) uint8 BGR image, in place.

    Args:
        ground_truth: in pixels of this image.
        names: class names; a single one is not written at each box.
        skel: what the keypoints are, see draw_poses.
        line_width: px, 0: by image size.
        ids: the number of each keypoint beside it.

    Points that are labelled but hidden (v 1) have a dark core.
    """
    hw = (image.shape[0], image.shape[1])
    width = line_width or default_line_width(hw)
    skel = skel or skeleton(ground_truth.keypoints.shape[1])
    shown, points = _shown(ground_truth.keypoints), _fixed(ground_truth.keypoints[..., :2])
    strokes = _strokes(points, shown, skel, width=width)
    for i in range(ground_truth.count):
        color = CLASS_COLORS[int(ground_truth.classes[i]) % len(CLASS_COLORS)]
        low, size = ground_truth.boxes[i, :2], ground_truth.boxes[i, 2:]
        box = np.concatenate([low, low + size])
        _draw_boxes(image, box[None], [color], width=width)
        _draw_persons(image, [i], strokes)
        hidden = ground_truth.keypoints[i, :, 2] == 1
        for x, y in _fixed(ground_truth.keypoints[i, hidden, :2]).tolist():
            cv2.circle(image, (x, y), (width + 1) << (SHIFT - 1), (0, 0, 0), -1, cv2.LINE_AA, SHIFT)
        if len(names) > 1:
            draw_label(
                image, names[int(ground_truth.classes[i])], box.tolist(), color=color, width=width
            )
    if ids:
        for points in ground_truth.keypoints:
            for k in np.flatnonzero(points[:, 2] > 0):
                _draw_id(image, str(k), points[k, :2], width=width)


def _draw_id(image: np.ndarray, text: str, point: np.ndarray, *, width: int) -> None:
    """Small outlined text beside a keypoint."""
    x, y = (v >> SHIFT for v in _fixed(point).tolist())
    scale, offset = max(width / 4.0, 0.35), width + 2
    for thickness, color in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        cv2.putText(
            image, text, (x + offset, y - offset), _FONT, scale, color, thickness, cv2.LINE_AA
        )


def draw_label(
    image: np.ndarray, text: str, box: Sequence[float], *, color: Color, width: int
) -> None:
    """Text on a filled patch above the xyxy box, inside the image."""
    text = _ascii(text)
    scale, thickness = max(width / 3.0, 0.4), max(width - 1, 1)
    text_w, text_h = _text_size(text, scale, thickness)
    pad = max(width, 2)
    left, top = (0.0 if v != v else min(max(v, -1e5), 1e5) for v in box[:2])  # NaN: 0
    x = int(min(max(left, 0), max(image.shape[1] - text_w - 2 * pad, 0)))
    y = int(top) if top - text_h - 2 * pad >= 0 else int(top) + text_h + 2 * pad
    cv2.rectangle(image, (x, y - text_h - 2 * pad), (x + text_w + 2 * pad, y), color, -1)
    cv2.putText(
        image, text, (x + pad, y - pad), _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA
    )


@functools.lru_cache(maxsize=1024)
def _text_size(text: str, scale: float, thickness: int) -> Tuple[int, int]:
    """Width and height in px."""
    (w, h), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    return w, h


def _ascii(text: str) -> str:
    """What OpenCV can draw; file names that are not UTF-8 would end the process."""
    return text.encode("ascii", "replace").decode("ascii")


def _fixed(values: np.ndarray) -> np.ndarray:
    """Pixels -> OpenCV fixed point (int32), clipped far outside any image against overflow.

    Continuous coordinates have (0, 0) at the corner of the first pixel, OpenCV at its centre.
    """
    values = np.nan_to_num(values, nan=-1e5, posinf=1e5, neginf=-1e5)
    pixels = np.clip(values - 0.5, -1e5, 1e5)
    return np.rint(pixels * (1 << SHIFT)).astype(np.int32)


class Tile(NamedTuple):
    """One image of a contact sheet."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    ground_truth: Poses  # px of the image
    found: Poses
    title: str


def contact_sheet(
    tiles: Sequence[Tile],
    names: Sequence[str],
    columns: int = 2,
    *,
    skel: Optional[Skeleton] = None,
) -> np.ndarray:
    """Each image twice, labels beside predictions, as one (H, W, 3) uint8 BGR image."""
    cells = []
    for tile in tiles:
        pair = []
        for poses, labels in ((tile.ground_truth, False), (tile.found, True)):
            fitted, scale = _fit_tile(tile.image)
            factor = np.array([scale, scale, 1], np.float32)
            scaled = poses._replace(
                boxes=poses.boxes * np.float32(scale), keypoints=poses.keypoints * factor
            )
            draw_poses(
                fitted, scaled, names, skel=skel, line_width=1, labels=labels, confidences=labels
            )
            pair.append(_center(fitted, TILE_HW))
        bar = np.full((BAR, 2 * TILE_HW[1] + GAP, 3), 255, np.uint8)
        title = _ascii(tile.title[:95])
        cv2.putText(bar, title, (2, BAR - 8), _FONT, 0.42, (50, 50, 50), 1, cv2.LINE_AA)
        gap = np.full((TILE_HW[0], GAP, 3), 255, np.uint8)
        cells.append(np.vstack([bar, np.hstack([pair[0], gap, pair[1]])]))
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    margin = np.full((cells[0].shape[0], 4 * GAP, 3), 255, np.uint8)
    rows = []
    for i in range(0, len(cells), columns):
        row = [cells[i]]
        for cell in cells[i + 1 : i + columns]:
            row += [margin, cell]
        rows.append(np.hstack(row))
    return np.vstack(rows)


TILE_HW, GAP, BAR = (270, 360), 4, 26  # px


def _fit_tile(image: np.ndarray) -> Tuple[np.ndarray, float]:
    scale = min(TILE_HW[0] / image.shape[0], TILE_HW[1] / image.shape[1])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _center(image: np.ndarray, hw: Tuple[int, int]) -> np.ndarray:
    canvas = np.full((hw[0], hw[1], 3), 235, np.uint8)
    top, left = (hw[0] - image.shape[0]) // 2, (hw[1] - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas
