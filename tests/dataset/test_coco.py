import json

import numpy as np
import pytest

from tests.dataset.test_eval_set import coco_content
from utils.dataset.coco import CocoImage, image_ids, read_coco, write_coco
from utils.dataset.coco_results import result_json, result_rows, result_rows_each
from utils.errors import InputError
from utils.pose.ground_truth import GroundTruth, empty_ground_truth
from utils.pose.keypoints import COCO_NAMES
from utils.pose.poses import Poses

IMAGES = {7: CocoImage("图/a.jpg", (100, 200)), 3: CocoImage("b.jpg", (50, 60))}


def ground_truth(rng, n):
    keypoints = np.round(rng.uniform(0, 99, (n, 17, 3)), 3)
    keypoints[..., 2] = rng.integers(0, 3, (n, 17))
    boxes = np.round(rng.uniform(1, 50, (n, 4)), 3)
    return GroundTruth(
        boxes, rng.integers(0, 2, n), keypoints, boxes[:, 2] * 7, rng.random(n) < 0.5
    )


def test_what_is_written_is_read(tmp_path):
    ground_truths = {7: ground_truth(np.random.default_rng(0), 4), 3: empty_ground_truth(17)}
    path = tmp_path / "注释" / "x.json"
    write_coco(path, IMAGES, ground_truths, names=["person", "dog"])
    back = read_coco(path, ["person", "dog"], 17)
    assert back.images == IMAGES and back.category_ids == [1, 2]
    for key in IMAGES:
        for ours, theirs in zip(ground_truths[key], back.ground_truths[key]):
            assert ours.shape == theirs.shape and np.allclose(ours, theirs, atol=1e-3)


def test_pycocotools_loads_it(tmp_path, capsys):
    tools = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "x.json"
    write_coco(
        path,
        IMAGES,
        {7: ground_truth(np.random.default_rng(0), 4), 3: empty_ground_truth(17)},
        names=["person", "dog"],
    )
    coco = tools.COCO(str(path))
    assert coco.getImgIds() == [7, 3] and sorted(coco.getAnnIds()) == [1, 2, 3, 4]
    annotation = coco.loadAnns([1])[0]
    visible = np.array(annotation["keypoints"])[2::3] > 0
    assert annotation["num_keypoints"] == visible.sum() and len(visible) == 17
    assert coco.loadCats([1])[0]["keypoints"] == list(COCO_NAMES)


def content(**changes):
    entry = {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [1, 2, 30, 40],
        "keypoints": [1, 2, 2] * 17,
    }
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 100, "width": 200}],
        "annotations": [entry, {**entry, **changes}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_NAMES)}],
    }  # fmt: skip


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"image_id": 8}, "annotations[1]: image_id 8 is no image"),
        ({"image_id": [7]}, "annotations[1]: image_id [7] is no image"),
        ({"bbox": [1, 2, 3]}, "annotations[1] of a.jpg: bbox"),
        ({"keypoints": [1, 2, 2] * 16}, "48 keypoint numbers, expected 3 x 17"),
        ({"keypoints": [float("nan"), 2, 2] * 17}, "not a finite number"),
        ({"keypoints": [1, 2, 7] * 17}, "visibility is not 0, 1 or 2"),
        ({"area": "big"}, "area must be a number"),
        ({"category_id": None}, "category_id None is no category"),
        ({"category_id": "1"}, "category_id 1 is no category"),
        ({"category_id": [1]}, "category_id [1] is no category"),
        ({"category_id": 0}, "annotations[1] of a.jpg: category_id 0 is no category"),
        ({"iscrowd": "0"}, 'annotations[1] of a.jpg: iscrowd "0" is not 0 or 1'),
        ({"image_id": "7"}, 'annotations[1] of a.jpg: image_id "7" must be an integer'),
        ({"image_id": 7.0}, "annotations[1] of a.jpg: image_id 7.0 must be an integer"),
    ],
)
def test_faults_raise_or_are_collected(tmp_path, changes, reason):
    path = write(tmp_path / "x.json", content(**changes))
    with pytest.raises(InputError) as e:
        read_coco(path, ["person"], 17)
    assert str(e.value).startswith(str(path)) and reason in str(e.value)
    faults = []
    assert read_coco(path, ["person"], 17, faults=faults).ground_truths[7].count == 1
    (fault,) = faults
    assert fault.place == "annotations[1]" and str(e.value).endswith(": " + fault.reason)
    assert fault.image_id == (None if "is no image" in reason else 7)


def test_bad_image_entries_cost_only_themselves(tmp_path):
    value = content()
    value["images"] += [{"id": 7, "file_name": "b.jpg", "height": 1, "width": 1}, {"id": "x"}, 3]
    faults = []
    data = read_coco(write(tmp_path / "x.json", value), ["person"], 17, faults=faults)
    assert list(data.images) == [7] and data.ground_truths[7].count == 2 and len(faults) == 3


def test_missing_box_and_area_are_nan_when_faults_are_collected(tmp_path):
    path = write(tmp_path / "x.json", content(bbox=[]))
    read = read_coco(path, ["person"], 17, faults=[]).ground_truths[7]
    assert np.isnan(read.boxes[1]).all() and np.isnan(read.areas).all()
    with pytest.raises(InputError, match="bbox"):
        read_coco(path, ["person"], 17)


def test_keypoints_in_another_order(tmp_path):
    order = list(reversed(range(17)))
    value = content(keypoints=[v for k in order for v in (k, 50, 2)])
    value["categories"][0]["keypoints"] = [COCO_NAMES[k].replace("_", " ").title() for k in order]
    read = read_coco(write(tmp_path / "x.json", value), ["person"], 17).ground_truths[7]
    assert read.keypoints[1, :, 0].tolist() == list(range(17))


def test_category_above_the_one_with_keypoints(tmp_path):
    value = content()
    value["categories"][0]["name"] = "man"
    value["categories"].insert(0, {"id": 0, "name": "people"})
    data = read_coco(write(tmp_path / "x.json", value), ["person"], 17)
    assert data.category_ids == [1] and data.ground_truths[7].count == 2
    value["categories"][1]["keypoints"] = []
    with pytest.raises(InputError, match="categories people, man do not match the classes person"):
        read_coco(write(tmp_path / "x.json", value), ["person"], 17)


def test_image_ids():
    assert image_ids(["x/000012.jpg", "y/7.png"]) == [12, 7]
    assert image_ids(["x/7.jpg", "y/7.png"]) == [1, 2]
    assert image_ids(["a.jpg", "7.jpg"]) == [1, 2]


PERSON = {"categories": [{"id": 1, "name": "person"}]}


def written(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_images_and_persons(tmp_path):
    content = coco_content(("1.jpg", "2.jpg"), (48, 64))
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][1].pop("keypoints")
    content["annotations"][1].pop("area")
    data = read_coco(written(tmp_path, content), ["person"], 17)
    assert data.images[7].hw == (48, 64) and data.category_ids == [3]
    assert (
        data.ground_truths[7].keypoints.shape == (1, 17, 3) and not data.ground_truths[7].crowd[0]
    )
    assert data.ground_truths[8].crowd[0] and not data.ground_truths[8].keypoints.any()
    assert data.ground_truths[8].areas[0] == pytest.approx(0.53 * 32 * 24)


def test_categories_by_name_and_others_left_out(tmp_path):
    content = coco_content(("1.jpg", "2.jpg"), (48, 64))
    content["categories"].append({"id": 1, "name": "dog"})
    content["annotations"][0]["category_id"] = 1
    data = read_coco(written(tmp_path, content), ["person"], 17)
    assert data.ground_truths[7].count == 0 and data.ground_truths[8].count == 1
    both = read_coco(written(tmp_path, content), ["person", "dog"], 17)
    assert both.ground_truths[7].classes.tolist() == [1]
    with pytest.raises(InputError, match="categories person, dog do not match the classes cat"):
        read_coco(written(tmp_path, content), ["cat"], 17)


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
        ({"images": [{"id": 1}], "annotations": [], **PERSON}, r"images\[0\]: no file_name"),
        (
            {"images": [{"id": 1, "file_name": "a", "height": 0, "width": 1}],
             "annotations": [], **PERSON},
            "height and width",
        ),
        (
            {"images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}] * 2,
             "annotations": [], **PERSON},
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
        read_coco(written(tmp_path, content), ["person"], 17)
    assert "c.json" in str(e.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
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


def test_rows_of_many_images_equal_each_alone():
    rng = np.random.default_rng(1)
    found = []
    for count in (3, 0, 1, 70):
        boxes = np.cumsum(rng.uniform(1, 90, (count, 4)), 1).astype(np.float32)
        points = rng.uniform(-9, 1999, (count, 5, 3)).astype(np.float32)
        scores = rng.random(count).astype(np.float32)
        found.append(Poses(boxes, scores, np.arange(count), points))
    together = result_rows_each(found)
    assert [r.count for r in together] == [3, 0, 1, 70] and result_rows_each([]) == []
    for rows, poses in zip(together, found):
        for one, other in zip(rows, result_rows(poses)):
            assert one.dtype == other.dtype and np.array_equal(one, other)
        x1, y1, x2, y2 = poses.boxes.T
        sides = np.stack([x1, y1, x2 - x1, y2 - y1], 1).astype(np.float64)
        np.testing.assert_array_equal(rows.boxes, np.round(sides, 3))
        np.testing.assert_array_equal(rows.scores, np.round(poses.scores.astype(np.float64), 6))


@pytest.mark.parametrize("name", [None, [], {"en": "person"}])
def test_a_category_without_a_name(tmp_path, name):
    value = content()
    value["categories"][0]["name"] = name
    with pytest.raises(InputError, match="categories: 1 has no name"):
        read_coco(write(tmp_path / "x.json", value), None, 17, faults=[])
