import json

import numpy as np
import pytest

from tests.test_eval_set import coco_content
from utils.coco import read_coco, result_json, result_rows
from utils.errors import InputError
from utils.poses import Poses


def write(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_images_and_persons(tmp_path):
    content = coco_content(("1.jpg", "2.jpg"), (48, 64))
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][1].pop("keypoints")
    content["annotations"][1].pop("area")
    data = read_coco(write(tmp_path, content), ["person"], 17)
    assert data.images[7].hw == (48, 64) and data.category_ids == [3]
    assert data.truths[7].keypoints.shape == (1, 17, 3) and not data.truths[7].crowd[0]
    assert data.truths[8].crowd[0] and not data.truths[8].keypoints.any()
    assert data.truths[8].areas[0] == pytest.approx(0.53 * 32 * 24)


def test_categories_by_name_and_others_left_out(tmp_path):
    content = coco_content(("1.jpg", "2.jpg"), (48, 64))
    content["categories"].append({"id": 1, "name": "dog"})
    content["annotations"][0]["category_id"] = 1
    data = read_coco(write(tmp_path, content), ["person"], 17)
    assert data.truths[7].count == 0 and data.truths[8].count == 1
    both = read_coco(write(tmp_path, content), ["person", "dog"], 17)
    assert both.truths[7].classes.tolist() == [1]
    with pytest.raises(InputError, match="categories person, dog do not match the classes cat"):
        read_coco(write(tmp_path, content), ["cat"], 17)


def broken(**changes):
    content = coco_content(("1.jpg", "2.jpg"), (48, 64))
    content["annotations"][1].update(changes)
    return content


@pytest.mark.parametrize(
    "content, reason",
    [
        ("{", "not JSON"),
        ([], "not a COCO JSON"),
        ({"images": []}, "no annotations"),
        ({"images": [{"id": 1}], "annotations": []}, r"images\[0\]: no file_name"),
        (
            {"images": [{"id": 1, "file_name": "a", "height": 0, "width": 1}], "annotations": []},
            "height and width",
        ),
        (
            {"images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}] * 2,
             "annotations": []},
            "id 1 is there twice",
        ),
        (broken(image_id=99), r"annotations\[1\]: image_id 99 is no image"),
        (broken(bbox=[1, 2, 3]), r"annotations\[1\] of 2.jpg: bbox"),
        (broken(bbox=[1, 2, -3, 4]), "bbox"),
        (broken(keypoints=[1] * 50), "50 keypoint numbers, expected 3 x 17"),
        (broken(keypoints=[float("nan")] * 51), "not a finite number"),
        (broken(keypoints=[5] * 51), "visibility"),
        (broken(area="big"), "area"),
    ],
)  # fmt: skip
def test_errors_name_the_entry(tmp_path, content, reason):
    with pytest.raises(InputError, match=reason) as e:
        read_coco(write(tmp_path, content), ["person"], 17)
    assert "c.json" in str(e.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_coco(tmp_path / "none.json", None, 17)


@pytest.mark.parametrize("count", [0, 3])
def test_result_rows_are_what_the_file_holds(count):
    rng = np.random.default_rng(0)
    boxes = np.cumsum(rng.uniform(1, 90, (count, 4)), 1).astype(np.float32)[:, [0, 1, 2, 3]]
    points = rng.uniform(0, 99, (count, 17, 3)).astype(np.float32)
    poses = Poses(boxes, np.linspace(1, 0.3, count, dtype=np.float32),
                  np.arange(count), points)  # fmt: skip
    rows = result_rows(poses)
    entries = json.loads(json.dumps(result_json(rows, 5, [10, 20, 30])))
    assert [e["category_id"] for e in entries] == [10, 20, 30][:count]
    assert [e["bbox"] for e in entries] == rows.boxes.tolist()
    for e, point in zip(entries, points):
        assert np.allclose(np.reshape(e["keypoints"], (17, 3)), point, atol=6e-4)
