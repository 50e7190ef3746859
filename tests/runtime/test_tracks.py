import json

import cv2
import numpy as np
import pytest

from tests.conftest import make_pose_onnx, pose_row
from tests.runtime.test_sources import encode, video
from tests.scripts import run_inside
from utils.errors import InputWarning
from utils.pose import nms
from utils.runtime.backend import Backend
from utils.runtime.metadata import EmbeddedNms
from utils.runtime.sources import Frame, Source
from utils.runtime.tracks import Tracks, check_sequence, thresholds
from utils.runtime.writers import ResultWriter, label_text
from utils.tracking.smoothing import SmoothConfig
from utils.tracking.tracker import TrackerConfig

DETECT = "detect_multi_backend.py"


def poses(*centers, score=0.9):
    rows = np.stack([pose_row(x, 30, 20, 40, score) for x in centers])
    return nms.raw_to_poses(rows[None], 1, 0.05, iou_thres=0.45)[0]


def frame(path="clip.mp4", index=0, kind="video", restarts=0):
    return Frame(
        np.full((100, 200, 3), 90, np.uint8), path, index, kind, 10.0, index / 10, restarts
    )


def test_each_video_counts_on_its_own_and_streams_do_not_mix():
    tracks = Tracks(TrackerConfig())
    for index in range(3):
        for path, kind in (("a.mp4", "video"), ("rtsp://x", "stream")):
            tracked = tracks.update(frame(path, index, kind), poses(50, 150))
            assert sorted(tracked.ids) == [1, 2]
    assert tracks.count == 4


def test_images_are_one_sequence():
    tracks = Tracks(TrackerConfig())
    assert tracks.update(frame("1.jpg", kind="image"), poses(50)).ids.tolist() == [1]
    assert tracks.update(frame("2.jpg", kind="image"), poses(51)).ids.tolist() == [1]


def test_smooth_keypoints_use_the_time_of_the_frame():
    def second(fps_frame):
        tracks = Tracks(TrackerConfig(), SmoothConfig())
        tracks.update(fps_frame(0), poses(50))
        return tracks.update(fps_frame(1), poses(54)).poses.keypoints[0, 0, 0]

    slow = second(lambda i: frame(index=i)._replace(time_s=float(i)))
    fast = second(lambda i: frame(index=i)._replace(time_s=i / 100))
    images = second(lambda i: frame("%d.jpg" % i, kind="image")._replace(time_s=0.0))
    assert 40 < fast < images < slow < 44.01


def test_a_stream_that_restarts_is_told_and_gets_new_ids():
    tracks = Tracks(TrackerConfig())
    address = "rtsp://me:secret@host/x"
    tracks.update(frame(address, 0, "stream"), poses(50))
    with pytest.warns(InputWarning, match="rtsp://host/x: the stream broke off") as caught:
        assert tracks.update(frame(address, 1, "stream", 1), poses(50)).ids.tolist() == [2]
    assert tracks.update(frame(address, 2, "stream", 1), poses(50)).ids.tolist() == [2]
    assert len(caught) == 1


@pytest.mark.parametrize(
    "inside, conf, expected",
    [
        (None, None, (0.25, 0.1)),
        (None, 0.5, (0.5, 0.1)),
        (None, 0.05, (0.05, 0.05)),
        (0.1, None, (0.25, 0.1)),
        (0.05, 0.5, (0.5, 0.1)),
    ],
)
def test_thresholds(inside, conf, expected):
    backend = Backend()
    backend.embedded_nms = None if inside is None else EmbeddedNms(inside, 0.45, 100)
    assert thresholds(backend, conf, 0.1) == expected


def test_thresholds_of_embedded_nms_that_records_none():
    backend = Backend()
    backend.embedded_nms = EmbeddedNms(None, None, 100)
    assert thresholds(backend, None, 0.1) == (0.25, 0.1)


def test_embedded_nms_without_low_scores_is_told():
    backend = Backend()
    backend.embedded_nms = EmbeddedNms(0.5, 0.45, 100)
    with pytest.warns(InputWarning, match="returns nothing below 0.5.*`conf_thres` 0.1"):
        assert thresholds(backend, None, 0.1) == (0.5, 0.5)


def test_images_are_warned_of_and_videos_are_not(recwarn):
    check_sequence(Source([], ["a.mp4"], []))
    assert not recwarn
    with pytest.warns(InputWarning, match="3 images are taken as .* one video.*a.jpg ... c.jpg"):
        check_sequence(Source(["a.jpg", "b.jpg", "c.jpg"], [], []))


def test_label_lines_end_with_the_id():
    two = poses(50, 150)
    ids = np.array([7, 3])
    plain = label_text(two, (100, 200), with_conf=False, ids=ids).splitlines()
    assert [len(line.split()) for line in plain] == [57, 57]
    assert [line.split()[-1] for line in plain] == ["7", "3"]
    line = label_text(two, (100, 200), with_conf=True, ids=ids).splitlines()[0].split()
    assert len(line) == 58 and float(line[-2]) == pytest.approx(0.9) and line[-1] == "7"


def test_results_hold_the_ids(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], images=False, json_rows=True, mot=True)
    for index in range(2):
        writer.write_data(frame(index=index), poses(50, 150), np.array([2, 1]))
        writer.write_data(frame("x.jpg", kind="image"), poses(50), np.array([9]))
    assert not (tmp_path / "mot" / "clip.txt").exists()  # only complete files have their name
    writer.close()
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [r["track_id"] for r in rows] == [2, 1, 9, 2, 1, 9]
    lines = (tmp_path / "mot" / "clip.txt").read_text().splitlines()
    assert lines[0] == "1,2,41.00,11.00,20.00,40.00,0.9000,-1,-1,-1"
    assert [line[:3] for line in lines] == ["1,2", "1,1", "2,2", "2,1"]
    assert sorted(p.name for p in (tmp_path / "mot").iterdir()) == ["clip.txt", "images.txt"]


def test_no_ids_no_columns(tmp_path):
    writer = ResultWriter(tmp_path, ["person"], images=False, json_rows=True)
    writer.write_data(frame(), poses(50))
    writer.close()
    assert "track_id" not in json.loads((tmp_path / "predictions.json").read_text())[0]


def walkers_onnx(path):
    """A model that finds a person at the grey level of the image, and one who stands."""
    rows = np.stack([pose_row(10, 32, 20, 40), pose_row(54, 32, 16, 40, 0.7)])
    return make_pose_onnx(path, rows)


def test_detect_on_a_video(tmp_path):
    weights = walkers_onnx(tmp_path / "x.onnx")
    clip = video(tmp_path / "clip.avi", 12)
    flags = ["--weights", weights, "--source", clip, "--project", tmp_path / "out"]
    done = run_inside(DETECT, *flags, "--track", "--save-mot", "--save-json", "--save-txt")
    assert done.returncode == 0, done.stderr
    assert "12 frames, 24 poses of 2 tracks" in done.stdout and ", track " in done.stdout
    folder = tmp_path / "out" / "exp"
    lines = (folder / "mot" / "clip.txt").read_text().splitlines()
    assert len(lines) == 24 and {line.split(",")[1] for line in lines} == {"1", "2"}
    rows = json.loads((folder / "predictions.json").read_text())
    for track in (1, 2):  # the same person all the time
        assert len({r["score"] for r in rows if r["track_id"] == track}) == 1
    assert json.loads((folder / "summary.json").read_text())["tracks"] == 2
    assert len((folder / "labels" / "clip_1.txt").read_text().splitlines()[0].split()) == 57
    plain = run_inside(DETECT, *flags)
    assert ", track " not in plain.stdout and "tracks" not in plain.stdout
    # boxes are drawn in the colours of the IDs
    drawn = [
        cv2.VideoCapture(str(tmp_path / "out" / n / "clip.mp4")).read()[1] for n in ("exp", "exp2")
    ]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 50


def test_detect_on_unrelated_images_warns(tmp_path):
    weights = walkers_onnx(tmp_path / "x.onnx")
    for name in "ab":
        encode(tmp_path / (name + ".png"), np.zeros((64, 64, 3), np.uint8))
    flags = ["--weights", weights, "--source", tmp_path, "--project", tmp_path / "out"]
    done = run_inside(DETECT, *flags, "--track", "--nosave")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: --track: 2 images are taken as the frames") == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--save-mot"], "--save-mot goes with --track"),
        (["--track", "--track-lost", "0"], "--track-lost 0"),
        (["--track", "--track-oks", "2"], "--track-oks 2"),
        (["--track", "--track-low-thres", "-1"], "--track-low-thres -1"),
        (["--smooth"], "--smooth goes with --track"),
        (["--track", "--smooth", "--smooth-cutoff", "0"], "--smooth-cutoff 0"),
        (["--track", "--smooth", "--smooth-beta", "nan"], "--smooth-beta nan"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, flags, words):
    done = run_inside(DETECT, "--weights", "x.onnx", "--source", tmp_path, *flags)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
