"""The image of the dataset doctor: six plots of what a dataset holds.

plot(Path("report.png"), reports, COCO)             # reports: escalator.check.check(...)
"""

from pathlib import Path
from typing import Any, Mapping

import numpy as np

from utils.pose.keypoints import Skeleton

COLORS = {"train": "#3b76af", "val": "#e08a2e", "test": "#5a9e58"}
MOST = 20  # persons an image; more are in the last bar


def plot(path: Path, reports: Mapping[str, Any], skel: Skeleton) -> None:
    """Write the figure (.png)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    parts = {task: _numbers(report, skel.count) for task, report in reports.items()}
    _persons(axes[0, 0], parts)
    _sizes(axes[0, 1], parts)
    _shapes(axes[0, 2], parts)
    _joints(axes[1, 0], parts, skel)
    _map(figure, axes[1, 1], [p["centers"] for p in parts.values()], title="box centres")
    _map(figure, axes[1, 2], [p["points"] for p in parts.values()], title="keypoints in their box")
    figure.suptitle(
        ";  ".join("%s: %d images, %d persons" % (t, len(p["counts"]), p["counts"].sum())
                   for t, p in parts.items())
    )  # fmt: skip
    figure.savefig(str(path), dpi=90, format="png")


def _numbers(report: Any, nkpt: int) -> Mapping[str, np.ndarray]:
    """Arrays over all persons of readable images; lengths over the image size."""
    seen = [s for s in report.seen if s.hw is not None]
    size = [np.tile([s.hw[1], s.hw[0]], (s.ground_truth.count, 1)) for s in seen]
    sizes = np.concatenate([np.zeros((0, 2))] + size)
    boxes = np.concatenate([np.zeros((0, 4))] + [s.ground_truth.boxes for s in seen])
    points = np.concatenate([np.zeros((0, nkpt, 3))] + [s.ground_truth.keypoints for s in seen])
    inside = (points[..., :2] - boxes[:, None, :2]) / boxes[:, None, 2:].clip(1e-9)
    return {
        "counts": np.array([s.ground_truth.count for s in report.seen], int),
        "sides": np.sqrt((boxes[:, 2:] / sizes).prod(1)),
        "aspects": boxes[:, 2] / boxes[:, 3],
        "centers": (boxes[:, :2] + boxes[:, 2:] / 2) / sizes,
        "points": inside[points[..., 2] > 0],
        "v": points[..., 2],
    }


def _histogram(axis: Any, parts: Mapping, key: str, *, bins: np.ndarray) -> None:
    """Shares of the persons of each task, as outlines that can lie on each other."""
    for task, part in parts.items():
        values = part[key]
        weights = np.full(len(values), 100 / max(len(values), 1))
        axis.hist(
            values.clip(bins[0], bins[-1]), bins, weights=weights, histtype="stepfilled",
            alpha=0.35, color=COLORS[task],
        )  # fmt: skip
        axis.hist(
            values.clip(bins[0], bins[-1]), bins, weights=weights, histtype="step",
            linewidth=1.6, color=COLORS[task], label=task,
        )  # fmt: skip
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _persons(axis: Any, parts: Mapping) -> None:
    _histogram(axis, parts, "counts", bins=np.arange(-0.5, MOST + 1))
    axis.set(title="persons an image (last: %d or more)" % MOST, ylabel="% of the images")


def _sizes(axis: Any, parts: Mapping) -> None:
    _histogram(axis, parts, "sides", bins=np.linspace(0, 1, 41))
    axis.set(title="box size: root of its share of the image", ylabel="% of the persons")


def _shapes(axis: Any, parts: Mapping) -> None:
    _histogram(axis, parts, "aspects", bins=np.geomspace(0.1, 4, 41))
    axis.set_xscale("log")
    axis.set_xticks([0.125, 0.25, 0.5, 1, 2, 4], ["1:8", "1:4", "1:2", "1:1", "2:1", "4:1"])
    axis.minorticks_off()
    axis.set(title="box shape, width : height", ylabel="% of the persons")


def _joints(axis: Any, parts: Mapping, skel: Skeleton) -> None:
    """Labelled share of each keypoint; the hidden part is pale."""
    height = 0.8 / len(parts)
    for row, (task, part) in enumerate(parts.items()):
        at = np.arange(skel.count) + (row - (len(parts) - 1) / 2) * height
        persons = max(len(part["v"]), 1)
        visible, hidden = (100 * (part["v"] == v).sum(0) / persons for v in (2, 1))
        axis.barh(at, visible, height, color=COLORS[task])
        axis.barh(at, hidden, height, left=visible, color=COLORS[task], alpha=0.35)
    axis.set_yticks(np.arange(skel.count), skel.names, fontsize=8)
    axis.invert_yaxis()
    axis.set(title="labelled keypoints (pale: hidden)", xlabel="% of the persons")
    axis.spines[["top", "right"]].set_visible(False)


def _map(figure: Any, axis: Any, parts: Any, *, title: str) -> None:
    """Where (n, 2) points in 0..1 lie."""
    xy = np.concatenate(list(parts)).clip(-0.1, 1.1)
    counts, x, y = np.histogram2d(xy[:, 0], xy[:, 1], 60, [[-0.1, 1.1], [-0.1, 1.1]])
    mesh = axis.pcolormesh(x, y, np.sqrt(counts.T), cmap="magma")
    axis.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], color="white", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.set(title=title, xlabel="x / width", ylabel="y / height")
    figure.colorbar(mesh, ax=axis, shrink=0.8, label="root of the count")
