import concurrent.futures
import json
import threading
import time

import cv2
import numpy as np
import pytest

from tests.conftest import pose_row
from utils.dataset.images import read_image
from utils.errors import InputError
from utils.pose import nms
from utils.pose.skeleton import read_skeleton
from utils.runtime.sources import Frame
from utils.runtime.video_file import VideoFile
from utils.runtime.writers import ResultWriter, label_text


def poses(*centers):
    rows = np.stack([pose_row(x, 30, 20, 40) for x in centers])
    return nms.raw_to_poses(rows[None], 1, 0.25, iou_thres=0.45)[0]


def frame(path="a/x.jpg", index=0, kind="image", hw=(100, 200)):
    return Frame(np.full((*hw, 3), 90, np.uint8), path, index, kind, 10.0)


def test_label_lines_have_56_columns_and_normalised_values():
    (line,) = label_text(poses(50), (100, 200), with_conf=False).splitlines()
    values = [float(v) for v in line.split()]
    assert len(values) == 56
    np.testing.assert_allclose(values[:5], [0, 50 / 200, 30 / 100, 20 / 200, 40 / 100], atol=1e-6)
    np.testing.assert_allclose(values[5:8], [40 / 200, 30 / 100, 0.8], atol=1e-6)
    with_conf = label_text(poses(50), (100, 200), with_conf=True).split()
    assert len(with_conf) == 57 and float(with_conf[-1]) == pytest.approx(0.9)


def test_nobody_is_an_empty_label_file(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], txt=True, json_rows=True)
    writer.write_data(frame(), poses(50).select([]))
    writer.close()
    assert (tmp_path / "labels" / "x.txt").read_text() == ""
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_json_rows_are_coco_results(tmp_path):
    for numeric, ids in ((True, [139, 139, 12]), (False, [0, 0, 1])):
        writer = ResultWriter(tmp_path, ["person"], json_rows=True, numeric_ids=numeric)
        writer.write_data(frame("000000000139.jpg"), poses(50, 150))
        writer.write_data(frame("12.jpg"), poses(50))
        writer.close()
        rows = json.loads((tmp_path / "predictions.json").read_text())
        assert [r["image_id"] for r in rows] == ids
    assert rows[0]["category_id"] == 1 and len(rows[0]["keypoints"]) == 51
    assert rows[0]["bbox"] == [40, 10, 20, 40] and rows[0]["score"] == pytest.approx(0.9)


def test_same_names_do_not_overwrite(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], txt=True)
    for path in ("a/x.jpg", "b/x.jpg", "b/X.png"):
        writer.write_data(frame(path), poses(50))
        writer.write_image(frame(path), frame().image)
    assert sorted(p.name for p in tmp_path.glob("*.*g")) == ["X_3.png", "x.jpg", "x_2.jpg"]
    assert len(list((tmp_path / "labels").iterdir())) == 3


def test_crops(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], images=False, crops=True)
    writer.write_data(frame("图.png"), poses(50, 150))
    crops = sorted((tmp_path / "crops" / "person").iterdir())
    assert [c.name for c in crops] == ["图_1.jpg", "图_2.jpg"]
    assert read_image(str(crops[0])).shape == (40, 20, 3)


def test_video_appears_when_it_is_finished_and_plays(tmp_path):
    writer = ResultWriter(tmp_path, ["person"])
    for i in range(7):
        item = frame("clip.avi", i, "video")
        writer.write_image(item, item.image)
        assert not (tmp_path / "clip.mp4").exists()
    writer.close()
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 7 and capture.get(cv2.CAP_PROP_FPS) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
def test_a_video_is_finished_while_the_next_one_begins(tmp_path, monkeypatch, codec):
    if codec == "h264":
        pytest.importorskip("av", reason="PyAV is not installed")
    begun, close = threading.Event(), VideoFile.close

    def slow(video):
        assert begun.wait(20) or video.path.name != "a.mp4"
        close(video)

    monkeypatch.setattr(VideoFile, "close", slow)
    writer = ResultWriter(tmp_path, ["person"], codec=codec)
    for name in ("a.avi", "b.avi", "c.avi"):
        for i in range(3):
            item = frame(name, i, "video")
            writer.write_image(item, item.image)
            if name == "b.avi":
                begun.set()
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.fixture
def failing_writer(tmp_path, monkeypatch):
    """Frames of a.avi and b.avi were written; no video can be finished."""

    def fails(video):
        raise InputError("%s: disk full?" % video.path.name)

    monkeypatch.setattr(VideoFile, "close", fails)
    writer = ResultWriter(tmp_path, ["person"])
    for name in ("a.avi", "b.avi"):
        item = frame(name, 0, "video")
        writer.write_image(item, item.image)
    return writer


def test_an_error_of_a_video_that_is_being_finished_is_raised(failing_writer):
    item = frame("c.avi", 0, "video")
    with pytest.raises(InputError, match="a.mp4: disk full"):
        failing_writer.write_image(item, item.image)
    with pytest.raises(InputError, match="b.mp4: disk full"):
        failing_writer.close()


@pytest.mark.parametrize("kind", [InputError, ValueError])
def test_what_else_was_found_is_kept_when_a_video_cannot_be_finished(tmp_path, monkeypatch, kind):
    close = VideoFile.close

    def fails(video):
        if video.path.name == "a.mp4":
            raise kind("a.mp4: disk full?")
        close(video)

    monkeypatch.setattr(VideoFile, "close", fails)
    writer = ResultWriter(tmp_path, ["person"], json_rows=True)
    for name in ("a.avi", "b.avi"):
        item = frame(name, 0, "video")
        writer.write_data(item, poses(50))
        writer.write_image(item, item.image)
    with pytest.raises(kind, match="a.mp4: disk full"):
        writer.close()
    kept = {p.name for p in tmp_path.iterdir() if not p.name.startswith(".tmp")}
    assert kept == {"b.mp4", "categories.json", "predictions.json"}


def test_an_error_of_a_video_does_not_wait_for_the_end_of_the_next_one(failing_writer):
    concurrent.futures.wait([failing_writer._finishing])
    item = frame("b.avi", 1, "video")
    with pytest.raises(InputError, match="a.mp4: disk full"):
        failing_writer.write_image(item, item.image)


def test_streams_are_interleaved_into_their_own_files(tmp_path):
    writer = ResultWriter(tmp_path, ["person"])
    for i in range(4):
        for address in ("rtsp://a/1", "0"):
            item = frame(address, i, "stream")
            writer.write_image(item, item.image)
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.mp4", "rtsp_a_1.mp4"]


def test_unknown_suffix_becomes_jpg(tmp_path):
    writer = ResultWriter(tmp_path, ["person"])
    writer.write_image(frame("scan.pgm"), frame().image)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.jpg"]


@pytest.mark.parametrize("name", ["../../../escaped", "/tmp/escaped", "tv/monitor", "..", ""])
def test_class_names_cannot_leave_the_folder(tmp_path, name):
    folder = tmp_path / "a" / "b" / "run"
    writer = ResultWriter(folder, [name], images=False, crops=True)
    writer.write_data(frame(), poses(50))
    (crop,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert crop.parent.parent == folder / "crops"


def test_frames_and_images_of_one_name_keep_their_labels(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], txt=True)
    writer.write_data(frame("clip_1.jpg"), poses(50))
    writer.write_data(frame("clip.mp4", 0, "video"), poses(50))
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == [
        "clip_1.txt",
        "clip_1_2.txt",
    ]


def test_image_that_its_type_cannot_hold_becomes_png(tmp_path):
    writer = ResultWriter(tmp_path, ["person"])
    wide = frame("wide.webp", hw=(2, 20000))
    writer.write_image(wide, wide.image)
    assert read_image(str(tmp_path / "wide.png")).shape == (2, 20000, 3)


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
def test_what_was_encoded_before_gives_the_same_files(tmp_path, codec):
    if codec == "h264":
        pytest.importorskip("av", reason="PyAV is not installed")
    items = [frame("clip.avi", i, "video", hw=(60, 80)) for i in range(4)]
    items += [frame(name) for name in ("a.jpg", "b.png", "scan.pgm")]
    items.append(frame("wide.webp", hw=(2, 20000)))
    for before in (False, True):
        writer = ResultWriter(tmp_path / str(before), ["person"], codec=codec)
        for i, item in enumerate(items):
            item.image[:, i:] += np.uint8(i)
            ready = writer.encoded(item, item.image) if before else None
            writer.write_image(item, item.image, ready)
            item.image[:, i:] -= np.uint8(i)
        writer.close()
    plain, ready = (sorted((tmp_path / name).iterdir()) for name in ("False", "True"))
    assert [p.name for p in plain] == ["a.jpg", "b.png", "clip.mp4", "scan.jpg", "wide.png"]
    assert [p.read_bytes() for p in plain] == [p.read_bytes() for p in ready]


def test_nothing_is_encoded_that_is_not_written(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], images=False)
    assert writer.encoded(frame("a.jpg"), frame().image) is None
    assert writer.encoded(frame("a.avi", 0, "video"), frame().image) is None


def test_stream_plays_in_real_time(tmp_path):
    """Frames that were dropped on the way are made up for by repetition."""
    writer = ResultWriter(tmp_path, ["person"])
    for i in range(3):
        item = frame("0", i, "stream")  # 10 frames/s
        writer.write_image(item, item.image)
        time.sleep(0.3)
    writer.close()
    capture = cv2.VideoCapture(str(tmp_path / "0.mp4"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert 6 <= count <= 9


def test_password_of_an_address_is_not_written(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], json_rows=True)
    item = frame("rtsp://user:secret@host/1", 0, "stream")
    writer.write_image(item, item.image)
    writer.write_data(item, poses(50))
    writer.close()
    assert not [p for p in tmp_path.iterdir() if "secret" in p.name]
    assert "secret" not in (tmp_path / "predictions.json").read_text()


def test_video_on_a_full_disk_is_an_error(tmp_path):
    writer = ResultWriter(tmp_path, ["person"])
    item = frame("clip.avi", 0, "video")
    writer.write_image(item, item.image)
    (video_file,) = writer._videos.values()
    video_file._encoder._writer.release()
    for tmp in tmp_path.iterdir():
        tmp.write_bytes(b"")  # as if nothing had reached the disk
    with pytest.raises(InputError, match="disk full"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_categories_say_what_the_keypoints_are(tmp_path):
    skel = read_skeleton({"kpt_names": ["tip", "left_a", "right_a"], "skeleton": [[1, 2]]}).skeleton
    ResultWriter(tmp_path, ["hand", "foot"], json_rows=True, skel=skel).close()
    found = json.loads((tmp_path / "categories.json").read_text())
    assert [(c["id"], c["name"]) for c in found] == [(1, "hand"), (2, "foot")]
    assert found[1]["keypoints"] == ["tip", "left_a", "right_a"]
    assert found[1]["skeleton"] == [[1, 2]] and found[1]["flip_idx"] == [0, 2, 1]
