"""Time from typing the detect command to the first result, beside bare ONNX Runtime.

    python benchmarks/startup.py --weights weights/yolov5s6_pose.onnx
    git worktree add --detach /tmp/before v1.0.0
    python benchmarks/startup.py --weights weights/yolov5s6_pose.onnx --beside /tmp/before

In turn, several rounds, each a fresh process: detect_multi_backend.py on one image, until its
result line is printed (the image is written by then); with --beside the same script of another
working tree; and a Python that imports onnxruntime, makes the session and runs it once. Prints the
medians of wall time and CPU time, and the differences within a round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple

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


class Spent(NamedTuple):
    """Seconds of one process."""

    wall: float  # until its first result
    cpu: float  # all of its threads, until it ended


def run_to_line(command: List[str], marker: str) -> Spent:
    """What `command` takes, up to its first output line that holds `marker`."""
    before = os.times()
    started = time.perf_counter()
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # users have compiled files
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if marker in line:
                elapsed = time.perf_counter() - started
                process.communicate()
                after = os.times()
                used = after.children_user + after.children_system
                return Spent(elapsed, used - before.children_user - before.children_system)
    raise SystemExit("%s: no line with %r" % (command, marker))


def imports_torch(command: List[str]) -> bool:
    """Whether the script imports torch for an .onnx."""
    command = [command[0], "-X", "importtime", *command[1:]]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return any(line.split("|")[-1].strip() == "torch" for line in log.splitlines())


def row(name: str, spent: List[Spent], beside: List[Spent]) -> str:
    """A line of the table: medians, and those of the differences to `beside`, round by round."""
    wall, cpu = (statistics.median(values) for values in zip(*spent))
    more = [(a.wall - b.wall, a.cpu - b.cpu) for a, b in zip(spent, beside)]
    wall_more, cpu_more = (statistics.median(values) for values in zip(*more))
    return "| %s | %.3f | %.3f | %+.3f | %+.3f |" % (name, wall, cpu, wall_more, cpu_more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="weights/yolov5s6_pose.onnx")
    parser.add_argument("--source", default=str(ROOT / "data" / "images" / "astronaut.jpg"))
    parser.add_argument("--beside", type=Path, help="another working tree, such as an earlier one")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--weights", args.weights, "--source", args.source, "--device", "cpu"]
        flags += ["--project", folder]
        commands = {"bare ONNX Runtime": [sys.executable, "-c", BARE, args.weights]}
        if args.beside is not None:
            script = str(args.beside / "detect_multi_backend.py")
            commands["detect of %s" % args.beside.name] = [sys.executable, script, *flags]
        commands["detect"] = [sys.executable, str(ROOT / "detect_multi_backend.py"), *flags]
        spent: List[List[Spent]] = [[] for _ in commands]
        for _ in range(args.rounds + 1):
            for found, (name, command) in zip(spent, commands.items()):
                marker = "first result" if name.startswith("bare") else args.source
                found.append(run_to_line(command, marker))
        with_torch = imports_torch(commands["detect"])
    print(describe())
    print("torch is %s" % ("imported" if with_torch else "not imported"))
    print("| process | s | CPU s | more than the bare one, s | CPU s |")
    print("|---|---|---|---|---|")
    spent = [found[1:] for found in spent]  # the first round fills the file cache
    for name, found in zip(commands, spent):
        print(row(name, found, spent[0]))
    if args.beside is not None:
        print(row("detect, more than that of %s" % args.beside.name, spent[-1], spent[1]))


if __name__ == "__main__":
    main()
