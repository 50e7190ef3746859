"""What the toolkit knows about keypoints: names, pairs, limbs, sigmas, colours.

The one place that knows "17". Other keypoint counts work everywhere, without names, limbs or
left/right pairs. Order, sigmas and limbs: COCO keypoint task, cocodataset.org/#keypoints-eval.
"""

from typing import List, NamedTuple, Optional, Tuple

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
    """How one keypoint layout is named, mirrored and drawn."""

    names: Tuple[str, ...]
    limbs: Tuple[Tuple[int, int], ...]
    flip_index: Optional[Tuple[int, ...]]  # row i of a mirrored image is row flip_index[i]
    sides: Tuple[str, ...]  # "left", "right" or "center" for each keypoint


def flip_index(count: int, pairs: Tuple[Tuple[int, int], ...]) -> Tuple[int, ...]:
    """Permutation that swaps the given left/right pairs."""
    index: List[int] = list(range(count))
    for a, b in pairs:
        index[a], index[b] = b, a
    return tuple(index)


def _side(name: str) -> str:
    head = name.split("_")[0]
    return head if head in ("left", "right") else "center"


COCO = Skeleton(
    COCO_NAMES, LIMBS, flip_index(len(COCO_NAMES), FLIP_PAIRS), tuple(_side(n) for n in COCO_NAMES)
)


def skeleton(nkpt: int) -> Skeleton:
    """The COCO skeleton for 17 keypoints; numbered points without limbs or pairs otherwise."""
    if nkpt == len(COCO_NAMES):
        return COCO
    return Skeleton(tuple(str(i) for i in range(nkpt)), (), None, ("center",) * nkpt)


def keypoint_name(text: str) -> str:
    """`Left Eye` or `left-eye`, as some tools write it -> `left_eye`."""
    return text.strip().lower().replace(" ", "_").replace("-", "_")


def side_color(side: str) -> Color:
    """BGR colour of `left`, `right` or `center`."""
    return {"left": LEFT_COLOR, "right": RIGHT_COLOR}.get(side, CENTER_COLOR)


def oks_sigmas(nkpt: int) -> Tuple[float, ...]:
    """OKS sigmas: COCO's for 17 keypoints, DEFAULT_SIGMA for each of any other number."""
    return SIGMAS if nkpt == len(SIGMAS) else (DEFAULT_SIGMA,) * nkpt
