"""Curves and bars of an evaluation as PNG files, with matplotlib.

pr_chart(folder / "pr.png", accuracy)
"""

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from utils.dataset.labels import Labels
from utils.evaluation.evaluate import Accuracy
from utils.evaluation.matching import THRESHOLDS
from utils.evaluation.metrics import RECALLS, Curve
from utils.files import atomic_path
from utils.pose.keypoints import Skeleton

BLUE, ORANGE, GREEN, GREY = "#2563eb", "#e8710a", "#15803d", "#64748b"
DPI = 110
NO_LOSS = 5e-5  # a class loss up to this is that of one class, and is not shown


def _figure(columns: int, height: float = 3.6) -> Tuple[Any, List[Any]]:
    """A figure with `columns` axes side by side; no window, no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, height), layout="constrained", facecolor="white")
    axes = list(np.atleast_1d(figure.subplots(1, columns)))
    for axis in axes:
        axis.grid(color="#e2e8f0", linewidth=0.8)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as tmp:
        figure.savefig(str(tmp), dpi=DPI)


def pr_chart(path: Path, accuracy: Accuracy) -> None:
    """Precision over recall, boxes and poses, at 0.5, 0.75 and the mean of all ten thresholds."""
    figure, axes = _figure(2)
    parts = [("boxes, IoU", accuracy.box_precision), ("poses, OKS", accuracy.pose_precision)]
    for axis, (title, precision) in zip(axes, parts):
        for index, color in ((0, BLUE), (5, ORANGE)):
            label = "%.2f: AP %.3f" % (THRESHOLDS[index], precision[index].mean())
            axis.plot(RECALLS, precision[index], color=color, linewidth=2, label=label)
        mean = precision.mean(0)
        label = "0.50:0.95: AP %.3f" % precision.mean()
        axis.plot(RECALLS, mean, color=GREY, linewidth=2, linestyle="--", label=label)
        _frame(axis, title, "recall", y="precision")
    _save(figure, path)


def confidence_chart(path: Path, accuracy: Accuracy) -> None:
    """Precision, recall and F1 over the confidence threshold, at IoU and OKS 0.5."""
    figure, axes = _figure(2)
    parts = [("boxes, IoU 0.5", accuracy.box_curve), ("poses, OKS 0.5", accuracy.pose_curve)]
    for axis, (title, curve) in zip(axes, parts):
        _confidence_axis(axis, curve)
        _frame(axis, title, "confidence threshold", y="")
    _save(figure, path)


def _confidence_axis(axis: Any, curve: Curve) -> None:
    lines = [("precision", BLUE), ("recall", ORANGE), ("f1", GREEN)]
    for name, color in lines:
        label = "F1" if name == "f1" else name
        axis.plot(curve.confidence, getattr(curve, name), color=color, linewidth=2, label=label)
    confidence, _, _, f1 = curve.best()
    if f1 > 0:
        axis.axvline(confidence, color=GREY, linewidth=1, linestyle=":")
        note = "best F1 %.2f at %.3f" % (f1, confidence)
        axis.annotate(note, (confidence, 1.0), xytext=(4, -2), textcoords="offset points",
                      va="top", color=GREY, fontsize=8)  # fmt: skip


def _frame(axis: Any, title: str, x: str, *, y: str) -> None:
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_title(title, loc="left", fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.legend(frameon=False, fontsize=9)


def keypoint_chart(path: Path, similarity: np.ndarray, skel: Skeleton) -> None:
    """Mean OKS of each keypoint of the persons found; green left, orange right, blue centre."""
    count = len(similarity)
    figure, (axis,) = _figure(1, max(2.0, 0.24 * count + 0.8))
    colors = [[c / 255 for c in skel.color(k)[::-1]] for k in range(count)]
    values = np.nan_to_num(similarity)
    axis.barh(range(count), values, color=colors, height=0.7)
    for i, value in enumerate(similarity):
        text = "%.2f" % value if np.isfinite(value) else "none labelled"
        axis.text(values[i] + 0.01, i, text, va="center", fontsize=8, color="#334155")
    axis.set_yticks(range(count), [n.replace("_", " ") for n in skel.names], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08)
    axis.set_title("similarity of each keypoint, persons found at OKS 0.5", loc="left", fontsize=11)
    _save(figure, path)


def study_chart(
    path: Path, lines: Sequence[Tuple[str, Sequence[Tuple[int, float, float]]]]
) -> None:
    """AP over milliseconds an image: (name, [(size px, ms, AP), ...]) of each model."""
    figure, (axis,) = _figure(1, 4.2)
    for (name, points), color in zip(lines, _colors(len(lines))):
        sizes, ms, ap = zip(*points)
        axis.plot(ms, ap, marker="o", color=color, linewidth=2, label=_plain(name))
        for size, x, y in zip(sizes, ms, ap):
            axis.annotate(str(size), (x, y), xytext=(3, 5), textcoords="offset points", fontsize=8)
    axis.set_xlabel("inference, ms an image")
    axis.set_ylabel("keypoint AP")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9)
    axis.set_title("input size (px, at the points)", loc="left", fontsize=11)
    _save(figure, path)


def compare_chart(
    path: Path, names: Sequence[str], ap: Sequence[float], *, ms: Sequence[float]
) -> None:
    """Keypoint AP and latency of several files, as bars."""
    figure, axes = _figure(2, max(1.8, 0.4 * len(names) + 1.0))
    parts = [("keypoint AP", ap, BLUE, "%.4f"), ("inference, ms an image", ms, ORANGE, "%.1f")]
    for axis, (title, values, color, text) in zip(axes, parts):
        axis.barh(range(len(names)), values, color=color, height=0.6)
        top = max(list(values) + [1e-9])
        for i, value in enumerate(values):
            axis.text(value + 0.01 * top, i, text % value, va="center", fontsize=9)
        axis.set_xlim(0, 1.18 * top)
        shown = [_plain(name) for name in names]
        axis.set_yticks(range(len(names)), shown if axis is axes[0] else [""] * len(names))
        axis.invert_yaxis()
        axis.set_title(title, loc="left", fontsize=11)
    _save(figure, path)


def _plain(name: str) -> str:
    """A file name for matplotlib, which takes text between two $ for a formula."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8").replace("$", r"\$")


def _colors(count: int) -> List[str]:
    palette = [BLUE, ORANGE, GREEN, "#9333ea", "#be123c", GREY]
    return [palette[i % len(palette)] for i in range(count)]


def _whole(axis: Any) -> None:
    """Ticks at whole numbers alone: epochs and images are counted."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def training_chart(path: Path, rows: Sequence[Dict[str, float]]) -> None:
    """Losses, accuracy and learning rate over the epochs of results.csv."""
    figure, axes = _figure(3)
    parts = [
        ("loss", [("loss", "all"), ("box", "box"), ("kpt", "keypoints"), ("obj", "objectness"),
                  ("kpt_conf", "keypoint confidence"), ("cls", "class")]),
        ("AP on the validation images", [("kpt_ap", "keypoints"), ("kpt_ap50", "keypoints at 0.5"),
                                         ("box_ap", "boxes"), ("box_ap50", "boxes at 0.5")]),
        ("learning rate", [("lr", "weights")]),
    ]  # fmt: skip
    for axis, (title, lines) in zip(axes, parts):
        for (key, label), color in zip(lines, _colors(len(lines))):
            points = [(r["epoch"], r[key]) for r in rows if key in r]
            if points and (key != "cls" or max(y for _, y in points) > NO_LOSS):
                mark = "o" if len(points) == 1 else ""
                axis.plot(*zip(*points), color=color, linewidth=2, label=label, marker=mark)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("epoch")
        _whole(axis.xaxis)
        axis.set_ylim(bottom=0)
        if axis.lines:
            axis.legend(frameon=False, fontsize=9)
    _save(figure, path)


def labels_chart(path: Path, labels: Sequence[Labels], skel: Skeleton) -> None:
    """Overview of the training labels: persons an image, box sizes, places, labelled keypoints."""
    figure, axes = _figure(4)
    counts = np.array([one.count for one in labels])
    bins = np.arange(min(int(counts.max()), 20) + 2) - 0.5
    axes[0].hist(np.minimum(counts, 20), bins, color=BLUE, rwidth=0.85)
    axes[0].set_title("persons an image", loc="left", fontsize=11)
    _whole(axes[0].xaxis)
    _whole(axes[0].yaxis)
    boxes = np.concatenate([one.boxes for one in labels])
    axes[1].hist(np.sqrt(boxes[:, 2] * boxes[:, 3]), 40, range=(0, 1), color=ORANGE)
    axes[1].set_title("size of the box, root of its share of the image", loc="left", fontsize=11)
    axes[2].hist2d(boxes[:, 0], 1 - boxes[:, 1], 40, range=((0, 1), (0, 1)), cmap="Blues")
    axes[2].set_title("where the boxes' centres are", loc="left", fontsize=11)
    visible = np.concatenate([one.keypoints[..., 2] for one in labels])
    colors = [[c / 255 for c in skel.color(k)[::-1]] for k in range(skel.count)]
    axes[3].barh(range(visible.shape[1]), (visible > 0).mean(0), color=colors, height=0.7)
    names = [n.replace("_", " ") for n in skel.names]
    axes[3].set_yticks(range(visible.shape[1]), names, fontsize=7)
    axes[3].invert_yaxis()
    axes[3].set_xlim(0, 1)
    axes[3].set_title("share of persons with the keypoint", loc="left", fontsize=11)
    _save(figure, path)
