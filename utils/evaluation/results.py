"""What test leaves on disk for one model: JSON, label files, charts, its part of the report."""

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from utils.dataset.coco import api_content
from utils.dataset.coco_results import Rows, coco_api_figures, result_json
from utils.dataset.eval_set import EvalSet
from utils.dataset.labels import Labels, format_labels
from utils.errors import warn
from utils.evaluation import bootstrap
from utils.evaluation.evaluate import Accuracy, Evaluation, worst
from utils.evaluation.metrics import BOX_FIGURES, POSE_FIGURES
from utils.evaluation.predict import read_or_say
from utils.evaluation.report import ReportImage, Section, Table
from utils.evaluation.similarity import MAX_BOXES, box_iou
from utils.files import atomic_path
from utils.pose.ground_truth import GroundTruth
from utils.pose.poses import Poses
from utils.runtime.predictor import DEFAULT_CONF, Predictor
from utils.runtime.writers import label_text, unique_name, write_categories, write_image

WORST = 12  # images on the contact sheet
VISIBLE = 0.5  # keypoints surer than this become labelled ones in hybrid labels
SAME = 1e-6  # our figures and pycocotools' may differ by this
LEAST_SIDE = 1e-6  # of the image; smaller boxes become 0 in label files, which is no box


class Outcome(NamedTuple):
    """A model that was tested."""

    weights: str
    name: str  # see short_names
    folder: Path
    predictor: Predictor
    evaluation: Evaluation


def short_names(weights: Sequence[str]) -> List[str]:
    """File names; the whole path where several files have one name."""
    names = [Path(w).name for w in weights]
    return [w if names.count(name) > 1 else name for w, name in zip(weights, names)]


def content(outcome: Outcome) -> Dict[str, Any]:
    """The machine-readable result."""
    predictor, evaluation = outcome.predictor, outcome.evaluation
    accuracy, backend = evaluation.accuracy, predictor.backend
    intervals = None
    if evaluation.drawn is not None:
        found = bootstrap.interval(evaluation.drawn)
        intervals = {"draws": len(evaluation.drawn), **dict(zip(bootstrap.FIGURES, found))}
    return {
        "weights": outcome.weights,
        "backend": backend.description,
        "precision": backend.precision,
        "end2end": backend.end2end,
        "size_hw": list(predictor.net_hw),
        "rectangular": predictor.auto,
        "conf_thres": predictor.conf_thres,
        "iou_thres": predictor.iou_thres,
        "images": evaluation.count,
        "pose": evaluation.pose,
        "box": evaluation.box,
        "bootstrap": intervals,
        "pose_rows": [row._asdict() for row in accuracy.pose_rows],
        "box_rows": [row._asdict() for row in accuracy.box_rows],
        "keypoint_oks": [float(v) if np.isfinite(v) else None for v in accuracy.keypoint_oks],
        "best_f1_confidence": accuracy.confidence,
        "ms_each": evaluation.ms_each,
        "workers": backend.workers,
        "images_per_s": evaluation.count / evaluation.wall_s,
        "metrics_s": evaluation.metrics_s,
    }


def write_json(folder: Path, eval_set: EvalSet, evaluation: Evaluation) -> None:
    """predictions.json, COCO results; image by image, as 5,000 together take gigabytes."""
    path, separator = folder / "predictions.json", ""
    with atomic_path(path) as tmp, open(str(tmp), "w", encoding="utf-8") as file:
        file.write("[")
        for image_id, rows in zip(eval_set.image_ids, evaluation.rows):
            text = json.dumps(result_json(rows, image_id, eval_set.category_ids))[1:-1]
            if text:
                file.write(separator + text)
                separator = ", "
        file.write("]")
    write_categories(folder, eval_set.names, evaluation.skeleton, ids=eval_set.category_ids)


def coco_api_lines(eval_set: EvalSet, evaluation: Evaluation, single_class: bool) -> List[str]:
    """What pycocotools says of the same predictions, and whether it says the same."""
    if eval_set.annotations is None:
        return ["pycocotools: the data yaml names no COCO JSON; figures are from the label files"]
    if single_class and len(eval_set.names) > 1:
        return ["pycocotools: not comparable, it knows no `single_cls`"]
    ground_truth = api_content(eval_set.annotations, eval_set.category_ids, eval_set.skeleton)
    found = list(_that_count(eval_set, evaluation))
    sigmas = evaluation.skeleton.sigmas
    lines = []
    for kind, names, ours in (
        ("keypoints", POSE_FIGURES, evaluation.pose),
        ("bbox", BOX_FIGURES, evaluation.box),
    ):
        args = (ground_truth, found, eval_set.image_ids, kind, sigmas, eval_set.category_ids)
        theirs = coco_api_figures(*args)
        if theirs is None:
            return ["pycocotools: not installed (pip install pycocotools); figures are ours"]
        gap = max(abs(ours[name] - value) for name, value in zip(names, theirs))
        figures = "  ".join("%s %.4f" % item for item in zip(names, theirs))
        lines.append("pycocotools, %s: %s (ours within %.0e)" % (kind, figures, gap))
        if gap > SAME:
            lines.append("warning: ours differ; does num_keypoints of the JSON fit its keypoints?")
    return lines


def _that_count(eval_set: EvalSet, evaluation: Evaluation) -> Iterator[Dict[str, Any]]:
    """COCO results without those beyond the best MAX_BOXES of a class, which nobody looks at."""
    for image_id, rows in zip(eval_set.image_ids, evaluation.rows):
        best = [np.flatnonzero(rows.classes == c)[:MAX_BOXES] for c in np.unique(rows.classes)]
        index = np.sort(np.concatenate([np.zeros(0, np.int64), *best]))
        yield from result_json(Rows(*(f[index] for f in rows)), image_id, eval_set.category_ids)


def write_label_files(
    folder: Path, eval_set: EvalSet, evaluation: Evaluation, *, with_conf: bool
) -> None:
    """labels/*.txt of the predictions, as detect writes them."""
    for name, rows, hw in zip(_names(eval_set), evaluation.rows, evaluation.sizes):
        with atomic_path(folder / "labels" / name) as tmp:
            tmp.write_text(label_text(to_poses(rows), hw, with_conf), encoding="utf-8")


def write_hybrid_labels(
    folder: Path,
    eval_set: EvalSet,
    evaluation: Evaluation,
    *,
    iou_thres: float,
    conf_thres: Optional[float] = None,
) -> None:
    """labels/*.txt to train on: the labels, and predictions that overlap none of them.

    Predictions below the confidence with the best F1 are left out. Crowds are no persons to train
    on, nor are predictions that fill one.

    Args: conf_thres: the confidence where there is no best F1, None: that of detect.
    """
    least, _, _, best = evaluation.accuracy.pose_curve.best()
    if best == 0:
        least = DEFAULT_CONF if conf_thres is None else conf_thres
        warn(
            "`save_hybrid`: no labelled person was found, so there is no confidence with the best "
            "F1; taking predictions above %g (`conf_thres`)" % least
        )
    for i, name in enumerate(_names(eval_set)):
        rows, ground_truth, hw = (
            evaluation.rows[i],
            evaluation.ground_truths[i],
            evaluation.sizes[i],
        )
        iou = box_iou(rows.boxes, ground_truth.boxes, np.zeros(ground_truth.count, bool))
        new = (rows.scores >= least) & ~(iou > iou_thres).any(1)
        persons = GroundTruth(*(f[~ground_truth.crowd] for f in ground_truth))
        with atomic_path(folder / "labels" / name) as tmp:
            text = format_labels(_as_labels(persons, hw)) + format_labels(
                _as_labels(_as_ground_truth(Rows(*(f[new] for f in rows))), hw)
            )
            tmp.write_text(text, encoding="utf-8")


def _names(eval_set: EvalSet) -> List[str]:
    taken: set = set()
    return [unique_name(Path(p).stem, taken) + ".txt" for p in eval_set.paths]


def _as_ground_truth(rows: Rows) -> GroundTruth:
    keypoints = rows.keypoints.copy()
    keypoints[..., 2] = np.where(keypoints[..., 2] > VISIBLE, 2, 0)
    none = np.zeros(rows.count)
    return GroundTruth(rows.boxes, rows.classes, keypoints, none, none.astype(bool))


def _as_labels(ground_truth: GroundTruth, hw: Sequence[int]) -> Labels:
    """GroundTruth -> Labels without empty boxes; points outside the image become unlabelled."""
    size = np.array([hw[1], hw[0], hw[1], hw[0]], np.float64)
    boxes = ground_truth.boxes.copy()
    boxes[:, :2] += boxes[:, 2:] / 2
    keypoints = ground_truth.keypoints / np.array([hw[1], hw[0], 1.0])
    outside = ((keypoints[..., :2] < 0) | (keypoints[..., :2] > 1)).any(-1)
    keypoints[outside | (keypoints[..., 2] == 0)] = 0
    boxes = (boxes / size).clip(0, 1)
    real = (boxes[:, 2:] >= LEAST_SIDE).all(1)  # a box clipped at the border may have no width
    return Labels(ground_truth.classes[real], boxes[real], keypoints[real])


def to_poses(rows: Rows) -> Poses:
    """Rows -> Poses, for drawing and writing."""
    boxes = np.concatenate([rows.boxes[:, :2], rows.boxes[:, :2] + rows.boxes[:, 2:]], 1)
    return Poses(
        boxes.astype(np.float32),
        rows.scores.astype(np.float32),
        rows.classes,
        rows.keypoints.astype(np.float32),
    )


def write_charts(outcome: Outcome, eval_set: EvalSet) -> List[ReportImage]:
    """Curves, bars and the worst images as files; what they show, in order of interest."""
    from utils.evaluation import charts

    folder, accuracy = outcome.folder, outcome.evaluation.accuracy
    charts.pr_chart(folder / "pr.png", accuracy)
    charts.confidence_chart(folder / "confidence.png", accuracy)
    charts.keypoint_chart(
        folder / "keypoints.png", accuracy.keypoint_oks, outcome.evaluation.skeleton
    )
    images = [
        ReportImage("Precision over recall", folder / "pr.png"),
        ReportImage("Precision, recall and F1 over confidence", folder / "confidence.png"),
        ReportImage("Keypoints", folder / "keypoints.png"),
    ]
    errors = worst(accuracy.errors, WORST)
    if errors:
        write_image(folder / "worst.jpg", _worst_sheet(outcome.evaluation, eval_set, errors))
        title = "Worst images: labels left, predictions (confidence >= %.3f) right"
        images.append(ReportImage(title % accuracy.confidence, folder / "worst.jpg"))
    return images


def _worst_sheet(evaluation: Evaluation, eval_set: EvalSet, errors: Sequence) -> np.ndarray:
    from utils.pose.drawing import Tile, contact_sheet

    tiles = []
    for e in errors:
        found, ground_truth = to_poses(evaluation.rows[e.index]), evaluation.ground_truths[e.index]
        shown = found.select(found.scores >= evaluation.accuracy.confidence)
        title = "%s: %d missed, %d false" % (Path(eval_set.paths[e.index]).name, e.missed, e.false)
        if e.oks:
            title += ", OKS %.2f" % e.oks
        tiles.append(
            Tile(
                read_or_say(eval_set.paths[e.index]),
                _ground_truth_poses(ground_truth),
                shown,
                title,
            )
        )
    return contact_sheet(tiles, eval_set.names, skel=evaluation.skeleton)


def _ground_truth_poses(ground_truth: GroundTruth) -> Poses:
    """Persons as Poses; labelled keypoints have confidence 1."""
    keypoints = ground_truth.keypoints.copy()
    keypoints[..., 2] = keypoints[..., 2] > 0
    rows = Rows(ground_truth.boxes, np.ones(ground_truth.count), ground_truth.classes, keypoints)
    return to_poses(rows)


def section(outcome: Outcome, images: Sequence[ReportImage]) -> Section:
    """This model's part of the report."""
    evaluation, workers = outcome.evaluation, outcome.predictor.backend.workers
    figures = [
        ("keypoint AP", "%.4f" % evaluation.pose["AP"]),
        ("keypoint AP50", "%.4f" % evaluation.pose["AP50"]),
        ("box AP", "%.4f" % evaluation.box["AP"]),
        ("box AP50", "%.4f" % evaluation.box["AP50"]),
        ("inference in this test, ms", "%.1f" % (evaluation.ms_each["inference"] / workers)),
    ]
    if evaluation.drawn is not None:
        (low, high), _ = bootstrap.interval(evaluation.drawn)
        figures.insert(1, ("95 % interval of keypoint AP", "%.3f to %.3f" % (low, high)))
    title = "Milliseconds an image in this test, with reading, inference and NMS side by side"
    if workers > 1:
        title += "; %d inferences at a time, so inference counts %d times" % (workers, workers)
    tables = [
        _class_table(evaluation.accuracy),
        _figure_table("COCO's keypoint figures", evaluation.pose),
        _figure_table("COCO's box figures", evaluation.box),
        Table(title, list(evaluation.ms_each),
              [["%.1f" % v for v in evaluation.ms_each.values()]]),
    ]  # fmt: skip
    title = "%s (%s)" % (outcome.weights, outcome.predictor.backend.description)
    return Section(title, figures, tables, images)


def _figure_table(title: str, figures: Dict[str, float]) -> Table:
    values = ["%.4f" % v if v >= 0 else "-" for v in figures.values()]
    return Table(title, list(figures), [values])


def _class_table(accuracy: Accuracy) -> Table:
    rows = []
    for kind, found in (("det", accuracy.box_rows), ("kpt", accuracy.pose_rows)):
        for row in found if len(found) > 2 else found[:1]:
            values = (row.precision, row.recall, row.ap50, row.ap)
            name = "%s (%s)" % (row.name, kind)
            rows.append([name, str(row.images), str(row.labels), *("%.3f" % v for v in values)])
    header = ["class", "images", "labels", "P", "R", "mAP@.5", "mAP@.5:.95"]
    return Table("Boxes (det) and poses (kpt); P and R at the best F1", header, rows)
