"""What the host leaves of a fast GPU: detect's stages around a stand-in that only takes time.

    python benchmarks/host_pipeline.py --source street.avi
    python benchmarks/host_pipeline.py --source street.avi --streams 8

The stand-in holds "the GPU" for --gpu-ms a frame, one frame after the other, and the interpreter
for --host-ms, as the calls of a driver do; then it returns the same 16 candidates of four persons.
With one call at a time the GPU waits for the host between two frames, with two it does not
(Backend.workers). Frames/s with decoding and with frames that lie in memory, with nothing written
and (two calls at a time) with a video of each encoder; --streams: live streams of 30 frames/s.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks import live_streams
from benchmarks.machine import describe
from utils.pipeline import one_thread_a_stage
from utils.pose.fixed_nms import NmsSettings
from utils.pose.keypoints import COCO
from utils.runtime.backend import Backend
from utils.runtime.detect import process
from utils.runtime.detect_config import DetectConfig
from utils.runtime.detector import Detector
from utils.runtime.predictor import Predictor
from utils.runtime.sources import Frame, Source, open_source
from utils.runtime.writers import ResultWriter

KEPT = 60  # frames in memory
KINDS = ("decoded", "in memory")
PERSONS, CANDIDATES = 4, 4  # candidates of each


class StandIn(Backend):
    """A GPU that takes time and finds the same people in each image."""

    def __init__(self, gpu_ms: float, host_ms: float, workers: int):
        self.description, self.precision, self.on_gpu = "stand-in", "none", True
        self.input_shape, self.dtype = (1, 3, 384, 640), np.dtype(np.float32)
        self.names, self.nkpt, self.skeleton, self.stride = ["person"], COCO.count, COCO, 64
        self.imgsz, self.takes_pixels, self.workers = None, True, workers
        self._gpu_s, self._host_s = gpu_ms / 1000, host_ms / 1000
        self._free, self._lock = 0.0, threading.Lock()  # when the GPU will be free
        self._rows = candidates()

    def find(self, images: np.ndarray, settings: NmsSettings) -> List[np.ndarray]:
        """See Backend.find."""
        with self._lock:
            until = time.perf_counter() + self._host_s
            while time.perf_counter() < until:
                pass
            self._free = max(time.perf_counter(), self._free) + self._gpu_s * len(images)
            done = self._free
        time.sleep(max(done - time.perf_counter(), 0))
        return [self._rows] * len(images)


def candidates() -> np.ndarray:
    """Rows (cx cy w h, score, class score, keypoints) of persons side by side, px of the canvas."""
    rng = np.random.default_rng(0)
    rows = np.empty((PERSONS, CANDIDATES, 6 + 3 * COCO.count), np.float32)
    rows[..., 0] = 640 / PERSONS * (np.arange(PERSONS)[:, None] + 0.5)
    rows[..., 1:4] = (190, 100, 240)
    rows[..., :4] += rng.uniform(-3, 3, (PERSONS, CANDIDATES, 4))
    rows[..., 4:6] = rng.uniform(0.8, 1, (PERSONS, CANDIDATES, 2))
    spread = rng.uniform(-0.5, 0.5, (PERSONS, 1, COCO.count, 2))
    points = rows[..., 6:].reshape(PERSONS, CANDIDATES, COCO.count, 3)
    points[..., :2] = rows[..., None, :2] + spread * rows[..., None, 2:4]
    points[..., 2] = 0.9
    rows[..., 6:] = points.reshape(PERSONS, CANDIDATES, -1)
    return rows.reshape(PERSONS * CANDIDATES, -1)


class InMemory(Source):
    """The first frames of a video, decoded before, again and again. Args: count: frames in all."""

    def __init__(self, source: str, count: int):
        super().__init__([], open_source(source).videos, [])
        self._frames = list(itertools.islice(open_source(source), KEPT))
        self._count = count

    def __iter__(self) -> Iterator[Frame]:
        return itertools.islice(itertools.cycle(self._frames), self._count)


def rate(source: Source, backend: StandIn, codec: Optional[str] = None) -> Dict[str, Any]:
    """Frames/s, and ms a frame of wall and CPU time. Args: codec: of a video that is written."""
    detector, count = Detector(source, Predictor(backend)), 0
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if codec is None:
            for _ in detector.run():
                count += 1
        else:
            writer = ResultWriter(Path(folder), backend.names, codec=codec, skel=COCO)
            count = process(DetectConfig("stand-in", codec=codec), detector, writer).frames
    spent, cpu = time.perf_counter() - started, time.process_time() - cpu
    stages = detector.timer.milliseconds_each(count)
    return {"frames_per_s": count / spent, "cpu_ms": 1000 * cpu / count, "ms_each": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", required=True, help="a video")
    parser.add_argument("--gpu-ms", type=float, default=1.0)
    parser.add_argument("--host-ms", type=float, default=0.15)
    parser.add_argument("--frames", type=int, default=1000, help="of those in memory")
    parser.add_argument("--streams", type=int, default=0, help="live streams, 0: none")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the live streams")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    one_thread_a_stage()
    print("%s; stand-in: %g ms a frame" % (describe(), args.gpu_ms))
    rows = []
    if args.streams:
        args.device, args.batch_size, args.max_wait = "", None, 10.0
        backend = StandIn(args.gpu_ms, args.host_ms, 1)
        rows.append(live_streams.measure(args, backend, "stand-in"))
        print(live_streams.table(rows))
    else:
        print("| calls at a time | source | video | frames/s | CPU ms a frame | ms a frame |")
        print("|---|---|---|---|---|---|")
        codecs = ["mp4v", *(["h264"] if importlib.util.find_spec("av") else [])]
        cases = [(workers, kind, None) for workers in (1, 2) for kind in KINDS]
        for workers, kind, codec in [*cases, *((2, kind, c) for c in codecs for kind in KINDS)]:
            source = open_source(args.source)
            source = InMemory(args.source, args.frames) if kind == "in memory" else source
            row = rate(source, StandIn(args.gpu_ms, args.host_ms, workers), codec)
            rows.append({"workers": workers, "source": kind, "codec": codec, **row})
            stages = ", ".join("%s %.2f" % i for i in row["ms_each"].items() if i[1])
            line = "| %d | %s | %s | %.0f | %.2f | %s |"
            print(line % (workers, kind, codec or "", row["frames_per_s"], row["cpu_ms"], stages))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
