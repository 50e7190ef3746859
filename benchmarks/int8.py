"""Accuracy of X-INT8.onnx in ONNX Runtime: methods x letterbox x number of images x distillation.

    python benchmarks/int8.py --onnx weights/x.onnx --data data/coco_kpts.yaml \\
        --calib_path data/coco_kpts/images/train2017 more/images --counts 64 256 1024
    python benchmarks/int8.py --onnx weights/x.onnx --calib_path more/images --counts 256 \\
        --methods Mse --place letterbox --distill 0 300 --task train

Of several --calib_path the first one's images come first. Prints a Markdown table: keypoint and
box AP on the task [val] and their ratio to FP32, that of the keypoints with its 90 % interval
(paired bootstrap over images); agreement, the share of FP32 poses with score >= 0.3 that have an
INT8 pose with OKS >= 0.9 to it; 1 - OKS, the mean over the same poses, 1 for one that is missed.
The calibration images must not be those of the task.
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.machine import describe
from utils import cli
from utils.dataset.data_yaml import read_data
from utils.dataset.eval_set import read_eval_set
from utils.dataset.labels import list_images
from utils.errors import InputError
from utils.evaluation.evaluate import evaluate
from utils.evaluation.evaluate import measure as measure_accuracy
from utils.graph.analysis import Graph
from utils.pose import letterbox
from utils.pose.keypoints import AREA_OF_BOX
from utils.quantization import activation_ranges, qdq
from utils.quantization.distill import DistillOptions, distill
from utils.quantization.images import batches, choose_images
from utils.quantization.refit import refit
from utils.runtime.onnx_backend import OnnxBackend
from utils.runtime.predictor import Predictor

MIN_SCORE, MIN_OKS = 0.3, 0.9
REFIT_IMAGES = 32


def get_args_parser():
    parser = argparse.ArgumentParser(
        "int8.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--onnx", required=True)
    add("--data", default="data/coco_kpts.yaml")
    add("--calib_path", nargs="+", required=True)
    add("--counts", nargs="+", type=int, default=[64, 256, 1024])
    add("--methods", nargs="+", default=["MinMax", "Entropy", "Percentile", "Mse", "Foreground"])
    add("--place", nargs="+", choices=("letterbox", "resize"), default=["letterbox", "resize"])
    add("--variants", action="store_true", help="also: biases corrected only, weights as they are")
    add("--bootstrap", type=int, default=200, help="resamples of the interval, 0: none")
    add(
        "--distill", nargs="+", type=int, default=[0], metavar="STEPS", help="rows of as many steps"
    )
    add("--device", default="cpu", help="of --distill, as PyTorch names it: cpu, cuda:0")
    add("--task", default="val", help="val, train or test of --data")
    add("--seed", type=int, default=0)
    return parser


def run(path, eval_set):
    """Evaluation of a file at 640 or its own size, conf 0.001, IoU 0.6, square."""
    backend = OnnxBackend(Path(path), gpu=-1, throughput=True)
    predictor = Predictor(backend, None, 0.001, iou_thres=0.6, auto=False)
    return evaluate(predictor, eval_set, progress=False)


def agreement(reference, found, sigmas):
    """(share of the reference's poses that are found again, mean of 1 - OKS)."""
    total = good = 0
    lost = 0.0
    for wanted, rows in zip(reference.rows, found.rows):
        sure = wanted.scores >= MIN_SCORE
        for points, box in zip(wanted.keypoints[sure], wanted.boxes[sure]):
            total += 1
            area = max(float(box[2] * box[3]), 1.0) * AREA_OF_BOX
            distance = ((rows.keypoints[..., :2] - points[:, :2]) ** 2).sum(-1)
            oks = np.exp(-distance / (2 * area * (2 * np.asarray(sigmas)) ** 2)).mean(-1)
            best = float(oks.max()) if len(oks) else 0.0
            good += best >= MIN_OKS
            lost += 1 - best
    return good / max(total, 1), lost / max(total, 1)


def histograms(model, paths, hw, letterboxed, counts, names):
    """{count: histograms of the first `count` images}, one pass."""
    kept, seen = {}, [0]

    def remember(count, found):
        seen[0] += count
        if seen[0] in counts:
            kept[seen[0]] = copy.deepcopy(found)

    images = batches(paths, hw, 1, letterboxed=letterboxed)
    activation_ranges.collect(model, images, names, on_batch=remember)
    return kept


def calibration_paths(args):
    """As many images of the folders as the largest count."""
    paths = []
    for folder in args.calib_path:
        every = len(list_images(folder))
        paths += choose_images(folder, every, args.seed)
    if len(paths) < max(args.counts):
        raise InputError("--counts: only %d images" % len(paths))
    return paths[: max(args.counts)]


def main(args):
    import onnx

    eval_set = read_eval_set(read_data(args.data), args.task)
    model = onnx.load(args.onnx)
    graph = Graph(model)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    if shape[0] != 1 or not shape[2]:
        raise InputError("--onnx %s: expected a static model of batch 1" % args.onnx)
    hw = letterbox.parse_size(shape[2:])
    paths = calibration_paths(args)
    print(describe())
    reference = run(args.onnx, eval_set)
    ap, box = reference.pose["AP"], reference.box["AP"]
    plan = qdq.usual_plan(model, graph, [], hw=hw)
    share = qdq.coverage(model, plan.convs, hw)
    print("%d images, %.1f %% of the multiplications in INT8" % (eval_set.count, 100 * share))
    print("| images | preparation | ranges | kpt AP | of FP32 (90 % interval) | box AP | of FP32 | "
          "agreement | 1 - OKS |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    print("| | | FP32 | %.4f | 1.000 | %.4f | 1.000 | | |" % (ap, box), flush=True)
    for place in args.place:
        boxed = place == "letterbox"
        names = plan.tensors
        kept = histograms(model, paths, hw, boxed, args.counts, names)
        for count in args.counts:
            for method in args.methods:
                amax = activation_ranges.choose(kept[count], method, qdq.read_together(plan))
                forms = [(True, steps) for steps in args.distill]
                if args.variants:
                    forms.append((False, 0))
                few = paths[: min(count, REFIT_IMAGES)]
                for fit, steps in forms:
                    begin = time.perf_counter()
                    made, plan = quantised(args.onnx, amax, few, hw, boxed, fit)
                    if steps:
                        options = DistillOptions(steps, seed=args.seed, device=args.device)
                        distill(
                            made,
                            model,
                            plan,
                            paths=paths[:count],
                            net_hw=hw,
                            options=options,
                            letterboxed=boxed,
                        )
                        print("%d steps: %.0f s" % (steps, time.perf_counter() - begin),
                              file=sys.stderr)  # fmt: skip
                    found = measure(made, eval_set)
                    again, moved = agreement(reference, found, eval_set.sigmas)
                    name = method
                    name += "" if fit else ", biases only"
                    name += ", distilled %d steps" % steps if steps else ""
                    k, b = found.pose["AP"], found.box["AP"]
                    low, high = interval(reference, found, eval_set, args.bootstrap)
                    print(
                        "| %d | %s | %s | %.4f | %.3f (%.3f to %.3f) | %.4f | %.3f | %.3f | %.4f |"
                        % (count, place, name, k, k / ap, low, high, b, b / box, again, moved),
                        flush=True,
                    )


def interval(reference, found, eval_set, resamples, seed=0):
    """5th and 95th percentile of the ratio of keypoint APs, both on the same resampled images."""
    rng = np.random.default_rng(seed)
    count, ratios = eval_set.count, []
    for _ in range(resamples):
        chosen = rng.integers(0, count, count)
        ground_truths = [reference.ground_truths[i] for i in chosen]
        pair = [
            measure_accuracy(
                [e.rows[i] for i in chosen], ground_truths, list(range(count)), eval_set.names,
                eval_set.sigmas,
            ).pose["AP"]
            for e in (found, reference)
        ]  # fmt: skip
        ratios.append(pair[0] / max(pair[1], 1e-9))
    return np.percentile(ratios, [5, 95]) if ratios else (float("nan"),) * 2


def quantised(path, amax, paths, hw, boxed, fit):
    """(model with pairs, plan); weights fitted again on the images, or biases corrected only."""
    import onnx

    model = onnx.load(path)
    plan = qdq.usual_plan(model, Graph(model), [], hw=hw)
    qdq.insert(model, plan, qdq.shared_scales(plan, amax))
    images = batches(paths, hw, 1, letterboxed=boxed, title=None)
    if fit:
        refit(model, plan, onnx.load(path), images=list(images))
    else:
        qdq.correct_bias(model, plan, images)
    return model, plan


def measure(model, eval_set):
    """Evaluate a model."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "x.onnx")
        onnx.save(model, target)
        return run(target, eval_set)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
