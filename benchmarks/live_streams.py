"""N live streams through one model: are all frames kept, and how old is a frame when its poses
are known?

    python benchmarks/live_streams.py --weights weights/x-FP16.trt --source street.avi --streams 8

Each stream plays the video in a loop, 30 frames/s, the streams one after the other within a frame.
A frame is available when it is due; decoding is part of its latency. Everything behind that is the
pipeline of detect: newest frame of each stream, letterbox, network, NMS, poses in image pixels.
"""

import argparse
import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before it is imported

import cv2
import numpy as np

from benchmarks.machine import describe
from utils.pipeline import one_thread_a_stage
from utils.runtime import sources
from utils.runtime.backend import Backend
from utils.runtime.detector import Detector
from utils.runtime.live import Arrived
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor

FPS = 30.0
SETTLE_S = 3.0  # after the first result: what waited while kernels were chosen is gone


class PacedReader:
    """LiveReader of utils/runtime/live.py on a video file that arrives as a camera's would.

    Attributes: due, times at which frames were due; late, frames that were replaced unseen.
    """

    streams = 1  # of the run

    def __init__(self, address: str, reconnect_s: float, *, patient: bool = False):
        self.address = address
        number, self._path = address.split("|", 1)
        self.fps, self.ended, self.opened, self.lost = FPS, False, True, ""
        self.silent_since: Optional[float] = None
        self._offset = int(number) / FPS / PacedReader.streams
        self._newest: Optional[Arrived] = None
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        video, started = cv2.VideoCapture(self._path), time.monotonic() + self._offset
        for number in itertools.count():
            due = started + number / FPS
            if self._closing.wait(max(due - time.monotonic(), 0)):
                break
            ok, image = video.read()
            if not ok:
                video.set(cv2.CAP_PROP_POS_FRAMES, 0)
                ok, image = video.read()
            assert ok, self._path
            with self._lock:
                self._newest = Arrived(image, due, number)  # number: to see which are missing
        video.release()
        self.ended = True

    @property
    def waiting(self) -> bool:
        return self._newest is not None

    def newest(self) -> Optional[Arrived]:
        with self._lock:
            newest, self._newest = self._newest, None
        return newest

    def ask_to_close(self) -> None:
        self._closing.set()

    def close(self, deadline: float) -> None:
        self._thread.join(timeout=max(deadline - time.monotonic(), 0))


def measure(args: argparse.Namespace, backend: Backend, weights: str) -> Dict[str, Any]:
    """Frames/s and ms from due to poses, of all streams together."""
    one_thread_a_stage()
    PacedReader.streams = args.streams
    sources.LiveReader = PacedReader  # type: ignore  # a camera of which we know when it took what
    addresses = ["%d|%s" % (i, args.source) for i in range(args.streams)]
    source = sources.Source([], [], addresses, reconnect_s=0)
    detector = Detector(
        source, Predictor(backend), batch_size=args.batch_size, max_wait_ms=args.max_wait
    )
    latencies: List[float] = []
    seen: List[float] = []
    missing, last = 0, {}
    begin = end = 0.0
    for frame, _ in detector.run():
        now = time.monotonic()
        begin = begin or now + SETTLE_S
        end = end or begin + args.seconds
        if now >= end:
            break
        before, last[frame.path] = last.get(frame.path), frame.restarts
        if now < begin:
            continue
        latencies.append(1000 * (now - frame.time_s))
        seen.append(now)
        missing += frame.restarts - before - 1 if before is not None else 0
    source.close()
    return {
        "weights": Path(weights).name,
        "backend": backend.description,
        "streams": args.streams,
        "batch_size": detector.batch_size,
        "asked_per_s": FPS * args.streams,
        "frames_per_s": len(seen) / args.seconds,
        "dropped": missing,
        "latency_ms": {
            "median": float(np.median(latencies)),
            "95 %": float(np.percentile(latencies, 95)),
            "largest": float(np.max(latencies)),
        },
    }


def table(rows: List[Dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| weights | streams | batch | frames/s | dropped | latency ms: median, 95 %, largest |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        lines.append(
            "| %s | %d | %d | %.1f of %.0f | %d | %.1f, %.1f, %.1f |"
            % (row["weights"], row["streams"], row["batch_size"], row["frames_per_s"],
               row["asked_per_s"], row["dropped"], *row["latency_ms"].values())
        )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--source", required=True, help="a video")
    parser.add_argument("--device", default="0")
    parser.add_argument("--half", action="store_true", help="FP16 of a .pt")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--batch-size", type=int, help="as detect [1, or that of the model]")
    parser.add_argument("--max-wait", type=float, default=10.0, help="ms, as detect")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    print(describe())
    rows = []
    for weights in args.weights:
        backend = load_backend(weights, args.device, args.half and weights.endswith(".pt"))
        rows.append(measure(args, backend, weights))
    print(table(rows))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
