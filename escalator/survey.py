"""What annotations are about, found out from themselves: classes and keypoints.

found = survey("data/hands/annotations")
found.names, found.skeleton, found.lines              # the lines tell where it comes from

A COCO JSON says it in its categories. labelme's files name each point. Our own format holds numbers
alone, so only their count is known, and 17 points are COCO's.
"""

import difflib
import re
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from escalator.jobs import json_files_of
from utils.dataset.coco import CocoData, is_coco, read_coco
from utils.dataset.data_yaml import read_data
from utils.dataset.labelme import OUTLINES, is_labelme
from utils.errors import InputError
from utils.pose.keypoints import COCO, COCO_NAMES, Skeleton, keypoint_name, skeleton
from utils.pose.skeleton import read_skeleton
from utils.reading import read_json, shown
from utils.words import counted

PERSON = ["person"]
ENOUGH = 50  # files of our own format that are looked at
FEW = 5  # of so many labels a point that is there once may be a slip
SELDOM = 0.05  # a point that is there so seldom beside the others may be a slip
SELDOM_FILES = 2  # in so many files a point may be a slip of one of a similar name,
SIMILAR = 0.8  # which difflib finds so similar, in FEW files or more
SHOWN = 40  # names in a line


class Points(NamedTuple):
    """What the annotations hold."""

    names: List[str]  # of the classes
    skeleton: Skeleton
    lines: List[str]  # for people


def survey(
    source: str, names: Optional[Sequence[str]] = None, nkpt: int = 0, *, data: str = ""
) -> Points:
    """Classes and keypoints of annotations.

    Args:
        names: class names, None: as found. nkpt: keypoints, 0: as found.
        data: a data yaml that declares them; empty: the annotations tell.

    Raises InputError for annotations that contradict each other or these arguments.
    """
    if data:
        declared = read_data(data)
        _check_names(source, declared.skeleton, data)
        return Points(list(names or declared.names), declared.skeleton, [])
    own: List[List[int]] = []
    shapes: List[Tuple[str, List[Any]]] = []
    for file in json_files_of(source):
        try:
            content = read_json(file, "COCO JSON")
        except InputError:
            continue  # is told where it is converted
        if is_coco(content):
            coco = read_coco(file, names, nkpt or None, faults=[])
            lines = _of_categories(content, coco)
            return _told(Points(coco.names, coco.skeleton, lines), file)
        if is_labelme(content):
            shapes.append((file, content["shapes"]))
        elif isinstance(content, list):
            own += [e["keypoints"] for e in content if isinstance(e, dict) and _filled(e)]
            if len(own) >= ENOUGH and not shapes:
                break
    if shapes:
        return _told(_of_labelme(shapes, names, nkpt), shapes[0][0])
    count = nkpt or _count(own)
    return Points(list(names or PERSON), skeleton(count), [])


def _check_names(source: str, skel: Skeleton, data: str) -> None:
    """Raises InputError where all JSON files are labelme's and no point is named as a keypoint."""
    known = set(map(keypoint_name, skel.names))
    labels: Dict[str, None] = {}  # in the order of the files
    files = 0
    for file in json_files_of(source):
        try:
            content = read_json(file, "annotation")
        except InputError:
            continue  # is told where it is converted
        if not is_labelme(content):
            return
        found = _point_labels(content["shapes"])
        if any(keypoint_name(label) in known for label in found):
            return
        files += bool(found)
        labels.update(dict.fromkeys(found))
    if labels:
        names = list(labels)
        raise InputError(
            "`json_dir` %s: points %s (%s in %s) are not among the keypoints of %s; name them "
            "there as kpt_names, or leave out `data`, and the annotations tell"
            % (source, ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else ""),
               counted(len(names), "name"), counted(files, "file"), data)
        )  # fmt: skip


def _point_labels(shapes: Sequence[Any]) -> List[str]:
    """Labels of the points among labelme's shapes."""
    found = (s for s in shapes if isinstance(s, dict) and s.get("shape_type") == "point")
    return [shown(shape.get("label"))[:40] for shape in found]


def _of_categories(content: Dict[str, Any], coco: CocoData) -> List[str]:
    """What a COCO JSON, read as `coco`, has more or less of than its keypoints."""
    lines, count = [], coco.skeleton.count
    for entry in content["categories"]:
        names = entry.get("keypoints") if entry["id"] in coco.category_ids else None
        if names and len(names) < count:
            lines.append(
                "note: %s has %d of the %d keypoints, the others count as not labelled"
                % (entry.get("name"), len(names), count)
            )
    first = next((e for e in content["annotations"] if isinstance(e, dict)), {})
    more = [key for key in first if str(key).endswith("_kpts")]
    if more:
        lines.append("note: %s of COCO-WholeBody are passed over" % ", ".join(more))
    return lines


def _filled(entry: Dict[str, Any]) -> bool:
    return isinstance(entry.get("keypoints"), list) and bool(entry["keypoints"])


def _count(rows: Sequence[List[Any]]) -> int:
    """Keypoints of rows of 2K or 3K numbers; the usual ones where nothing is known."""
    # points may be lists of their own, see utils/dataset/annotations.py
    rows = [[v for p in row for v in (p if isinstance(p, list) else [p])] for row in rows]
    lengths = Counter(len(row) for row in rows)
    if not lengths:
        return len(COCO_NAMES)
    length = lengths.most_common(1)[0][0]
    if length in (2 * len(COCO_NAMES), 3 * len(COCO_NAMES)):
        return len(COCO_NAMES)
    visible = all(v in (0, 1, 2) for row in rows if len(row) == length for v in row[2::3])
    if length % 3 == 0 and (length % 2 or visible):
        return length // 3
    return max(length // 2, 1)


def _told(points: Points, file: str) -> Points:
    """With lines about what is not COCO's person."""
    skel, lines = points.skeleton, list(points.lines)
    if not skel.is_coco:
        listed = ", ".join(skel.names[:SHOWN]) + (", ..." if skel.count > SHOWN else "")
        lines.insert(
            0,
            "%s, not COCO's, as %s names them: %s"
            % (counted(skel.count, "keypoint"), file, listed),
        )
    if skel.is_coco and points.names == PERSON:
        return points._replace(lines=lines)
    lines.insert(0, "classes: %s" % ", ".join(points.names))
    return points._replace(lines=lines)


def _of_labelme(
    files: Sequence[Tuple[str, List[Any]]], names: Optional[Sequence[str]], nkpt: int
) -> Points:
    counts: Counter = Counter()
    places: Counter = Counter()  # files of a point
    first: Dict[str, str] = {}  # point -> file
    best: List[str] = []  # points of the group that has most of them
    outlines: Dict[str, bool] = {}  # class -> shares a group with points
    for file, shapes in files:
        groups: Dict[Any, List[str]] = {}
        boxes: List[Tuple[str, Any]] = []
        before = Counter(counts)
        for shape in shapes:
            if not isinstance(shape, dict):
                continue
            label, group = str(shape.get("label")), str(shape.get("group_id"))
            if shape.get("shape_type") == "point":
                groups.setdefault(group, []).append(label)
                counts[label] += 1
                first.setdefault(label, file)
            elif shape.get("shape_type") in OUTLINES:
                boxes.append((label, group))
        places.update((counts - before).keys())
        for labels in groups.values():
            if len(set(labels)) > len(best):
                best = list(dict.fromkeys(labels))
        for label, group in boxes:
            outlines[label] = outlines.get(label, False) or group in groups
    pointed = [label for label, known in outlines.items() if known] or list(outlines)
    skel = _points_of_labels(counts, best)
    lines = [] if skel.is_coco else slips(counts, places, first)
    if nkpt and nkpt != skel.count:
        raise InputError(
            "`nkpt` %d, but the points have %d names: %s"
            % (nkpt, skel.count, ", ".join(skel.names))
        )
    found = list(names) if names else (PERSON if skel.is_coco else pointed or ["object"])
    return Points(found, skel, lines)


def _points_of_labels(counts: Counter, best: Sequence[str]) -> Skeleton:
    """The keypoints of all labels of points: COCO's, by number, or in the order of the fullest
    group."""
    if not counts or all(keypoint_name(label) in COCO_NAMES for label in counts):
        return COCO
    labels = [*best, *(label for label in counts if label not in best)]
    if all(label.isdecimal() for label in labels):
        labels.sort(key=int)
    try:
        return read_skeleton({"kpt_names": labels}).skeleton
    except ValueError as e:
        raise InputError("the points of labelme: %s" % e) from e


def slips(counts: Counter, places: Counter, first: Dict[str, str]) -> List[str]:
    """Lines about points that may be misspelt: far rarer than the others, or in one or two files
    while one of a similar name is in many.

    Args: counts: of each label. places: files that it is in. first: the first of these.
    """
    lines = []
    most = max(counts.values(), default=0)
    common = [label for label in counts if places[label] >= FEW]
    for label, count in counts.items():
        others = [c for c in common if _in_letters(c) != _in_letters(label)]
        similar = difflib.get_close_matches(label, others, 1, SIMILAR)
        if places[label] <= SELDOM_FILES and similar:
            why = "%s only, %s in %d" % (
                counted(places[label], "file"), similar[0], places[similar[0]]
            )  # fmt: skip
        elif count < max(SELDOM * most, 2 if most >= FEW else 0):
            why = "%s only" % counted(count, "place")
        else:
            continue
        lines.append(
            "note: point %s is in %s (first in %s); if it is a slip, correct it, or name the "
            "keypoints in a data yaml (--data)" % (label, why, first[label])
        )
    return lines


def _in_letters(label: str) -> str:
    """A label without its numbers: index_1 and index_2 are no slips of each other."""
    return re.sub(r"\d+", "0", label)
