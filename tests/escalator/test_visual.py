import cv2
import numpy as np
import pytest

from escalator.json2yolo import json2yolo
from escalator.visual import draw, target_names
from tests.conftest import ROOT
from tests.scripts import run_script
from utils.dataset.images import read_image
from utils.dataset.labels import Labels, write_labels
from utils.pose.keypoints import LEFT_COLOR, RIGHT_COLOR
from utils.pose.skeleton import read_skeleton

PEOPLE = ROOT / "tests" / "data" / "people"


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "数据"
    (root / "images").mkdir(parents=True)
    for path in (PEOPLE / "images").iterdir():
        (root / "images" / path.name.replace("people", "人")).write_bytes(path.read_bytes())
    for path in (PEOPLE / "annotations").iterdir():
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / path.name.replace("people", "人")).write_bytes(path.read_bytes())
    json2yolo(str(root / "annotations"))
    return root


def visual(data, *flags):
    return run_script(
        "escalator/visual.py", "--data-root", data, "--save-dir", data / "v", *flags
    )  # fmt: skip


def test_images(data):
    (data / "list.txt").write_text("".join("./images/人%02d.jpg\n" % i for i in range(12)))
    done = visual(data, "--data_file", "list.txt", "--visual_num", 5, "--ids")
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (data / "v").iterdir())
    assert len(names) == 5 and "5 images" in done.stdout
    assert visual(data, "--data_file", "images", "--visual_num", "0").returncode == 0
    assert len(list((data / "v").iterdir())) == 12  # replaced, not added to
    for i in (0, 3):  # nobody, three persons
        before, after = (read_image(str(data / f / ("人%02d.jpg" % i))) for f in ("images", "v"))
        assert before.shape == after.shape
        assert (np.abs(before.astype(int) - after).max() > 100) == (i == 3)


def test_sides_hidden_points_and_numbers(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", np.full((100, 100, 3), 255, np.uint8))[1].tobytes())
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, 5], keypoints[0, 6], keypoints[0, 9] = (0.2, 0.5, 2), (0.5, 0.5, 2), (0.8, 0.5, 1)
    write_labels(
        tmp_path / "a.txt", Labels(np.array([0]), np.array([[0.5, 0.5, 0.9, 0.9]]), keypoints)
    )
    image = draw(str(path), ["person"], read_skeleton({}), line_width=4)
    assert image[49, 19].tolist() == list(LEFT_COLOR)
    assert image[49, 49].tolist() == list(RIGHT_COLOR)
    assert image[49, 79].tolist() == [0, 0, 0]  # hidden
    assert image[49, 83, 1] > 100 and not image[49, 83, ::2].any()  # around it its colour
    assert (draw(str(path), ["person"], read_skeleton({}), line_width=4, ids=True) != image).any()


def test_what_cannot_be_drawn_is_named(data):
    (data / "labels" / "人01.txt").write_text("0 1\n")
    (data / "labels" / "人02.txt").unlink()
    (data / "images" / "人03.jpg").write_bytes(b"x")
    done = visual(data, "--data_file", "images", "--visual_num", "0")
    assert done.returncode == 1 and "9 images" in done.stdout
    told = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    words = ("人01.txt, line 1: ", "人02.txt: no such file (labels of ", "人03.jpg: not an image")
    assert len(told) == 3 and all(word in line for word, line in zip(words, told))
    assert "error: 3 of 12 images" in done.stderr


def test_keypoints_without_limbs_are_told(data):
    done = visual(data, "--data_file", "images")
    assert done.returncode == 0 and "no limbs" not in done.stdout
    for path in (data / "labels").iterdir():  # as a converter that drops the last point
        rows = [line.split()[:-3] for line in path.read_text().splitlines()]
        path.write_text("".join(" ".join(row) + "\n" for row in rows))
    done = visual(data, "--data_file", "images")
    assert done.returncode == 0 and "16 keypoints, no limbs known" in done.stdout, done.stderr


def test_own_images_are_safe(data):
    done = visual(data, "--data_file", "images", "--save_dir", data / "images")
    assert done.returncode == 1 and "would overwrite" in done.stderr
    assert visual(data, "--data_file", "none.txt").returncode == 1
    # whichever are drawn, and where the images of a list are links
    (data / "links").mkdir()
    for path in (data / "images").iterdir():
        (data / "links" / path.name).symlink_to(path)
    (data / "far").mkdir()
    (data / "images" / "人00.jpg").rename(data / "far" / "人00.jpg")
    (data / "list.txt").write_text("images/人01.jpg\nlinks/人02.jpg\nfar/人00.jpg\n")
    for folder in ("images", "links", "far"):
        for seed in (0, 1):
            done = visual(data, "--data_file", "list.txt", "--visual_num", 1, "--save_dir",
                          data / folder, "--seed", seed)  # fmt: skip
            assert done.returncode == 1 and "would overwrite" in done.stderr
    assert "--visual_num -1" in visual(data, "--visual_num", "-1").stderr


def test_target_names():
    assert target_names(["x/a.jpg", "y/A.png", "b.jpg"]) == ["a.jpg", "A_2.jpg", "b.jpg"]
