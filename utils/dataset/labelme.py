"""JSON files of labelme: one an image, shapes that belong together by their group_id.

A person is a rectangle (or polygon) named as a class, and points named as keypoints, `nose`,
`left_eye`, ..., with the same group_id. Points without a group belong to the only rectangle, or
to the only one they lie in. A point whose flags or description say occluded or hidden, or that
X-AnyLabeling marks as difficult, is v 1, every other v 2. Points without a rectangle: the box is
made of them.
"""

from collections import Counter
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.annotations import Annotation, Fault, Row, numbers, stack
from utils.dataset.coco import MAX_SIDE
from utils.pose.keypoints import Skeleton, keypoint_name
from utils.reading import is_integer, shown

OUTLINES = ("rectangle", "polygon")
HIDDEN = ("occluded", "hidden", "invisible")
OTHER_TYPES = "shapes of labelme other than rectangles, polygons and points"
OTHER_NAMES = "shapes of labelme of another class"


class _Group(NamedTuple):
    name: str  # for messages
    box: Optional[np.ndarray]  # (4,) x y width height
    cls: int
    points: Dict[int, Tuple[float, float, int]]  # keypoint -> x, y, v


_Numbered = Tuple[int, Dict[str, Any]]  # number of a shape from 1, what `_shape` makes of it


def is_labelme(content: object) -> bool:
    """Whether the content of a JSON file is meant as labelme's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def parse_labelme(content: Dict[str, Any], names: Sequence[str], skel: Skeleton) -> Annotation:
    """The content of a labelme file.

    Args: names: class names; with a single one, a rectangle of any name that shares its group
    with points is a person.
    """
    faults: List[Fault] = []
    notes: Counter = Counter()
    outlines, points = _sorted_shapes(content["shapes"], faults, notes)
    pointed = {shape["group_id"] for _, shape in points if shape["group_id"] is not None}
    groups: List[_Group] = []
    by_id: Dict[Any, _Group] = {}
    for number, shape in outlines:
        group_id = shape["group_id"]
        known = shape["label"] in names
        if not known and not (len(names) == 1 and group_id in pointed):
            notes[OTHER_NAMES] += 1
            continue
        if group_id in by_id:
            faults.append(Fault("shape %d" % number, "a second box in group %s" % group_id))
            continue
        low, high = shape["xy"].min(0), shape["xy"].max(0)
        cls = list(names).index(shape["label"]) if known else 0
        group = _Group("person %d" % (len(groups) + 1), np.r_[low, high - low], cls, {})
        groups.append(group)
        if group_id is not None:
            by_id[group_id] = group
    boxed = list(groups)
    loose: Dict[Any, _Group] = {}  # persons without a box
    for number, k, shape in _keypoints(points, skel, faults):
        try:
            person = by_id.get(shape["group_id"]) if shape["group_id"] is not None else None
            if person is None and shape["group_id"] is None and boxed:
                person = _around(shape["xy"][0], boxed)
            if person is None:
                person = loose.get(shape["group_id"])
            if person is None:
                person = _Group("person %d" % (len(groups) + 1), None, 0, {})
                groups.append(person)
                loose[shape["group_id"]] = person
            if k in person.points:
                raise ValueError("a second %s of %s" % (shape["label"], person.name))
        except ValueError as e:
            faults.append(Fault("shape %d" % number, str(e)))
            continue
        person.points[k] = (*shape["xy"][0].tolist(), 1 if shape["hidden"] else 2)
    rows = [_row(group, skel.count) for group in groups]
    h, w = content.get("imageHeight"), content.get("imageWidth")
    image = content.get("imagePath")
    return Annotation(
        stack(rows, skel.count),
        [group.name for group in groups],
        image.replace("\\", "/") if isinstance(image, str) and image else None,
        (int(h or 0), int(w or 0)) if all(is_integer(v, 1, MAX_SIDE) for v in (h, w)) else None,
        faults,
        notes,
    )


def _sorted_shapes(
    shapes: List[Any], faults: List[Fault], notes: Counter
) -> Tuple[List[_Numbered], List[_Numbered]]:
    """Outlines and points with their numbers; what else there is goes to `faults` and `notes`."""
    outlines, points = [], []
    for number, entry in enumerate(shapes, 1):
        try:
            kind, shape = _shape(entry)
        except ValueError as e:
            faults.append(Fault("shape %d" % number, str(e)))
            continue
        if kind == "point":
            points.append((number, shape))
        elif kind in OUTLINES:
            outlines.append((number, shape))
        else:
            notes[OTHER_TYPES] += 1
    return outlines, points


def _shape(shape: Any) -> Tuple[str, Dict[str, Any]]:
    """Type of a shape, and its label, group_id, xy (n, 2) px, hidden."""
    if not isinstance(shape, dict):
        raise ValueError("expected label, points, shape_type")
    kind = shown(shape.get("shape_type") or "polygon")
    if kind not in OUTLINES + ("point",):
        return kind, {}
    label = shown(shape.get("label"))
    group_id = shape.get("group_id")
    if not isinstance(group_id, (int, str, type(None))):
        raise ValueError("%s: group_id is not a number" % label)
    xy = numbers(shape.get("points"), "%s: points" % label)
    if not len(xy) or len(xy) % 2 or (kind == "point" and len(xy) != 2):
        raise ValueError("%s: points: %d numbers" % (label, len(xy)))
    flags = shape.get("flags")
    words = [k for k, v in flags.items() if v] if isinstance(flags, dict) else []
    words += shown(shape.get("description") or "", 1000).split()
    hidden = any(shown(word).lower() in HIDDEN for word in words) or shape.get("difficult") is True
    return kind, {
        "label": label, "group_id": group_id, "xy": xy.reshape(-1, 2), "hidden": hidden,
    }  # fmt: skip


def _keypoints(
    points: List[_Numbered], skel: Skeleton, faults: List[Fault]
) -> Iterator[Tuple[int, int, Dict[str, Any]]]:
    """(number, keypoint, shape) of each point that is a keypoint; the others go to `faults`."""
    known = {name: k for k, name in enumerate(map(keypoint_name, skel.names))}
    for number, shape in points:
        k = known.get(keypoint_name(shape["label"]))
        if k is not None:
            yield number, k, shape
        else:
            label = shape["label"][:40]
            reason = "point %s is not among the keypoints" % label
            faults.append(Fault("shape %d" % number, reason, point=label))


def _around(xy: np.ndarray, groups: List[_Group]) -> _Group:
    """The person a point without a group belongs to."""
    if len(groups) == 1:
        return groups[0]
    found = []
    for group in groups:
        assert group.box is not None
        if (xy >= group.box[:2]).all() and (xy <= group.box[:2] + group.box[2:]).all():
            found.append(group)
    if len(found) != 1:
        raise ValueError(
            "a point at %g, %g without group_id, inside %d boxes" % (*xy.tolist(), len(found))
        )
    return found[0]


def _row(group: _Group, nkpt: int) -> Row:
    points = np.zeros((nkpt, 3))
    for k, point in group.points.items():
        points[k] = point
    box = group.box if group.box is not None else np.full(4, np.nan)
    return box, group.cls, points, np.nan
