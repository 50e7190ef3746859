"""The keypoints that the categories of a COCO JSON declare.

layout = read(categories, annotations, nkpt=None)
layout.skeleton.names, layout.ordered(annotation)
keys(skeleton)                                    # for a category that is written

Categories hold `keypoints` (names) and `skeleton` (pairs, 1-based); those that this toolkit writes
also flip_idx, kpt_sigmas and kpt_colors (utils/pose/skeleton.py), which other readers pass over.
"""

from collections import Counter
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

from utils.pose.keypoints import COCO, COCO_NAMES, Skeleton, keypoint_name, skeleton
from utils.pose.skeleton import read_skeleton, skeleton_keys

SHOWN = 4  # names in a message


class CategoryLayout(NamedTuple):
    """What the keypoints of the annotations are, and where each of them is found."""

    skeleton: Skeleton
    # category id -> source of each of the 3K numbers, None: a keypoint that the category lacks
    orders: Dict[int, Optional[List[Optional[int]]]]
    counts: Dict[int, int]  # category id -> keypoints of its annotations, where it tells

    def count_of(self, category: object) -> int:
        """Keypoints that an annotation of a category has."""
        return self.counts.get(category, self.skeleton.count)  # type: ignore[call-overload]

    def ordered(self, annotation: Dict[str, Any]) -> List[float]:
        """The 3K numbers of an annotation of one of the categories, in the skeleton's order."""
        points, order = annotation["keypoints"], self.orders.get(annotation["category_id"])
        return points if order is None else [0 if k is None else points[k] for k in order]


def read(
    categories: Sequence[Dict[str, Any]],
    annotations: Sequence[Dict[str, Any]],
    nkpt: Optional[int],
    *,
    wanted: Optional[Skeleton] = None,
) -> CategoryLayout:
    """The common keypoints of some categories: those of the one that has most.

    A category may lack some of them by name; they are not labelled then.

    Args:
        categories: with id; those without keypoints hold boxes alone.
        annotations: their lengths count where no category tells.
        nkpt: keypoints there have to be, None: as many as are found.
        wanted: what they have to be; None: what the categories say.

    Raises ValueError (reason only) if categories contradict each other, `nkpt` or `wanted`.
    """
    named = {entry["id"]: _names(entry) for entry in categories if entry.get("keypoints")}
    titles = {entry["id"]: str(entry.get("name")) for entry in categories}
    counts = {key: len(names) for key, names in named.items()}
    categories = sorted(categories, key=lambda entry: -counts.get(entry["id"], 0))
    lists = sorted(named.values(), key=len, reverse=True)
    if len(set(counts.values())) > 1 and not _all_among(lists):
        raise ValueError(
            "categories with different numbers of keypoints (%s); a model has one list for all: "
            "choose those that are alike with `names`, and train a model for each"
            % ", ".join("%s %d" % (titles[key], n) for key, n in list(counts.items())[:SHOWN])
        )
    count = max(counts.values(), default=None) or _count(annotations, set(titles)) or nkpt
    if nkpt is not None and count is not None and counts and count != nkpt:
        raise ValueError("categories: %d keypoints, expected %d (kpt_shape, nkpt)" % (count, nkpt))
    found = _skeleton(categories, named, nkpt or count or len(COCO_NAMES))
    target = found if wanted is None or wanted.numbered else wanted
    orders = {}
    for key, names in named.items():
        order = _order(names, target.names)
        if order is None and not _numbered(names) and not target.numbered:
            if wanted is None:
                raise ValueError(
                    "categories disagree about the keypoints: %s have %s, %s has %s"
                    % (titles[next(iter(named))], _some(target.names), titles[key], _some(names))
                )
            raise ValueError(
                "category %s: keypoints %s, expected %s" % (titles[key], _some(names),
                                                           _some(target.names))
            )  # fmt: skip
        if order is None:  # numbers: by place
            order = [k if k < len(names) else None for k in range(target.count)]
        same = order == list(range(len(names)))
        orders[key] = None if same else _of_numbers(order)
    return CategoryLayout(target, orders, counts)


def _all_among(lists: Sequence[Sequence[str]]) -> bool:
    """Whether all names of the other lists are in the first."""
    known = set(map(keypoint_name, lists[0]))
    return all(known.issuperset(map(keypoint_name, names)) for names in lists[1:])


def _of_numbers(order: Sequence[Optional[int]]) -> List[Optional[int]]:
    """Where the x y v of keypoints are, of where the keypoints are."""
    return [None if k is None else 3 * k + i for k in order for i in range(3)]


def entries(names: Sequence[str], ids: Iterable[int], skel: Skeleton) -> List[Dict[str, Any]]:
    """The categories of a file: one a class, each with the keypoints."""
    return [
        {"id": key, "name": name, "supercategory": name, **keys(skel)}
        for key, name in zip(ids, names)
    ]


def keys(skel: Skeleton) -> Dict[str, Any]:
    """The entries of a category that tell its keypoints."""
    declared = skeleton_keys(skel)
    del declared["kpt_shape"]
    names, limbs = declared.pop("kpt_names"), declared.pop("skeleton")
    usual = skel == COCO  # COCO's own file has no more than this
    return {"keypoints": names, "skeleton": limbs, **({} if usual else declared)}


def _names(entry: Dict[str, Any]) -> List[str]:
    names = entry["keypoints"]
    if not isinstance(names, list):
        raise ValueError("category %s: keypoints are no list of names" % entry.get("name"))
    known = Counter(keypoint_name(str(name)) for name in names)
    twice = next((name for name, n in known.items() if n > 1), None)
    if twice is not None:
        raise ValueError("category %s: keypoint %s is there twice" % (entry.get("name"), twice))
    return [str(name) for name in names]


def _count(annotations: Sequence[Any], ids: Any) -> Optional[int]:
    """Keypoints of the first annotation of these categories that has any."""
    for entry in annotations:
        if isinstance(entry, dict) and entry.get("category_id") in list(ids):
            points = entry.get("keypoints")
            if isinstance(points, list) and points and len(points) % 3 == 0:
                return len(points) // 3
    return None


def _skeleton(
    categories: Sequence[Dict[str, Any]], named: Dict[int, List[str]], count: int
) -> Skeleton:
    """What the first category with names says; COCO's names in any order are COCO's."""
    entry = next((e for e in categories if e["id"] in named), None)
    if entry is None or _numbered(named[entry["id"]]):
        more = {} if entry is None else _more(entry)
        return read_skeleton({**more, "nkpt": count}).skeleton if more else skeleton(count)
    names = named[entry["id"]]
    if sorted(map(keypoint_name, names)) == sorted(COCO_NAMES):
        return COCO
    content = {**_more(entry), "kpt_names": names, "skeleton": entry.get("skeleton")}
    try:
        return read_skeleton(content).skeleton
    except ValueError:  # limbs that count from 0, or worse: the points are none the worse for it
        return read_skeleton({**content, "skeleton": None}).skeleton


def _more(entry: Dict[str, Any]) -> Dict[str, Any]:
    return {key: entry[key] for key in ("flip_idx", "kpt_sigmas", "kpt_colors") if entry.get(key)}


def _order(names: Sequence[str], target: Sequence[str]) -> Optional[List[Optional[int]]]:
    """Where each target keypoint is among the names, None if they are others.

    A target keypoint that is not among them has no place.
    """
    known = {keypoint_name(name): k for k, name in enumerate(names)}
    wanted = [keypoint_name(name) for name in target]
    return [known.get(name) for name in wanted] if known.keys() <= set(wanted) else None


def _numbered(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
