"""Frames per second of detect on a video, beside the bare network.

    python benchmarks/pipeline.py --weights weights/yolov5s6_pose.onnx --source street.avi

In turn, several rounds: (A) detect_multi_backend.py decodes, infers, draws and writes the whole
video; (B) an ONNX Runtime session of the same file runs on one fixed tensor, nothing else. Prints
both and the ratio A / B of each round, and their medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import onnxruntime

from benchmarks.machine import calls_per_second, describe


def detect_fps(weights: str, source: str) -> dict:
    """One run of the script, with drawing and writing; its summary.json."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "detect_multi_backend.py"), "--weights", weights]
        command += ["--source", source, "--device", "cpu", "--project", folder, "--kpt-label"]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads((Path(folder) / "exp" / "summary.json").read_text())


def session_fps(weights: str, seconds: float) -> float:
    """Inferences per second of a fresh session, after three warm-up runs."""
    session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    info = session.get_inputs()[0]
    dtype = np.float16 if "16" in info.type else np.float32
    feed = {info.name: np.random.default_rng(0).random(info.shape).astype(dtype)}
    return calls_per_second(lambda: session.run(None, feed), seconds, warm_up=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", default=["weights/yolov5s6_pose.onnx"])
    parser.add_argument("--source", required=True, help="a video")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("ONNX Runtime %s; %s" % (onnxruntime.__version__, describe()))
    print("| weights | round | detect, frames/s | bare session, runs/s | ratio | ms a frame |")
    print("|---|---|---|---|---|---|")
    for weights in args.weights:
        rows = []
        for number in range(args.rounds):
            summary = detect_fps(weights, args.source)
            rows.append((summary["frames_per_s"], session_fps(weights, 15.0)))
            stages = ", ".join("%s %.1f" % item for item in summary["ms_each"].items())
            ratio = rows[-1][0] / rows[-1][1]
            print(
                "| %s | %d | %.2f | %.2f | %.3f | %s |"
                % (Path(weights).name, number + 1, *rows[-1], ratio, stages)
            )
        medians = [statistics.median(column) for column in zip(*rows)]
        ratio = statistics.median(a / b for a, b in rows)
        print("| %s | median | %.2f | %.2f | %.3f | |" % (Path(weights).name, *medians, ratio))


if __name__ == "__main__":
    main()
