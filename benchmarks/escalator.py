"""How long it takes to convert and to check 100,000 images.

    python benchmarks/escalator.py --count 100000

Makes a dataset in a temporary folder: small JPEGs that differ by their last bytes, a JSON each
with one to three persons, every keypoint labelled. Then, each a fresh process: json2yolo.py,
check.py, yolo2coco.py; and json2yolo's function in this process by threads and by processes.
"""

import argparse
import concurrent.futures
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.machine import describe
from escalator.jobs import find_jobs
from escalator.json2yolo import Target, convert
from utils.device import available_cores
from utils.parallel import parallel_map
from utils.pose.keypoints import COCO

JPEG = ROOT / "tests" / "data" / "people" / "images" / "people00.jpg"
PER_FOLDER = 10000
ROUNDS = 3


def make(folder: Path, count: int) -> None:
    """Images, annotations, and a data yaml."""
    rng = np.random.default_rng(0)
    jpeg = JPEG.read_bytes()
    texts = []
    for i in range(300):
        points = rng.uniform(20, 100, (i % 3 + 1, 17, 2)).round(1)
        texts.append(
            json.dumps(
                [{"keypoints": p.ravel().tolist(), "bbox": [10, 10, 100, 100]} for p in points]
            )
        )
    for i in range(count):
        part = "%03d" % (i // PER_FOLDER)
        for name in ("images", "annotations"):
            if i % PER_FOLDER == 0:
                (folder / name / part).mkdir(parents=True)
        with open(str(folder / "images" / part / ("%06d.jpg" % i)), "wb") as file:
            file.write(jpeg + i.to_bytes(8, "big"))
        with open(str(folder / "annotations" / part / ("%06d.json" % i)), "w") as file:
            file.write(texts[i % len(texts)])
    (folder / "d.yaml").write_text("train: images\nnames: [person]\n")


def seconds(*words) -> float:
    """Wall time of one of the scripts."""
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "escalator" / words[0]), *map(str, words[1:])]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def by_threads_and_processes(folder: Path, count: int) -> None:
    """The same conversion of the same files, in three ways, in turn."""
    jobs = find_jobs(str(folder / "annotations"), "", ["person"], skel=COCO).jobs[:count]

    def threads(targets):
        with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
            return list(pool.map(convert, targets))

    cores = available_cores()
    ways = {
        "one thread": lambda targets: list(map(convert, targets)),
        "%d threads" % cores: threads,
        "%d processes" % cores: lambda targets: list(parallel_map(convert, targets, "processes")),
    }
    results = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, way in ways.items():
            out = folder / ("%s %d" % (name, number))  # replacing a file costs more than a new one
            targets = [Target(job, str(out / job.key) + ".txt") for job in jobs]
            started = time.perf_counter()
            way(targets)
            results[name].append(time.perf_counter() - started)
    for name, times in results.items():
        print("| convert %d, %s, median of %d | %.1f |"
              % (len(jobs), name, ROUNDS, statistics.median(times)))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100000, help="images [100000]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.count)
        print("%d images; %s" % (args.count, describe()))
        print("| what | s |")
        print("|---|---|")
        done = seconds("json2yolo.py", "--json_dir", folder / "annotations")
        print("| json2yolo.py | %.1f |" % done)
        done = seconds("check.py", "--data", folder / "d.yaml", "--save_dir", folder / "report")
        print("| check.py | %.1f |" % done)
        done = seconds("yolo2coco.py", "--data_file", folder / "images", "--save_file",
                       folder / "all.json")  # fmt: skip
        print("| yolo2coco.py | %.1f |" % done)
        by_threads_and_processes(folder, args.count // 10)


if __name__ == "__main__":
    main()
