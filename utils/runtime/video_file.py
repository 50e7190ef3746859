"""A video on disk: H.264 through PyAV where it is installed, else MPEG-4 through OpenCV."""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any, Sequence, Tuple

import cv2
import numpy as np

from utils.device import available_cores
from utils.errors import InputError
from utils.files import atomic_path
from utils.outputs import check_replaceable

MAX_REPEATS = 300  # copies of one frame while a stream is silent
CODECS = ("auto", "h264", "mp4v")
CRF = "23"  # x264's own default quality
MANY_CORES = 8  # from here on x264 has threads for a slower preset, whose files are half as large


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
        kind = AvEncoder if codec == "h264" else OpenCvEncoder
        try:
            self._encoder: Any = kind(self._tmp, fps, self._hw)
        except InputError as e:
            self._context.__exit__(*sys.exc_info())
            raise InputError("%s: %s" % (path, e)) from e

    def write(self, image: np.ndarray) -> None:
        """Append a frame; one of another size is fitted to the first."""
        if image.shape[:2] != self._hw:
            image = cv2.resize(image, (self._hw[1], self._hw[0]))
        copies = 1
        if self.is_stream:  # frames were dropped on the way: repeat, so that it plays in real time
            now = time.monotonic()
            self._started = self._started or now
            due = round((now - self._started) * self._fps) + 1 - self._count
            copies = min(max(due, 1), MAX_REPEATS)
        for _ in range(copies):
            self._encoder.write(image)
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


class OpenCvEncoder:
    """MPEG-4 by OpenCV, on one core. Raises InputError if this OpenCV cannot write it."""

    def __init__(self, path: Path, fps: float, hw: Tuple[int, int]):
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), fourcc, fps, (hw[1], hw[0]))
        if not self._writer.isOpened():
            raise InputError("OpenCV cannot write mp4 video here")

    def write(self, image: np.ndarray) -> None:
        """Args: image: (H, W, 3) uint8 BGR."""
        self._writer.write(image)

    def close(self) -> None:
        self._writer.release()


class AvEncoder:
    """H.264 by PyAV (x264), on all cores. Raises InputError if this PyAV cannot encode it.

    Sizes are even in H.264 with 4:2:0 colours: the last row or column of an odd one is left out.
    """

    def __init__(self, path: Path, fps: float, hw: Tuple[int, int]):
        import fractions

        import av

        self._av = av
        self._h, self._w = max(hw[0] // 2 * 2, 2), max(hw[1] // 2 * 2, 2)
        rate = fractions.Fraction(fps).limit_denominator(1001)
        try:
            self._container = av.open(str(path), "w", format="mp4")
            self._stream: Any = self._container.add_stream("libx264", rate=rate)
        except (ValueError, av.error.FFmpegError) as e:
            raise InputError("PyAV %s cannot encode H.264 (%s)" % (av.__version__, e)) from e
        self._stream.width, self._stream.height = self._w, self._h
        self._stream.pix_fmt = "yuv420p"
        preset = "superfast" if available_cores() >= MANY_CORES else "ultrafast"
        self._stream.options = {"preset": preset, "crf": CRF}

    def write(self, image: np.ndarray) -> None:
        """Args: image: (H, W, 3) uint8 BGR."""
        if image.shape[:2] != (self._h, self._w):
            image = cv2.copyMakeBorder(
                image, 0, max(self._h - image.shape[0], 0), 0, max(self._w - image.shape[1], 0),
                cv2.BORDER_REPLICATE,
            )[: self._h, : self._w]  # fmt: skip
        # OpenCV's conversion: PyAV's takes six times as long, on the thread that feeds the encoder
        planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()
