"""What an evaluation costs: the metrics alone, and the share that is not inference.

    python benchmarks/evaluation.py --metrics
    python benchmarks/evaluation.py --weights weights/yolov5s6_pose.onnx --data coco.yaml
    python benchmarks/evaluation.py --weights weights/yolov5s6_pose.pt --data coco.yaml \\
        --device 0 --half --batch-size 32 --copies 40
    python benchmarks/evaluation.py --weights weights/yolov5s6_pose.pt --data coco.yaml \\
        --stand-in poses --batch-size 32 --copies 10

--metrics: 5,000 images with 20 persons and 20 predictions each, ours and pycocotools in turn.
Otherwise, several rounds in turn: (A) evaluate() from image files to figures; (B) the same backend
on batches that lie ready, as many calls at a time, nothing else. Images/s of both, and their ratio:
the share of the time that inference had; for A once without and once with the metrics. A set of few
images is over before a GPU runs at full speed: --copies looks at each image several times.
"""

import argparse
import concurrent.futures
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe
from utils.dataset.coco_results import Rows, coco_api_figures, result_json
from utils.dataset.data_yaml import read_data
from utils.dataset.eval_set import EvalSet, read_eval_set
from utils.dataset.images import read_image
from utils.evaluation.evaluate import evaluate, measure
from utils.pipeline import one_thread_a_stage
from utils.pose.fixed_nms import NmsSettings
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import SIGMAS
from utils.pose.nms import raw_to_poses
from utils.runtime.backend import Backend
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor


def prepared(images: int, persons: int):
    """{image id: (GroundTruth, Rows)} of crowded random images, also as COCO JSON content."""
    rng = np.random.default_rng(0)
    pairs, annotations = {}, []
    for image_id in range(1, images + 1):
        wh = rng.uniform(20, 200, (persons, 2))
        boxes = np.concatenate([rng.uniform(0, 440, (persons, 2)), wh], 1)
        points = rng.uniform(0, 1, (persons, 17, 2)) * wh[:, None] + boxes[:, None, :2]
        seen = rng.integers(0, 3, (persons, 17, 1)).astype(float)
        keypoints = np.concatenate([points, seen], -1)
        areas = wh.prod(1) * 0.53
        ground_truth = GroundTruth(
            boxes, np.zeros(persons, int), keypoints, areas, np.zeros(persons, bool)
        )
        moved = points + rng.normal(0, 0.06, points.shape) * wh[:, None]
        rows = Rows(
            np.round(boxes + rng.normal(0, 4, boxes.shape), 3).clip(1),
            np.sort(np.round(rng.random(persons), 6))[::-1],
            np.zeros(persons, int),
            np.round(np.concatenate([moved, np.ones((persons, 17, 1))], -1), 3),
        )
        pairs[image_id] = ground_truth, rows
        for i in range(persons):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": boxes[i].tolist(),
                    "area": float(areas[i]),
                    "iscrowd": 0,
                    "keypoints": keypoints[i].ravel().tolist(),
                    "num_keypoints": int((seen[i] > 0).sum()),
                }
            )
    content = {
        "images": [{"id": i} for i in pairs],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    return pairs, content


def time_metrics(images: int, persons: int) -> None:
    pairs, content = prepared(images, persons)
    ground_truths, rows = [t for t, _ in pairs.values()], [r for _, r in pairs.values()]
    results = [e for i, (_, r) in pairs.items() for e in result_json(r, i, [1])]
    print("| images x persons | what | seconds | keypoint AP | box AP |")
    print("|---|---|---|---|---|")
    for _ in range(2):
        started = time.perf_counter()
        ours = measure(rows, ground_truths, list(pairs), ["person"], SIGMAS)
        seconds = time.perf_counter() - started
        line = "| %d x %d | %s | %.2f | %.6f | %.6f |"
        what = "ours: both figures, curves, errors"
        print(line % (images, persons, what, seconds, ours.pose["AP"], ours.box["AP"]))
        started = time.perf_counter()
        theirs = [
            coco_api_figures(content, results, list(pairs), kind, SIGMAS)
            for kind in ("keypoints", "bbox")
        ]
        seconds = time.perf_counter() - started
        what = "pycocotools: both figures"
        print(line % (images, persons, what, seconds, theirs[0][0], theirs[1][0]))


def bare_rate(predictor: Predictor, batch: int, seconds: float) -> float:
    """Images/s of the backend alone; on a GPU the batch lies there already."""
    backend = predictor.backend
    size = backend.batch or batch
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    view = predictor.preprocess([image] * size)[0]
    backend(view.batch)
    alone = backend.engine_ms()
    if alone is not None:
        return 1000 * size / float(np.median(alone))
    workers = backend.workers

    def run(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            backend(view.batch)
            count += size
        return count

    run(time.perf_counter() + 2)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        counts = list(pool.map(run, [started + seconds] * workers))
        return sum(counts) / (time.perf_counter() - started)


def time_evaluation(args: argparse.Namespace) -> None:
    eval_set = repeated(read_eval_set(read_data(args.data), "val"), args.copies)
    backend = load_backend(args.weights, args.device, args.half, throughput=True)
    backend.workers = args.workers or backend.workers
    predictor = Predictor(backend, (args.img_size,) * 2, 0.001, iou_thres=0.6, auto=False)
    print("%s, %s" % (args.weights, backend.description))
    print("| round | files to poses | to figures | bare | ratios | ms an image, all threads |")
    print("|---|---|---|---|---|---|")
    ratios = []
    for number in range(args.rounds):
        started = time.perf_counter()
        found = evaluate(predictor, eval_set, args.batch_size, progress=False)
        whole = eval_set.count / (time.perf_counter() - started)
        rate = eval_set.count / found.wall_s
        bare = bare_rate(predictor, args.batch_size, args.seconds)
        ratios.append((rate / bare, whole / bare))
        stages = ", ".join("%s %.2f" % item for item in found.ms_each.items())
        stages += ", metrics %.2f" % (1000 * found.metrics_s / eval_set.count)
        line = "| %d | %.2f | %.2f | %.2f | %.3f %.3f | %s |"
        print(line % (number + 1, rate, whole, bare, *ratios[-1], stages))
    medians = [statistics.median(column) for column in zip(*ratios)]
    print("| median | | | | %.3f %.3f | |" % tuple(medians))


class StandIn(Backend):
    """A GPU that finds what the weights found in the images, one after the other."""

    on_gpu, takes_pixels, takes_floats, workers = True, True, False, 2
    input_shape, dtype, description = (None, 3, None, None), np.dtype(np.uint8), "stand-in"

    def __init__(self, real: Backend, found: list, gpu_s: float):
        self.names, self.nkpt, self.stride = real.names, real.nkpt, real.stride
        self.skeleton, self.imgsz = real.skeleton, real.imgsz
        self._found, self._gpu_s, self._lock, self._next = found, gpu_s, threading.Lock(), 0

    def find(self, images: np.ndarray, settings: NmsSettings) -> list:
        with self._lock:
            first = self._next
            self._next += len(images)
        time.sleep(self._gpu_s * len(images))
        return [self._found[i % len(self._found)] for i in range(first, first + len(images))]


def time_stand_in(args: argparse.Namespace) -> None:
    one_thread_a_stage()
    eval_set = read_eval_set(read_data(args.data), "val")
    predictor = Predictor(
        load_backend(args.weights, "cpu"), (args.img_size,) * 2, 0.001, iou_thres=0.6, auto=False
    )
    settings, found = predictor.settings, []
    for path in tqdm(eval_set.paths, "predictions", unit="image", disable=None, leave=False):
        raw = predictor.infer(predictor.preprocess([read_image(path)]))[0][0]
        rows = np.asarray(raw[raw[:, 4] > settings.conf_thres])
        if args.stand_in == "poses":
            found += raw_to_poses([rows], predictor.backend.nc, **settings._asdict())
        else:
            found.append(rows)
    backend = StandIn(predictor.backend, found, args.gpu_ms / 1000)
    predictor = Predictor(backend, (args.img_size,) * 2, 0.001, iou_thres=0.6, auto=False)
    eval_set = repeated(eval_set, args.copies)
    print("| round | files to poses/s | to figures/s | CPU ms an image | of the scoring thread |")
    print("|---|---|---|---|---|")
    for number in range(args.rounds):
        clocks = time.perf_counter, time.process_time, time.thread_time
        started = [clock() for clock in clocks]
        result = evaluate(predictor, eval_set, args.batch_size, progress=False)
        wall, cpu, scoring = (clock() - begin for clock, begin in zip(clocks, started))
        count = eval_set.count
        each = count / result.wall_s, count / wall, 1000 * cpu / count, 1000 * scoring / count
        print("| %d | %.0f | %.0f | %.2f | %.3f |" % (number + 1, *each))


def repeated(eval_set: EvalSet, count: int) -> EvalSet:
    """Each image several times, as images of their own."""
    return eval_set._replace(
        paths=eval_set.paths * count,
        image_ids=list(range(1, 1 + count * eval_set.count)),
        known=eval_set.known * count,
        sizes=eval_set.sizes * count,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--metrics", action="store_true", help="time the metrics alone")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--persons", type=int, default=20)
    parser.add_argument("--weights", default="weights/yolov5s6_pose.onnx")
    parser.add_argument("--data", default="data/coco_kpts.yaml")
    parser.add_argument("--img-size", type=int, default=640)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="inferences at a time [0: its own]")
    parser.add_argument("--copies", type=int, default=1, help="times each image is looked at")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each bare run")
    parser.add_argument("--stand-in", choices=["poses", "rows"], help="of a GPU, see above")
    parser.add_argument("--gpu-ms", type=float, default=0.37, help="of the stand-in, an image")
    args = parser.parse_args()
    print(describe())
    if args.metrics:
        time_metrics(args.images, args.persons)
    elif args.stand_in:
        time_stand_in(args)
    else:
        time_evaluation(args)


if __name__ == "__main__":
    main()
