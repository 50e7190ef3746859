"""test: files of a model through the images of a data yaml to accuracy, latency and a report.

folder = evaluate_files(EvaluateConfig(["weights/x.onnx"], data="data/custom_kpts.yaml"))
"""

import contextlib
import dataclasses
import datetime
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np

from utils import cli
from utils.dataset.data_yaml import TASKS, read_data
from utils.dataset.eval_set import EvalSet, read_eval_set
from utils.errors import InputError, warn
from utils.evaluation import bootstrap, results
from utils.evaluation.agreement import check_model, check_sizes
from utils.evaluation.config import EvaluateConfig
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.evaluation.predict import read_or_say
from utils.evaluation.report import write_report
from utils.evaluation.results import Outcome
from utils.evaluation.tables import accuracy_lines
from utils.files import atomic_path, increment_dir, remove_if_empty
from utils.outputs import check_all_replaceable
from utils.pipeline import one_thread_a_stage
from utils.pose.letterbox import HW, parse_size
from utils.runtime.backend import format_shape
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor
from utils.runtime.tta import predictor_class
from utils.runtime.writers import unique_name

if TYPE_CHECKING:
    from utils.evaluation.comparison import Comparison

MAX_SPEED_IMAGES = 200  # kept in memory, about 1 MB each


def load(
    config: EvaluateConfig, weights: str, size: Optional[HW], *, throughput: bool
) -> Predictor:
    """The predictor of a file, as the flags say."""
    conf, iou = config.conf_thres, config.iou_thres
    one_thread_a_stage()
    backend = load_backend(weights, config.device, config.half, throughput=throughput)
    fast = config.task == "speed"
    if (
        backend.embedded_nms is None or backend.embedded_nms.conf_thres is None
    ):  # embedded NMS has its own
        conf = (0.25 if fast else 0.001) if conf is None else conf
    if backend.embedded_nms is None:
        iou = (0.45 if fast else 0.6) if iou is None else iou
    make = predictor_class(augment=config.augment, flip_test=config.flip_test)
    return make(
        backend,
        size,
        conf,
        iou_thres=iou,
        agnostic=config.agnostic_nms or config.single_cls,  # one class, so nobody is there twice
        max_det=config.max_det,
        auto=not config.square,
    )


def images_at_a_time(config: EvaluateConfig, predictor: Predictor) -> int:
    """Images at a time. A CPU gains nothing from batches and pays with memory.

    Warns where the model is bound to another number than the config asks for.
    """
    usual, bound = 32 if predictor.backend.on_gpu else 1, predictor.backend.batch
    if bound is not None and config.batch_size not in (None, bound):
        warn(
            "`batch_size` %d is ignored: the model has a fixed batch of %d"
            % (config.batch_size or 0, bound)
        )
    return config.batch_size or min(usual, predictor.backend.max_batch or usual)


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
def collected(config: EvaluateConfig, weights: str, failed: List[str]) -> Iterator[None]:
    """A file that cannot be run does not take the others along: its fault goes to `failed`."""
    try:
        yield
    except InputError as e:
        reason = cli.with_flags(str(e))
        reason = reason if weights in reason else "%s: %s" % (weights, reason)
        if len(config.weights) > 1:
            print("error: %s" % reason)
        failed.append(reason)


def test_one(
    config: EvaluateConfig, weights: str, predictor: Predictor, *, eval_set: EvalSet
) -> Evaluation:
    """Evaluate one file and print its table."""
    announce(weights, predictor)
    evaluation = evaluate(
        predictor,
        eval_set,
        images_at_a_time(config, predictor),
        single_class=config.single_cls,
        bootstrap=config.bootstrap,
    )
    print("\n".join(accuracy_lines(evaluation.accuracy, config.verbose)))
    print("poses: " + "  ".join("%s %.4f" % item for item in evaluation.pose.items()))
    if evaluation.drawn is not None:
        print(bootstrap.summary(evaluation.pose, evaluation.drawn, eval_set.count))
    print("boxes: " + "  ".join("%s %.4f" % item for item in evaluation.box.items()))
    stages = ", ".join("%s %.1f" % item for item in evaluation.ms_each.items())
    workers = predictor.backend.workers
    if workers > 1:
        stages += " (%d inferences at a time)" % workers
    print("ms an image: %s; %.2f images/s" % (stages, eval_set.count / evaluation.wall_s))
    return evaluation


def evaluate_files(config: EvaluateConfig) -> Path:
    """Test every file of `weights` as the config says; the folder of the results.

    Raises InputError for what cannot be tested. Of several files one may fail: the others are
    tested and written, then the error is raised.
    """
    _check_charts(config)
    size = None if config.img_size is None else parse_size(config.img_size)
    task = config.task if config.task in TASKS else "val"
    if config.compare and not config.square:
        print("compare: all images are padded to a square, as a static file takes them")
        config = dataclasses.replace(config, square=True)
    eval_set = read_eval_set(read_data(config.data), task, config.from_labels)
    source = eval_set.annotations or "label files"
    print("%s, %s: %d images, ground truth from %s" % (config.data, task, eval_set.count, source))
    folder = increment_dir(config.project, config.name, config.exist_ok)
    check_all_replaceable(_targets(config, folder))
    failed: List[str] = []
    try:
        if config.task == "speed":
            content = speed(config, size, eval_set, folder=folder, failed=failed)
        elif config.task == "study":
            content = study(config, eval_set, folder, failed=failed)
        else:
            content = test(config, size, eval_set, folder=folder, failed=failed)
    finally:
        remove_if_empty(folder)
    head = {"data": config.data, "task": config.task, "images": eval_set.count}
    content = {**head, **content, "failed": failed}
    for target in _targets(config, folder):
        with atomic_path(target) as tmp:
            tmp.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print("results in %s" % folder)
    if failed:
        raise InputError(
            "%d of %d files failed: %s" % (len(failed), len(config.weights), failed[0])
        )
    return folder


def _targets(config: EvaluateConfig, folder: Path) -> List[Path]:
    """Where results.json goes."""
    more = [Path(config.results_file)] if config.results_file else []
    return [folder / "results.json", *more]


def test(
    config: EvaluateConfig,
    size: Optional[HW],
    eval_set: EvalSet,
    *,
    folder: Path,
    failed: List[str],
) -> Dict[str, Any]:
    """Accuracy of each file."""
    outcomes: List[Outcome] = []
    sections = []
    taken: Set[str] = set()
    for weights, name in zip(config.weights, results.short_names(config.weights)):
        evaluation = None
        with collected(config, weights, failed):
            predictor = load(config, weights, size, throughput=True)
            evaluation = test_one(config, weights, predictor, eval_set=eval_set)
        if evaluation is None:
            continue
        target = folder
        if len(config.weights) > 1:
            target = folder / unique_name(Path(weights).name, taken)
        outcome = Outcome(weights, name, target, predictor, evaluation)
        save(config, outcome, eval_set)
        if not config.no_report:
            images = results.write_charts(outcome, eval_set)
            sections.append(results.section(outcome, images))
        outcomes.append(outcome._replace(evaluation=evaluation.figures_only()))
    check_any(outcomes, failed)
    first = outcomes[0]
    for outcome in outcomes[1:]:
        drawn, usual = outcome.evaluation.drawn, first.evaluation.drawn
        if drawn is not None and usual is not None:
            print("%s: %s" % (outcome.name, bootstrap.change(first.name, drawn, usual)))
    content: Dict[str, Any] = {"weights": [results.content(o) for o in outcomes]}
    if config.compare:
        comparison = compare_files(config, size, outcomes, eval_set=eval_set, folder=folder)
        content["compare"] = comparison.content
        sections.insert(0, comparison.section)
    if not config.no_report:
        write_report(folder / "report.html", "Accuracy", facts(config, eval_set), sections=sections)
    return content


def compare_files(
    config: EvaluateConfig,
    size: Optional[HW],
    outcomes: Sequence[Outcome],
    *,
    eval_set: EvalSet,
    folder: Path,
) -> "Comparison":
    """Tables of several files of one model beside each other; warns of different sizes."""
    from utils.evaluation.comparison import compare

    sizes = sorted({"%dx%d" % o.predictor.net_hw for o in outcomes})
    if len(sizes) > 1:
        warn(
            "the files take different sizes (%s), so not only their precision differs; export "
            "them at one size" % ", ".join(sizes)
        )

    def again(predictor: Predictor) -> Evaluation:
        return evaluate(
            predictor,
            eval_set,
            images_at_a_time(config, predictor),
            single_class=config.single_cls,
        )

    def alone(weights: str) -> Predictor:
        return load(config, weights, size, throughput=False)

    return compare(
        outcomes,
        eval_set,
        folder,
        alone=alone,
        again=again,
        with_chart=not config.no_report,
    )


def _check_charts(config: EvaluateConfig) -> None:
    """Raise InputError before the work where the charts at its end could not be drawn."""
    wanted = config.task != "speed" and not config.no_report
    if wanted and importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "charts need matplotlib: pip install matplotlib, or go without (`no_report`)"
        )


def check_any(done: Sequence[object], failed: List[str]) -> None:
    """Raise InputError if nothing could be done with any file."""
    if not done:
        many = "none of %d files could be tested: " % len(failed) if len(failed) > 1 else ""
        raise InputError(many + failed[0])


def save(config: EvaluateConfig, outcome: Outcome, eval_set: EvalSet) -> None:
    """The predictions of one file, in the forms asked for."""
    evaluation = outcome.evaluation
    if config.save_json or config.save_json_kpt:
        results.write_json(outcome.folder, eval_set, evaluation)
    if config.save_json_kpt:
        print("\n".join(results.coco_api_lines(eval_set, evaluation, config.single_cls)))
    if config.save_txt:
        results.write_label_files(outcome.folder, eval_set, evaluation, with_conf=config.save_conf)
    if config.save_hybrid:
        iou = outcome.predictor.iou_thres
        results.write_hybrid_labels(
            outcome.folder, eval_set, evaluation, iou_thres=iou, conf_thres=config.conf_thres
        )


def facts(config: EvaluateConfig, eval_set: EvalSet) -> List[Tuple[str, str]]:
    """The head of the report."""
    persons = sum(known.count for known in eval_set.known)
    return [
        ("data", "%s, %s" % (config.data, config.task)),
        ("images", "%d, %d persons labelled" % (eval_set.count, persons)),
        ("ground truth", eval_set.annotations or "label files"),
        ("date", datetime.datetime.now().strftime("%Y-%m-%d %H:%M")),
    ]


def speed(
    config: EvaluateConfig,
    size: Optional[HW],
    eval_set: EvalSet,
    *,
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
    for weights in config.weights:
        times = None
        with collected(config, weights, failed):
            predictor = load(config, weights, size, throughput=False)
            check_model(predictor, eval_set, config.single_cls)
            announce(weights, predictor)
            batch = predictor.backend.batch or config.batch_size or 1
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
    config: EvaluateConfig, eval_set: EvalSet, folder: Path, *, failed: List[str]
) -> Dict[str, Any]:
    """Accuracy and time of each file at several sizes; a fault ends a file, not the run."""
    from utils.evaluation.charts import study_chart
    from utils.tables import markdown, write_csv

    header = ["weights", "size", "kpt AP", "kpt AP50", "box AP", "box AP50", "inference ms"]
    rows: List[List[str]] = []
    content: List[Dict[str, Any]] = []
    lines = []
    ready = []
    for pair in zip(config.weights, results.short_names(config.weights)):
        with collected(config, pair[0], failed):
            check_sizes(load_backend(pair[0], config.device, config.half), config.study_sizes)
            ready.append(pair)
    for weights, name in ready:
        points: Dict[int, Tuple[int, float, float]] = {}
        with collected(config, weights, failed):
            for side in sorted(set(config.study_sizes)):
                predictor = load(config, weights, parse_size([side]), throughput=True)
                px = predictor.net_hw[0]  # a multiple of the stride: the same for several sides
                if px in points:
                    continue
                found = test_one(config, weights, predictor, eval_set=eval_set)
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
    if not config.no_report:
        study_chart(folder / "study.png", lines)
    return {"study": content}
