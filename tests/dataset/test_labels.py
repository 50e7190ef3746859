import re

import numpy as np
import pytest

from utils.dataset import labels as lb
from utils.errors import InputError, InputWarning


def random_labels(rng, n, nkpt=17, nc=3):
    boxes = rng.uniform(0.2, 0.4, (n, 4))
    keypoints = rng.uniform(0, 1, (n, nkpt, 3))
    keypoints[..., 2] = rng.integers(0, 3, (n, nkpt))
    return lb.Labels(rng.integers(0, nc, n), boxes, keypoints)


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("nkpt", [1, 17, 21])
def test_write_and_read(tmp_path, n, nkpt):
    labels = random_labels(np.random.default_rng(n), n, nkpt)
    path = tmp_path / "标签" / "a.txt"
    lb.write_labels(path, labels)
    back = lb.read_labels(path, nkpt, 3)
    assert back.count == n
    assert np.array_equal(back.classes, labels.classes)
    assert np.allclose(back.boxes, labels.boxes, atol=0.6e-6)
    assert back.keypoints.shape == (n, nkpt, 3)
    assert np.allclose(back.keypoints, labels.keypoints, atol=0.6e-6)
    assert lb.format_labels(back) == path.read_text()


GOOD = "0 0.5 0.5 0.2 0.2 " + " ".join(["0.5 0.5 2"] * 17)


def changed(column, value):
    words = GOOD.split()
    words[column] = value
    return " ".join(words)


@pytest.mark.parametrize(
    "line, reason",
    [
        (GOOD + " 1", "57 columns, expected 56"),
        ("0 " + "0.5 0.5 " * 10, "21 columns, expected 56 .*; is it a polygon"),
        ("0 0.5 0.5 0.2 0.2 0.5", "6 columns, expected 56"),
        (changed(3, "wide"), "wide is not a number"),
        (changed(3, "nan"), "not finite"),
        (changed(7, "inf"), "not finite"),
        (changed(0, "-1"), "class"),
        (changed(0, "0.5"), "class"),
        (changed(0, "3"), "class beyond the 3"),
        (changed(1, "1.5"), "box outside 0..1"),
        (changed(1, "320"), "box outside 0..1"),
        (changed(3, "0"), "without width or height"),
        (changed(7, "0.87"), "visibility is not 0, 1 or 2"),
        (changed(5, "2.2"), "keypoint outside 0..1"),
    ],
)
def test_what_is_not_a_label(tmp_path, line, reason):
    path = tmp_path / "a.txt"
    path.write_text(GOOD + "\n\n" + line + "\n")
    with pytest.raises(InputError) as e:
        lb.read_labels(path, 17, 3)
    assert str(e.value).startswith("%s, line 3: " % path)
    assert re.search(reason, str(e.value))


def test_scan_keeps_the_good_rows_and_names_the_others():
    lines = [GOOD, "0 1 2", "", changed(3, "wide"), changed(1, "9"), changed(0, "1")]
    labels, faults, _ = lb.scan_labels("\n".join(lines), 17)
    assert labels.classes.tolist() == [0, 1] and labels.keypoints.shape == (2, 17, 3)
    assert [number for number, _ in faults] == [2, 4, 5]
    none, faults, _ = lb.scan_labels("wide 1 1 1 1 1 1 1")
    assert none.keypoints.shape == (0, 1, 3) and faults == [(1, "wide is not a number")]


def test_what_lies_outside_the_image_is_cut():
    """As CVAT exports a skeleton of which a part was placed beside the image."""
    words = changed(5, "-0.3").split()
    words[1:5] = "-0.05", "0.5", "0.4", "0.2"
    scan = lb.scan_labels("\n" + GOOD + "\n" + " ".join(words), 17)
    assert not scan.faults and scan.labels.count == 2
    assert np.allclose(scan.labels.boxes[1], [0.075, 0.5, 0.15, 0.2])
    assert scan.labels.keypoints[1, 0].tolist() == [0, 0, 0]
    assert scan.labels.keypoints[1, 1:, 2].all() and scan.labels.keypoints[0].all()
    ((line, text),) = scan.changes
    assert line == 3 and "box cut" in text and "not labelled: keypoint 0" in text
    assert lb.parse_labels(GOOD, 17).keypoints.all()


def test_unlabelled_points_may_say_anything_finite():
    words = GOOD.split()
    words[5:8] = "-3", "7", "0"
    assert lb.parse_labels(" ".join(words), 17).count == 1


def test_number_of_keypoints_from_the_first_row():
    two = "0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.1 0.1 0\n"
    assert lb.parse_labels(two * 3).keypoints.shape == (3, 2, 3)
    assert lb.parse_labels("\n \n", 17).keypoints.shape == (0, 17, 3)
    with pytest.raises(ValueError, match="line 1: 6 columns, expected 5"):
        lb.parse_labels("0 0.5 0.5 0.2 0.2 0.5")


@pytest.mark.parametrize(
    "image, label",
    [
        ("d/images/a.jpg", "d/labels/a.txt"),
        ("d/images/images/b/a.x.png", "d/images/labels/b/a.x.txt"),
        ("/images/images.jpg", "/labels/images.txt"),
        ("d/a.jpg", "d/a.txt"),
        ("my_images/a.jpg", "my_images/a.txt"),
    ],
)
def test_label_path(image, label):
    assert lb.label_path(image).as_posix() == label


def test_list_file_is_relative_to_itself(tmp_path):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "val.txt"
    path.write_bytes("\ufeff./images/甲.jpg\r\n\n/abs/b.jpg\n./images/甲.jpg\n".encode())
    assert lb.list_images(path) == [str(tmp_path / "sub" / "images" / "甲.jpg"), "/abs/b.jpg"]


def test_list_of_windows(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    (tmp_path / "train.txt").write_text("images\\a.jpg\r\nimages\\b.jpg\r\n")
    with pytest.warns(InputWarning, match="lines are read as images/a.jpg"):
        found = lb.list_images(tmp_path / "train.txt")
    assert found == [str(tmp_path / "images" / name) for name in ("a.jpg", "b.jpg")]


@pytest.mark.parametrize(
    "start", ["data/", "/content/hands-2/", "C:\\\\hands\\\\", "../elsewhere/"]
)
def test_list_of_another_computer(tmp_path, start):
    names = ["images/train/a.PNG", "images/train/b.PNG"]
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / names[1]).write_bytes(b"")
    lines = [start + name for name in names]
    if "C:" in start:
        lines = [line.replace("/", "\\") for line in lines]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    with pytest.warns(InputWarning, match="read without"):
        found = lb.list_images(tmp_path / "train.txt")
    assert found == [str(tmp_path / name) for name in names]
    (tmp_path / names[1]).unlink()  # not here at all: as they stand
    assert lb.list_images(tmp_path / "train.txt")[0].endswith(lines[0].replace("../", ""))


def test_list_of_names_that_cannot_be(tmp_path):
    lines = ["x" * 5000, "a/" * 10**6 + "b.jpg", "/" * 9, "..", "a//b.jpg"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    assert len(lb.list_images(tmp_path / "train.txt")) == 5


def test_line_separators_of_unicode_are_letters(tmp_path):
    (tmp_path / "a.txt").write_text("x\u2028y.jpg\nx\x85y.jpg\r\n", encoding="utf-8")
    assert [p[-7:] for p in lb.list_images(tmp_path / "a.txt")] == ["x\u2028y.jpg", "x\x85y.jpg"]


def test_mark_of_windows_editors(tmp_path):
    row = "0 0.5 0.5 0.2 0.2 0.5 0.5 2\r\n"
    (tmp_path / "a.txt").write_bytes(("\ufeff" + row).encode("utf-8"))
    assert lb.read_labels(tmp_path / "a.txt").count == 1
    labels, faults, _ = lb.scan_labels("\ufeff" + row + row, 1)
    assert labels.count == 2 and not faults
    assert lb.scan_labels("\ufeff\n", 1)[0].count == 0


def test_folder_is_walked_and_sorted(tmp_path):
    for name in ("b.jpg", "a.PNG", "x/c.jpeg", "note.txt", "._b.jpg"):  # the last: macOS'
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [p[len(str(tmp_path)) + 1 :] for p in lb.list_images(tmp_path)]
    assert names == ["a.PNG", "b.jpg", "x/c.jpeg"]


def test_nothing_to_list(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00a")
    for name, reason in [
        ("empty.txt", "an empty list"),
        ("none.txt", "no such list file"),
        ("binary.txt", "not a text file"),
        (".", "no images in this folder"),
    ]:
        with pytest.raises(InputError, match=reason):
            lb.list_images(tmp_path / name)


def test_points_without_visibility():
    text = "0 0.5 0.5 0.2 0.2 0.4 0.6 0 0 -1 -1\n1 0.5 0.5 0.2 0.2\n"
    labels = lb.parse_labels(text, 3, dims=2)
    assert labels.keypoints[0].tolist() == [[0.4, 0.6, 2], [0, 0, 0], [0, 0, 0]]
    assert labels.classes.tolist() == [0, 1] and not labels.keypoints[1].any()  # a box alone
    with pytest.raises(ValueError, match=r"11 columns, expected 14 .*kpt_shape \[3, 2\] would fit"):
        lb.parse_labels(text, 3)
    with pytest.raises(ValueError, match=r"9 columns, expected 11 .*kpt_shape \[2, 2\] would fit"):
        lb.parse_labels("0 0.5 0.5 0.2 0.2 0.1 0.1 0.2 0.2", 2)


@pytest.mark.parametrize(
    "points, found",
    [("", (0, 0)), ("0.1 0.2 2", (1, 3)), ("0.1 0.2 0.3 0.4", (2, 2)),
     ("0.1 0.2 2 0.3 0.4 0", (2, 3)), ("0.1 0.2 0.3 0.4 0.5 0.6", (3, 2))],
)  # fmt: skip
def test_the_number_of_keypoints_is_found(points, found):
    assert lb.count_keypoints([("0 0.5 0.5 0.2 0.2 " + points).split()]) == found
