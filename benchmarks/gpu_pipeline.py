"""Frames per second of detect on a GPU, beside the bare network and the bare video encoder.

    python benchmarks/gpu_pipeline.py --weights weights/yolov5s6_pose.pt --half --source street.avi
    python benchmarks/gpu_pipeline.py --weights weights/yolov5s6_pose-FP16.trt --source street.avi

The video is read five times in a row. One row for each of --weights: GPU time of the network alone
(CUDA graph, no copies), frames per second without and with a video written, ms of each stage, and
the frames per second that one encoder writes, with nothing else running.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np

from benchmarks.machine import describe
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor


def copies(source: str, folder: Path, count: int) -> Path:
    """A folder with the video several times."""
    folder.mkdir()
    for i in range(count):
        shutil.copy(source, str(folder / ("%d%s" % (i, Path(source).suffix))))
    return folder


def run_detect(weights: str, args: argparse.Namespace, folder: Path, extra: list) -> dict:
    """One run of the script; its summary.json."""
    command = [sys.executable, str(ROOT / "detect_multi_backend.py"), "--weights", weights]
    command += ["--source", str(folder / "videos"), "--device", args.device]
    command += ["--project", str(folder / "runs"), *extra]
    command += ["--half"] if args.half and weights.endswith(".pt") else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    newest = max((folder / "runs").glob("exp*"), key=os.path.getmtime)
    return json.loads((newest / "summary.json").read_text())


def network_ms(weights: str, args: argparse.Namespace) -> float:
    """GPU time of the network alone on the first frame, median."""
    half = args.half and weights.endswith(".pt")
    backend = load_backend(weights, args.device, half)
    ok, frame = cv2.VideoCapture(args.source).read()
    assert ok, args.source
    predictor = Predictor(backend)
    for _ in range(5):
        predictor([frame])
    times = backend.engine_ms()
    return float("nan") if times is None else float(np.median(times))


def encoder_fps(source: str, folder: Path) -> float:
    """Frames per second of OpenCV's VideoWriter, frames in memory."""
    video, frames = cv2.VideoCapture(source), []
    while True:
        ok, frame = video.read()
        if not ok:
            break
        frames.append(frame)
    h, w = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(folder / "x.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (w, h))
    started = time.perf_counter()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return len(frames) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--device", default="0")
    parser.add_argument("--half", action="store_true", help="FP16 of a .pt")
    parser.add_argument("--copies", type=int, default=5)
    args = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies(args.source, folder / "videos", args.copies)
        print("bare encoder: %.0f frames/s" % encoder_fps(args.source, folder))
        print("| weights | network ms | nothing written | video written | ms a frame |")
        print("|---|---|---|---|---|")
        for weights in args.weights:
            alone = network_ms(weights, args)
            plain = run_detect(weights, args, folder, ["--nosave"])
            drawn = run_detect(weights, args, folder, [])
            stages = ", ".join("%s %.2f" % item for item in drawn["ms_each"].items())
            print(
                "| %s | %.2f (%.0f/s) | %.0f | %.0f | %s |"
                % (Path(weights).name, alone, 1000 / alone, plain["frames_per_s"],
                   drawn["frames_per_s"], stages), flush=True
            )  # fmt: skip


if __name__ == "__main__":
    main()
