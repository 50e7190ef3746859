"""A video on disk: H.264 through PyAV where it is installed, else MPEG-4 through OpenCV."""

import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence, Tuple

import cv2
import numpy as np

from utils.device import available_cores
from utils.errors import InputError
from utils.files import atomic_path
from utils.outputs import check_replaceable

if TYPE_CHECKING:
    import av

MAX_REPEATS = 300  # copies of one frame while a stream is silent
CODECS = ("auto", "h264", "mp4v")
CRF = "23"  # x264's own default quality
MANY_CORES = 8  # from here on x264 has threads for a slower preset, whose files are half as large
# Threads of x264. Each encodes a frame of its own and holds it and planes made of it: 10 MB in
# 720p, 80 MB in 4K. By itself x264 starts 1.5 a core, which fight with decoding, inference and
# drawing where the GPU is fast; on few cores the network is the limit.
CORES_SHARE = 0.75  # from MANY_CORES on
MAX_THREADS = 12
STREAM_THREADS = 2  # frames of a live stream come slowly, and there may be many streams


def resolve_codec(codec: str) -> str:
    """h264 or mp4v for one of CODECS. Raises InputError for another, and h264 without PyAV."""
    if codec not in CODECS:
        raise InputError("`codec` %s: expected one of %s" % (codec, ", ".join(CODECS)))
    has_av = importlib.util.find_spec("av") is not None
    if codec == "h264" and not has_av:
        raise InputError("`codec` h264 needs PyAV: pip install av; or use `codec` mp4v")
    return "h264" if codec != "mp4v" and has_av else "mp4v"


class VideoFile:
    """An .mp4 that gets its name only when it is complete and playable.

    Args: codec: h264, which browsers play, or mp4v. is_stream: frames come when they come; they are
        repeated so that the video plays in real time.
    """

    def __init__(
        self, path: Path, fps: float, hw: Sequence[int], *, codec: str = "mp4v", is_stream: bool
    ):
        self.path, self.is_stream = path, is_stream
        self._fps, self._count = fps, 0
        self._started = 0.0
        self._hw = (hw[0], hw[1])
        check_replaceable(path)  # not after hours
        self._context = atomic_path(path)
        self._tmp = self._context.__enter__()
        try:
            self._encoder: Any = _encoder(codec)(self._tmp, fps, self._hw, is_stream=is_stream)
        except InputError as e:
            self._context.__exit__(*sys.exc_info())
            raise InputError("%s: %s" % (path, e)) from e

    def write(self, image: np.ndarray, ready: Optional[object] = None) -> None:
        """Append a frame; one of another size is fitted to the first.

        Args: ready: what encoder_frame made of the image; None: it is made here.
        """
        if image.shape[:2] != self._hw:
            image, ready = cv2.resize(image, (self._hw[1], self._hw[0])), None
        if ready is None:
            ready = self._encoder.ready(image)
        copies = 1
        if self.is_stream:  # frames were dropped on the way: repeat, so that it plays in real time
            now = time.monotonic()
            self._started = self._started or now
            due = round((now - self._started) * self._fps) + 1 - self._count
            copies = min(max(due, 1), MAX_REPEATS)
        for _ in range(copies):
            self._encoder.write(ready)
        self._count += copies

    def close(self) -> None:
        """Finish the file. Raises InputError if it cannot be played: the disk is full."""
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        try:
            encoder.close()
            # OpenCV does not say when the disk is full
            if self._count and not cv2.VideoCapture(str(self._tmp)).read()[0]:
                raise InputError("%s: the video could not be written; disk full?" % self.path)
        except OSError as e:
            self._context.__exit__(*sys.exc_info())
            raise InputError("%s: the video could not be written (%s)" % (self.path, e)) from e
        except InputError:
            self._context.__exit__(*sys.exc_info())
            raise
        self._context.__exit__(None, None, None)


def encoder_frame(image: np.ndarray, codec: str) -> object:
    """What VideoFile.write takes as `ready`: (H, W, 3) uint8 BGR as the encoder wants it.

    Any thread may do this work, so that the one that feeds the encoder need not.
    """
    return _encoder(codec).ready(image)


def _encoder(codec: str) -> Any:
    return AvEncoder if codec == "h264" else OpenCvEncoder


class OpenCvEncoder:
    """MPEG-4 by OpenCV, on one core. Raises InputError if this OpenCV cannot write it."""

    def __init__(self, path: Path, fps: float, hw: Tuple[int, int], *, is_stream: bool = False):
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), fourcc, fps, (hw[1], hw[0]))
        if not self._writer.isOpened():
            raise InputError("OpenCV cannot write mp4 video here")

    @staticmethod
    def ready(image: np.ndarray) -> np.ndarray:
        """The (H, W, 3) uint8 BGR image itself: OpenCV converts its colours when it encodes."""
        return image

    def write(self, ready: np.ndarray) -> None:
        """Args: ready: what `ready` returns, of the size of the video."""
        self._writer.write(ready)

    def close(self) -> None:
        self._writer.release()


class AvEncoder:
    """H.264 by PyAV (x264), several frames at a time. Raises InputError if this PyAV cannot.

    Sizes are even in H.264 with 4:2:0 colours: the last row or column of an odd one is left out.
    """

    def __init__(self, path: Path, fps: float, hw: Tuple[int, int], *, is_stream: bool = False):
        import fractions

        import av

        h, w = _even(hw)
        rate = fractions.Fraction(fps).limit_denominator(1001)
        try:
            self._container = av.open(str(path), "w", format="mp4")
            self._stream: Any = self._container.add_stream("libx264", rate=rate)
        except (ValueError, av.error.FFmpegError) as e:
            raise InputError("PyAV %s cannot encode H.264 (%s)" % (av.__version__, e)) from e
        self._stream.width, self._stream.height = w, h
        self._stream.pix_fmt = "yuv420p"
        cores = available_cores()
        preset = "superfast" if cores >= MANY_CORES else "ultrafast"
        self._stream.options = {"preset": preset, "crf": CRF}
        # PyAV's default is slices: all threads work on one frame, for which the caller waits
        self._stream.codec_context.thread_type = "FRAME"
        self._stream.codec_context.thread_count = (
            STREAM_THREADS if is_stream else encoder_threads(cores)
        )

    @staticmethod
    def ready(image: np.ndarray) -> "av.VideoFrame":
        """A (H, W, 3) uint8 BGR image as an av.VideoFrame of even size, planes of 4:2:0."""
        import av

        h, w = _even(image.shape)
        if image.shape[:2] != (h, w):
            image = cv2.copyMakeBorder(
                image, 0, max(h - image.shape[0], 0), 0, max(w - image.shape[1], 0),
                cv2.BORDER_REPLICATE,
            )[:h, :w]  # fmt: skip
        # OpenCV's conversion: PyAV's takes six times as long
        planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8).reshape(-1)
        frame, start = av.VideoFrame(w, h, "yuv420p"), 0
        for plane in frame.planes:  # NumPy copies without the interpreter's lock, PyAV with it
            size = (plane.height, plane.width)
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            end = start + size[0] * size[1]
            rows[:, : size[1]] = planes[start:end].reshape(size)
            start = end
        return frame

    def write(self, ready: "av.VideoFrame") -> None:
        """Args: ready: what `ready` returns, of the size of the video; may be written again."""
        ready.pts = None  # the encoder counts
        self._container.mux(self._stream.encode(ready))

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode())
        finally:  # on a full disk the file takes up space until it is closed
            self._container.close()


def encoder_threads(cores: int) -> int:
    """Threads of x264 for a video file on a machine of so many cores."""
    return cores if cores < MANY_CORES else min(int(cores * CORES_SHARE), MAX_THREADS)


def _even(hw: Sequence[int]) -> Tuple[int, int]:
    return max(hw[0] // 2 * 2, 2), max(hw[1] // 2 * 2, 2)
