"""Time from typing the detect command to the first result, beside bare ONNX Runtime.

    python benchmarks/startup.py --weights weights/yolov5s6_pose.onnx

In turn, several rounds, each a fresh process: (A) detect_multi_backend.py on one image, until
its result line is printed (the image is written by then); (B) a Python that imports
onnxruntime, makes the session and runs it once. Prints both and the difference A - B.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe

BARE = """
import sys, onnxruntime, numpy
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
info = session.get_inputs()[0]
session.run(None, {info.name: numpy.zeros(info.shape, numpy.float32)})
print("first result")
"""


def seconds_to_line(command: list, marker: str) -> float:
    """Seconds from starting `command` to its first output line that holds `marker`."""
    started = time.perf_counter()
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        for line in process.stdout:
            if marker in line:
                elapsed = time.perf_counter() - started
                process.communicate()
                return elapsed
    raise SystemExit("%s: no line with %r" % (command, marker))


def imports_torch(weights: str, source: str, folder: str) -> bool:
    """Whether the script imports torch for an .onnx."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "detect_multi_backend.py")]
    command += ["--weights", weights, "--source", source, "--device", "cpu", "--project", folder]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return any(line.split("|")[-1].strip() == "torch" for line in log.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="weights/yolov5s6_pose.onnx")
    parser.add_argument("--source", default="data/images/astronaut.jpg")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        detect = [sys.executable, str(ROOT / "detect_multi_backend.py"), "--weights", args.weights]
        detect += ["--source", args.source, "--device", "cpu", "--project", folder]
        bare = [sys.executable, "-c", BARE, args.weights]
        for _ in range(args.rounds + 1):
            rows.append(
                (seconds_to_line(detect, args.source), seconds_to_line(bare, "first result"))
            )
        with_torch = imports_torch(args.weights, args.source, folder)
    rows = rows[1:]  # the first round fills the file cache
    a, b, extra = (statistics.median(values) for values in zip(*[(a, b, a - b) for a, b in rows]))
    print(describe())
    print("| detect, s | bare ONNX Runtime, s | difference, s | largest difference, s | torch |")
    print("|---|---|---|---|---|")
    worst = max(a - b for a, b in rows)
    print(
        "| %.2f | %.2f | %.2f | %.2f | %s |"
        % (a, b, extra, worst, "imported" if with_torch else "not imported")
    )


if __name__ == "__main__":
    main()
