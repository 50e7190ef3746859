import json

import cv2
import numpy as np
import pytest

from escalator import check as doctor
from escalator.json2yolo import json2yolo
from tests.conftest import ROOT
from tests.data.make_people import FIGURE
from tests.scripts import run_script
from utils.dataset.data_yaml import read_data
from utils.dataset.labels import Labels, format_labels
from utils.pose.keypoints import COCO

PEOPLE = ROOT / "tests" / "data" / "people"


@pytest.fixture
def data(tmp_path):
    """Seven images to train, five to test on."""
    for path in (PEOPLE / "images").iterdir():
        part = "train" if path.name < "people07" else "val"
        target = tmp_path / "images" / part / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for part in ("train", "val"):
        json2yolo(str(PEOPLE / "annotations"), "", str(tmp_path / "images" / part))
    (tmp_path / "d.yaml").write_text("train: images/train\nval: images/val\nnames: [person]\n")
    return tmp_path


def findings(data, tasks=("train", "val")):
    reports = doctor.check(read_data(data / "d.yaml"), tasks)
    return {
        kind: texts for r in reports.values() for kind, texts in r.findings.items() if texts
    }  # fmt: skip


def label(swapped=False, box=None, shift=0.0):
    points = FIGURE * [0.05, 0.08] + [0.5 + shift, 0.2]
    points = points[list(COCO.flip_index)] if swapped else points
    keypoints = np.concatenate([points, np.full((17, 1), 2)], 1)[None]
    box = np.array([[0.5, 0.5, 0.6, 0.8]] if box is None else [box])
    return format_labels(Labels(np.array([0]), box, keypoints))


def write(data, text, part="train", name="people00"):
    (data / "labels" / part / (name + ".txt")).write_text(text)


def test_a_clean_dataset(data):
    done = run_script("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "r")
    assert done.returncode == 0, done.stderr
    rows = {line[:46].strip(): line[46:].split() for line in done.stdout.splitlines()}
    assert rows["images"] == ["7", "5"] and rows["images without persons"] == ["2", "1"]
    assert rows["persons"] == ["9", "9"] and rows["most persons on an image"] == ["3", "3"]
    assert done.stdout.count("  none\n") == 2
    report = json.loads((data / "r" / "report.json").read_text(encoding="utf-8"))
    assert report["train"]["persons"] == 9
    nose = report["train"]["keypoints"]["nose"]
    assert 0 < nose["visible"] <= 9 and nose["hidden"] == 0
    assert cv2.imread(str(data / "r" / "report.png")).shape[1] > 1000


def test_errors(data):
    images = data / "images"
    write(data, label() + "0 0.5\n\nx" + label()[1:])
    (images / "train" / "people01.png").write_bytes(
        (images / "train" / "people01.jpg").read_bytes()
    )
    (images / "train" / "people02.jpg").write_bytes(b"no image")
    (images / "val" / "leak.jpg").write_bytes((images / "train" / "people03.jpg").read_bytes())
    (data / "labels" / "val" / "people08.txt").unlink()
    found = findings(data)
    assert [t.split("labels", 1)[1].split(":")[0] for t in found[doctor.BROKEN]] == [
        "/train/people00.txt, line 2",
        "/train/people00.txt, line 4",
    ]
    assert (
        "people01.png" in found[doctor.SHARED][0] and "people01.png" in found[doctor.TWICE_IMAGE][0]
    )
    assert "people02.jpg: not an image" in found[doctor.UNREADABLE][0]
    assert "leak.jpg: as %s of train" % (images / "train" / "people03.jpg") in found[doctor.LEAK][0]
    assert len(found[doctor.UNLABELLED_ERROR]) == 2  # of val: leak.jpg, people08.jpg
    done = run_script("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "r")
    assert done.returncode == 1 and (data / "r" / "report.json").is_file()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "2 broken label lines" in line and "1 image in two of the lists" in line
    assert "1 image that shares a label file" in line


def test_an_image_that_ends_too_early(data):
    image = data / "images" / "val" / "people08.jpg"
    image.write_bytes(image.read_bytes()[:900])
    (text,) = findings(data)[doctor.UNREADABLE]
    assert text == "%s: a JPEG that ends too early: copy it again" % image


def test_mark_of_windows_editors_and_hidden_files(data):
    part = data / "labels"
    for path in part.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        path.with_name("._" + path.name).write_bytes(b"")
    assert findings(data) == {}


def test_listed_images_that_are_missing(data):
    (data / "l.txt").write_text("images/train/people03.jpg\nimages/train/gone.jpg\n")
    (data / "d.yaml").write_text("train: l.txt\nnames: [person]\n")
    found = findings(data, ["train"])
    assert len(found[doctor.MISSING]) == 1 and "gone.jpg" in found[doctor.MISSING][0]
    assert list(found) == [doctor.MISSING]  # people00 is an image, though not of this list
    write(data, "", name="people04")
    (data / "l.txt").write_text("images/train/people04.jpg\nimages/train/gone.jpg\n")
    done = run_script("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "r")
    assert done.stderr == "error: %s: 1 image missing\n" % (data / "d.yaml")
    report = json.loads((data / "r" / "report.json").read_text())["train"]
    assert report["images"] == 2 and report["images without persons"] == 1  # people04.jpg
    write(data, label(), name="gone")
    assert [*findings(data, ["train"])] == [doctor.MISSING]  # once, not also as a label too many


def test_who_is_on_an_image_whose_labels_cannot_be_read_is_not_known(data):
    (data / "l.txt").write_text("images/train/people03.jpg\nimages/train/people04.jpg\n")
    (data / "d.yaml").write_text("train: l.txt\nnames: [person]\n")
    write(data, "", name="people03")
    write(data, "not-converted\n", name="people04")
    done = run_script("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "r")
    assert done.stderr == "error: %s: 1 broken label line\n" % (data / "d.yaml")
    assert "people04.txt, line 1: the annotation of this image could not be" in done.stdout
    report = json.loads((data / "r" / "report.json").read_text())["train"]
    assert report["images"] == 2 and report["images without persons"] == 1


def test_warnings(data):
    write(data, label(swapped=True), name="people00")
    write(data, label(box=[0.9, 0.5, 0.4, 0.8], shift=0.3), name="people01")
    write(data, label() + "\n" + label(), name="people02")
    write(data, label(box=[0.5, 0.5, 0.01, 0.8]), name="people04")
    write(data, "", name="orphan")
    (data / "labels" / "train" / "people05.txt").unlink()
    found = findings(data)
    names = {kind: [t.rsplit("/", 1)[1] for t in texts] for kind, texts in found.items()}
    assert names[doctor.SWAPPED] == ["people00.txt, line 1: eyes and nose are mirrored"]
    assert names[doctor.OUTSIDE] == ["people01.txt, line 1: by 10.0 % of the image"]
    assert names[doctor.TWICE_PERSON] == ["people02.txt, line 3: the person of line 1"]
    assert names[doctor.TINY_BOX] == ["people04.txt, line 1: 6.4 px narrow at 640"]
    assert names[doctor.FAR_POINT][0].startswith("people04.txt, line 1: left_eye, ")
    assert names[doctor.ORPHANS] == ["orphan.txt"]
    assert len(found[doctor.UNLABELLED]) == 1 and "people05.jpg" in found[doctor.UNLABELLED][0]
    done = run_script("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "r")
    assert done.returncode == 0, done.stderr


def test_no_labels_at_all_is_an_error(data):
    for path in (data / "labels" / "train").iterdir():
        path.unlink()
    assert len(findings(data, ["train"])[doctor.UNLABELLED_ERROR]) == 7
    (data / "d.yaml").write_text("val: images/val\nval-annotations: x.json\nnames: [person]\n")
    (data / "labels" / "val" / "people08.txt").unlink()
    assert doctor.UNLABELLED in findings(data, ["val"])  # the JSON has the ground truth


def test_nobody_at_all(data):
    for path in (data / "labels").rglob("*.txt"):
        path.write_text("")
    done = run_script("escalator/check.py", "--data", data / "d.yaml", "--save_dir", data / "r")
    assert done.returncode == 0, done.stderr


def test_points_outside_and_a_test_that_was_not_exported(data):
    text = label().split()
    text[5] = "-0.2"
    write(data, " ".join(text) + "\n")
    assert findings(data)[doctor.CUT][0].endswith(
        "line 1: outside the image, not labelled: keypoint 0"
    )
    with (data / "d.yaml").open("a") as file:
        file.write("test: ../test/images\n")
    flags = ("--data", data / "d.yaml", "--save_dir", data / "r")
    done = run_script("escalator/check.py", *flags)
    assert done.returncode == 0 and "no ../test/images, so test is not checked" in done.stdout
    done = run_script("escalator/check.py", *flags, "--task", "test")
    assert done.returncode == 1 and "test: ../test/images is neither" in done.stderr


def test_a_folder_that_cannot_be_is_told_before_the_images_are_read(data):
    flags = ("--data", data / "d.yaml", "--save_dir", data / "d.yaml")
    done = run_script("escalator/check.py", *flags)
    assert done.returncode == 1 and "d.yaml: cannot write into this folder" in done.stderr
    assert "found errors" not in done.stdout


def test_images_of_a_folder_that_is_not_there(data):
    (data / "l.txt").write_text("images/train/people03.jpg\nimages/gone/a.jpg\n")
    (data / "d.yaml").write_text("train: l.txt\nnames: [person]\n")
    for _ in range(2):
        found = findings(data, ["train"])
        assert list(found) == [doctor.MISSING] and "gone/a.jpg" in found[doctor.MISSING][0]
        (data / "labels" / "gone").mkdir(exist_ok=True)
