"""json2yolo, json2coco and yolo2coco: everybody's files in, and the way round."""

import json
import os
import shutil
import unicodedata

import cv2
import numpy as np
import pytest

from escalator.jobs import NO_IMAGE, NO_JSON
from escalator.json2coco import json2coco
from escalator.json2yolo import LEFT_OUT, json2yolo
from escalator.yolo2coco import yolo2coco
from tests.conftest import ROOT, SHARED, needs_shared
from tests.scripts import run_script
from utils.dataset.coco import read_coco
from utils.dataset.labels import list_images, read_labels
from utils.errors import InputError, InputWarning
from utils.parallel import SERIAL_UP_TO

POINTS = [v for k in range(17) for v in (50 + k, 20 + 2 * k)]
PERSON = {"keypoints": POINTS, "bbox": [40, 10, 50, 60]}


def image(path, hw=(100, 200)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.zeros(hw + (3,), np.uint8))[1].tobytes())
    return path


def annotation(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def data(tmp_path):
    """Two images with a person each, one with nobody; Chinese names, a subfolder."""
    root = tmp_path / "数据"
    for stem, content in (("甲", [PERSON]), ("sub/b.x", [PERSON]), ("空", [])):
        image(root / "images" / (stem + ".png"))
        annotation(root / "annotations" / (stem + ".json"), content)
    return root


def test_folder(data):
    labels = data / "labels"
    (labels / "sub").mkdir(parents=True)
    (labels / "空.txt").write_text("an older label\n")
    tally = json2yolo(str(data / "annotations"), str(labels))
    assert (tally.images, tally.persons, tally.empty, tally.faults) == (3, 2, 1, [])
    assert (labels / "空.txt").read_text() == ""
    read = read_labels(labels / "sub" / "b.x.txt", 17, 1)
    assert read.boxes.tolist() == [[65 / 200, 40 / 100, 50 / 200, 60 / 100]]
    assert np.allclose(read.keypoints[0, 3], [53 / 200, 26 / 100, 2])
    assert (labels / "甲.txt").read_bytes() == (labels / "sub" / "b.x.txt").read_bytes()
    again = json2yolo(str(data / "annotations"))  # where training looks; never appended
    assert again.persons == 2 and len((labels / "甲.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", ["bad.json: not JSON"]),
        ({"persons": []}, ["bad.json: expected a list of persons"]),
        ([PERSON, {"keypoints": POINTS[:-1]}], ["bad.json, person 2: keypoints: 33 numbers"]),
        ([{"keypoints": [], "bbox": []}, PERSON], ["bad.json, person 1: neither a bbox"]),
    ],
)
def test_what_fails_is_named_and_the_rest_is_converted(data, content, words):
    image(data / "images" / "bad.png")
    annotation(data / "annotations" / "bad.json", content)
    done = run_script("escalator/json2yolo.py", "--json-dir", data / "annotations",
                      "--label-dir", data / "labels")  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert all(word in line for word in words)
    converted = 4 if isinstance(content, list) else 3
    error = "error: 1 file or person could not be converted (see above); %d images were converted"
    assert done.stderr.splitlines()[-1] == error % converted
    assert (data / "labels" / "甲.txt").is_file()
    bad = data / "labels" / "bad.txt"
    assert len(bad.read_text().splitlines()) == 1
    assert (bad.read_text() == "not-converted\n") == (not isinstance(content, list))


def test_images_that_are_missing_broken_or_of_one_stem(data):
    annotation(data / "annotations" / "none.json", [PERSON])
    annotation(data / "annotations" / "broken.json", [PERSON])
    (data / "images" / "broken.jpg").write_bytes(b"no image")
    image(data / "images" / "甲.webp")
    image(data / "images" / "extra.png")
    tally = json2yolo(str(data / "annotations"), str(data / "labels"))
    text = "\n".join(map(str, tally.faults))
    assert len(tally.faults) == 3 and tally.images == 2
    assert "none.json: no image none.* in the folder" in text
    assert "broken.jpg: not an image" in text
    assert "甲.json: several images of one name" in text
    assert sum(tally.notes.values()) >= 1
    names = {p.relative_to(data / "labels").as_posix() for p in (data / "labels").rglob("*.*")}
    assert names == {"sub/b.x.txt", "空.txt", "broken.txt"}  # nothing half-written either


def coco_json(path, names, hw=(100, 200), **changes):
    images = [
        {"id": i, "file_name": name, "height": hw[0], "width": hw[1]}
        for i, name in enumerate(names)
    ]
    points = [v for k in range(17) for v in (50 + k, 20 + 2 * k, 1)]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [40, 10, 50, 60], "keypoints": points,
         "area": 1234.5, "iscrowd": 0, **changes}
        for i in range(len(names))
    ]  # fmt: skip
    categories = [{"id": 1, "name": "person"}]
    return annotation(
        path, {"images": images, "annotations": annotations, "categories": categories}
    )


def test_coco_json_finds_images_in_subfolders(data):
    path = coco_json(data / "x" / "coco.json", ["甲.png", "b.x.png", "nowhere.jpg"])
    tally = json2yolo(str(path), str(data / "labels"), str(data / "images"))
    assert tally.images == 3 and not tally.faults
    assert sum(tally.notes.values()) == 1  # an image that is not there
    read = read_labels(data / "labels" / "sub" / "b.x.txt", 17)
    assert (read.keypoints[..., 2] == 1).all()
    assert (data / "labels" / "nowhere.txt").is_file()


def test_suffix_in_other_capitals(tmp_path):
    image(tmp_path / "images" / "a.PNG")
    path = coco_json(tmp_path / "x.json", ["a.png", "a.jpg"])
    tally = json2yolo(str(path), str(tmp_path / "labels"))
    assert tally.notes[NO_IMAGE] == 0 and "shares its labels" in str(tally.faults[0])
    path = coco_json(tmp_path / "x.json", ["a.png"])
    assert json2yolo(str(path)).notes[NO_IMAGE] == 0
    assert (tmp_path / "labels" / "a.txt").is_file()


@pytest.mark.parametrize("name", ["./", "..", "/", "a/..", "a\0.png", "\ud800.png"])
def test_a_file_name_that_is_none(tmp_path, name):
    image(tmp_path / "images" / "b.png")
    tally = json2yolo(str(coco_json(tmp_path / "x.json", [name, "b.png"])))
    (fault,) = map(str, tally.faults)
    assert "file_name is not the name of a file" in fault and tally.images == 1


def test_an_image_in_a_coco_json_and_with_its_own(data):
    coco_json(data / "annotations" / "coco.json", ["甲.png", "new.png"], bbox=[1, 1, 9, 9])
    image(data / "images" / "new.png")
    for convert in (json2yolo, lambda folder: json2coco(folder, str(data / "x.json"))):
        tally = convert(str(data / "annotations"))
        (fault,) = map(str, tally.faults)
        assert "coco.json: 甲.png: left out, " in fault and "甲.json is of this image" in fault
        assert tally.images == 4
    boxes = read_labels(data / "labels" / "甲.txt", 17).boxes
    assert boxes.tolist() == [[65 / 200, 40 / 100, 50 / 200, 60 / 100]]
    ground_truths = read_coco(data / "x.json", ["person"], 17).ground_truths.values()
    assert sorted(t.count for t in ground_truths) == [0, 1, 1, 1]


def test_names_as_macos_spells_them(tmp_path):
    decomposed = unicodedata.normalize("NFD", "é")
    image(tmp_path / "images" / (decomposed + ".png"))
    annotation(tmp_path / "annotations" / "é.json", [PERSON])
    tally = json2yolo(str(tmp_path / "annotations"), str(tmp_path / "labels"))
    assert not sum(tally.notes.values())
    assert os.listdir(str(tmp_path / "labels")) == [decomposed + ".txt"]
    assert not yolo2coco(str(tmp_path / "images"), str(tmp_path / "x.json")).faults


def test_linked_folders(data):
    other = image(data / "store" / "c.png").parent
    annotation(data / "more" / "c.json", [PERSON])
    (data / "images" / "linked").symlink_to(other, target_is_directory=True)
    (data / "annotations" / "linked").symlink_to(data / "more", target_is_directory=True)
    (data / "annotations" / "up").symlink_to(data / "annotations", target_is_directory=True)
    tally = json2yolo(str(data / "annotations"))
    assert tally.images == 4 and not tally.faults
    assert (data / "labels" / "linked" / "c.txt").is_file()


def test_the_json_of_the_very_path_goes_first(data):
    annotation(data / "annotations" / "b.x.json", [PERSON] * 2)
    tally = json2yolo(str(data / "annotations"))
    (fault,) = map(str, tally.faults)
    assert "b.x.json: no image b.x.*" in fault and "sub" not in fault
    assert read_labels(data / "labels" / "sub" / "b.x.txt", 17).count == 1
    path = coco_json(data / "x.json", ["b.x.png", "sub/b.x.png"])
    assert not json2yolo(str(path), str(data / "out"), str(data / "images")).faults


def test_list_and_folder_find_the_same(data):
    """A JSON in the folder of annotations itself, its image in a subfolder."""
    os.replace(str(data / "annotations" / "sub" / "b.x.json"), str(data / "annotations/b.x.json"))
    (data / "sub.txt").write_text("images/sub/b.x.png\n")
    assert json2coco(str(data / "sub.txt"), str(data / "x.json")).persons == 1
    for source in ("annotations", "sub.txt"):
        tally = json2yolo(str(data / source), str(data / source[:3]))
        assert not tally.faults
        assert (data / source[:3] / "sub" / "b.x.txt").is_file()


def test_folder_with_coco_json_beside_its_images(tmp_path):
    folder = tmp_path / "train"
    image(folder / "a.png")
    coco_json(folder / "_annotations.coco.json", ["a.png"], iscrowd=0)
    assert json2yolo(str(folder)).images == 1
    assert read_labels(folder / "a.txt", 17).count == 1  # beside the image: that is where it counts


def test_coco_sizes(data):
    path = coco_json(data / "x.json", ["甲.png"], (50, 100))  # the image is twice as large
    tally = json2yolo(str(path), str(data / "labels"), str(data / "images"))
    assert tally.images == 1
    assert np.allclose(read_labels(data / "labels" / "甲.txt").keypoints[0, 0], [0.5, 0.4, 1])
    path = coco_json(data / "x.json", ["甲.png"], (200, 100))
    tally = json2yolo(str(path), str(data / "labels"), str(data / "images"))
    (fault,) = map(str, tally.faults)
    assert "甲.png is 200 x 100 px" in fault and "says 100 x 200; turned" in fault
    path = coco_json(data / "x.json", ["甲.png", "甲.jpg"])
    assert "shares its labels" in str(json2yolo(str(path), str(data / "labels")).faults[0])


def test_names_that_lead_out_of_the_folder(tmp_path):
    path = coco_json(tmp_path / "x.json", ["../../a.jpg", "/etc/b.jpg", "C:\\x\\c.jpg"])
    json2yolo(str(path), str(tmp_path / "out" / "labels"))
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.txt")}
    assert names == {"out/labels/%s.txt" % n for n in "abc"}


def test_labelme_file_beside_its_image(tmp_path):
    image(tmp_path / "a.png")
    shapes = [
        {"label": "person", "shape_type": "rectangle", "points": [[10, 10], [50, 90]]},
        {"label": "nose", "shape_type": "point", "points": [[30, 20]]},
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 100, "imageWidth": 200}
    annotation(tmp_path / "a.json", content)
    assert json2yolo(str(tmp_path), str(tmp_path / "labels")).persons == 1
    assert read_labels(tmp_path / "labels" / "a.txt").keypoints[0, 0].tolist() == [0.15, 0.2, 2]


def test_many_files_on_several_cores(tmp_path):
    source = image(tmp_path / "images" / "0.png")
    for i in range(SERIAL_UP_TO + 50):
        if i:
            shutil.copyfile(str(source), str(tmp_path / "images" / ("%d.png" % i)))
        annotation(tmp_path / "annotations" / ("%d.json" % i), [PERSON] * (i % 3) if i else "{")
    tally = json2yolo(str(tmp_path / "annotations"), str(tmp_path / "labels"), workers=2)
    assert tally.images == SERIAL_UP_TO + 49 and len(tally.faults) == 1
    texts = [p.read_text() for p in (tmp_path / "labels").iterdir()]
    assert sum(len(text.splitlines()) for text in texts) == tally.persons + 1
    assert texts.count("not-converted\n") == tally.notes[LEFT_OUT] == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--json_dir", "nowhere"], ["--json_dir nowhere: no such file"]),
        (["--json_dir", "utils"], ["--json_dir utils: no .json files"]),
        (["--json_dir", "utils", "--image_dir", "nowhere"], ["--image_dir nowhere"]),
        (["--json_dir", "utils", "--nkpt", "0"], ["--nkpt 0"]),
        (["--json_dir", "utils", "--names", "a", "a"], ["--names a a"]),
    ],
)
def test_wrong_flags(flags, words):
    done = run_script("escalator/json2yolo.py", *flags)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: ")
    assert all(word in line for word in words)


def test_a_json_without_image_names_the_flag(data):
    (data / "annotations" / "none.json").write_text("[]")
    done = run_script("escalator/json2yolo.py", "--json_dir", data / "annotations")
    told = "none.json: no image none.* in the folder of images (--image_dir)"
    assert done.returncode == 1 and told in done.stderr


def test_json2coco_of_a_list(data):
    (data / "val.txt").write_text("./images/甲.png\n./images/空.png\n")
    path = data / "annotations-trainval" / "val.json"
    tally = json2coco(str(data / "val.txt"), str(path))
    coco = read_coco(path, ["person"], 17)
    assert tally.images == 2 and [i.file_name for i in coco.images.values()] == ["甲.png", "空.png"]
    assert [t.count for t in coco.ground_truths.values()] == [1, 0] and list(coco.images) == [1, 2]
    assert coco.ground_truths[1].areas == pytest.approx([0.53 * 3000])
    (data / "annotations" / "空.json").unlink()
    tally = json2coco(str(data / "val.txt"), str(path))
    assert not tally.faults and tally.images == 1 and tally.notes[NO_JSON] == 1
    (data / "annotations" / "甲.json").unlink()
    with pytest.raises(InputError, match="no image has a JSON, such as .*annotations"):
        json2coco(str(data / "val.txt"), str(path))


def test_a_name_that_is_not_utf8(tmp_path):
    folder = image(tmp_path / "images" / "a.png").parent
    os.replace(str(folder / "a.png"), os.fsencode(str(folder)) + b"/\xe9.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / os.fsdecode(b"\xe9.txt")).write_text("")
    with pytest.raises(InputError, match=r"udce9.png: a file name that is not UTF-8"):
        yolo2coco(str(folder), str(tmp_path / "x.json"))
    assert not (tmp_path / "x.json").exists()


def test_json2coco_keeps_areas(data):
    source = coco_json(data / "x.json", ["甲.png"])
    json2coco(str(source), str(data / "y.json"), str(data / "images"))
    assert read_coco(data / "y.json", ["person"], 17).ground_truths[1].areas.tolist() == [1234.5]


def test_json2coco_writes_nothing_of_nothing(data):
    for path in (data / "annotations").rglob("*.json"):
        path.write_text("{")
    with pytest.raises(InputError):
        json2coco(str(data / "annotations"), str(data / "x.json"))
    assert not (data / "x.json").exists()


def test_yolo2coco_names_broken_lines(data):
    json2yolo(str(data / "annotations"))
    label = data / "labels" / "甲.txt"
    label.write_text(label.read_text() + "0 1 2\n")
    tally = yolo2coco(str(data / "images"), str(data / "x.json"))
    assert tally.images == 3 and tally.persons == 2
    assert "甲.txt, line 2: 3 columns" in str(tally.faults[0])
    done = run_script("escalator/yolo2coco.py", "--data_file", data / "images", "--save_file",
                      data / "y.json")  # fmt: skip
    assert done.returncode == 1 and "line 2: 3 columns" in done.stderr


def random_person(rng, hw):
    size = np.array(hw[::-1])
    points = np.round(rng.uniform(0, 1, (17, 2)) * size, 2)
    points[rng.random(17) < 0.3] = 0
    low, high = rng.uniform(0, 0.5, 2) * size, rng.uniform(0.6, 1, 2) * size
    entry = {"keypoints": points.ravel().tolist(), "bbox": [*low, *(high - low)]}
    if rng.random() < 0.5:
        v = rng.integers(0, 3, 17) * points.any(1)
        entry["keypoints"] = np.concatenate([points, v[:, None]], 1).ravel().tolist()
    if rng.random() < 0.3 and (np.array(entry["keypoints"]) > 0).sum() > 8:
        entry["bbox"] = []
    return entry


@pytest.mark.parametrize("seed", range(4))
def test_there_and_back(tmp_path, seed):
    """Own JSON -> labels -> COCO -> labels, and own JSON -> COCO -> labels: all the same."""
    rng = np.random.default_rng(seed)
    for i in range(12):
        hw = tuple(int(v) for v in rng.integers(16, 900, 2))
        image(tmp_path / "images" / ("%d.png" % i), hw)
        entries = [random_person(rng, hw) for _ in range(rng.integers(0, 4))]
        annotation(tmp_path / "annotations" / ("%d.json" % i), entries)
    root, images = tmp_path, str(tmp_path / "images")
    assert not json2yolo(str(root / "annotations"), str(root / "labels")).faults
    assert not yolo2coco(images, str(root / "a" / "yolo.json")).faults
    assert not json2coco(str(root / "annotations"), str(root / "a" / "own.json"), images).faults
    for name in ("yolo", "own"):
        assert not json2yolo(str(root / "a" / (name + ".json")), str(root / name), images).faults
        for path in list_images(images):
            stem = path.rsplit("/", 1)[-1][: -len(".png")] + ".txt"
            first, back = (read_labels(root / f / stem, 17, 1) for f in ("labels", name))
            for a, b in zip(first, back):
                assert a.shape == b.shape or not a.size
                assert not a.size or np.abs(a - b).max() < 1e-4
    tools = pytest.importorskip("pycocotools.coco")
    for name in ("yolo", "own"):
        assert sorted(tools.COCO(str(root / "a" / (name + ".json"))).getImgIds()) == list(range(12))


@needs_shared
def test_real_coco_labels(tmp_path):
    data = SHARED / "data" / "coco_kpts"
    source = data / "annotations" / "person_keypoints_val2017.json"
    json2yolo(str(source), str(tmp_path), str(data / "images" / "val2017"))
    for path in sorted((data / "labels" / "val2017").glob("*.txt")):
        for a, b in zip(read_labels(path, 17), read_labels(tmp_path / path.name, 17)):
            assert a.shape == b.shape and np.abs(a - b).max() < 1e-5


def test_shipped_dataset(tmp_path):
    people = ROOT / "tests" / "data" / "people"
    with pytest.warns(InputWarning, match="training looks for the labels of"):
        tally = json2yolo(str(people / "annotations"), str(tmp_path))
    assert (tally.images, tally.persons, tally.empty, tally.faults) == (12, 18, 3, [])
