"""The declaration of keypoints: read from a data yaml or a model file, written into a model file.

    declared = read_skeleton({"kpt_shape": [4, 3], "flip_idx": [1, 0, 3, 2]})
    declared.skeleton.flip_index                      # (1, 0, 3, 2)
    skeleton_keys(declared.skeleton)                  # the same keys, complete

Keys, the same everywhere, all optional:

    kpt_shape: [K, 3]            K keypoints; 3: labels hold x y v, 2: labels hold x y
    nkpt: K                      the same without the shape of the labels
    kpt_names: [wrist, ...]      K names (or a mapping of class to such a list)
    flip_idx: [1, 0, ...]        K numbers from 0: where each point is in a mirrored image
    skeleton: [[1, 2], ...]      limbs, pairs of keypoints: numbers from 1 as in COCO, or names
    kpt_sigmas: [0.07, ...]      K OKS sigmas above 0 (or one for all); also called sigmas
    kpt_colors: [[255, 0, 0]]    K colours, RGB 0..255 or "#ff0000"

What is missing is COCO's if there are 17 keypoints and no key says otherwise. Else left/right pairs
come from the names where they tell them (left_eye, right_eye), and without such names there are
none; limbs are none and all sigmas DEFAULT_SIGMA.
"""

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

from utils.pose.keypoints import (
    COCO,
    COCO_NAMES,
    Color,
    Skeleton,
    keypoint_name,
    plain_skeleton,
    skeleton,
    skeleton_of_names,
)

KEYS = ("nkpt", "kpt_shape", "kpt_names", "flip_idx", "skeleton", "kpt_sigmas", "sigmas",
        "kpt_colors")  # fmt: skip
MAX_KEYPOINTS = 1000
Key = TypeVar("Key")
Value = TypeVar("Value")


class Declared(NamedTuple):
    """What a data yaml or a model file says about its keypoints."""

    skeleton: Skeleton
    dims: int  # values of a point in a label: 3 x y v, 2 x y
    told: Tuple[str, ...]  # the keys that are there

    @property
    def names_told(self) -> bool:
        """Whether it says what the points are, not only how many."""
        return any(key in self.told for key in ("kpt_names", "flip_idx", "skeleton"))

    @property
    def sigmas_told(self) -> bool:
        return "kpt_sigmas" in self.told or "sigmas" in self.told


def read_skeleton(content: Mapping[str, Any], default: Optional[int] = None) -> Declared:
    """Read and check the keys of a declaration.

    Args:
        content: a mapping that may hold other keys, too.
        default: number of keypoints where no key tells it, None: COCO's.

    Raises ValueError, `key: reason`, for keys that make no sense or contradict each other.
    """
    told = tuple(key for key in KEYS if content.get(key) is not None)
    count, dims = _count(content, len(COCO_NAMES) if default is None else default)
    names = _names(content.get("kpt_names"), count)
    flip = _flip(content.get("flip_idx"), count)
    base = _base(names, flip, content.get("skeleton"), count=count)
    limbs = _limbs(content.get("skeleton"), base.names)
    sigmas = _sigmas(content, count)
    found = base._replace(
        flip_index=base.flip_index if flip is None else (flip or None),
        limbs=base.limbs if limbs is None else limbs,
        sigmas=sigmas or base.sigmas,
        colors=_colors(content.get("kpt_colors"), count),
    )
    return Declared(found, dims, told)


def skeleton_keys(skel: Skeleton) -> Dict[str, Any]:
    """The keys of a skeleton, plain values; read_skeleton reads them back."""
    keys: Dict[str, Any] = {
        "kpt_shape": [skel.count, 3],
        "kpt_names": list(skel.names),
        "flip_idx": list(skel.flip_index or ()),
        "skeleton": [[a + 1, b + 1] for a, b in skel.limbs],
        "kpt_sigmas": list(skel.sigmas),
    }
    if skel.colors is not None:
        keys["kpt_colors"] = [list(color[::-1]) for color in skel.colors]
    return keys


def of_model(keys: Mapping[str, Any], nkpt: int) -> Skeleton:
    """The skeleton that the metadata of a model with `nkpt` keypoints tells.

    Raises ValueError, `key: reason`, for one that contradicts.
    """
    return read_skeleton({**{k: v for k, v in keys.items() if k in KEYS}, "nkpt": nkpt}).skeleton


def _count(content: Mapping[str, Any], default: int) -> Tuple[int, int]:
    """(keypoints, values of each in a label)."""
    found: List[Tuple[str, int]] = []
    dims = 3
    shape = content.get("kpt_shape")
    if shape is not None:
        whole = isinstance(shape, (list, tuple)) and all(type(v) is int for v in shape)
        if not whole or len(shape) != 2 or shape[1] not in (2, 3):
            raise ValueError(
                "kpt_shape: %s, expected [keypoints, 3] for labels x y v or [keypoints, 2] for "
                "x y" % _short(shape)
            )
        found.append(("kpt_shape", shape[0]))
        dims = shape[1]
    nkpt = content.get("nkpt")
    if nkpt is not None:
        if type(nkpt) is not int:
            raise ValueError("nkpt: %s, expected the number of keypoints" % _short(nkpt))
        found.append(("nkpt", nkpt))
    for key, count in found:
        if not 1 <= count <= MAX_KEYPOINTS:
            raise ValueError("%s: %d keypoints, expected 1 to %d" % (key, count, MAX_KEYPOINTS))
    for key, count in found[1:]:
        if count != found[0][1]:
            raise ValueError("%s says %d keypoints, %s %d" % (*found[0], key, count))
    if found:
        return found[0][1], dims
    names = content.get("kpt_names")
    for value in (_one_list(names), content.get("flip_idx"), content.get("kpt_sigmas")):
        if isinstance(value, list) and value:
            return len(value), dims
    return default, dims


def _one_list(names: Any) -> Any:
    """kpt_names as a list: a mapping of number to name, or of class to names, becomes one."""
    if not isinstance(names, dict) or not names:
        return names
    values = list(names.values())
    if all(isinstance(v, list) for v in values):
        if any(v != values[0] for v in values):
            raise ValueError(
                "kpt_names: classes with different keypoints; a model has one list for all of "
                "them, so train a model for each, or name the points alike"
            )
        return values[0]
    return numbered_list(names, "kpt_names")


def numbered_list(mapping: Mapping[Key, Value], key: str) -> List[Value]:
    """{0: a, 1: b} -> [a, b]. Raises ValueError, `key: reason`, for numbers with a hole."""
    found: Dict[Any, Value] = {
        int(str(k)) if str(k).isdecimal() else k: v for k, v in mapping.items()
    }
    hole = next((i for i in range(len(found)) if i not in found), None)
    if hole is not None:
        raise ValueError(
            "%s: %d is missing; they are numbered 0 to %d, here %s"
            % (key, hole, len(found) - 1, _short(", ".join(map(str, mapping))))
        )
    return [found[i] for i in range(len(found))]


def _names(names: Any, count: int) -> Optional[Tuple[str, ...]]:
    if names is None:
        return None
    names = _one_list(names)
    if not isinstance(names, list) or not all(isinstance(n, (str, int)) for n in names):
        raise ValueError("kpt_names: %s, expected a list of names" % _short(names))
    names = [str(n).strip() for n in names]
    if len(names) != count:
        raise ValueError("kpt_names: %d names for %d keypoints" % (len(names), count))
    if not all(names):
        raise ValueError("kpt_names: an empty name")
    known = [keypoint_name(n) for n in names]
    twice = next((n for i, n in enumerate(names) if known[i] in known[:i]), None)
    if twice is not None:
        raise ValueError("kpt_names: %s is there twice" % twice)
    return COCO_NAMES if tuple(known) == COCO_NAMES else tuple(names)


def _flip(index: Any, count: int) -> Optional[Tuple[int, ...]]:
    """None: not told. (): told that there is none."""
    if index is None:
        return None
    if not isinstance(index, list) or not all(type(i) is int for i in index):
        raise ValueError("flip_idx: %s, expected %d numbers" % (_short(index), count))
    if not index:
        return ()
    if len(index) != count:
        raise ValueError("flip_idx: %d numbers for %d keypoints" % (len(index), count))
    far = next((i for i in index if not 0 <= i < count), None)
    if far is not None:
        raise ValueError("flip_idx: %d is no keypoint, expected 0 to %d" % (far, count - 1))
    for i, j in enumerate(index):
        if index[j] != i:
            raise ValueError(
                "flip_idx: mirrored twice every point has to be itself, but %d becomes %d and %d "
                "becomes %d" % (i, j, j, index[j])
            )
    return tuple(index)


def _base(
    names: Optional[Tuple[str, ...]],
    flip: Optional[Tuple[int, ...]],
    limbs: Any,
    *,
    count: int,
) -> Skeleton:
    """What holds for all that the declaration leaves out."""
    if names is not None:
        return skeleton_of_names(names)
    usual = skeleton(count)
    if flip and flip != usual.flip_index:
        return plain_skeleton(count)
    if limbs and not flip:  # limbs of other points
        pairs = {frozenset(limb) for limb in _limbs(limbs, usual.names) or ()}
        if pairs != {frozenset(limb) for limb in COCO.limbs}:
            return plain_skeleton(count)
    return usual


def _limbs(pairs: Any, names: Sequence[str]) -> Optional[Tuple[Tuple[int, int], ...]]:
    if pairs is None:
        return None
    if not isinstance(pairs, list):
        raise ValueError("skeleton: %s, expected pairs such as [[1, 2], [2, 3]]" % _short(pairs))
    known = {keypoint_name(name): k for k, name in enumerate(names)}
    limbs = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError("skeleton: %s is no pair of keypoints" % _short(pair))
        ends = []
        for end in pair:
            if type(end) is int and not 1 <= end <= len(names):
                raise ValueError(
                    "skeleton: %s, but keypoints are numbered 1 to %d here, as in COCO"
                    % (_short(list(pair)), len(names))
                )
            k = end - 1 if type(end) is int else known.get(keypoint_name(str(end)))
            if k is None:
                raise ValueError("skeleton: %s is none of the keypoints" % _short(end))
            ends.append(k)
        limbs.append((ends[0], ends[1]))
    return tuple(limbs)


def _sigmas(content: Mapping[str, Any], count: int) -> Optional[Tuple[float, ...]]:
    keys = [key for key in ("kpt_sigmas", "sigmas") if content.get(key) is not None]
    if not keys:
        return None
    if len(keys) == 2 and content["kpt_sigmas"] != content["sigmas"]:
        raise ValueError("sigmas and kpt_sigmas differ; leave one out")
    value = content[keys[0]]
    values = [value] * count if type(value) in (int, float) else value
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        raise ValueError("%s: expected %d positive numbers" % (keys[0], count))
    if len(values) != count or not all(0 < v < math.inf for v in values):
        bad = next((v for v in values if not 0 < v < math.inf), None)
        got = "%d of them" % len(values) if bad is None else "%s" % bad
        raise ValueError("%s: expected %d positive numbers, got %s" % (keys[0], count, got))
    return tuple(float(v) for v in values)


def _colors(colors: Any, count: int) -> Optional[Tuple[Color, ...]]:
    """BGR of each keypoint."""
    if colors is None:
        return None
    if not isinstance(colors, list) or len(colors) != count:
        raise ValueError("kpt_colors: expected %d colours, such as [255, 0, 0]" % count)
    return tuple(_color(color) for color in colors)


def _color(color: Any) -> Color:
    rgb = color
    if isinstance(color, str) and len(color) == 7 and color[0] == "#":
        try:
            rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        except ValueError:
            rgb = None
    good = isinstance(rgb, (list, tuple)) and len(rgb) == 3
    if not good or not all(type(v) is int and 0 <= v <= 255 for v in rgb):
        raise ValueError('kpt_colors: %s, expected RGB 0..255 or "#ff0000"' % _short(color))
    return rgb[2], rgb[1], rgb[0]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
