import json

import cv2
import numpy as np
import pytest

from utils.dataset.data_yaml import read_data
from utils.dataset.eval_set import check_images, read_eval_set
from utils.errors import InputError

PERSON = "0 0.5 0.5 0.5 0.5 " + " ".join(["0.5 0.5 2"] * 17)


def write_set(folder, names=("1.jpg", "2.jpg"), label=PERSON, with_json=False, hw=(48, 64)):
    """Images, labels and a yaml in the published layout; returns the yaml."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(exist_ok=True)
    image = cv2.imencode(".jpg", np.zeros((hw[0], hw[1], 3), np.uint8))[1].tobytes()
    for name in names:
        (folder / "images" / name).write_bytes(image)
        (folder / "labels" / name).with_suffix(".txt").write_text(label + "\n" if label else "")
    (folder / "val.txt").write_text("".join("images/%s\n" % n for n in names))
    text = "val: val.txt\nnc: 1\nnames: [person]\n"
    if with_json:
        content = coco_content(names, hw)
        (folder / "val.json").write_text(json.dumps(content))
        text += "val-annotations: val.json\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def coco_content(names, hw):
    """The same persons as a COCO JSON."""
    h, w = hw
    return {
        "images": [
            {"id": i, "file_name": name, "height": h, "width": w} for i, name in enumerate(names, 7)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i + 6,
                "category_id": 3,
                "bbox": [w / 4, h / 4, w / 2, h / 2],
                "area": w * h / 8,
                "iscrowd": 0,
                "num_keypoints": 17,
                "keypoints": [w / 2, h / 2, 2] * 17,
            }
            for i in range(1, len(names) + 1)
        ],
        "categories": [{"id": 3, "name": "person"}],
    }


def read(path, **options):
    return read_eval_set(read_data(path), "val", **options)


def test_labels_and_json_say_the_same(tmp_path):
    path = write_set(tmp_path, with_json=True)
    from_json, from_labels = read(path), read(path, from_labels_only=True)
    assert from_json.image_ids == [7, 8] and from_labels.image_ids == [1, 2]
    assert from_json.category_ids == [3] and from_labels.category_ids == [1]
    for i in range(2):
        a, b = from_json.ground_truth(i, (48, 64)), from_labels.ground_truth(i, (48, 64))
        assert np.allclose(a.boxes, b.boxes) and np.allclose(a.keypoints, b.keypoints)
        assert a.areas[0] == 48 * 64 / 8 and b.areas[0] == pytest.approx(0.53 * 48 * 64 / 4)


def test_ids_are_running_numbers_unless_all_names_are_numbers(tmp_path):
    assert read(write_set(tmp_path, ("5.jpg", "a.jpg"))).image_ids == [1, 2]


def test_nobody_there_is_an_empty_file(tmp_path):
    eval_set = read(write_set(tmp_path, label=""))
    assert eval_set.ground_truth(0, (48, 64)).count == 0


def test_missing_images_and_labels_are_counted(tmp_path):
    path = write_set(tmp_path)
    (tmp_path / "labels" / "2.txt").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images have no label file, first .*2\.txt"):
        read(path)
    (tmp_path / "images" / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images do not exist, first .*1\.jpg"):
        read(path)


def test_malformed_label_names_file_and_line(tmp_path):
    path = write_set(tmp_path)
    (tmp_path / "labels" / "2.txt").write_text(PERSON + "\n" + PERSON[:-2] + "\n")
    with pytest.raises(InputError, match=r"2\.txt, line 2: 55 columns"):
        read(path)


def test_json_of_other_images(tmp_path):
    path = write_set(tmp_path, with_json=True)
    (tmp_path / "val.json").write_text(json.dumps(coco_content(("1.jpg", "x.jpg"), (48, 64))))
    with pytest.raises(InputError, match=r"1 of the 2 images are not in it, first .*2\.jpg"):
        read(path)


def test_json_of_other_sizes(tmp_path):
    eval_set = read(write_set(tmp_path, with_json=True))
    with pytest.raises(InputError, match="64x48 px .* says 48x64"):
        eval_set.ground_truth(0, (64, 48))


def test_images_of_another_size_than_the_json_says(tmp_path):
    eval_set = read(write_set(tmp_path, with_json=True))
    check_images(eval_set, "val")
    cv2.imwrite(eval_set.paths[1], np.zeros((48, 60, 3), np.uint8))
    with pytest.raises(InputError, match=r"2\.jpg: 48x60 px .* says 48x64$"):
        check_images(eval_set, "val")


def test_one_name_in_two_folders(tmp_path):
    path = write_set(tmp_path, ("1.jpg",), with_json=True)
    content = coco_content(("a/1.jpg", "b/1.jpg"), (48, 64))
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images" / "b").mkdir()
    (tmp_path / "images" / "1.jpg").rename(tmp_path / "images" / "b" / "1.jpg")
    (tmp_path / "val.txt").write_text("images/b/1.jpg\n")
    assert read(path).image_ids == [8]
