"""Cameras and streams: the newest frame of each, connected again when one falls silent.

readers = [LiveReader("rtsp://camera/1", reconnect_s=10)]
readers[0].start()
readers[0].newest()           # None until a frame is there
readers[0].lost               # why it ended, empty while it goes on or where it ended regularly
"""

import os
import re
import threading
import time
from typing import NamedTuple, Optional

import cv2
import numpy as np

RECONNECT_S = 10.0  # a stream that stays silent this long is lost
RETRY_S = 0.5  # between two connections
HANG_S = 10.0  # a connection that is made, or a call that waits for a frame, fails after this
CLOSE_S = 1.0  # wait this long for readers that hang in the network

# OpenCV opens one video at a time, files that are written included: an address that stays silent
# would hold up all others, and the main thread, for HANG_S. Its FFmpeg needs no such lock
# (https://github.com/opencv/opencv/pull/23601, from OpenCV 4.8).
os.environ.setdefault("OPENCV_FFMPEG_IS_THREAD_SAFE", "1")


class Arrived(NamedTuple):
    """An image of a stream."""

    image: np.ndarray
    time_s: float  # monotonic
    restarts: int


class LiveReader:
    """A thread that keeps the newest frame of a camera or stream.

    Args:
        reconnect_s: seconds without a frame after which it is lost, 0: never.
        patient: also wait that long for the first connection; else it fails at once.

    Attributes:
        ended: nothing more will come. opened: it was connected at least once.
        silent_since: monotonic time since when no frame came, None: frames come.
        lost: why it ended, empty: not lost.
    """

    def __init__(self, address: str, reconnect_s: float = RECONNECT_S, *, patient: bool = False):
        self.address, self.reconnect_s, self.patient = address, reconnect_s, patient
        self.fps = 30.0
        self.ended = self.opened = False
        self.lost = ""
        self.silent_since: Optional[float] = None
        self._arrived: Optional[Arrived] = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._capture: Optional[cv2.VideoCapture] = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._finite = False

    def start(self) -> None:
        """Connect and read, in a thread: one address that hangs does not hold up the others."""
        self._thread.start()

    def _connect(self) -> cv2.VideoCapture:
        if self.address.isdecimal():
            return cv2.VideoCapture(int(self.address))
        return open_capture(self.address)

    def _run(self) -> None:
        try:
            self._read()
        finally:
            self.ended = True

    def _open(self) -> bool:
        """Connect anew; whether that worked."""
        if self._capture is not None:
            self._capture.release()
        self._capture = self._connect()
        if not self._capture.isOpened():
            return False
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else 30.0
        self._finite = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # a file behind http
        self.opened = True
        return True

    def _read(self) -> None:
        connected = self._open()
        if not connected and not self.patient:
            self.lost = "cannot be opened"
            return
        restarts, reconnected = 0, False
        while not self._closing.is_set():
            ok, image = self._capture.read() if connected else (False, None)  # type: ignore
            if ok and image is not None:
                self.silent_since = None
                restarts, reconnected = restarts + reconnected, False
                with self._lock:
                    self._arrived = Arrived(image, time.monotonic(), restarts)
                continue
            if connected and self._finite:
                return
            now = time.monotonic()
            self.silent_since = self.silent_since or now
            if self.reconnect_s and now - self.silent_since > self.reconnect_s:
                what = "stream lost: no frame" if self.opened else "cannot be opened"
                self.lost = "%s for %g s" % (what, self.reconnect_s)
                return
            self._closing.wait(RETRY_S)
            if not self._closing.is_set() and not (connected and self.address.isdecimal()):
                was = self.opened
                connected = self._open()
                reconnected = was

    @property
    def waiting(self) -> bool:
        """Whether a frame is there that was not handed out."""
        return self._arrived is not None

    def newest(self) -> Optional[Arrived]:
        """The newest frame not handed out yet, or None."""
        with self._lock:
            arrived, self._arrived = self._arrived, None
        return arrived

    def ask_to_close(self) -> None:
        self._closing.set()

    def close(self, deadline: float) -> None:
        """Release the capture, unless its thread still hangs in it at `deadline` (monotonic)."""
        self._thread.join(timeout=max(deadline - time.monotonic(), 0))
        if not self._thread.is_alive() and self._capture is not None:
            self._capture.release()


def open_capture(path: str) -> cv2.VideoCapture:
    """A video file or stream; an address that stays silent for HANG_S fails, now or later."""
    if not is_address(path) or cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(path)
    limit = round(1000 * HANG_S)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    return cv2.VideoCapture(path, cv2.CAP_FFMPEG, limits)


def is_address(source: str) -> bool:
    """Whether a source is a webcam index or a stream address rather than a file."""
    is_index = source.isdecimal() and source.isascii() and len(source) < 4
    return is_index or source.lower().startswith(STREAM_PREFIXES)


STREAM_PREFIXES = ("rtsp://", "rtmp://", "http://", "https://", "udp://", "tcp://")


def display_name(address: str) -> str:
    """An address without the password it may hold."""
    return re.sub(r"//[^/@]*@", "//", address)
