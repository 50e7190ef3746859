"""What the toolkit knows about keypoints: names, pairs, limbs, sigmas, colours.

The one place that knows "17". What the points of a dataset are is declared in its data yaml
(skeleton.py) and carried by each model; without a declaration 17 points are COCO's and any other
number has no names, limbs or left/right pairs. Order, sigmas and limbs: COCO keypoint task,
cocodataset.org/#keypoints-eval.
"""

import colorsys
import functools
import re
from typing import List, NamedTuple, Optional, Sequence, Tuple

COCO_NAMES: Tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
FLIP_PAIRS: Tuple[Tuple[int, int], ...] = tuple((i, i + 1) for i in range(1, 17, 2))
# 0-based (from, to)
LIMBS: Tuple[Tuple[int, int], ...] = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)
# Per-keypoint standard deviation of the OKS, as a fraction of the object scale
SIGMAS: Tuple[float, ...] = (
    0.026,
    0.025,
    0.025,
    0.035,
    0.035,
    0.079,
    0.079,
    0.072,
    0.072,
    0.062,
    0.062,
    0.107,
    0.107,
    0.087,
    0.087,
    0.089,
    0.089,
)

DEFAULT_SIGMA = 0.07  # of keypoints nobody has measured: near the mean of COCO's
# Area of a person over the area of its box, for OKS where only the box is known (CrowdPose's
# evaluation uses the same; COCO's persons have about this)
AREA_OF_BOX = 0.53

Color = Tuple[int, int, int]  # BGR
LEFT_COLOR: Color = (0, 200, 0)  # the person's own left: green
RIGHT_COLOR: Color = (30, 110, 255)  # the person's own right: orange
CENTER_COLOR: Color = (255, 170, 60)  # nose, and limbs that join both sides: blue


class Skeleton(NamedTuple):
    """How one keypoint layout is named, mirrored, measured and drawn."""

    names: Tuple[str, ...]
    limbs: Tuple[Tuple[int, int], ...]  # 0-based (from, to)
    flip_index: Optional[Tuple[int, ...]]  # row i of a mirrored image is row flip_index[i]
    sigmas: Tuple[float, ...]  # OKS sigma of each keypoint, fraction of the object scale
    colors: Optional[Tuple[Color, ...]] = None  # BGR of each keypoint, None: see `color`

    @property
    def count(self) -> int:  # type: ignore[override]  # of tuple
        """Number of keypoints."""
        return len(self.names)

    @property
    def is_coco(self) -> bool:
        """Whether these are COCO's 17 keypoints in COCO's order."""
        return self.names == COCO_NAMES

    @property
    def numbered(self) -> bool:
        """Whether nobody has named the points: they are called 0, 1, ..."""
        return self.names == tuple(str(i) for i in range(len(self.names)))

    @property
    def sides(self) -> Tuple[str, ...]:
        """`left`, `right` or `center` of each keypoint, by its name."""
        return tuple(_side(name) for name in self.names)

    def color(self, k: int) -> Color:
        """BGR colour of a keypoint: as declared, by its side, or its own if none has a side."""
        if self.colors is not None:
            return self.colors[k]
        if _sideless(self.names):
            return hue_color(k / len(self.names))
        return side_color(_side(self.names[k]))

    def limb_color(self, a: int, b: int) -> Color:
        """BGR colour of the limb from a to b: that of its side, or of the point it ends in."""
        if self.colors is not None or _sideless(self.names):
            return self.color(b)
        side = _side(self.names[a])
        return side_color(side if side == _side(self.names[b]) else "center")


def flip_index(count: int, pairs: Tuple[Tuple[int, int], ...]) -> Tuple[int, ...]:
    """Permutation that swaps the given left/right pairs."""
    index: List[int] = list(range(count))
    for a, b in pairs:
        index[a], index[b] = b, a
    return tuple(index)


def flip_of_names(names: Sequence[str]) -> Optional[Tuple[int, ...]]:
    """The flip index that the names tell: left_x and right_x change places, others stay.

    So do x_left_y and x_right_y, l_x and r_x, LX and RX. None where no name has a side, or the
    partner of one that says left or right is missing; of a mere letter it may be missing.
    """
    known = {words: k for k, words in enumerate(map(_words, names))}
    index, sided = [], False
    for k, words in enumerate(map(_words, names)):
        place = _side_place(words)
        if place is None:
            index.append(k)
            continue
        other = (*words[:place], OTHER_SIDE[words[place]], *words[place + 1 :])
        partner = known.get(other)
        if partner is None and len(words[place]) > 1:
            return None
        index.append(k if partner is None else partner)
        sided = sided or partner is not None
    pairs = all(index[other] == k for k, other in enumerate(index))  # not of LHip, l_hip, RHip
    return tuple(index) if sided and pairs else None


OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _side(name: str) -> str:
    """The side that a word of a name says."""
    words = _words(name)
    place = _side_place(words)
    return "center" if place is None else {"l": "left", "r": "right"}[words[place][0]]


def _side_place(words: Sequence[str]) -> Optional[int]:
    """Where a name says left or right, or l or r at one of its ends; None: nowhere, or twice."""
    whole = [i for i, word in enumerate(words) if word in ("left", "right")]
    if whole:
        return whole[0] if len(whole) == 1 else None
    ends = [i for i in {0, len(words) - 1} if words[i] in ("l", "r")]
    return ends[0] if len(ends) == 1 and len(words) > 1 else None


def _words(name: str) -> Tuple[str, ...]:
    """LeftHip, LHip or left-hip -> its words in lower case."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", "_", name.strip())
    return tuple(keypoint_name(apart).replace(".", "_").split("_"))


def keypoint_name(text: str) -> str:
    """`Left Eye` or `left-eye`, as some tools write it -> `left_eye`."""
    return text.strip().lower().replace(" ", "_").replace("-", "_")


@functools.lru_cache(maxsize=64)
def _sideless(names: Tuple[str, ...]) -> bool:
    """Whether no name says left or right."""
    return all(_side(name) == "center" for name in names)


def hue_color(hue: float) -> Color:
    """BGR of a bright colour. Args: hue: 0..1, a full circle from red over green and blue."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, 0.75, 0.9)
    return round(255 * blue), round(255 * green), round(255 * red)


def side_color(side: str) -> Color:
    """BGR colour of `left`, `right` or `center`."""
    return {"left": LEFT_COLOR, "right": RIGHT_COLOR}.get(side, CENTER_COLOR)


COCO = Skeleton(COCO_NAMES, LIMBS, flip_index(len(COCO_NAMES), FLIP_PAIRS), SIGMAS)


def plain_skeleton(count: int) -> Skeleton:
    """Points of which only their number is known."""
    return Skeleton(tuple(str(i) for i in range(count)), (), None, (DEFAULT_SIGMA,) * count)


def skeleton(nkpt: int) -> Skeleton:
    """What is assumed where nobody has declared the points: COCO's for 17, else nothing."""
    return COCO if nkpt == len(COCO_NAMES) else plain_skeleton(nkpt)


def skeleton_of_names(names: Sequence[str]) -> Skeleton:
    """What the names alone tell: left/right pairs, and of COCO's points their limbs and sigmas."""
    known = [keypoint_name(name) for name in names]
    if tuple(known) == COCO_NAMES:
        return COCO
    limbs: Tuple[Tuple[int, int], ...] = ()
    sigmas = (DEFAULT_SIGMA,) * len(known)
    if set(known) <= set(COCO_NAMES):  # some of them, or in another order
        sigmas = tuple(SIGMAS[COCO_NAMES.index(name)] for name in known)
        ends = [(COCO_NAMES[a], COCO_NAMES[b]) for a, b in LIMBS]
        both = [(a, b) for a, b in ends if a in known and b in known]
        limbs = tuple((known.index(a), known.index(b)) for a, b in both)
    return Skeleton(tuple(names), limbs, flip_of_names(names), sigmas)
