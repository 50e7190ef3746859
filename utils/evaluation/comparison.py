"""Several files of one model side by side: was anything lost on the way?

Two tables, as Markdown, CSV and a chart: precision x size x accuracy x latency of each file, with
the differences to the first; and embedded NMS against NMS outside at the same thresholds.
"""

from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from utils.dataset.eval_set import EvalSet
from utils.errors import warn
from utils.evaluation import charts, latency
from utils.evaluation.evaluate import Evaluation
from utils.evaluation.latency import Latency
from utils.evaluation.predict import read_or_say
from utils.evaluation.report import ReportImage, Section, Table
from utils.evaluation.results import Outcome
from utils.files import atomic_path
from utils.runtime.predictor import Predictor
from utils.tables import markdown, write_csv

IMAGES = 20  # timed with each file, in each round
ROUNDS = 3  # the files take turns, so that a busy machine is fair to all
TITLE = "Precision, size, accuracy; latency: medians, one image after the other"
HEADER = [
    "file", "runtime", "precision", "size", "MB", "box AP", "kpt AP50", "kpt AP",
    "kpt AP vs first row", "engine ms", "inference ms", "total ms",
]  # fmt: skip
NMS_HEADER = ["NMS", "file", "conf", "iou", "box AP", "kpt AP50", "kpt AP", "kpt AP vs outside"]


class Comparison(NamedTuple):
    """The comparison of a run."""

    content: Dict[str, Any]
    section: Section


def compare(
    outcomes: Sequence[Outcome],
    eval_set: EvalSet,
    folder: Path,
    *,
    alone: Callable[[str], Predictor],
    again: Callable[[Predictor], Evaluation],
    with_chart: bool = True,
) -> Comparison:
    """Write compare.md, compare.csv, compare.png (and compare-nms.csv) into `folder`.

    Args:
        alone: a file -> a predictor that has the machine for itself, one inference at a time.
        again: evaluates a predictor on eval_set as the outcomes were.
    """
    times = _take_turns([alone(o.weights) for o in outcomes], eval_set)
    rows, content = [], []
    first = outcomes[0].evaluation.pose["AP"]
    for o, t in zip(outcomes, times):
        entry = _entry(o, t, first)
        content.append(entry)
        rows.append(_cells(entry))
    write_csv(folder / "compare.csv", HEADER, rows)
    text = "Latencies are medians of single batches.\n\n"
    text += markdown(HEADER, rows)
    tables = [Table(TITLE, HEADER, rows)]
    nms_content = _nms(outcomes, again)
    if nms_content:
        nms_rows = [_nms_cells(e) for e in nms_content]
        write_csv(folder / "compare-nms.csv", NMS_HEADER, nms_rows)
        text += "\nembedded NMS and outside, at the same thresholds.\n\n"
        text += markdown(NMS_HEADER, nms_rows)
        tables.append(Table("embedded NMS and outside, same thresholds", NMS_HEADER, nms_rows))
    with atomic_path(folder / "compare.md") as tmp:  # a file name need not be UTF-8
        tmp.write_text(text, encoding="utf-8", errors="backslashreplace")
    print("\n" + text, end="")
    images = []
    if with_chart:
        ap = [e["kpt_ap"] for e in content]
        names = [e["file"] for e in content]
        chart = folder / "compare.png"
        charts.compare_chart(chart, names, ap, ms=[e["inference_ms"] for e in content])
        images.append(ReportImage("Accuracy and latency", chart))
    all_content = {"files": content, "nms": nms_content}
    return Comparison(all_content, Section("Comparison", [], tables, images))


def _take_turns(predictors: Sequence[Predictor], eval_set: EvalSet) -> List[Latency]:
    """Latency of each, in turns, on the first images of the set."""
    images = [read_or_say(p) for p in eval_set.paths[:IMAGES]]
    rounds = [[latency.measure(p, images) for p in predictors] for _ in range(ROUNDS)]
    return [latency.join(parts) for parts in zip(*rounds)]


def _entry(outcome: Outcome, times: Latency, first: float) -> Dict[str, Any]:
    import numpy as np

    path, found = Path(outcome.weights), outcome.evaluation
    backend = outcome.predictor.backend
    return {
        "file": outcome.name,
        "runtime": backend.description.split(",")[0],
        "precision": backend.precision,
        "size_hw": list(outcome.predictor.net_hw),
        "megabytes": path.stat().st_size / 1e6,
        "box_ap": found.box["AP"],
        "kpt_ap50": found.pose["AP50"],
        "kpt_ap": found.pose["AP"],
        "kpt_ap_vs_first": found.pose["AP"] - first,
        "engine_ms": times.engine,
        "inference_ms": times.median("inference"),
        "total_ms": float(np.median(times.total)),
    }


def _cells(entry: Dict[str, Any]) -> List[str]:
    return [
        entry["file"],
        entry["runtime"],
        entry["precision"],
        "%dx%d" % tuple(entry["size_hw"]),
        "%.1f" % entry["megabytes"],
        "%.4f" % entry["box_ap"],
        "%.4f" % entry["kpt_ap50"],
        "%.4f" % entry["kpt_ap"],
        "%+.4f" % entry["kpt_ap_vs_first"],
        "" if entry["engine_ms"] is None else "%.2f" % entry["engine_ms"],
        "%.2f" % entry["inference_ms"],
        "%.2f" % entry["total_ms"],
    ]


def _outside(plain: Outcome, inside: Outcome) -> Predictor:
    """A file without NMS at the thresholds of one with embedded NMS."""
    limits, usual = inside.predictor, plain.predictor
    inside_nms = limits.backend.embedded_nms
    assert inside_nms is not None
    return type(usual)(
        usual.backend,
        usual.net_hw,
        limits.conf_thres,
        iou_thres=limits.iou_thres,
        max_det=min(limits.max_det, inside_nms.topk),
        auto=usual.auto,
    )


def _nms(
    outcomes: Sequence[Outcome],
    again: Callable[[Predictor], Evaluation],
) -> List[Dict[str, Any]]:
    """For each file with embedded NMS: the first file without, at its thresholds; and itself."""
    plain = next((o for o in outcomes if not o.predictor.backend.end2end), None)
    entries: List[Dict[str, Any]] = []
    for inside in outcomes:
        embedded_nms = inside.predictor.backend.embedded_nms
        if plain is None or embedded_nms is None:
            continue
        if embedded_nms.conf_thres is None:
            warn(
                "%s does not record the thresholds of its NMS: no comparison with NMS outside"
                % inside.name
            )
            continue
        predictor = _outside(plain, inside)
        reference = again(predictor)
        for where, outcome, found in (
            ("outside", plain, reference),
            ("inside", inside, inside.evaluation),
        ):
            entries.append(
                _nms_entry(where, outcome, found, predictor=predictor, reference=reference)
            )
    return entries


def _nms_entry(
    where: str, outcome: Outcome, found: Evaluation, *, predictor: Predictor, reference: Evaluation
) -> Dict[str, Any]:
    return {
        "nms": where,
        "file": outcome.name,
        "conf": predictor.conf_thres,
        "iou": predictor.iou_thres,
        "box_ap": found.box["AP"],
        "kpt_ap50": found.pose["AP50"],
        "kpt_ap": found.pose["AP"],
        "kpt_ap_vs_outside": found.pose["AP"] - reference.pose["AP"],
    }


def _nms_cells(entry: Dict[str, Any]) -> List[str]:
    numbers = ["%.4f" % entry[k] for k in ("box_ap", "kpt_ap50", "kpt_ap")]
    limits = ["%g" % entry["conf"], "%g" % entry["iou"]]
    return [entry["nms"], entry["file"], *limits, *numbers, "%+.4f" % entry["kpt_ap_vs_outside"]]
