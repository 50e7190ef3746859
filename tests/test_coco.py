import json

import numpy as np
import pytest

from utils.coco import CocoImage, image_ids, read_coco, write_coco
from utils.errors import InputError
from utils.keypoints import COCO_NAMES
from utils.truth import Truth, empty_truth

IMAGES = {7: CocoImage("图/a.jpg", (100, 200)), 3: CocoImage("b.jpg", (50, 60))}


def truth(rng, n):
    keypoints = np.round(rng.uniform(0, 99, (n, 17, 3)), 3)
    keypoints[..., 2] = rng.integers(0, 3, (n, 17))
    boxes = np.round(rng.uniform(1, 50, (n, 4)), 3)
    return Truth(boxes, rng.integers(0, 2, n), keypoints, boxes[:, 2] * 7, rng.random(n) < 0.5)


def test_what_is_written_is_read(tmp_path):
    truths = {7: truth(np.random.default_rng(0), 4), 3: empty_truth(17)}
    path = tmp_path / "注释" / "x.json"
    write_coco(path, IMAGES, truths, ["person", "dog"])
    back = read_coco(path, ["person", "dog"], 17)
    assert back.images == IMAGES and back.category_ids == [1, 2]
    for key in IMAGES:
        for ours, theirs in zip(truths[key], back.truths[key]):
            assert ours.shape == theirs.shape and np.allclose(ours, theirs, atol=1e-3)


def test_pycocotools_loads_it(tmp_path, capsys):
    tools = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "x.json"
    write_coco(
        path, IMAGES, {7: truth(np.random.default_rng(0), 4), 3: empty_truth(17)}, ["person", "dog"]
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
    ],
)
def test_faults_raise_or_are_collected(tmp_path, changes, reason):
    path = write(tmp_path / "x.json", content(**changes))
    with pytest.raises(InputError) as e:
        read_coco(path, ["person"], 17)
    assert str(e.value).startswith(str(path)) and reason in str(e.value)
    faults = []
    assert read_coco(path, ["person"], 17, faults).truths[7].count == 1
    assert len(faults) == 1 and reason in faults[0]


def test_bad_image_entries_cost_only_themselves(tmp_path):
    value = content()
    value["images"] += [{"id": 7, "file_name": "b.jpg", "height": 1, "width": 1}, {"id": "x"}, 3]
    faults = []
    data = read_coco(write(tmp_path / "x.json", value), ["person"], 17, faults)
    assert list(data.images) == [7] and data.truths[7].count == 2 and len(faults) == 3


def test_missing_box_and_area_are_nan_when_faults_are_collected(tmp_path):
    path = write(tmp_path / "x.json", content(bbox=[]))
    read = read_coco(path, ["person"], 17, []).truths[7]
    assert np.isnan(read.boxes[1]).all() and np.isnan(read.areas).all()
    with pytest.raises(InputError, match="bbox"):
        read_coco(path, ["person"], 17)


def test_keypoints_in_another_order(tmp_path):
    order = list(reversed(range(17)))
    value = content(keypoints=[v for k in order for v in (k, 50, 2)])
    value["categories"][0]["keypoints"] = [COCO_NAMES[k].replace("_", " ").title() for k in order]
    read = read_coco(write(tmp_path / "x.json", value), ["person"], 17).truths[7]
    assert read.keypoints[1, :, 0].tolist() == list(range(17))


def test_category_above_the_one_with_keypoints(tmp_path):
    value = content()
    value["categories"][0]["name"] = "man"
    value["categories"].insert(0, {"id": 0, "name": "people"})
    data = read_coco(write(tmp_path / "x.json", value), ["person"], 17)
    assert data.category_ids == [1] and data.truths[7].count == 2
    value["categories"][1]["keypoints"] = []
    with pytest.raises(InputError, match="categories people, man do not match the classes person"):
        read_coco(write(tmp_path / "x.json", value), ["person"], 17)


def test_image_ids():
    assert image_ids(["x/000012.jpg", "y/7.png"]) == [12, 7]
    assert image_ids(["x/7.jpg", "y/7.png"]) == [1, 2]
    assert image_ids(["a.jpg", "7.jpg"]) == [1, 2]
