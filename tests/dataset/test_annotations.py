import json
import math

import numpy as np
import pytest

from utils.dataset import annotations as an
from utils.dataset.annotation_files import read_annotation
from utils.dataset.labelme import parse_labelme
from utils.errors import InputError
from utils.pose.keypoints import COCO

HW = (100, 200)
POINTS = [v for k in range(17) for v in (50 + k, 20 + 2 * k)]


def persons(*entries, nkpt=17):
    return an.parse_persons(json.loads(json.dumps(entries)), 1, nkpt)


def fitted(*entries, hw=HW):
    return an.fit(persons(*entries), hw)


def test_both_lengths_of_keypoints():
    short = list(POINTS)
    short[6:8] = 0, 0
    long = [v for k in range(17) for v in (POINTS[2 * k], POINTS[2 * k + 1], k % 3)]
    ground_truth = fitted(
        *({"keypoints": p, "bbox": [40, 10, 50, 60]} for p in (short, long))
    ).ground_truth
    assert ground_truth.keypoints[0, :, 2].tolist() == [2, 2, 2, 0] + [2] * 13
    assert ground_truth.keypoints[1, :, 2].tolist() == [k % 3 for k in range(17)]
    assert ground_truth.keypoints[1, 3].tolist() == [0, 0, 0]  # v 0 hides the coordinates
    assert ground_truth.keypoints[1, 4].tolist() == [54, 28, 1]
    assert ground_truth.boxes.tolist() == [[40, 10, 50, 60]] * 2
    assert ground_truth.areas == pytest.approx([0.53 * 3000] * 2)


@pytest.mark.parametrize("bbox", [[], None, [0, 0, 0, 0]])
def test_box_of_the_keypoints(bbox):
    fit = fitted({"keypoints": POINTS, "bbox": bbox})
    margin = 0.1 * 32
    want = [50 - margin, 20 - margin, 16 + 2 * margin, 32 + 2 * margin]
    assert np.allclose(fit.ground_truth.boxes, [want])
    assert fit.notes == {an.FROM_POINTS: 1}


def test_points_outside_the_image():
    points = list(POINTS)
    points[0:6] = [-3.9, 50, 204.1, 50, 100, 101.9]  # within 2 %, beyond it, within
    fit = fitted({"keypoints": points, "bbox": [0, 0, 100, 90]})
    assert fit.ground_truth.keypoints[0, :3].tolist() == [[0, 50, 2], [0, 0, 0], [100, 100, 2]]
    assert fit.notes == {an.MOVED: 2, an.DROPPED: 1}


def test_boxes_are_cut_and_counted():
    fit = fitted({"keypoints": [], "bbox": [-10, 50, 30, 80]}, {"bbox": [10, 10, 20, 20]})
    assert fit.ground_truth.boxes.tolist() == [[0, 50, 20, 50], [10, 10, 20, 20]]
    assert fit.notes == {an.CLIPPED: 1, an.NO_POINTS: 2} and not fit.faults
    assert np.allclose(fit.ground_truth.areas, [530, 212])  # of what is left


@pytest.mark.parametrize(
    "entry, reason",
    [
        ({"keypoints": POINTS[:-1], "bbox": []}, "33 numbers, expected 34 (x, y) or 51"),
        ({"keypoints": [math.nan] + POINTS[1:]}, "keypoints: a number is NaN"),
        ({"keypoints": [None] + POINTS[1:]}, "keypoints: a number is NaN, null"),
        ({"keypoints": ["x"] + POINTS[1:]}, "keypoints: not a list of numbers"),
        ({"keypoints": "abc"}, "keypoints: expected a list"),
        ({"keypoints": [1, 1, 3] * 17}, "visibility"),
        ({"keypoints": [10**400] + POINTS[1:]}, "not a list of numbers"),
        ({"keypoints": POINTS, "bbox": [1, 2, 3]}, "bbox: 3 numbers"),
        ({"keypoints": POINTS, "bbox": [1, 2, -3, 4]}, "bbox -3 x 4 px"),
        ({"keypoints": POINTS, "bbox": [math.inf, 2, 3, 4]}, "bbox: a number is NaN"),
        ({"keypoints": POINTS, "bbox": [300, 2, 3, 4]}, "thinner than 0.1 px"),
        ({"keypoints": POINTS, "bbox": [30, 2, 0.01, 4]}, "thinner than 0.1 px"),
        ({"keypoints": [0, 0] * 17, "bbox": []}, "neither a bbox nor a labelled keypoint"),
        ({"keypoints": [5, 5] + [0, 0] * 16}, "one point cannot make one"),
        ({"keypoints": POINTS, "class": 1}, "class 1, expected 0 to 0"),
        ({"keypoints": POINTS, "bbox": [1, 2, 3, 4], "area": "big"}, "area big: expected px"),
        ({"points": POINTS}, "neither keypoints nor bbox; its keys: points"),
        (
            {"keypoint": POINTS, "bbox": [1, 2, 3, 4]},
            "no keypoints, but keypoint;",
        ),
        ({"keypoints": POINTS, "box": [1, 2, 3, 4]}, "no bbox, but box; if that is meant, rename"),
        ({"Joints": POINTS, "bbox": [1, 2, 3, 4]}, "no keypoints, but Joints; if that is meant"),
        ({"KEYPOINTS": POINTS, "bbox": [1, 2, 3, 4]}, "no keypoints, but KEYPOINTS; if"),
        ([1, 2], "expected keypoints and bbox"),
    ],
)
def test_a_bad_person_is_named_and_the_others_stay(entry, reason):
    good = {"keypoints": POINTS, "bbox": [40, 10, 50, 60]}
    fit = fitted(good, entry, good)
    assert fit.ground_truth.count == 2
    (fault,) = fit.faults
    assert fault.path == "person 2" and reason in fault.reason


@pytest.mark.parametrize("nc, faults", [(1, 0), (2, 1)])
def test_a_class_of_another_name_matters_where_there_are_several(nc, faults):
    entry = {"keypoints": POINTS, "bbox": [40, 10, 50, 60], "class_id": 1}
    told = an.fit(an.parse_persons([entry], nc, 17), HW).faults
    assert len(told) == faults and all("no class, but class_id; if" in n.reason for n in told)


@pytest.mark.parametrize("text", ["", "[", '{"a": 1}', "3", '"x"', "[" * 100000])
def test_what_is_no_annotation(tmp_path, text):
    path = tmp_path / "坏.json"
    path.write_text(text)
    with pytest.raises(InputError, match="坏.json: "):
        read_annotation(path, ["person"], COCO)


def test_nobody():
    fit = fitted()
    assert fit.ground_truth.count == 0 and fit.ground_truth.keypoints.shape == (0, 17, 3)
    assert not fit.faults and not fit.notes


def test_random_persons_are_always_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        hw = tuple(int(v) for v in rng.integers(8, 400, 2))
        count = int(rng.integers(0, 4))
        size = np.array(hw[::-1])
        points = rng.uniform(-0.2, 1.2, (count, 17, 2)) * size
        boxes = rng.uniform(-0.3, 1, (count, 2, 2)) * size
        entries = [
            {"keypoints": p.ravel().tolist(), "bbox": b.ravel().tolist()}
            for p, b in zip(points, boxes)
        ]
        fit = an.fit(persons(*entries), hw)
        assert fit.ground_truth.count + len(fit.faults) == count
        assert (fit.ground_truth.boxes[:, :2] >= 0).all() and (
            fit.ground_truth.boxes[:, 2:] > 0
        ).all()
        assert (fit.ground_truth.boxes[:, :2] + fit.ground_truth.boxes[:, 2:] <= size + 1e-6).all()
        assert (fit.ground_truth.keypoints[..., :2] >= 0).all()
        assert (fit.ground_truth.keypoints[..., :2] <= size).all()


def shape(kind, label, points, group=None, **more):
    return {"shape_type": kind, "label": label, "points": points, "group_id": group, **more}


def labelme(*shapes, names=("person",)):
    content = {"shapes": list(shapes), "imageHeight": 100, "imageWidth": 200, "imagePath": "a.jpg"}
    return parse_labelme(content, names, COCO)


def test_labelme_groups():
    annotation = labelme(
        shape("rectangle", "person", [[60, 80], [10, 20]], 1),  # any two corners
        shape("point", "nose", [[30, 30]], 1),
        shape("point", "Left Eye", [[35, 25]], 1, flags={"occluded": True}),
        shape("polygon", "person", [[100, 10], [150, 15], [120, 90]], 2),
        shape("point", "nose", [[120, 20]]),  # no group: inside one box only
        shape("point", "left_ankle", [[180, 90]], 3),
        shape("point", "right_ankle", [[170, 80]], 3),
        shape("rectangle", "car", [[0, 0], [5, 5]]),
        shape("linestrip", "x", [[0, 0], [5, 5]]),
    )
    fit = an.fit(annotation, (100, 200))
    assert not fit.faults
    assert fit.ground_truth.boxes[:2].tolist() == [[10, 20, 50, 60], [100, 10, 50, 80]]
    assert fit.ground_truth.keypoints[0, :2].tolist() == [[30, 30, 2], [35, 25, 1]]
    assert fit.ground_truth.keypoints[1, 0].tolist() == [120, 20, 2]
    assert np.allclose(fit.ground_truth.boxes[2], [169, 79, 12, 12])
    assert sum(fit.notes.values()) == 3 and annotation.hw == (100, 200)


def test_labelme_of_x_anylabeling():
    """Rectangles of four corners; a point marked as difficult is hidden."""
    annotation = labelme(
        shape("rectangle", "person", [[10, 20], [60, 20], [60, 80], [10, 80]], 0, difficult=False),
        shape("point", "nose", [[30, 30]], 0, difficult=True),
        shape("point", "left_eye", [[35, 25]], 0, difficult=False),
    )
    fit = an.fit(annotation, (100, 200))
    assert not fit.faults and fit.ground_truth.boxes.tolist() == [[10, 20, 50, 60]]
    assert fit.ground_truth.keypoints[0, :3, 2].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "bad, reason",
    [
        (shape("point", "tail", [[1, 1]], 1), "point tail is not among the keypoints"),
        (shape("point", "nose", [[1, 1]], 1), "a second nose of person 1"),
        (shape("point", "nose", [[1, math.nan]], 1), "NaN"),
        (shape("rectangle", "person", [[1, 1], [4, 4]], 1), "a second box in group 1"),
        (shape("point", "left_eye", [[1, 1]]), "without group_id, inside 0 boxes"),
        ("x", "expected label"),
    ],
)
def test_labelme_faults(bad, reason):
    annotation = labelme(
        shape("rectangle", "person", [[10, 20], [60, 80]], 1),
        shape("rectangle", "person", [[90, 20], [99, 80]], 2),
        shape("point", "nose", [[30, 30]], 1),
        bad,
    )
    assert annotation.ground_truth.count == 2
    (fault,) = annotation.faults
    assert fault.path == "shape 4" and reason in fault.reason
    assert fault.point == ("tail" if "not among" in reason else None)
