import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from utils.errors import InputError
from utils.runtime import video_file
from utils.runtime.video_file import VideoFile, encoder_frame, encoder_threads, resolve_codec


def frames(hw, count=6):
    """A bright square that moves to the right."""
    for i in range(count):
        image = np.zeros((*hw, 3), np.uint8)
        image[8:24, 8 + 4 * i : 24 + 4 * i] = (40, 120, 250)
        yield image


def set_clock(monkeypatch, seconds):
    """Frames of a stream come at these times."""
    monkeypatch.setattr(video_file, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


def read(path):
    video, found = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = video.read()
        if not ok:
            return found, video.get(cv2.CAP_PROP_FPS)
        found.append(image)


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
@pytest.mark.parametrize("hw", [(48, 64), (49, 65)])
def test_what_is_written_is_read_again(tmp_path, codec, hw):
    if codec == "h264":
        pytest.importorskip("av", reason="PyAV is not installed")
    video = VideoFile(tmp_path / "x.mp4", 25, hw, codec=codec, is_stream=False)
    wanted = list(frames(hw))
    for image in wanted:
        video.write(image)
    assert not (tmp_path / "x.mp4").exists()  # not before it is complete
    video.close()
    found, fps = read(tmp_path / "x.mp4")
    assert len(found) == len(wanted) and fps == pytest.approx(25)
    for a, b in zip(found, wanted):
        h, w = a.shape[:2]
        assert abs(h - hw[0]) <= 1 and abs(w - hw[1]) <= 1
        assert np.abs(a.astype(int) - b[:h, :w]).mean() < 8
        x = np.flatnonzero(a[16, :, 2] > 120)
        assert abs(x.min() - np.flatnonzero(b[16, :, 2] > 120).min()) <= 1
    assert list(tmp_path.iterdir()) == [tmp_path / "x.mp4"]


def test_h264_is_what_browsers_play(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    video = VideoFile(tmp_path / "x.mp4", 29.97, (48, 64), codec="h264", is_stream=False)
    for image in frames((48, 64)):
        video.write(image)
    video.close()
    with av.open(str(tmp_path / "x.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize(("cores", "is_stream", "threads"), [
    (1, False, 1), (2, False, 2), (16, False, 12), (16, True, 2),
])  # fmt: skip
def test_x264_works_on_several_frames_at_a_time(tmp_path, monkeypatch, cores, is_stream, threads):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    monkeypatch.setattr(video_file, "available_cores", lambda: cores)
    set_clock(monkeypatch, (i / 25 for i in range(24)))
    video = VideoFile(tmp_path / "x.mp4", 25, (192, 256), codec="h264", is_stream=is_stream)
    for image in frames((192, 256), 24):
        video.write(image, encoder_frame(image, "h264"))
    video.close()
    content = (tmp_path / "x.mp4").read_bytes()  # x264 writes its settings into the file
    assert b"sliced_threads=0" in content
    assert b" threads=%d " % threads in content
    with av.open(str(tmp_path / "x.mp4")) as container:
        shown = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert [float(s) for s in shown] == pytest.approx([i / 25 for i in range(24)])


def test_threads_of_x264_leave_cores_to_others():
    assert [encoder_threads(n) for n in (1, 6, 8, 12, 16, 64)] == [1, 6, 6, 9, 12, 12]


@pytest.mark.parametrize("hw", [(48, 64), (49, 65), (50, 70), (1, 1)])
def test_a_frame_made_ready_has_the_planes_of_opencv(hw):
    pytest.importorskip("av", reason="PyAV is not installed")
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    frame = encoder_frame(image, "h264")
    h, w = max(hw[0] // 2 * 2, 2), max(hw[1] // 2 * 2, 2)
    even = np.tile(image, (2, 2, 1))[:h, :w] if hw == (1, 1) else image[:h, :w]
    wanted = cv2.cvtColor(np.ascontiguousarray(even), cv2.COLOR_BGR2YUV_I420)
    assert (frame.to_ndarray() == wanted).all()


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
def test_a_frame_of_another_size_is_fitted_also_when_it_is_ready(tmp_path, codec):
    if codec == "h264":
        pytest.importorskip("av", reason="PyAV is not installed")
    video = VideoFile(tmp_path / "x.mp4", 25, (48, 64), codec=codec, is_stream=False)
    for hw in ((48, 64), (96, 128), (49, 65)):
        image = np.full((*hw, 3), 200, np.uint8)
        video.write(image, encoder_frame(image, codec))
    video.close()
    found = read(tmp_path / "x.mp4")[0]
    assert [f.shape for f in found] == [(48, 64, 3)] * 3
    assert all(np.abs(f.astype(int) - 200).mean() < 4 for f in found)


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
def test_a_frame_of_a_slow_stream_is_written_several_times(tmp_path, monkeypatch, codec):
    if codec == "h264":
        pytest.importorskip("av", reason="PyAV is not installed")
    set_clock(monkeypatch, iter([10.0, 10.2, 10.24]))
    video = VideoFile(tmp_path / "x.mp4", 25, (48, 64), codec=codec, is_stream=True)
    for image in frames((48, 64), 3):
        video.write(image, encoder_frame(image, codec))
    video.close()
    found = read(tmp_path / "x.mp4")[0]
    left = [int(np.flatnonzero(f[16, :, 2] > 120).min()) for f in found]
    assert left == pytest.approx([8, 12, 12, 12, 12, 12, 16], abs=1)


def test_without_pyav(monkeypatch):
    monkeypatch.setattr(video_file.importlib.util, "find_spec", lambda name: None)
    assert resolve_codec("auto") == resolve_codec("mp4v") == "mp4v"
    with pytest.raises(InputError, match="`codec` h264 needs PyAV: pip install av"):
        resolve_codec("h264")


def test_unknown_codec():
    with pytest.raises(InputError, match="`codec` vp9: expected one of auto, h264, mp4v"):
        resolve_codec("vp9")


def test_a_pyav_without_the_encoder_is_one_error(tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    real = av.open

    def refusing(*args, **kwargs):
        container = real(*args, **kwargs)

        class Container:
            def add_stream(self, *args, **kwargs):
                raise ValueError("Unknown codec: libx264")

            def close(self):
                container.close()

        return Container()

    monkeypatch.setattr(sys.modules["av"], "open", refusing)
    with pytest.raises(InputError, match="x.mp4: PyAV .* cannot encode H.264"):
        VideoFile(tmp_path / "x.mp4", 25, (48, 64), codec="h264", is_stream=False)
    assert not list(tmp_path.glob("*.mp4"))


def test_a_video_that_does_not_fit_on_the_disk_gives_its_space_back():
    closed = []

    class Full:
        def mux(self, packets):
            raise OSError(28, "No space left on device")

        def close(self):
            closed.append(True)

    class Stream:
        def encode(self):
            return []

    encoder = video_file.AvEncoder.__new__(video_file.AvEncoder)
    encoder._container, encoder._stream = Full(), Stream()
    with pytest.raises(OSError, match="No space"):
        encoder.close()
    assert closed
