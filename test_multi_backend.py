"""Accuracy and speed of a model on labelled images, with any backend.

    python test_multi_backend.py --weights weights/yolov5l6_pose-INT8.trt \
        --data data/coco_kpts.yaml --img-size 832 --conf-thres 0.001 --iou-thres 0.6 --task val \
        --device 0 --kpt-label
    python test_multi_backend.py --weights x.onnx --data data/custom_kpts.yaml
    python test_multi_backend.py --weights x.pt x.onnx x-NMS.onnx --compare
    python test_multi_backend.py --weights x.onnx --task speed
    python test_multi_backend.py --weights x-dynamic.onnx --task study

Results: runs/test/exp, exp2, ...: results.json, report.html, curves, worst images. The truth is the
COCO JSON if the data yaml names one, else the label files.
"""

import argparse
import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import numpy as np

from utils import cli
from utils.dataset.data_yaml import TASKS, read_data
from utils.dataset.eval_set import EvalSet, read_eval_set
from utils.errors import InputError
from utils.evaluation import results
from utils.evaluation.evaluate import Evaluation, check_model, evaluate, read_or_say
from utils.evaluation.report import write_report
from utils.evaluation.results import Outcome
from utils.evaluation.tables import accuracy_lines
from utils.files import atomic_path, increment_dir, remove_if_empty
from utils.pose.letterbox import HW, MAX_SIZE, parse_size
from utils.runtime.backend import format_shape
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor
from utils.runtime.writers import unique_name

MAX_SPEED_IMAGES = 200  # kept in memory, about 1 MB each
STUDY_SIZES = (320, 448, 576, 640, 704, 832)


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "test_multi_backend.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", required=True, nargs="+", help=".pt, .onnx or TensorRT engine; several")
    add("--data", default="data/coco_kpts.yaml", help="data yaml [data/coco_kpts.yaml]")
    add("--task", default="val", choices=[*TASKS, "speed", "study"],
        help="which images; speed: latency on val; study: val at several sizes [val]")  # fmt: skip
    add("--img-size", "--img", "--imgsz", nargs="+", type=int, metavar="PX",
        help="one number or height width [the model's own, else 640]")  # fmt: skip
    add("--study-sizes", nargs="+", type=int, default=list(STUDY_SIZES), metavar="PX",
        help="sizes of --task study %s" % list(STUDY_SIZES))  # fmt: skip
    add("--batch-size", type=int, help="where the model takes any [32 on a GPU, 1 on a CPU]")
    add("--conf-thres", type=float,
        help="score threshold, 0..1 [0.001; speed 0.25; NMS inside: its own]")  # fmt: skip
    add("--iou-thres", type=float,
        help="NMS IoU threshold, 0..1 [0.6; speed 0.45; NMS inside: its own]")  # fmt: skip
    add("--max-det", type=int, default=300, help="detections an image at most [300]")
    add("--device", default="", help="cpu or a GPU index [a GPU if this runtime has one]")
    add("--half", action="store_true", help="FP16 inference of a .pt on a GPU")
    add("--kpt-label", action="store_true", help="accepted for old command lines; always on")
    add("--square", action="store_true", help="pad to the full size also where the model takes "
        "a rectangle that fits the picture [on with --compare]")  # fmt: skip
    add("--single-cls", action="store_true", help="take all classes as one, NMS included")
    add("--agnostic-nms", action="store_true", help="NMS across classes")
    add("--augment", action="store_true", help="three views of each image, merged")
    add("--flip-test", action="store_true", help="two views of each image, one mirrored, averaged")
    add("--from-labels", action="store_true", help="truth from the label files also where the "
        "yaml names a COCO JSON")  # fmt: skip
    add("--compare", action="store_true", help="tables and chart of several --weights of one "
        "model: accuracy, size, latency, NMS inside and outside")  # fmt: skip
    add("--verbose", action="store_true", help="a row for each class")
    add("--save-txt", action="store_true", help="labels/*.txt of the predictions")
    add("--save-conf", action="store_true", help="with --save-txt: score as the last column")
    add("--save-hybrid", action="store_true", help="labels/*.txt: the labels, and predictions of "
        "persons that have none, as labels to train on")  # fmt: skip
    add("--save-json", action="store_true", help="predictions.json, COCO results")
    add("--save-json-kpt", action="store_true", help="the same, and pycocotools' figures beside "
        "ours if the yaml names a COCO JSON")  # fmt: skip
    add("--results-file", metavar="JSON", help="a copy of results.json")
    add("--no-report", action="store_true", help="no charts and report.html")
    add("--project", default="runs/test", help="results go to project/name [runs/test]")
    add("--name", default="exp", help="results go to project/name [exp]")
    add("--exist-ok", action="store_true", help="reuse project/name instead of a new number")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Errors that need no work."""
    for flag in ("conf_thres", "iou_thres"):
        value = getattr(args, flag)
        if value is not None and not 0 <= value <= 1:
            raise InputError("--%s %g: expected 0 to 1" % (flag.replace("_", "-"), value))
    for flag in ("max_det", "batch_size"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError("--%s %d: expected at least 1" % (flag.replace("_", "-"), value))
    if args.augment and args.flip_test:
        raise InputError("--augment and --flip-test: one of them; --augment mirrors, too")
    if args.save_conf and not args.save_txt:
        raise InputError("--save-conf goes with --save-txt")
    if args.save_txt and args.save_hybrid:
        raise InputError("--save-txt and --save-hybrid write the same files; choose one")
    if args.task in ("speed", "study"):
        for flag in "save_txt save_hybrid save_json save_json_kpt compare".split():
            if getattr(args, flag):
                raise InputError("--%s: not with --task %s" % (flag.replace("_", "-"), args.task))
    bad = [side for side in args.study_sizes if not 1 <= side <= MAX_SIZE]
    if bad:
        raise InputError("--study-sizes %d: expected 1 to %d" % (bad[0], MAX_SIZE))
    if args.task == "study" and args.img_size:
        raise InputError("--img-size: --task study takes --study-sizes")
    if args.compare and len(args.weights) < 2:
        raise InputError("--compare: give --weights two or more files of one model")
    if len({os.path.abspath(w) for w in args.weights}) < len(args.weights):
        raise InputError("--weights: a file is there twice")
    if not args.name:
        raise InputError("--name: expected the name of a folder")


def load(args: argparse.Namespace, weights: str, size: Optional[HW], throughput: bool) -> Predictor:
    """The predictor of a file, as the flags say."""
    conf, iou = args.conf_thres, args.iou_thres
    backend = load_backend(weights, args.device, args.half, throughput=throughput)
    if backend.baked is None:  # NMS inside the model has its own
        fast = args.task == "speed"
        conf = (0.25 if fast else 0.001) if conf is None else conf
        iou = (0.45 if fast else 0.6) if iou is None else iou
    return Predictor(
        backend,
        size,
        conf,
        iou,
        args.agnostic_nms or args.single_cls,  # one class, so nobody is there twice
        args.max_det,
        auto=not args.square,
        augment=args.augment,
        flip=args.flip_test,
    )


def batch_size(args: argparse.Namespace, predictor: Predictor) -> int:
    """Images at a time. A CPU gains nothing from batches and pays with memory."""
    usual = 32 if predictor.backend.on_gpu else 1
    return args.batch_size or min(usual, predictor.backend.max_batch or usual)


def announce(weights: str, predictor: Predictor) -> None:
    backend = predictor.backend
    print(
        "%s: %s, input %s, size %dx%d, %d keypoints"
        % (
            weights,
            backend.description,
            format_shape(backend.input_shape),
            *predictor.net_hw,
            backend.nkpt,
        )
    )


@contextlib.contextmanager
def collected(args: argparse.Namespace, weights: str, failed: List[str]) -> Iterator[None]:
    """A file that cannot be run does not take the others along: its fault goes to `failed`."""
    try:
        yield
    except InputError as e:
        reason = cli.with_flags(str(e), get_args_parser())
        reason = reason if weights in reason else "%s: %s" % (weights, reason)
        if len(args.weights) > 1:
            print("error: %s" % reason)
        failed.append(reason)


def test_one(
    args: argparse.Namespace, weights: str, predictor: Predictor, eval_set: EvalSet
) -> Evaluation:
    """Evaluate one file and print its table."""
    announce(weights, predictor)
    evaluation = evaluate(predictor, eval_set, batch_size(args, predictor), args.single_cls)
    print("\n".join(accuracy_lines(evaluation.accuracy, args.verbose)))
    print("poses: " + "  ".join("%s %.4f" % item for item in evaluation.pose.items()))
    print("boxes: " + "  ".join("%s %.4f" % item for item in evaluation.box.items()))
    stages = ", ".join("%s %.1f" % item for item in evaluation.ms_each.items())
    workers = predictor.backend.workers
    if workers > 1:
        stages += " (%d inferences at a time)" % workers
    print("ms an image: %s; %.2f images/s" % (stages, eval_set.count / evaluation.wall_s))
    return evaluation


def main(args: argparse.Namespace) -> None:
    check_args(args)
    size = None if args.img_size is None else parse_size(args.img_size)
    task = args.task if args.task in TASKS else "val"
    if args.compare and not args.square:
        print("--compare: all pictures are padded to a square, as a static file takes them")
        args.square = True
    eval_set = read_eval_set(read_data(args.data), task, args.from_labels)
    source = eval_set.annotations or "label files"
    print("%s, %s: %d images, truth from %s" % (args.data, task, eval_set.count, source))
    folder = increment_dir(args.project, args.name, args.exist_ok)
    failed: List[str] = []
    try:
        if args.task == "speed":
            content = speed(args, size, eval_set, folder, failed)
        elif args.task == "study":
            content = study(args, eval_set, folder, failed)
        else:
            content = test(args, size, eval_set, folder, failed)
    finally:
        remove_if_empty(folder)
    head = {"data": args.data, "task": args.task, "images": eval_set.count}
    content = {**head, **content, "failed": failed}
    targets = [folder / "results.json"] + ([Path(args.results_file)] if args.results_file else [])
    for target in targets:
        with atomic_path(target) as tmp:
            tmp.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print("results in %s" % folder)
    if failed:
        raise InputError("%d of %d files failed: %s" % (len(failed), len(args.weights), failed[0]))


def test(
    args: argparse.Namespace,
    size: Optional[HW],
    eval_set: EvalSet,
    folder: Path,
    failed: List[str],
) -> Dict[str, Any]:
    """Accuracy of each file."""
    outcomes: List[Outcome] = []
    sections = []
    taken: Set[str] = set()
    for weights, name in zip(args.weights, results.short_names(args.weights)):
        evaluation = None
        with collected(args, weights, failed):
            predictor = load(args, weights, size, throughput=True)
            evaluation = test_one(args, weights, predictor, eval_set)
        if evaluation is None:
            continue
        target = folder
        if len(args.weights) > 1:
            target = folder / unique_name(Path(weights).name, taken)
        outcome = Outcome(weights, name, target, predictor, evaluation)
        save(args, outcome, eval_set)
        if not args.no_report:
            pictures = results.write_charts(outcome, eval_set)
            sections.append(results.section(outcome, pictures))
        outcomes.append(outcome._replace(evaluation=evaluation.figures_only()))
    check_any(outcomes, failed)
    content: Dict[str, Any] = {"weights": [results.content(o) for o in outcomes]}
    if args.compare:
        from utils.evaluation.comparison import compare

        sizes = sorted({"%dx%d" % o.predictor.net_hw for o in outcomes})
        if len(sizes) > 1:
            print("warning: the files take different sizes (%s), so not only their precision "
                  "differs; export them at one size" % ", ".join(sizes))  # fmt: skip

        def outside(plain: Outcome, inside: Outcome) -> Predictor:
            """A file without NMS at the thresholds of one with NMS inside."""
            limits, usual = inside.predictor, plain.predictor
            return Predictor(
                usual.backend,
                usual.net_hw,
                limits.conf_thres,
                limits.iou_thres,
                max_det=min(limits.max_det, limits.backend.baked.topk),
                auto=usual.auto,
                flip=usual.flip,
            )

        def again(predictor: Predictor) -> Evaluation:
            return evaluate(predictor, eval_set, batch_size(args, predictor), args.single_cls)

        def alone(weights: str) -> Predictor:
            return load(args, weights, size, throughput=False)

        comparison = compare(outcomes, eval_set, folder, alone, outside, again, not args.no_report)
        content["compare"] = comparison.content
        sections.insert(0, comparison.section)
    if not args.no_report:
        write_report(folder / "report.html", "Accuracy", facts(args, eval_set), sections)
    return content


def check_any(done: List[Any], failed: List[str]) -> None:
    """Raise InputError if nothing could be done with any file."""
    if not done:
        many = "none of %d files could be tested: " % len(failed) if len(failed) > 1 else ""
        raise InputError(many + failed[0])


def save(args: argparse.Namespace, outcome: Outcome, eval_set: EvalSet) -> None:
    """The predictions of one file, in the forms asked for."""
    evaluation = outcome.evaluation
    if args.save_json or args.save_json_kpt:
        results.write_json(outcome.folder, eval_set, evaluation)
    if args.save_json_kpt:
        print("\n".join(results.coco_api_lines(eval_set, evaluation, args.single_cls)))
    if args.save_txt:
        results.write_label_files(outcome.folder, eval_set, evaluation, args.save_conf)
    if args.save_hybrid:
        iou = outcome.predictor.iou_thres
        results.write_hybrid_labels(outcome.folder, eval_set, evaluation, iou, args.conf_thres)


def facts(args: argparse.Namespace, eval_set: EvalSet) -> List[Tuple[str, str]]:
    """The head of the report."""
    persons = sum(known.count for known in eval_set.known)
    return [
        ("data", "%s, %s" % (args.data, args.task)),
        ("images", "%d, %d persons labelled" % (eval_set.count, persons)),
        ("truth", eval_set.annotations or "label files"),
        ("date", datetime.datetime.now().strftime("%Y-%m-%d %H:%M")),
    ]


def speed(
    args: argparse.Namespace,
    size: Optional[HW],
    eval_set: EvalSet,
    folder: Path,
    failed: List[str],
) -> Dict[str, Any]:
    """Latency of each file, one batch after the other."""
    from utils.evaluation.latency import STAGES, measure
    from utils.tables import markdown, write_csv

    header = ["weights", "batch", "size", *(s + " ms" for s in STAGES), "total ms", "95 % ms",
              "images/s", "engine ms"]  # fmt: skip
    rows, content = [], []
    images = [read_or_say(p) for p in eval_set.paths[:MAX_SPEED_IMAGES]]
    for weights in args.weights:
        times = None
        with collected(args, weights, failed):
            predictor = load(args, weights, size, throughput=False)
            check_model(predictor, eval_set, args.single_cls)
            announce(weights, predictor)
            batch = predictor.backend.batch or args.batch_size or 1
            times = measure(predictor, images, batch)
        if times is None:
            continue
        total, rate = times.total, times.images_per_s
        medians = [times.median(s) for s in STAGES]
        numbers = [*medians, float(np.median(total)), float(np.percentile(total, 95))]
        hw = "%dx%d" % predictor.net_hw
        engine = "" if times.engine is None else "%.3f" % times.engine
        rows.append(
            [weights, str(batch), hw, *("%.2f" % n for n in numbers), "%.1f" % rate, engine]
        )
        content.append(
            {"weights": weights, "backend": predictor.backend.description, "batch": batch,
             "size_hw": list(predictor.net_hw), "images_per_s": rate, "engine": times.engine,
             **dict(zip([*STAGES, "total", "total_95"], numbers))}
        )  # fmt: skip
    check_any(rows, failed)
    print("medians over %d images, ms an image, nothing overlapping:" % len(images))
    print(markdown(header, rows), end="")
    write_csv(folder / "speed.csv", header, rows)
    return {"speed": content}


def study(
    args: argparse.Namespace, eval_set: EvalSet, folder: Path, failed: List[str]
) -> Dict[str, Any]:
    """Accuracy and time of each file at several sizes; a fault ends a file, not the run."""
    from utils.evaluation.charts import study_chart
    from utils.tables import markdown, write_csv

    header = ["weights", "size", "kpt AP", "kpt AP50", "box AP", "box AP50", "inference ms"]
    rows: List[List[str]] = []
    content: List[Dict[str, Any]] = []
    lines = []
    for weights, name in zip(args.weights, results.short_names(args.weights)):
        points: Dict[int, Tuple[int, float, float]] = {}
        with collected(args, weights, failed):
            for side in sorted(set(args.study_sizes)):
                predictor = load(args, weights, parse_size([side]), throughput=True)
                px = predictor.net_hw[0]  # a multiple of the stride: the same for several sides
                if px in points:
                    continue
                found = test_one(args, weights, predictor, eval_set)
                ms = found.ms_each["inference"] / predictor.backend.workers
                values = [found.pose["AP"], found.pose["AP50"], found.box["AP"], found.box["AP50"]]
                rows.append([weights, str(px), *("%.4f" % v for v in values), "%.2f" % ms])
                content.append(
                    {"weights": weights, "size": px, "pose": found.pose, "box": found.box,
                     "inference_ms": ms}
                )  # fmt: skip
                points[px] = px, ms, found.pose["AP"]
        if points:
            lines.append((name, list(points.values())))
    check_any(rows, failed)
    print(markdown(header, rows), end="")
    write_csv(folder / "study.csv", header, rows)
    if not args.no_report:
        study_chart(folder / "study.png", lines)
    return {"study": content}


if __name__ == "__main__":
    cli.run(main, get_args_parser())
