"""Annotations whose points are not COCO's: found, converted there and back, never mixed up."""

import json
import shutil

import cv2
import numpy as np
import pytest

from escalator.json2coco import json2coco
from escalator.json2yolo import json2yolo
from escalator.survey import survey
from escalator.visual import draw
from escalator.yolo2coco import yolo2coco
from tests.scripts import run_script
from utils.dataset.coco import read_coco
from utils.dataset.data_yaml import read_data
from utils.dataset.eval_set import read_eval_set
from utils.dataset.label_points import label_points
from utils.dataset.labels import read_labels
from utils.errors import InputError
from utils.pose.keypoints import COCO, COCO_NAMES

HAND = ["wrist", "left_thumb", "right_thumb", "tip"]
DOG = ["left_eye", "right_eye", "nose", *("point%d" % i for i in range(14))]


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((80, 100, 3), 90, np.uint8))[1].tobytes())


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def labelme(count, first=0):
    """A hand in group 1, without its last points for a smaller count, and a cup without points."""
    points = [
        {"label": name, "points": [[20 + 9 * k + first, 30 + 5 * k]], "shape_type": "point",
         "group_id": 1} for k, name in enumerate(HAND[:count])
    ]  # fmt: skip
    boxes = [("hand", [[10, 20], [70, 60]], 1), ("cup", [[80, 10], [90, 20]], None)]
    shapes = [{"label": n, "points": p, "group_id": g, "shape_type": "rectangle"}
              for n, p, g in boxes]  # fmt: skip
    return {"shapes": shapes + points, "imagePath": "x.png", "imageHeight": 80, "imageWidth": 100}


@pytest.fixture
def hands(tmp_path):
    """Three labelled hands; the first one lacks points."""
    for i, count in enumerate((2, 4, 4)):
        image(tmp_path / "images" / ("%d.png" % i))
        write(tmp_path / "annotations" / ("%d.json" % i), labelme(count, i))
    return tmp_path


def test_points_of_labelme_are_found_and_go_there_and_back(hands, capsys):
    found = survey(str(hands / "annotations"))
    assert (found.names, list(found.skeleton.names)) == (["hand"], HAND)
    assert found.skeleton.flip_index == (0, 2, 1, 3)
    assert json2yolo(str(hands / "annotations")).faults == []
    first = {p.name: p.read_text() for p in (hands / "labels").glob("*.txt")}
    assert "keypoints.yaml says what the keypoints are" in capsys.readouterr().out
    assert yolo2coco(str(hands / "images"), str(hands / "coco" / "x.json")).faults == []
    coco = read_coco(hands / "coco" / "x.json", None, None)
    assert coco.names == ["hand"] and coco.skeleton == found.skeleton
    for path in (hands / "labels").iterdir():
        path.unlink()
    again = json2yolo(str(hands / "coco" / "x.json"), image_dir=str(hands / "images"))
    assert again.faults == []
    assert {p.name: p.read_text() for p in (hands / "labels").glob("*.txt")} == first
    whole = hands / "coco" / "y.json"
    assert json2coco(str(hands / "annotations"), str(whole)).faults == []
    a, b = (json.loads((hands / "coco" / n).read_text()) for n in ("x.json", "y.json"))
    assert a["categories"] == b["categories"]


def test_what_reads_labels_knows_their_points(hands):
    json2yolo(str(hands / "annotations"))
    names, declared = label_points([str(hands / "images" / "0.png")])
    assert names == ["hand"] and list(declared.skeleton.names) == HAND
    drawn = draw(str(hands / "images" / "1.png"), names, declared)
    assert (drawn != 90).any()
    yaml = hands / "d.yaml"
    yaml.write_text("train: images\nval: images\nnames: [hand]\n")
    assert list(read_data(yaml).skeleton.names) == HAND
    yaml.write_text("train: images\nval: images\nnames: [hand]\nnkpt: 5\n")
    with pytest.raises(InputError, match=r"keypoints.yaml: kpt_shape says 4 keypoints, nkpt 5"):
        read_data(yaml)


@pytest.mark.parametrize("count", [4, 37])
def test_a_rare_point_may_be_a_slip(hands, count):
    for i in range(3, 3 + count):
        write(hands / "annotations" / ("%d.json" % i), labelme(4))
    content = labelme(4)
    content["shapes"][-1]["label"] = "tpi"
    write(hands / "annotations" / "40.json", content)
    found = survey(str(hands / "annotations"))
    assert any("point tpi is in 1 place only (first" in line for line in found.lines)


def test_a_point_that_is_spelt_nearly_as_a_common_one_may_be_a_slip(hands):
    """Also where it is there as often as the threshold of rare points asks for."""
    for i in range(3, 12):
        write(hands / "annotations" / ("%d.json" % i), labelme(4))
    for label in ("left_thmb", "left_thumb2"):  # the second differs in its number, and more rarely
        content = labelme(4)
        content["shapes"] += [
            {"label": label, "points": [[30, 30]], "shape_type": "point", "group_id": group}
            for group in (1, 2)
        ]
        write(hands / "annotations" / ("%s.json" % label), content)
    lines = survey(str(hands / "annotations")).lines
    (line,) = [line for line in lines if "left_thmb is" in line]
    assert "in 1 file only, left_thumb in 14 (first in " in line and "left_thmb.json" in line


@pytest.mark.parametrize("convert", [json2yolo, json2coco])
def test_no_point_of_the_data_yaml(hands, convert):
    yaml = hands / "d.yaml"
    yaml.write_text("train: images\nval: images\nnames: [person]\n")
    target = hands / ("labels" if convert is json2yolo else "x.json")
    with pytest.raises(InputError) as e:
        convert(str(hands / "annotations"), str(target), data=str(yaml))
    text = str(e.value)
    assert "points wrist, left_thumb, right_thumb, tip (4 names in 3 files) are not among" in text
    assert str(yaml) in text and "kpt_names" in text and "\n" not in text
    assert not target.exists()


def test_some_points_of_the_data_yaml_are_one_line_a_name(hands):
    yaml = hands / "d.yaml"
    yaml.write_text("train: images\nval: images\nnames: [hand]\nnkpt: 2\n"
                    "kpt_names: [wrist, tip]\n")  # fmt: skip
    words = ["--json_dir", hands / "annotations", "--label_dir", hands / "labels", "--data", yaml]
    done = run_script("escalator/json2yolo.py", *words)
    assert done.returncode == 1
    *lines, error = done.stderr.splitlines()
    assert [line.split(": ")[1:3] for line in lines] == [
        ["point left_thumb is not among the keypoints", lines[0].split(": ")[2]],
        ["point right_thumb is not among the keypoints", lines[1].split(": ")[2]],
    ]
    assert "3 points left out" in lines[0] and "2 points left out" in lines[1]
    assert "error: 5 points could not be converted" in error and "3 images were" in error
    assert read_labels(hands / "labels" / "1.txt", 2).keypoints[0, :, 2].tolist() == [2, 2]


def dogs(folder, names=DOG, **more):
    points = [v for k in range(len(names)) for v in (20 + k, 30 + k, 2)]
    category = {"id": 3, "name": "dog", "keypoints": names, "skeleton": [[1, 2]]}
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 60, 50],
                  "area": 900, "keypoints": points}  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "0.png", "height": 80, "width": 100}],
        "annotations": [annotation],
        "categories": [{"id": 0, "name": "animals"}, category],
    }
    image(folder / "images" / "0.png")
    return write(folder / "annotations" / "x.json", {**content, **more})


def test_seventeen_points_of_another_kind_stay_what_they_are(tmp_path):
    path = dogs(tmp_path)
    json2yolo(str(path))
    assert read_labels(tmp_path / "labels" / "0.txt", 17).count == 1
    yaml = tmp_path / "d.yaml"
    yaml.write_text("train: images\nval: images\nnames: [dog]\nnkpt: 17\n")
    data = read_data(yaml)
    assert list(data.skeleton.names) == DOG and data.skeleton.flip_index[:3] == (1, 0, 2)
    (tmp_path / "labels" / "keypoints.yaml").unlink()
    yaml.write_text(yaml.read_text() + "val-annotations: annotations/x.json\n")
    assert read_data(yaml).skeleton == COCO  # nothing says otherwise, until the JSON is read
    assert list(read_eval_set(read_data(yaml), "val").skeleton.names) == DOG


def test_coco_in_another_order_is_still_coco(tmp_path):
    found = survey(str(dogs(tmp_path, list(COCO_NAMES)[::-1])))
    assert found.skeleton == COCO and found.names == ["dog"]


@pytest.mark.parametrize(
    "categories, reason",
    [
        ([("dog", DOG), ("cat", ["a", *DOG[:3]])], "different numbers of keypoints .dog 17, cat 4"),
        ([("dog", DOG[:4]), ("cat", list("abcd"))], "categories disagree about the keypoints"),
        ([("dog", ["a", "A", "b"])], "keypoint a is there twice"),
    ],
)
def test_categories_that_disagree_are_one_line(tmp_path, categories, reason):
    entries = [{"id": i, "name": n, "keypoints": k} for i, (n, k) in enumerate(categories, 1)]
    path = dogs(tmp_path, categories=entries)
    with pytest.raises(InputError, match=reason) as e:
        json2yolo(str(path))
    assert str(path) in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "labels").exists()


def test_a_category_with_some_of_the_keypoints_is_padded(tmp_path, capsys):
    """As Roboflow exports classes whose points are new-point-0, new-point-1, ..."""
    few = ["nose", "left_eye"]
    path = dogs(tmp_path, categories=[
        {"id": 2, "name": "cat", "keypoints": few}, {"id": 3, "name": "dog", "keypoints": DOG}
    ])  # fmt: skip
    content = json.loads(path.read_text())
    content["annotations"].append(
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [5, 5, 40, 40], "area": 80,
         "keypoints": [10, 20, 2, 30, 40, 1]}
    )  # fmt: skip
    write(path, content)
    json2yolo(str(path))
    assert "cat has 2 of the 17 keypoints" in capsys.readouterr().out
    labels = read_labels(tmp_path / "labels" / "0.txt", 17)
    cat = labels.keypoints[labels.classes.tolist().index(0)]
    assert np.flatnonzero(cat[:, 2]).tolist() == [0, 2] and np.allclose(cat[2], [0.1, 0.25, 2])
    assert np.allclose(cat[0], [0.3, 0.5, 1]) and labels.keypoints[..., 2].all(1).sum() == 1


def test_categories_that_are_not_chosen_may_say_anything(tmp_path):
    path = dogs(tmp_path, categories=[
        {"id": 3, "name": "dog", "keypoints": DOG}, {"id": 4, "name": "cat", "keypoints": 5}
    ])  # fmt: skip
    assert survey(str(path), ["dog"]).skeleton.count == 17


def test_the_image_beside_its_json_is_meant(tmp_path):
    """As Roboflow exports COCO: train/_annotations.coco.json among the images of train."""
    for part, x in (("train", 20), ("valid", 40)):
        path = dogs(tmp_path / part)
        content = json.loads(path.read_text())
        content["annotations"][0]["bbox"][0] = x
        write(tmp_path / part / "_annotations.coco.json", content)
        image(tmp_path / part / "0.png")
        shutil.rmtree(str(tmp_path / part / "images"))
        shutil.rmtree(str(tmp_path / part / "annotations"))
    json2yolo(str(tmp_path))
    boxes = [read_labels(tmp_path / part / "0.txt", 17).boxes[0, 0] for part in ("train", "valid")]
    assert np.allclose(np.diff(boxes), 0.2)
    json2yolo(str(tmp_path / "train"))
    yaml = tmp_path / "d.yaml"
    yaml.write_text("train: train\nval: valid\nnames: [dog]\n")
    assert list(read_data(yaml).skeleton.names) == DOG  # train/keypoints.yaml


def test_a_category_of_boxes_alone_goes_with_the_others(tmp_path):
    path = dogs(tmp_path, categories=[
        {"id": 3, "name": "dog", "keypoints": DOG}, {"id": 4, "name": "ball"}
    ])  # fmt: skip
    content = json.loads(path.read_text())
    content["annotations"].append(
        {"id": 2, "image_id": 1, "category_id": 4, "bbox": [5, 5, 9, 9], "area": 80}
    )
    write(path, content)
    json2yolo(str(path), names=["dog", "ball"])
    labels = read_labels(tmp_path / "labels" / "0.txt", 17)
    assert labels.classes.tolist() == [0, 1] and not labels.keypoints[1].any()


@pytest.mark.parametrize("numbers, count", [(8, 4), (15, 5), (34, 17), (51, 17), (12, 6)])
def test_the_count_of_our_own_format(tmp_path, numbers, count):
    person = {"keypoints": [11.5 + v for v in range(numbers)], "bbox": [1, 2, 30, 40]}
    write(tmp_path / "annotations" / "0.json", [person])
    assert survey(str(tmp_path / "annotations")).skeleton.count == count


def test_points_as_lists_of_their_own(tmp_path):
    image(tmp_path / "images" / "0.png")
    for row in ([[20, 30], [40, 50], [0, 0]] * 5, [[20, 30, 2], [40, 50, 1], [0, 0, 0]] * 5):
        write(tmp_path / "annotations" / "0.json", [{"keypoints": row, "bbox": [10, 10, 50, 50]}])
        assert survey(str(tmp_path / "annotations")).skeleton.count == 15
        tally = json2yolo(str(tmp_path / "annotations"))
        assert not tally.faults and tally.persons == 1


def test_labelme_that_contradicts_or_is_broken(hands):
    source = str(hands / "annotations")
    with pytest.raises(InputError, match="`nkpt` 3, but the points have 4 names: wrist, "):
        survey(source, nkpt=3)
    content = labelme(4)
    content["shapes"].insert(0, None)
    write(hands / "annotations" / "0.json", content)
    assert survey(source).skeleton.count == 4  # the shape is told where the file is converted
    content["shapes"].append({**content["shapes"][-1], "label": " "})
    write(hands / "annotations" / "0.json", content)
    with pytest.raises(InputError, match="the points of labelme: kpt_names: an empty name"):
        survey(source)
