"""Persons whose left and right look swapped: the slip of annotators that costs the most.

    reasons = mirrored(points, box)        # "" or what speaks for it

Three signs, each independent of how the person is turned in the image:
  - both eyes and the nose make a triangle that is only seen so in a mirror;
  - shoulders and hips point opposite ways;
  - the face looks into the camera, shoulders and hips both say that the back does.
People who twist do the last two for real: suspects, not errors.
"""

import numpy as np

from utils.pose.keypoints import COCO_NAMES

NOSE, LEFT_EYE, RIGHT_EYE = 0, 1, 2
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 5, 6, 11, 12
FACE = 0.02  # of the longer side of the box: eyes nearer than this say nothing
BODY = 0.10  # likewise shoulders and hips
CLEAR = 0.5  # sine or cosine of the angle between two directions that makes them clearly apart


def swap_reason(points: np.ndarray, box_hw: np.ndarray) -> str:
    """Why a person looks mirrored, empty if it does not.

    Args: points (17, 3) x, y px, v. box_hw: height and width of its box, px.
    """
    if len(points) != len(COCO_NAMES):
        return ""
    known, xy = points[:, 2] > 0, points[:, :2]
    size = float(max(box_hw))
    face = torso = 0
    if known[[NOSE, LEFT_EYE, RIGHT_EYE]].all():
        middle = (xy[LEFT_EYE] + xy[RIGHT_EYE]) / 2
        face = _side(xy[LEFT_EYE] - xy[RIGHT_EYE], xy[NOSE] - middle, FACE * size)
    if face < 0:
        return "eyes and nose are mirrored"
    if known[[LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP]].all():
        shoulders = xy[LEFT_SHOULDER] - xy[RIGHT_SHOULDER]
        hips = xy[LEFT_HIP] - xy[RIGHT_HIP]
        lengths = np.hypot(*shoulders), np.hypot(*hips)
        if min(lengths) > BODY * size:
            if shoulders @ hips < -CLEAR * lengths[0] * lengths[1]:
                return "shoulders and hips point opposite ways"
            down = (xy[LEFT_HIP] + xy[RIGHT_HIP] - xy[LEFT_SHOULDER] - xy[RIGHT_SHOULDER]) / 2
            torso = _side(shoulders, down, BODY * size)
            torso = torso if torso == _side(hips, down, BODY * size) else 0
    if face > 0 and torso < 0 and (points[[NOSE, LEFT_EYE, RIGHT_EYE], 2] == 2).all():
        return "the face looks here, shoulders and hips away"
    return ""


def _side(left: np.ndarray, down: np.ndarray, least: float) -> int:
    """1: `left`, `down` turn as those of somebody who faces the camera; -1: mirrored; 0: unclear.

    Args: left: from the right one of a pair to the left one. least: px, shorter ones are unclear.
    """
    lengths = np.hypot(*left), np.hypot(*down)
    if min(lengths) <= least:
        return 0
    sine = (left[0] * down[1] - left[1] * down[0]) / (lengths[0] * lengths[1])
    return 0 if abs(sine) < CLEAR else int(np.sign(sine))
