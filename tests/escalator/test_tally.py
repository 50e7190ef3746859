import json
import os

import cv2
import numpy as np
import pytest

from escalator.jobs import find_jobs, load
from escalator.json2coco import json2coco
from escalator.json2yolo import json2yolo
from escalator.tally import Tally
from escalator.yolo2coco import yolo2coco
from tests.scripts import run_inside
from utils.dataset.annotations import Fault
from utils.dataset.coco import read_coco
from utils.dataset.data_yaml import read_data
from utils.errors import InputError
from utils.pose.keypoints import COCO
from utils.training.train_set import read_train_set


def test_one_is_singular_and_the_path_stays(capsys):
    tally = Tally()
    tally.add(1, {"boxes made of the keypoints": 1, "persons without a labelled keypoint": 2})
    tally.finish("label files in data/images/files")
    assert capsys.readouterr().out.splitlines() == [
        "1 label file in data/images/files: 1 person, 0 images without persons",
        "  1 box made of the keypoints",
        "  2 persons without a labelled keypoint",
    ]


@pytest.mark.parametrize(
    "images, converted",
    [(0, "no image was converted"), (1, "1 image was converted"), (2, "2 images were converted")],
)
def test_the_error_says_how_many_were_converted(capsys, images, converted):
    tally = Tally()
    for _ in range(images):
        tally.add(1, {})
    tally.faults = [Fault("a.json", "not JSON")]
    with pytest.raises(InputError) as fault:
        tally.finish("label files in labels")
    assert str(fault.value).endswith("could not be converted (see above); " + converted)
    assert "failed: a.json: not JSON" in capsys.readouterr().err


def test_points_of_no_keypoint_are_one_line_a_name(capsys):
    tally = Tally()
    tally.add(1, {})
    places = ["a.json, shape 1", "a.json, shape 9", "b.json, shape 1"]
    tally.faults = [Fault(place, "point tpi is not one", point="tpi") for place in places]
    tally.faults.insert(1, Fault("", "c.json: broken: point tpi is not one"))
    with pytest.raises(InputError, match="^1 file or person and 3 points could not be converted"):
        tally.finish("label files in x")
    points, other = capsys.readouterr().err.splitlines()
    assert points.startswith("failed: point tpi is not one: 3 points left out, first in a.json, s")
    assert other == "failed: c.json: broken: point tpi is not one"


def test_a_name_that_reads_like_a_message(tmp_path, capsys):
    image = np.zeros((60, 80, 3), np.uint8)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    shape = {"label": "x: point nose", "points": [[3, 3]], "shape_type": "point", "group_id": None}
    content = {"imageHeight": 60, "imageWidth": 80, "shapes": [shape]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    jobs = find_jobs(str(tmp_path), "", ["person"], skel=COCO).jobs
    tally = Tally()
    tally.faults = load(jobs[0]).faults
    with pytest.raises(InputError, match="^1 point could not be converted"):
        tally.finish("label files in x")
    (line,) = capsys.readouterr().err.splitlines()
    name = "point x: point nose is not among the keypoints"
    place = "%s, shape 1" % (tmp_path / "a.json")
    assert line.startswith("failed: %s: 1 point left out, first in %s; " % (name, place))


def test_an_image_of_which_no_person_could_be_read_is_left_out(tmp_path):
    """In a COCO JSON it would count as one with nobody on it."""
    person = {"keypoints": [20, 20] * 17, "bbox": [10, 10, 30, 30]}
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    for name, persons in (("bad", [{"bbox": [1]}]), ("good", [person]), ("nobody", [])):
        image = cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))[1]
        (tmp_path / "images" / (name + ".png")).write_bytes(image.tobytes())
        (tmp_path / "annotations" / (name + ".json")).write_text(json.dumps(persons))
    json2yolo(str(tmp_path / "annotations"))
    labels = tmp_path / "labels"
    assert (labels / "bad.txt").read_text() == "not-converted\n"
    sources = {json2coco: "annotations", yolo2coco: "images"}
    for convert, source in sources.items():
        tally = convert(str(tmp_path / source), str(tmp_path / "x.json"))
        assert len(tally.faults) == 1 and (tally.images, tally.empty) == (2, 1)
        images = read_coco(tmp_path / "x.json", ["person"], 17).images.values()
        assert {image.file_name for image in images} == {"good.png", "nobody.png"}


def images_named(folder, *names):
    folder.mkdir()
    for name in names:
        image = cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))[1]
        (folder / name).write_bytes(image.tobytes())


@pytest.mark.parametrize(
    "entry, reason",
    [
        ({"id": 1}, "id 1 is there twice"),  # whose persons are these?
        ({"id": "2"}, "expected an id that is an integer"),
        ({"id": 2, "height": 0}, "height and width must be positive integers"),
    ],
)
def test_an_image_entry_that_cannot_be_read_is_no_background(tmp_path, entry, reason):
    images_named(tmp_path / "images", "a.png", "b.png", "good.png")
    size = {"height": 60, "width": 80}
    entries = [
        {"file_name": "a.png", "id": 1, **size},
        {"file_name": "b.png", **size, **entry},
        {"file_name": "good.png", "id": 9, **size},
        {"file_name": "good.png", "id": 9, **size},  # the same once more
    ]
    person = {"category_id": 1, "keypoints": [20, 20, 2] * 17, "bbox": [10, 10, 30, 30]}
    persons = [{**person, "image_id": key} for key in (1, 1, 9)]
    categories = [{"id": 1, "name": "person"}]
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"images": entries, "annotations": persons, "categories": categories})
    )
    labels, written = tmp_path / "labels", tmp_path / "y.json"
    wanted = ["good.txt"] if entry["id"] == 1 else ["a.txt", "good.txt"]
    for tally in (json2yolo(str(path), str(labels)), json2coco(str(path), str(written))):
        told = "\n".join(map(str, tally.faults))
        assert "%s: b.png, images[1]: " % path in told and reason in told
        assert "%s: images[3]: id 9 is there twice" % path in told
        assert tally.images == len(wanted)
    texts = {p.name: p.read_text() for p in labels.iterdir()}
    assert sorted(texts) == ["a.txt", "b.txt", "good.txt"]
    assert [n for n in sorted(texts) if texts[n] != "not-converted\n"] == wanted
    known = read_coco(written, ["person"], 17).images.values()
    assert {image.file_name[:-3] + "txt" for image in known} == set(wanted)


def test_images_that_share_their_labels_are_no_background(tmp_path):
    images_named(tmp_path / "images", "a.png", "b.png")
    person = {"category_id": 1, "keypoints": [20, 20, 2] * 17, "bbox": [10, 10, 30, 30]}
    names = ("a.png", "a.png", "a.png", "b.png")  # an entry a person, as some tools write it
    entries = [{"id": i, "file_name": n, "height": 60, "width": 80} for i, n in enumerate(names)]
    persons = [{**person, "image_id": i} for i in range(4)]
    categories = [{"id": 1, "name": "person"}]
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps({"images": entries, "annotations": persons, "categories": categories})
    )
    tally = json2yolo(str(path))
    assert tally.images == 1 and len(tally.faults) == 2
    assert all("shares its labels a.txt with" in str(fault) for fault in tally.faults)
    assert (tmp_path / "labels" / "a.txt").read_text() == "not-converted\n"


def test_where_nothing_is_converted_the_labels_of_an_earlier_run_stay(tmp_path):
    image = cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))[1]
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "a.png").write_bytes(image.tobytes())
    path, label = tmp_path / "annotations" / "a.json", tmp_path / "labels" / "a.txt"
    path.write_text(json.dumps([{"keypoints": [20, 20] * 17, "bbox": [10, 10, 30, 30]}]))
    json2yolo(str(path.parent))
    kept = label.read_text()
    for content in ("{", json.dumps([{"bbox": [1]}])):
        path.write_text(content)
        assert json2yolo(str(path.parent)).images == 0
        assert label.read_text() == kept


BROKEN = [
    {"bbox": [1]},
    {"category_id": None},
    {"category_id": 0},
    {"iscrowd": "0"},
    {"bbox": [], "keypoints": []},  # is found when the person is brought onto the image
]


@pytest.mark.parametrize("folder", [False, True])  # a folder that holds the JSON
@pytest.mark.parametrize("change", BROKEN, ids=[str(list(change)) for change in BROKEN])
def test_an_image_of_a_coco_json_of_which_no_person_could_be_read(tmp_path, change, folder):
    (tmp_path / "images").mkdir()
    person = {"category_id": 1, "keypoints": [20, 20, 2] * 17, "bbox": [10, 10, 30, 30]}
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    persons = (("bad", [change]), ("good", [{}, change]), ("nobody", []))
    for key, (name, changes) in enumerate(persons, 1):
        image = cv2.imencode(".png", np.zeros((60, 80, 3), np.uint8))[1]
        (tmp_path / "images" / (name + ".png")).write_bytes(image.tobytes())
        entry = {"id": key, "file_name": name + ".png", "height": 60, "width": 80}
        content["images"].append(entry)
        content["annotations"] += [{**person, "image_id": key, **more} for more in changes]
    path = tmp_path / "annotations" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    source = str(path.parent if folder else path)
    labels, written = tmp_path / "labels", tmp_path / "y.json"
    for tally in (json2yolo(source), json2coco(source, str(written))):
        assert (tally.images, tally.persons, tally.empty) == (2, 1, 1)
        assert str(tally.faults[0]).startswith("%s: bad.png, " % path) and len(tally.faults) == 2
    assert (labels / "nobody.txt").read_text() == ""
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [person]\n")
    train_set = read_train_set(read_data(data))
    assert [os.path.basename(p) for p in train_set.paths] == ["good.png", "nobody.png"]
    assert "bad.txt:1: the annotation of this image could not be converted" in train_set.faults[0]
    images = read_coco(written, ["person"], 17).images.values()
    assert {image.file_name for image in images} == {"good.png", "nobody.png"}


@pytest.mark.parametrize("convert", [json2coco, yolo2coco])
def test_where_nothing_can_be_written_nothing_is_read(tmp_path, convert):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot write into this folder"):
        convert("no such source", str(tmp_path / "file" / "x.json"))


@pytest.mark.parametrize(
    "script, flags",
    [
        ("json2coco", ("--json_dir", "nothing", "--save_file")),
        ("yolo2coco", ("--data_file", "nothing", "--save_file")),
        ("check", ("--data", "data.yaml", "--save_dir")),
    ],
)
def test_an_error_leaves_no_empty_folder(tmp_path, monkeypatch, script, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.yaml").write_text("train: nothing\nval: nothing\nnames: [person]\n")
    done = run_inside("escalator/%s.py" % script, *flags, "new/deep/x.json")
    assert done.returncode == 1 and "nothing" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["data.yaml"]


@pytest.mark.parametrize("script", ["json2yolo", "json2coco"])
def test_a_json_without_images(tmp_path, script):
    categories = [{"id": 1, "name": "person"}]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    flags = ("--save_file", tmp_path / "y.json") if script == "json2coco" else ()
    done = run_inside("escalator/%s.py" % script, "--json_dir", path, *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --json_dir %s: no image in it\n" % path
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("script, source", [("json2coco", "json_dir"), ("yolo2coco", "data_file")])
def test_a_coco_json_is_named_so(tmp_path, script, source):
    flags = ("--" + source, tmp_path, "--save_file", tmp_path / "x.txt")
    done = run_inside("escalator/%s.py" % script, *flags)
    told = "error: --save_file %s: expected the name of a .json file\n" % (tmp_path / "x.txt")
    assert (done.returncode, done.stderr) == (1, told)
