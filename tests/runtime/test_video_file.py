import sys

import cv2
import numpy as np
import pytest

from utils.errors import InputError
from utils.runtime import video_file
from utils.runtime.video_file import VideoFile, resolve_codec


def frames(hw, count=6):
    """A bright square that moves to the right."""
    for i in range(count):
        image = np.zeros((*hw, 3), np.uint8)
        image[8:24, 8 + 4 * i : 24 + 4 * i] = (40, 120, 250)
        yield image


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
