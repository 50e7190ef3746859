import json

import pytest

from utils.pose.keypoints import (
    CENTER_COLOR,
    COCO,
    DEFAULT_SIGMA,
    LEFT_COLOR,
    RIGHT_COLOR,
    SIGMAS,
    flip_of_names,
)
from utils.pose.skeleton import of_model, read_skeleton, skeleton_keys

CORNERS = {"kpt_shape": [4, 3], "kpt_names": ["tl", "tr", "br", "bl"], "flip_idx": [1, 0, 3, 2]}
DOG = (
    "left_eye right_eye nose neck root_of_tail left_shoulder left_elbow left_front_paw "
    "right_shoulder right_elbow right_front_paw left_hip left_knee left_back_paw right_hip "
    "right_knee right_back_paw"
).split()


def test_nothing_told():
    assert read_skeleton({}).skeleton == COCO
    four = read_skeleton({"nkpt": 4}).skeleton
    assert four.numbered and four.flip_index is None and four.limbs == ()
    assert four.sigmas == (DEFAULT_SIGMA,) * 4


def test_seventeen_points_with_other_names_are_not_coco():
    found = read_skeleton({"kpt_names": DOG}).skeleton
    assert found.names == tuple(DOG) and not found.is_coco and found.limbs == ()
    assert found.sigmas == (DEFAULT_SIGMA,) * 17
    swapped = [found.names[i] for i in found.flip_index]
    assert swapped[:4] == ["right_eye", "left_eye", "nose", "neck"]
    for keys in ({"flip_idx": list(range(17))}, {"skeleton": [[1, 2]]}):
        assert not read_skeleton({"kpt_shape": [17, 3], **keys}).skeleton.is_coco
    same = {"kpt_shape": [17, 3], "flip_idx": list(COCO.flip_index)}
    assert read_skeleton(same).skeleton == COCO


def test_names_of_coco_in_another_order_keep_what_they_mean():
    names = list(COCO.names)[::-1]
    found = read_skeleton({"kpt_names": names}).skeleton
    assert found.sigmas == SIGMAS[::-1] and len(found.limbs) == 19
    a, b = found.limbs[0]
    assert (names[a], names[b]) == tuple(COCO.names[i] for i in COCO.limbs[0])
    assert [names[i] for i in found.flip_index[:2]] == ["left_ankle", "right_ankle"]


@pytest.mark.parametrize(
    "names, flip",
    [
        (["left_a", "right_a", "b"], (1, 0, 2)),
        (["A left", "A Right"], (1, 0)),
        (["front_left_wheel", "front_right_wheel"], (1, 0)),
        (["Hips", "RHip", "LHip", "LHand", "RHand"], (0, 2, 1, 4, 3)),
        (["leftHip", "rightHip", "hip.l", "hip.r"], (1, 0, 3, 2)),
        (["l_1", "r_1", "l_2", "wheel"], (1, 0, 2, 3)),  # a letter alone may mean anything
        (["LHip", "l_hip", "RHip"], None),  # two of one name
        (["Lip", "Rib", "left_right", "r"], None),
        (["tl", "tr"], None),
        (["left_a", "b"], None),  # whose partner is missing
    ],
)
def test_pairs_of_names(names, flip):
    assert flip_of_names(names) == flip


def test_limbs_by_number_and_by_name_and_colors():
    keys = {**CORNERS, "skeleton": [[1, 2], ["tr", "br"]], "kpt_colors": ["#ff0000"] * 4}
    found = read_skeleton({**keys, "kpt_sigmas": 0.03})
    assert found.skeleton.limbs == ((0, 1), (1, 2)) and found.skeleton.sigmas == (0.03,) * 4
    assert found.skeleton.color(2) == (0, 0, 255) and found.dims == 3  # BGR
    assert read_skeleton({"kpt_shape": [5, 2]}).dims == 2


def test_points_without_sides_have_colors_of_their_own():
    names = ["wrist", *("thumb_%d" % i for i in range(20))]
    skel = read_skeleton({"kpt_names": names, "skeleton": [[1, 2], [2, 3]]}).skeleton
    colors = [skel.color(k) for k in range(21)]
    assert len(set(colors)) == 21
    assert skel.limb_color(0, 1) == colors[1] and skel.limb_color(1, 2) == colors[2]
    sided = read_skeleton({"kpt_names": ["left_hand", "right_hand", "nose"]}).skeleton
    assert [sided.color(k) for k in range(3)] == [LEFT_COLOR, RIGHT_COLOR, CENTER_COLOR]


@pytest.mark.parametrize(
    "keys", [{}, {"nkpt": 5}, CORNERS, {"kpt_names": DOG}, {"nkpt": 17, "flip_idx": []}]
)
def test_what_a_model_carries_is_read_back(keys):
    skel = read_skeleton(keys).skeleton
    carried = json.loads(json.dumps(skeleton_keys(skel)))
    assert of_model(carried, skel.count) == skel


def test_other_tools_write_mappings():
    names = {0: "a", 1: "b"}
    assert read_skeleton({"kpt_names": names}).skeleton.names == ("a", "b")
    assert read_skeleton({"kpt_names": {"0": "a", "1": "b"}}).skeleton.names == ("a", "b")
    assert read_skeleton({"kpt_names": {0: ["a", "b"], 1: ["a", "b"]}}).skeleton.count == 2


@pytest.mark.parametrize(
    "keys, reason",
    [
        ({"kpt_shape": [4]}, "kpt_shape: .*expected"),
        ({"kpt_shape": [4, 4]}, "kpt_shape: .*expected"),
        ({"kpt_shape": 4}, "kpt_shape: 4, expected"),
        ({"kpt_shape": [4, 3], "nkpt": 5}, "kpt_shape says 4 keypoints, nkpt 5"),
        ({"nkpt": 0}, "nkpt: 0 keypoints"),
        ({"nkpt": True}, "nkpt: True, expected"),
        ({**CORNERS, "kpt_names": ["a"]}, "kpt_names: 1 names for 4 keypoints"),
        ({"kpt_names": ["a", "A"]}, "kpt_names: A is there twice"),
        ({"kpt_names": {0: "a", 2: "b"}}, "kpt_names: 1 is missing"),
        ({"kpt_names": {0: ["a"], 1: ["b"]}}, "kpt_names: classes with different keypoints"),
        ({"kpt_names": "abc"}, "kpt_names: abc, expected a list"),
        ({**CORNERS, "flip_idx": [1, 0]}, "flip_idx: 2 numbers for 4 keypoints"),
        ({**CORNERS, "flip_idx": [1, 2, 0, 3]}, "flip_idx: mirrored twice"),
        ({**CORNERS, "flip_idx": [0, 1, 2, 4]}, "flip_idx: 4 is no keypoint, expected 0 to 3"),
        ({**CORNERS, "flip_idx": ["a"]}, "flip_idx: .*expected 4 numbers"),
        ({**CORNERS, "skeleton": [[0, 1]]}, "skeleton: .*numbered 1 to 4"),
        ({**CORNERS, "skeleton": [[1, 5]]}, "skeleton: .*numbered 1 to 4"),
        ({**CORNERS, "skeleton": [["tl", "nose"]]}, "skeleton: nose is none of the keypoints"),
        ({**CORNERS, "skeleton": [1]}, "skeleton: 1 is no pair"),
        ({**CORNERS, "kpt_sigmas": [0.1, 0.1, 0.1, 0]}, "kpt_sigmas: .*4 positive numbers, got 0"),
        ({**CORNERS, "kpt_sigmas": [0.1]}, "kpt_sigmas: expected 4 positive numbers, got 1"),
        ({**CORNERS, "kpt_sigmas": [0.1, float("nan"), 1, 1]}, "kpt_sigmas: expected 4"),
        ({**CORNERS, "kpt_sigmas": 0.1, "sigmas": 0.2}, "sigmas and kpt_sigmas differ"),
        ({**CORNERS, "kpt_colors": ["red"] * 4}, "kpt_colors: red, expected"),
        ({**CORNERS, "kpt_colors": [[1, 2, 3]]}, "kpt_colors: expected 4 colours"),
    ],
)
def test_one_line_names_the_key(keys, reason):
    with pytest.raises(ValueError, match=reason) as e:
        read_skeleton(keys)
    assert "\n" not in str(e.value)


def test_a_model_that_contradicts_itself():
    with pytest.raises(ValueError, match="kpt_shape says 4 keypoints, nkpt 5"):
        of_model({"kpt_shape": [4, 3]}, 5)
