import os

import cv2
import numpy as np
import pytest

from utils.dataset.data_yaml import read_data
from utils.errors import InputError
from utils.training import train_set as module
from utils.training.train_set import fault_lines, read_train_set

ROW = "0 0.5 0.5 0.4 0.4 0.5 0.5 2 0.4 0.4 1\n"  # two keypoints


@pytest.fixture
def dataset(tmp_path):
    """Six images of two-keypoint persons, the last one without a label file; its data yaml."""
    folder = tmp_path / "图" / "images"
    folder.mkdir(parents=True)
    (folder.parent / "labels").mkdir()
    for i in range(6):
        image = np.full((20 + i, 30, 3), 40 * i, np.uint8)
        (folder / ("%d.jpg" % i)).write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        if i < 5:
            (folder.parent / "labels" / ("%d.txt" % i)).write_text(ROW * i)
    path = tmp_path / "data.yaml"
    path.write_text("train: 图/images\nval: 图/images\nnames: [person]\nnkpt: 2\n", "utf-8")
    return path


def test_read(dataset):
    found = read_train_set(read_data(dataset))
    assert (found.count, found.persons, found.faults) == (6, 10, [])
    assert found.sizes.tolist() == [[20 + i, 30] for i in range(6)]
    assert (found.repeats == 1).all()
    (line,) = fault_lines(found)
    assert line.startswith("no label file for 1 training image, first ") and "5.jpg: " in line
    (dataset.parent / "图" / "labels" / "5.txt").write_text("")
    for _ in range(2):  # read, and from the cache
        assert fault_lines(read_train_set(read_data(dataset))) == []


def test_cache_is_used_until_something_changes(dataset, monkeypatch):
    first = read_train_set(read_data(dataset))

    def refuse(path):
        raise AssertionError("the image is opened again")

    monkeypatch.setattr(module, "read_image_hw", refuse)
    again = read_train_set(read_data(dataset))
    assert again.paths == first.paths and again.persons == first.persons
    np.testing.assert_array_equal(again.labels[4].keypoints, first.labels[4].keypoints)
    label = dataset.parent / "图" / "labels" / "3.txt"
    kept = os.stat(str(label))
    label.write_text(label.read_text().replace("0.4", "0.3"))
    os.utime(str(label), ns=(kept.st_atime_ns, kept.st_mtime_ns))  # content counts, not time
    with pytest.raises(AssertionError):
        read_train_set(read_data(dataset))


def test_damaged_cache_is_no_obstacle(dataset, capsys):
    read_train_set(read_data(dataset))
    (cache,) = (dataset.parent / "图").glob(".*.labels.npz")
    cache.write_bytes(cache.read_bytes()[:200])
    assert read_train_set(read_data(dataset)).persons == 10
    assert "is not used" in capsys.readouterr().out


def test_what_is_broken_is_left_out_and_named(dataset):
    folder = dataset.parent / "图"
    (folder / "images" / "1.jpg").write_bytes(b"no image")
    (folder / "labels" / "4.txt").write_text(ROW + "0 0.5 0.5 0.4 nan 0 0 0 0 0 0\n" + ROW)
    found = read_train_set(read_data(dataset))
    assert found.count == 5 and found.persons == 0 + 2 + 3 + 2
    assert len(found.faults) == 2
    assert "1.jpg: not an image" in found.faults[0] and "4.txt:2: " in found.faults[1]
    assert len(fault_lines(found)) == 3
    again = read_train_set(read_data(dataset))  # from the cache
    assert again.faults == found.faults


def test_an_image_of_which_no_line_can_be_read_is_no_background(dataset):
    label = dataset.parent / "图" / "labels" / "3.txt"
    label.write_text("0 0.5 0.5\n" * 2)
    for _ in range(2):  # read, and from the cache
        found = read_train_set(read_data(dataset))
        assert [os.path.basename(path) for path in found.paths] == [
            "%d.jpg" % i for i in (0, 1, 2, 4, 5)
        ]
        assert len(found.sizes) == len(found.labels) == len(found.repeats) == 5
        told = [fault.split("labels")[1].split(",")[0] for fault in found.faults]
        assert told == ["%s3.txt:%d: 3 columns" % (os.sep, line) for line in (1, 2)]
    label.write_text("\n")  # nobody
    assert read_train_set(read_data(dataset)).count == 6


def test_another_number_of_keypoints(dataset):
    dataset.write_text(dataset.read_text("utf-8").replace("nkpt: 2", "nkpt: 3"), "utf-8")
    with pytest.raises(InputError, match=r"4 of 4 label files.*1.txt:1: 11 columns, expected 14"):
        read_train_set(read_data(dataset))


def test_nobody_labelled(dataset):
    for path in (dataset.parent / "图" / "labels").glob("*.txt"):
        path.unlink()
    with pytest.raises(InputError, match="nobody is labelled on 6 training images; .*0.txt$"):
        read_train_set(read_data(dataset))


def test_weights_of_the_lists(dataset):
    folder = dataset.parent
    (folder / "a.txt").write_text("./图/images/0.jpg\n./图/images/2.jpg\n", "utf-8")
    (folder / "b.txt").write_text("./图/images/3.jpg\n", "utf-8")
    dataset.write_text("train: [a.txt, b.txt]\ntrain-weights: [10, 0.5]\nnames: [p]\nnkpt: 2\n")
    assert read_train_set(read_data(dataset)).repeats.tolist() == [10, 10, 0.5]
    dataset.write_text("train: [a.txt, b.txt]\ntrain-weights: [10]\nnames: [p]\nnkpt: 2\n")
    with pytest.raises(InputError, match="train-weights: expected 2 numbers"):
        read_data(dataset)


def test_single_class(dataset):
    dataset.write_text(
        dataset.read_text("utf-8").replace("names: [person]", "names: [a, b]"), "utf-8"
    )
    label = dataset.parent / "图" / "labels" / "1.txt"
    label.write_text("1" + ROW[1:])
    assert read_train_set(read_data(dataset)).labels[1].classes.tolist() == [1]
    assert read_train_set(read_data(dataset), single_class=True).labels[1].classes.tolist() == [0]
