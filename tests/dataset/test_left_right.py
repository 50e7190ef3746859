import numpy as np
import pytest

from tests.data.make_people import FIGURE
from utils.dataset.left_right import swap_reason
from utils.pose.keypoints import COCO

SWAP = list(COCO.flip_index)


def turned(degrees, v=2):
    a = np.deg2rad(degrees)
    xy = FIGURE @ [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]
    return np.concatenate([xy * 20, np.full((17, 1), v)], 1)


@pytest.mark.parametrize("degrees", range(0, 360, 30))
def test_any_rotation(degrees):
    points = turned(degrees)
    assert swap_reason(points, np.array([160, 70])) == ""
    assert swap_reason(points[SWAP], np.array([160, 70])) == "eyes and nose are mirrored"


def test_part_of_the_body():
    box = np.array([160, 70])
    points = turned(0)
    points[[11, 12]] = points[[12, 11]]
    assert swap_reason(points, box) == "shoulders and hips point opposite ways"
    points = turned(0)
    points[5:] = points[SWAP][5:]
    assert swap_reason(points, box) == "the face looks here, shoulders and hips away"
    points[0, 2] = 0  # from behind
    assert swap_reason(points, box) == ""
    assert swap_reason(turned(0, 0), box) == "" and swap_reason(turned(0)[:5], box) == ""
    profile = turned(0)
    profile[:, 0] *= 0.05
    assert swap_reason(profile[SWAP], box) == ""
