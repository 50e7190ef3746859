"""Annotations as people have them: read from JSON, checked person by person, fitted to the image.

    annotation = read_annotation("annotations/a.json", ["person"], COCO)
    fitted = fit(annotation, image_hw)                # .ground_truth, .faults, .notes
    print(*fitted.faults, sep="\n")                   # `person 2: bbox: 3 numbers, ...`

One file an image, either our own format, a list of persons

    [{"keypoints": [x1, y1, ..., x17, y17], "bbox": [x, y, w, h]}, ...]

in pixels (34 numbers: 0, 0 is missing, every other point visible; 51 numbers x, y, v: v is kept;
bbox [] or none: from the keypoints; "class" and "area" if known), or a file of labelme
(utils/dataset/labelme.py). Many images a file: COCO JSON (utils/dataset/coco.py).
"""

from collections import Counter
from difflib import get_close_matches
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import AREA_OF_BOX
from utils.pose.letterbox import HW
from utils.reading import is_number, shown

# A point at most this far outside, over the width or height of the image, is a slip of the hand.
OUTSIDE = 0.02
# A box made of keypoints is this much larger on each side, over their longer side: about what
# COCO's annotators leave at the sides and feet of people with most keypoints; heads need more.
MARGIN = 0.1
MAX_VALUE = 1e9  # px
KEYS = ("keypoints", "bbox", "class", "area")  # of a person in our own format
OTHER_NAMES = {  # that other tools and people give them
    "keypoints": ("kpts", "kps", "joints", "points", "landmarks", "pose"),
    "bbox": ("box", "rect", "xywh"),
    "class": ("class_id", "category_id", "category", "label", "cls"),
}
THINNEST = 0.1  # px; a box of less has nothing on it

# What is counted on the way, as the summary prints it
CLIPPED = "boxes cut at the border of the image"
FROM_POINTS = "boxes made of the keypoints"
MOVED = "points up to %g %% outside the image moved to its border" % (100 * OUTSIDE)
DROPPED = "points further outside the image, now not labelled"
NO_POINTS = "persons without a labelled keypoint"
CROWDS = "crowds left out"


class Fault(NamedTuple):
    """Something that could not be converted."""

    path: str  # the file, and the place in it; empty: the reason names them
    reason: str
    point: Optional[str] = None  # the name of a point that is not among the keypoints

    def __str__(self) -> str:
        return "%s: %s" % (self.path, self.reason) if self.path else self.reason

    def within(self, path: str) -> "Fault":
        """The same, where the place is one in the file `path`."""
        return self._replace(path="%s, %s" % (path, self.path) if self.path else path)


class Annotation(NamedTuple):
    """What a file says about one image; boxes and areas that it does not give are NaN."""

    ground_truth: GroundTruth
    persons: List[str]  # of each row of the ground truth, how a message calls it
    image: Optional[str] = None  # file name of the image, if the file says it
    hw: Optional[HW] = None  # (height, width) px, if the file says it
    faults: List[Fault] = []  # persons and shapes that were left out
    notes: Dict[str, int] = {}  # what was passed over


class Fitted(NamedTuple):
    """An Annotation that has been brought onto its image."""

    ground_truth: GroundTruth
    faults: List[Fault]
    notes: Dict[str, int]


class IsCoco(Exception):
    """The file is a COCO JSON, with many images."""


def parse_persons(content: object, nc: int, nkpt: int) -> Annotation:
    """The content of a file in our own format. Raises ValueError if it is not a list."""
    if not isinstance(content, list):
        raise ValueError("expected a list of persons, a labelme or a COCO JSON")
    rows, persons, faults = [], [], []
    for number, entry in enumerate(content, 1):
        name = "person %d" % number
        try:
            rows.append(_person(entry, nc, nkpt))
            persons.append(name)
        except ValueError as e:
            faults.append(Fault(name, str(e)))
    return Annotation(stack(rows, nkpt), persons, faults=faults)


Row = Tuple[np.ndarray, int, np.ndarray, float]  # box (4,) xywh, class, keypoints (K, 3), area


def stack(rows: Sequence[Row], nkpt: int) -> GroundTruth:
    """Persons, one after the other, as GroundTruth."""
    count = len(rows)
    return GroundTruth(
        np.array([r[0] for r in rows], np.float64).reshape(count, 4),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.float64).reshape(count, nkpt, 3),
        np.array([r[3] for r in rows], np.float64),
        np.zeros(count, bool),
    )


def _person(entry: Any, nc: int, nkpt: int) -> Row:
    if not isinstance(entry, dict):
        raise ValueError("expected keypoints and bbox")
    if "keypoints" not in entry and "bbox" not in entry:
        keys = ", ".join(shown(key) for key in list(entry)[:10])
        raise ValueError("neither keypoints nor bbox; its keys: %s" % keys)
    _check_names(entry, nc)
    cls = entry.get("class", 0)
    if type(cls) is not int or not 0 <= cls < nc:
        raise ValueError("class %s, expected 0 to %d" % (shown(cls), nc - 1))
    area = entry.get("area")
    if area is not None and not is_number(area, 0):
        raise ValueError("area %s: expected px, at least 0" % shown(area))
    area = np.nan if area is None else float(area)
    return parse_box(entry.get("bbox")), cls, parse_keypoints(entry.get("keypoints"), nkpt), area


def _check_names(entry: Dict[str, Any], nc: int) -> None:
    """Raise ValueError for a key that means another one, which nobody would read.

    It would cost all keypoints, boxes or classes without a word.
    """
    others = {str(k).lower(): str(k) for k in entry if k not in KEYS}
    wanted = ("keypoints", "bbox") + (("class",) if nc > 1 else ())
    for key in (key for key in wanted if key not in entry):
        meant = [n for n in (key, *OTHER_NAMES[key]) if n in others]
        meant = meant or get_close_matches(key, others, 1, 0.75)
        if meant:
            raise ValueError("no %s, but %s; if that is meant, rename it to %s"
                             % (key, shown(others[meant[0]]), key))  # fmt: skip


def parse_box(values: object) -> np.ndarray:
    """(4,) x y width height; NaN for none, [] or only zeros."""
    box = numbers([] if values is None else values, "bbox")
    if not box.any():
        return np.full(4, np.nan)
    if len(box) != 4:
        raise ValueError("bbox: %d numbers, expected x, y, width, height or none" % len(box))
    if box[2] <= 0 or box[3] <= 0:
        raise ValueError("bbox %g x %g px: width and height must be above 0" % tuple(box[2:]))
    return box


def parse_keypoints(values: object, nkpt: int) -> np.ndarray:
    """(K, 3) x y v of 2K numbers (0, 0 is missing), 3K numbers, or none."""
    points = numbers([] if values is None else values, "keypoints")
    if len(points) == 3 * nkpt:
        points = points.reshape(nkpt, 3)
        if ((points[:, 2] != 0) & (points[:, 2] != 1) & (points[:, 2] != 2)).any():
            raise ValueError("keypoints: a visibility is not 0, 1 or 2")
        return points
    if len(points) == 2 * nkpt:
        points = points.reshape(nkpt, 2)
        return np.concatenate([points, 2.0 * points.any(1, keepdims=True)], 1)
    if not len(points):
        return np.zeros((nkpt, 3))
    raise ValueError(
        "keypoints: %d numbers, expected %d (x, y) or %d (x, y, v)"
        % (len(points), 2 * nkpt, 3 * nkpt)
    )


def numbers(values: object, what: str, finite: bool = True) -> np.ndarray:
    """A flat array of a JSON list of numbers, or of points. Raises ValueError."""
    if not isinstance(values, list):
        raise ValueError("%s: expected a list of numbers" % what)
    try:
        array = np.array(values, np.float64).ravel()
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError("%s: not a list of numbers" % what) from None
    if finite and not (np.abs(array) <= MAX_VALUE).all():
        raise ValueError("%s: a number is NaN, null, infinite or beyond %g" % (what, MAX_VALUE))
    return array


def fit(annotation: Annotation, hw: HW) -> Fitted:
    """Bring persons onto an image of (height, width) px.

    Points a little outside are moved to the border, those further outside become not labelled;
    missing boxes are made of the labelled points; boxes are cut at the border; missing areas are
    AREA_OF_BOX of the box; crowds are left out. All of it is counted.
    """
    ground_truth, faults, notes = (
        annotation.ground_truth,
        list(annotation.faults),
        Counter(annotation.notes),
    )
    keypoints = _fit_points(ground_truth.keypoints, hw, notes)
    labelled = keypoints[..., 2] > 0
    boxes = ground_truth.boxes.copy()
    limit = np.array([hw[1], hw[0]], np.float64)
    keep = ~ground_truth.crowd
    notes[CROWDS] += int(ground_truth.crowd.sum())
    for i in np.flatnonzero(keep):
        try:
            boxes[i] = _fit_box(boxes[i], keypoints[i, labelled[i], :2], limit, notes=notes)
        except ValueError as e:
            faults.append(Fault(annotation.persons[i], str(e)))
            keep[i] = False
    notes[NO_POINTS] += int((keep & ~labelled.any(1)).sum())
    areas = np.where(
        np.isnan(ground_truth.areas), boxes[:, 2] * boxes[:, 3] * AREA_OF_BOX, ground_truth.areas
    )
    fitted = GroundTruth(boxes, ground_truth.classes, keypoints, areas, ground_truth.crowd)
    return Fitted(
        GroundTruth(*(field[keep] for field in fitted)),
        faults,
        {k: v for k, v in notes.items() if v},
    )


def _fit_points(keypoints: np.ndarray, hw: HW, notes: Counter) -> np.ndarray:
    """(n, K, 3): labelled points inside the image, 0, 0, 0 for the others."""
    limit = np.array([hw[1], hw[0]], np.float64)
    xy, labelled = keypoints[..., :2], keypoints[..., 2] > 0
    inside = xy.clip(0, limit)
    distance = (np.abs(xy - inside) / limit).max(-1)
    moved = labelled & (distance > 0)
    if moved.any():
        dropped = labelled & (distance > OUTSIDE)
        notes[MOVED] += int((moved & ~dropped).sum())
        notes[DROPPED] += int(dropped.sum())
        labelled = labelled & ~dropped
    return np.concatenate([inside, keypoints[..., 2:]], -1) * labelled[..., None]


def _fit_box(
    box: np.ndarray, points: np.ndarray, limit: np.ndarray, *, notes: Counter
) -> np.ndarray:
    """(4,) x y width height inside the image; points (m, 2) labelled keypoints."""
    if np.isnan(box).any():
        low, high = box_of_points(points)
        notes[FROM_POINTS] += 1
        return _xywh(low.clip(0), np.minimum(high, limit))
    corner = box[:2] + box[2:]
    low, high = box[:2].clip(0), np.minimum(corner, limit)
    if ((high - low) < np.minimum(THINNEST, box[2:])).any() or (box[2:] < THINNEST).any():
        raise ValueError(
            "bbox %g %g %g %g: thinner than %g px on an image of %g x %g px"
            % (*box, THINNEST, *limit)
        )
    if (corner > high + 1e-6).any() or (box[:2] < low).any():
        notes[CLIPPED] += 1
        return _xywh(low, high)
    return box


def box_of_points(points: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Both corners of the box around (m, 2) points, MARGIN of their longer side around them.

    Raises ValueError for less than two different points.
    """
    if not len(points):
        raise ValueError("neither a bbox nor a labelled keypoint inside the image")
    low, high = points.min(0), points.max(0)
    side = (high - low).max()
    if side < 1:
        raise ValueError("no bbox, and one point cannot make one")
    return low - MARGIN * side, high + MARGIN * side


def _xywh(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.concatenate([low, high - low])
