"""Where frames come from: image, folder, glob, video, webcam, stream, list file.

source = open_source("data/images")
for frame in source:
    ...
source.skipped    # [(path, reason)] of what could not be read
"""

import glob
import os
import threading
import time
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import cv2
import numpy as np

from utils.dataset.images import IMAGE_SUFFIXES, read_image
from utils.errors import InputError, reason_of, warn
from utils.reading import check_file, read_text
from utils.runtime.live import (
    CLOSE_S,
    RECONNECT_S,
    LiveReader,
    display_name,
    is_address,
    open_capture,
)
from utils.words import counted

VIDEO_SUFFIXES = ".asf .avi .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv".split()
LIST_SUFFIXES = (".txt", ".streams")
SILENT_S = 1.5  # a stream without frames for this long is worth a line


class Frame(NamedTuple):
    """One image to look at."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    path: str  # file, camera index or stream address it comes from
    index: int  # type: ignore[assignment]  # number of the frame within `path`, from 0
    kind: str  # "image", "video" or "stream"
    fps: float  # frames per second of the video or stream, 0 for images
    time_s: float = 0.0  # since the first frame of the video; of a stream: when it arrived
    restarts: int = 0  # times that the stream had broken off and was connected again


class Source:
    """Iterates over the frames of `items`, each an image, a video or live streams.

    Attributes:
        total: number of frames, None: not known beforehand (streams, videos behind http).
        skipped: (path, reason) of images and videos that could not be read.
        incomplete: (path, reason) of videos that break off.
        lost: (address, reason) of streams that stayed away for longer than reconnect_s.
        decode_s: seconds spent reading and decoding so far.
    """

    def __init__(
        self,
        images: List[str],
        videos: List[str],
        streams: List[str],
        *,
        reconnect_s: float = RECONNECT_S,
    ):
        self.images, self.videos, self.streams = images, videos, streams
        self.reconnect_s = reconnect_s
        self.lost: List[Tuple[str, str]] = []
        self.skipped: List[Tuple[str, str]] = []
        self.incomplete: List[Tuple[str, str]] = []
        self.decode_s = 0.0
        self._stop = threading.Event()

    @property
    def live(self) -> bool:
        return bool(self.streams)

    @property
    def total(self) -> Optional[int]:
        if self.streams:
            return None
        counts = [_frame_count(v) for v in self.videos]
        return None if 0 in counts else len(self.images) + sum(counts)

    def close(self) -> None:
        """Ask the iteration to end; safe from any thread."""
        self._stop.set()

    def __iter__(self) -> Iterator[Frame]:
        for path in self.images:
            if self._stop.is_set():
                return
            started = time.perf_counter()
            try:
                image = read_image(path)
            except (ValueError, OSError) as e:
                self.skipped.append((path, reason_of(e)))
                continue
            finally:
                self.decode_s += time.perf_counter() - started
            yield Frame(image, path, 0, "image", 0.0)
        for path in self.videos:
            if self._stop.is_set():
                return
            yield from self._video(path)
        if self.streams:
            yield from self._live()

    def _video(self, path: str) -> Iterator[Frame]:
        if not is_address(path):
            try:
                check_file(path, "video")
            except InputError as e:
                self.skipped.append((path, str(e)[len(path) + 2 :]))
                return
        capture = open_capture(path)
        try:
            if not capture.isOpened():
                self.skipped.append((path, "not a video OpenCV can decode"))
                return
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if 0 < fps < 1000 else 25.0
            expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            index = 0
            while not self._stop.is_set():
                started = time.perf_counter()
                ok, image = capture.read()
                self.decode_s += time.perf_counter() - started
                if not ok:
                    break
                image = _three_channels(image)
                yield Frame(image, path, index, "video", fps, time_s=index / fps)
                index += 1
            # Containers often count a frame or two too many; more is a broken file.
            if not self._stop.is_set() and index < expected - max(2, expected // 50):
                self.incomplete.append(
                    (path, "breaks off after %d of %d frames" % (index, expected))
                )
            elif index == 0 and not self._stop.is_set():
                self.skipped.append((path, "a video without frames"))
        finally:
            capture.release()

    def _live(self) -> Iterator[Frame]:
        """Newest frame of each stream in turn; a slow consumer drops frames, never lags."""
        several = len(self.streams) > 1
        patient = several or not self.reconnect_s
        readers = [LiveReader(a, self.reconnect_s, patient=patient) for a in self.streams]
        try:
            for reader in readers:
                reader.start()
            counts = [0] * len(readers)
            told: Set[str] = set()
            while not self._stop.is_set():
                idle = True
                for i, reader in enumerate(readers):
                    arrived = reader.newest()
                    if arrived is None:
                        self._watch(reader, told)
                        continue
                    idle = False
                    told.discard(reader.address)
                    image = _three_channels(arrived.image)
                    yield Frame(
                        image, reader.address, counts[i], "stream", reader.fps, *arrived[1:]
                    )
                    counts[i] += 1
                if idle:
                    if all(r.ended and not r.waiting for r in readers):
                        break
                    time.sleep(0.002)
            for reader, count in zip(readers, counts):
                self._watch(reader, told)
                if not count:
                    self.skipped.append((reader.address, reader.lost or "no frame arrived"))
            if all(reader.lost and not reader.opened for reader in readers):
                raise InputError(_none_opens(self.streams))
        finally:
            for reader in readers:
                reader.ask_to_close()
            deadline = time.monotonic() + CLOSE_S
            for reader in readers:
                reader.close(deadline)

    def _watch(self, reader: LiveReader, told: Set[str]) -> None:
        """Say once that a stream is silent, and note it when it is lost."""
        name = display_name(reader.address)
        if reader.lost and reader.address not in (address for address, _ in self.lost):
            self.lost.append((reader.address, reader.lost))
            if reader.opened or len(self.streams) > 1:  # else the error says it
                warn("%s: %s" % (name, reader.lost))
        since = reader.silent_since
        silent = since is not None and time.monotonic() - since > SILENT_S
        if silent and not reader.ended and reader.address not in told:
            told.add(reader.address)
            state = "no frame arrives" if reader.opened else "cannot be opened"
            limit = "for %g s" % self.reconnect_s if self.reconnect_s else "for ever"
            warn("%s: %s; connecting again %s" % (name, state, limit))


def _none_opens(streams: Sequence[str]) -> str:
    """What to say where no stream was ever open."""
    is_webcam, others = streams[0].isdecimal(), len(streams) - 1
    what, ask = ("webcam", "connected and free") if is_webcam else ("stream", "reachable")
    more = ", nor the %s" % ("other one" if others == 1 else "%d others" % others)
    return "`source` %s: cannot open this %s%s; is it %s?" % (
        display_name(streams[0]), what, more if others else "", ask
    )  # fmt: skip


def open_source(source: str, reconnect_s: float = RECONNECT_S) -> Source:
    """Source for a --source value.

    Accepted: an image or video file, a folder (its images and videos, not deeper), a glob
    pattern, a webcam index, an rtsp/rtmp/http(s)/udp/tcp address, or a list file
    (.txt, .streams) with one of these a line; relative lines are relative to the list file.

    Args: reconnect_s: seconds that a stream may stay away, 0: for ever.

    Raises InputError if there is nothing to read.
    """
    images: List[str] = []
    videos: List[str] = []
    streams: List[str] = []
    _collect(source, Path("."), images, videos=videos, streams=streams, depth=0)
    if streams and (images or videos):
        raise InputError(
            "`source` %s: mixes live streams with files; give them in two runs" % source
        )
    return Source(images, videos, streams, reconnect_s=reconnect_s)


def _collect(
    source: str,
    base: Path,
    images: List[str],
    *,
    videos: List[str],
    streams: List[str],
    depth: int,
) -> None:
    if is_address(source):
        _sort_address(source, videos, streams)
        return
    path = Path(source).expanduser()
    pattern = str(path)
    if depth and not path.is_absolute():
        pattern, path = _escaped(base, source), base / path
    suffix = path.suffix.lower()
    if path.is_dir():
        _collect_folder(path, images, videos)
    elif path.is_file() and suffix in LIST_SUFFIXES:
        if depth:
            raise InputError("`source` %s: a list file inside a list file" % path)
        lines = _read_lines(path)
        if not lines:
            raise InputError("`source` %s: the list file is empty" % path)
        for line in lines:
            item = Path(line) if Path(line).is_absolute() else path.parent / line
            if is_address(line) or item.is_dir() or any(c in line for c in "*?["):
                _collect(line, path.parent, images, videos=videos, streams=streams, depth=depth + 1)
            elif not item.exists() and not item.suffix:
                raise InputError("%s: %s: no such file or folder" % (path, line))
            elif not _sort_by_kind([str(item)], images, videos):
                raise InputError("%s: %s is neither an image nor a video" % (path, line))
    elif path.is_file():
        if not _sort_by_kind([str(path)], images, videos):
            raise InputError(
                "`source` %s: unknown file type, expected one of %s"
                % (path, " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES + list(LIST_SUFFIXES)))
            )
    elif any(c in source for c in "*?["):
        names = sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
        if not _sort_by_kind(names, images, videos):
            raise InputError("`source` %s: no image or video matches this pattern" % source)
    else:
        raise InputError(
            "`source` %s: no such file or folder; expected an image, video, folder, glob, "
            "webcam index, stream address or list file" % source
        )


def _collect_folder(path: Path, images: List[str], videos: List[str]) -> None:
    """The files of a folder; hidden ones, such as the `._a.jpg` that macOS writes, are left out.

    Warns of subfolders with images or videos, which are not looked into.
    """
    names = sorted(str(p) for p in path.iterdir() if p.is_file() and p.name[0] != ".")
    known = _sort_by_kind(names, images, videos)
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name[0] != "."]
    folders = [p for p in folders if os.access(str(p), os.R_OK | os.X_OK)]
    below = [p for p in folders if _sort_by_kind([str(f) for f in p.iterdir()], [], [])]
    hint = "%s, `source` '%s'" % (below[0].name, path / "**" / "*") if below else ""
    if not known:
        raise InputError(
            "`source` %s: no images or videos in this folder (looked for %s)%s"
            % (path, " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES), "; for those in " + hint if hint
               else "")
        )  # fmt: skip
    if below:
        warn(
            "`source` %s: %s with images or videos is not looked into; for %s"
            % (path, counted(len(below), "subfolder"), hint)
        )


def _escaped(base: Path, pattern: str) -> str:
    """A glob pattern relative to a folder whose name may hold brackets."""
    return os.path.join(glob.escape(str(base)), pattern)


def _sort_address(address: str, videos: List[str], streams: List[str]) -> None:
    """A video file behind http is read frame by frame to its end; anything else is live."""
    path = address.split("?")[0].lower()
    is_file = path.startswith("http") and path.endswith(tuple(VIDEO_SUFFIXES))
    (videos if is_file else streams).append(address)


def _sort_by_kind(names: List[str], images: List[str], videos: List[str]) -> int:
    """Append each name to images or videos by its suffix; return how many were known."""
    known = 0
    for name in names:
        suffix = Path(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images.append(name)
            known += 1
        elif suffix in VIDEO_SUFFIXES:
            videos.append(name)
            known += 1
    return known


def _read_lines(path: Path) -> List[str]:
    text = read_text(path, "list")
    # not splitlines(): a file name may hold what Unicode calls a line separator
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]


def _frame_count(path: str) -> int:
    # an address that stays silent would hold up the main thread, and Ctrl-C with it
    if is_address(path) or not os.path.isfile(path):
        return 0
    capture = open_capture(path)
    try:
        return max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    finally:
        capture.release()


def _three_channels(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
