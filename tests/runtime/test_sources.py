import http.server
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.dataset.images import read_image
from utils.errors import InputError, InputWarning
from utils.runtime.sources import Source, display_name, open_source


def encode(path, image, suffix=None):
    path.write_bytes(cv2.imencode(suffix or path.suffix, image)[1].tobytes())
    return path


def gradient(h=20, w=30):
    return np.dstack([np.tile(np.linspace(0, 255, w), (h, 1))] * 3).astype(np.uint8)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an EXIF block with one tag, Orientation, behind the JPEG's first marker."""
    tiff = b"II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0" + tiff + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


def video(path, frames=10, hw=(48, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, hw[::-1])
    for i in range(frames):
        writer.write(np.full((*hw, 3), i * 20 % 256, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("name", ["a.jpg", "照片 人.png", "ünï.bmp"])
def test_any_file_name(tmp_path, name):
    image = gradient()
    np.testing.assert_allclose(
        read_image(str(encode(tmp_path / name, image))).astype(int), image, atol=12
    )


def test_grey_16_bit_and_alpha_become_bgr_bytes(tmp_path):
    grey = encode(tmp_path / "grey.png", np.full((5, 6), 100, np.uint8))
    deep = encode(tmp_path / "deep.png", np.full((5, 6), 100 * 257, np.uint16))
    alpha = encode(tmp_path / "rgba.png", np.full((5, 6, 4), 100, np.uint8))
    for path in (grey, deep, alpha):
        image = read_image(str(path))
        assert image.shape == (5, 6, 3) and image.dtype == np.uint8
        assert (image == 100).all()


def test_one_pixel(tmp_path):
    path = encode(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    assert read_image(str(path)).shape == (1, 1, 3)


def test_exif_orientation_is_applied(tmp_path):
    jpeg = cv2.imencode(".jpg", gradient(20, 30))[1].tobytes()
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_orientation(jpeg, 6))  # 6: turn right by 90 degrees
    image = read_image(str(path))
    assert image.shape == (30, 20, 3)
    assert image[0].mean() < 20 and image[-1].mean() > 235


def test_bad_images_are_skipped_and_named(tmp_path):
    encode(tmp_path / "b.jpg", gradient())
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "c.png").write_text("not a png")
    source = open_source(str(tmp_path))
    assert [f.path[-5:] for f in source] == ["b.jpg"]
    assert [(p[-5:], r) for p, r in source.skipped] == [
        ("a.jpg", "empty file"),
        ("c.png", "not an image OpenCV can decode"),
    ]


def test_hidden_files_and_subfolders_of_a_folder(tmp_path):
    for name in ("a.png", "._a.png", "below/b.png", ".hidden/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        encode(tmp_path / name, gradient())
    (tmp_path / "empty").mkdir()
    with pytest.warns(InputWarning, match="1 subfolder with images.*not looked into; for below"):
        source = open_source(str(tmp_path))
    assert [Path(p).name for p in source.images] == ["a.png"]
    everything = open_source(str(tmp_path / "**" / "*"))  # what the warning names
    assert [Path(p).name for p in everything.images] == ["a.png", "b.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="no images or videos in this folder.*for those in below"):
        open_source(str(tmp_path))


def test_folder_glob_and_file(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.md"):
        encode(tmp_path / name, gradient(), ".png")
    assert [p[-5:] for p in open_source(str(tmp_path)).images] == ["a.PNG", "b.jpg"]
    assert len(open_source(str(tmp_path / "*.jpg")).images) == 1
    assert open_source(str(tmp_path / "b.jpg")).total == 1


def test_file_names_with_glob_characters_are_files(tmp_path):
    path = encode(tmp_path / "a[1].jpg", gradient())
    assert open_source(str(path)).images == [str(path)]


def test_list_file(tmp_path):
    (tmp_path / "sub").mkdir()
    encode(tmp_path / "sub" / "a.png", gradient())
    other = encode(tmp_path / "b.png", gradient())
    (tmp_path / "list.txt").write_text("# comment\n./sub/a.png\n\n%s\nsub\n" % other)
    source = open_source(str(tmp_path / "list.txt"))
    assert [f.path.rsplit("/", 2)[-1] for f in source] == ["a.png", "b.png", "a.png"]
    assert not source.skipped


def test_streams_file(tmp_path):
    (tmp_path / "all.streams").write_text("0\nrtsp://camera/1\n")
    source = open_source(str(tmp_path / "all.streams"))
    assert source.streams == ["0", "rtsp://camera/1"] and source.live and source.total is None


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda t: t / "none.jpg", "no such file"),
        (lambda t: t / "*.jpg", "no image or video matches"),
        (lambda t: t, "no images or videos"),
        (lambda t: (t / "x.doc", (t / "x.doc").write_text(""))[0], "unknown file type"),
        (lambda t: (t / "x.txt", (t / "x.txt").write_text("\n"))[0], "empty"),
        (lambda t: (t / "x.txt", (t / "x.txt").write_text("a.doc"))[0], "neither"),
        (lambda t: (t / "x.txt", (t / "x.txt").write_text("0\na.png"))[0], "mixes"),
        (lambda t: (t / "x.txt", (t / "x.txt").write_bytes(b"\xff\xfe\x00"))[0], "UTF-8"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        open_source(str(make(tmp_path)))


def test_video_frames_in_order(tmp_path):
    source = open_source(str(video(tmp_path / "v.avi")))
    frames = list(source)
    assert [f.index for f in frames] == list(range(10)) and source.total == 10
    assert frames[0].kind == "video" and frames[0].fps == 10
    assert [round(float(f.image.mean()) / 20) for f in frames] == list(range(10))
    assert source.decode_s > 0 and not source.skipped


def test_video_that_breaks_off(tmp_path):
    path = video(tmp_path / "v.avi", 60)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(str(path))
    count = len(list(source))
    assert 5 < count < 60
    assert "breaks off after %d of 60" % count in source.incomplete[0][1]
    assert not source.skipped


def test_broken_video_is_skipped(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"nothing")
    source = open_source(str(tmp_path / "v.mp4"))
    assert list(source) == [] and "not a video" in source.skipped[0][1]


def test_close_ends_the_iteration(tmp_path):
    source = open_source(str(video(tmp_path / "v.avi")))
    seen = 0
    for _ in source:
        seen += 1
        source.close()
    assert seen == 1


def test_unreachable_stream_is_an_error():
    with warnings.catch_warnings(), pytest.raises(
        InputError, match="none: cannot open this stream; is it reachable[?]$"
    ):
        warnings.simplefilter("error")  # nothing was lost that was never open
        list(Source([], [], ["http://127.0.0.1:9/none"]))


def test_missing_webcam_is_an_error():
    with warnings.catch_warnings(), pytest.raises(
        InputError, match="87: cannot open this webcam; is it connected and free[?]$"
    ):
        warnings.simplefilter("error")
        list(Source([], [], ["87"]))


@pytest.fixture
def http_video(tmp_path):
    """Address of a server that answers every request with a video of 30 frames."""
    data = video(tmp_path / "v.avi", 30).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/avi")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield "http://127.0.0.1:%d" % server.server_address[1]
    server.shutdown()
    server.server_close()


def test_video_file_behind_http_is_read_to_its_end(http_video):
    source = open_source(http_video + "/v.avi?token=1")
    frames = list(source)
    assert [f.index for f in frames] == list(range(30)) and frames[0].kind == "video"
    assert not source.skipped and source.total is None


def test_http_stream_delivers_frames_and_ends(http_video):
    source = open_source(http_video + "/live")
    frames = list(source)
    assert frames and frames[0].kind == "stream" and frames[0].image.shape == (48, 64, 3)
    assert not source.skipped


def test_reader_that_fails_ends_the_stream(http_video, monkeypatch):
    from utils.runtime.live import LiveReader

    def fail(self):
        raise cv2.error("broken")

    monkeypatch.setattr(LiveReader, "_read", fail)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    source = open_source(http_video + "/live")
    assert list(source) == [] and source.skipped[0][1] == "no frame arrived"


def test_close_skips_the_other_videos_without_blame(tmp_path):
    for name in "abc":
        video(tmp_path / (name + ".avi"))
    source = open_source(str(tmp_path))
    for _ in source:
        source.close()
    assert not source.skipped


def test_password_is_not_shown():
    assert display_name("rtsp://me:secret@host/x") == "rtsp://host/x"
    assert display_name("a/b@c.jpg") == "a/b@c.jpg"


@pytest.mark.parametrize("text", ["²", "99999999999999"])
def test_odd_numbers_are_no_webcams(text):
    with pytest.raises(InputError, match="no such file"):
        open_source(text)


def test_pattern_in_a_list_inside_a_folder_with_brackets(tmp_path):
    folder = tmp_path / "中文 [1]"
    folder.mkdir()
    encode(folder / "a.png", gradient())
    (folder / "list.txt").write_text("*.png\n")
    assert len(open_source(str(folder / "list.txt")).images) == 1
    (folder / "list.txt").write_text("nofolder\n")
    with pytest.raises(InputError, match="nofolder: no such"):
        open_source(str(folder / "list.txt"))


def test_a_stream_that_breaks_off_is_connected_again_and_says_so(monkeypatch):
    """Three frames, a break, three frames of the next connection, then the end."""
    from utils.runtime.live import LiveReader

    left = [3, 3]

    class Capture:
        def __init__(self):
            self.left = left.pop(0) if left else 0

        def isOpened(self):
            return True

        def get(self, name):
            return 0.0

        def read(self):
            time.sleep(0.02)
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(LiveReader, "_connect", lambda self: Capture())
    source = Source([], [], ["rtsp://camera"], reconnect_s=0.3)
    with pytest.warns(InputWarning, match="rtsp://camera: stream lost: no frame for 0.3 s"):
        frames = list(source)
    assert source.lost == [("rtsp://camera", "stream lost: no frame for 0.3 s")]
    assert {f.restarts for f in frames} == {0, 1} and frames[-1].restarts == 1
    assert all(b.time_s > a.time_s > 0 for a, b in zip(frames, frames[1:]))


def test_video_frames_carry_their_time(tmp_path):
    frames = list(open_source(str(video(tmp_path / "v.avi"))))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(10) / 10)


def test_a_dead_address_does_not_stop_the_others(http_video):
    dead = "http://127.0.0.1:9/none"
    source = Source([], [], [dead, http_video + "/live"], reconnect_s=0.2)
    with pytest.warns(InputWarning, match="none: cannot be opened for 0.2 s"):
        frames = list(source)
    assert frames and {f.path for f in frames} == {http_video + "/live"}
    assert [address for address, _ in source.lost] == [dead]
    with pytest.raises(
        InputError, match="cannot open this stream, nor the other one; is it reachable"
    ):
        list(Source([], [], [dead, dead + "2"], reconnect_s=0.2))
