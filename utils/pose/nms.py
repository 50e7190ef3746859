"""Raw network outputs -> Poses: confidence filter, greedy non-maximum suppression."""

import contextlib
import threading
from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from utils.errors import InputError
from utils.pose.detections import Detections
from utils.pose.greedy import MAX_PAIRS, greedy_nms, greedy_nms_torch
from utils.pose.poses import Poses, cxcywh_to_xyxy, empty_poses

if TYPE_CHECKING:
    import torch

    from utils.arrays import Array

MAX_CANDIDATES = 30000  # best candidates of an image that enter NMS
# (B, N, 5 + nc + 3K) raw predictions, or one (n, 5 + nc + 3K) array an image
Rows = Union["Array", Sequence[np.ndarray]]
_local = threading.local()


def raw_to_poses(
    raw: Rows,
    nc: int,
    conf_thres: float,
    *,
    iou_thres: float,
    agnostic: bool = False,
    max_det: int = 300,
    classes: Optional[Sequence[int]] = None,
) -> List[Poses]:
    """Poses of each image, after NMS, in the frame of the raw boxes.

    Args:
        raw, nc, conf_thres, classes: see `candidates`.
        iou_thres, agnostic, max_det: see `suppress`.

    Raises InputError if the memory of a GPU does not suffice.
    """
    if getattr(raw, "is_cuda", False):
        import torch

        try:
            return _raw_to_poses_cuda(
                raw,
                nc,
                conf_thres,
                iou_thres=iou_thres,
                agnostic=agnostic,
                max_det=max_det,
                classes=classes,
            )
        except torch.cuda.OutOfMemoryError as e:
            raise InputError(no_memory_for_nms(len(raw))) from e
    found = candidates(raw, nc, conf_thres, classes=classes)
    return [suppress(poses, iou_thres, agnostic, max_det=max_det) for poses in found]


def no_memory_for_nms(count: int) -> str:
    """The line for a batch of so many images."""
    return "`batch_size` %d: the GPU memory does not suffice for its NMS; try %d" % (
        count, max(count // 2, 1),
    )  # fmt: skip


def _raw_to_poses_cuda(
    raw: Any,
    nc: int,
    conf_thres: float,
    *,
    iou_thres: float,
    agnostic: bool,
    max_det: int,
    classes: Optional[Sequence[int]],
) -> List[Poses]:
    """raw_to_poses where the tensor lives: one copy to the host for the whole batch."""
    import torch

    poses = [empty_poses((raw.shape[2] - 5 - nc) // 3) for _ in range(len(raw))]
    with torch.inference_mode(), _urgent_stream(raw):
        lined_up = _line_up(raw, nc, conf_thres, classes=classes)
        counts = lined_up.counts
        few = [i for i, n in enumerate(counts) if n > 0 and n * n <= MAX_PAIRS]
        few.sort(key=lambda i: -counts[i])
        for i, n in enumerate(counts):
            if n * n > MAX_PAIRS:  # a network that sees everything everywhere
                (found,) = candidates(raw[i : i + 1], nc, conf_thres, classes=classes)
                poses[i] = suppress(found, iou_thres, agnostic, max_det=max_det)
        if not few:
            return poses
        # each image's candidates on a line, (images, most); what is behind them is anybody
        starts = np.cumsum([0, *counts])
        first = torch.tensor([int(starts[i]) for i in few], device=raw.device)
        place = torch.arange(counts[few[0]], device=raw.device)
        index = (first[:, None] + place).clamp_(max=sum(counts) - 1)
        rows, labels = lined_up.rows, lined_up.labels
        centre, half = rows[:, :2], rows[:, 2:4] / 2
        boxes = torch.cat([centre - half, centre + half], 1)
        within = None if agnostic or nc == 1 else labels[index]
        sizes = [counts[i] for i in few]
        keep = greedy_nms_torch(boxes[index], within, sizes, iou_thres=iou_thres)
        keep &= keep.cumsum(1) <= max_det
        index = index[keep]
        single = torch.stack([lined_up.scores, labels.float()], 1)
        parts = [boxes, single, rows[:, 5 + nc :], lined_up.image[:, None].float()]
        table = torch.cat(parts, 1)[index].cpu().numpy()
    kept = np.bincount(table[:, -1].astype(np.int64), minlength=len(raw))[few]
    for i, mine in zip(few, np.split(table[:, :-1], np.cumsum(kept)[:-1])):
        poses[i] = table_to_poses(mine)
    return poses


class _LineUp(NamedTuple):
    """Candidates of a batch on its device, image after image, in each the best first."""

    image: "torch.Tensor"  # (n,) int64
    rows: "torch.Tensor"  # (n, 5 + nc + 3K) float32
    scores: "torch.Tensor"  # (n,)
    labels: "torch.Tensor"  # (n,) int64
    counts: List[int]  # of each image, on the host


def _line_up(raw: Any, nc: int, conf_thres: float, *, classes: Optional[Sequence[int]]) -> _LineUp:
    """Args: see raw_to_poses."""
    import torch

    # score <= objectness, and <= the best class: of other exporters, whose objectness is 1
    # as float32, in which scores are compared: a threshold of 0.3 as FP16 is 0.30005
    best = raw[..., 5 : 5 + nc].amax(-1).float()
    likely = (raw[..., 4].float() > conf_thres) & (best > conf_thres)
    image, row = likely.nonzero(as_tuple=True)
    rows = raw[image, row].float()
    # the surest class first, then the product, as on the host: products may be equal
    probability, labels = rows[:, 5 : 5 + nc].max(-1)
    scores = rows[:, 4] * probability
    keep = (scores > conf_thres) & torch.isfinite(rows).all(-1)
    if classes is not None:
        keep &= torch.isin(labels, torch.tensor(list(classes), device=raw.device))
    image = torch.where(keep, image, len(raw))  # behind the last
    counts = image.new_zeros(len(raw) + 1).index_add_(0, image, torch.ones_like(image))
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[torch.sort(image[order], stable=True).indices]
    on_host = counts[:-1].tolist()
    order = order[: sum(on_host)]
    return _LineUp(image[order], rows[order], scores[order], labels[order], on_host)


def table_to_poses(table: np.ndarray) -> Poses:
    """(n, 6 + 3K) rows xyxy, score, class, keypoints, best first."""
    points = table[:, 6:].reshape(len(table), (table.shape[1] - 6) // 3, 3)
    return Poses(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), points)


def _urgent_stream(raw: Any) -> Any:
    """Context of a CUDA stream whose small kernels need not queue behind another network.

    It waits for the stream of the caller, who may have made `raw` there a moment ago.
    """
    import torch

    if not raw.is_cuda:
        return contextlib.nullcontext()
    if getattr(_local, "device", None) != raw.device:
        _local.device, _local.stream = raw.device, torch.cuda.Stream(raw.device, priority=-1)
    _local.stream.wait_stream(torch.cuda.current_stream(raw.device))
    return torch.cuda.stream(_local.stream)


def candidates(
    raw: Rows,
    nc: int,
    conf_thres: float,
    *,
    classes: Optional[Sequence[int]] = None,
) -> List[Poses]:
    """Poses of each image before NMS, unsorted, in the frame of the raw boxes.

    Args:
        raw: (B, N, 5 + nc + 3K) predictions, NumPy array or torch tensor on any device:
            cx cy w h objectness, nc classes, K x (x y conf). Rows below the confidence
            threshold are dropped before anything is copied to the host.
        conf_thres: keep score = objectness x best class probability > conf_thres.
        classes: keep only these class indices.
    """
    found = []
    for image in raw:
        likely = _single(image[:, 4]) > conf_thres  # score <= objectness, and <= the best class
        index = likely.nonzero()[0] if isinstance(likely, np.ndarray) else likely.nonzero()[:, 0]
        rows = image[index[(_single(image[index, 5 : 5 + nc]) > conf_thres).any(1)]]
        if hasattr(rows, "cpu"):
            rows = rows.cpu().numpy()
        rows = np.asarray(rows, np.float32)
        with np.errstate(invalid="ignore"):
            poses = rows_to_poses(rows, nc)
        keep, finite = poses.scores > conf_thres, np.isfinite(rows)
        if not finite.all():  # a network that overflows in FP16 says inf or NaN; nobody is there
            keep &= finite.all(1)
        if classes is not None:
            keep &= np.isin(poses.classes, np.asarray(list(classes), np.int64))
        found.append(poses if keep.all() else poses.select(keep))
    return found


def _single(values: Any) -> Any:
    """An array or tensor as float32, see _line_up."""
    return values.float() if hasattr(values, "float") else np.asarray(values, np.float32)


def rows_to_poses(rows: np.ndarray, nc: int) -> Poses:
    """(n, 5 + nc + 3K) float32 rows of one image -> unsorted, unsuppressed Poses."""
    probability = rows[:, 5 : 5 + nc]
    if len(rows):
        classes = probability.argmax(1).astype(np.int64)
        scores = rows[:, 4] * probability[np.arange(len(rows)), classes]
    else:
        classes, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    nkpt = (rows.shape[1] - 5 - nc) // 3
    keypoints = rows[:, 5 + nc :].reshape(len(rows), nkpt, 3)
    return Poses(cxcywh_to_xyxy(rows[:, :4]), scores, classes, keypoints)


def detections_to_poses(
    found: Detections,
    conf_thres: float = 0.0,
    max_det: int = 300,
    *,
    classes: Optional[Sequence[int]] = None,
) -> List[Poses]:
    """What a model with embedded NMS found in each image, in the frame of its boxes.

    Args:
        conf_thres, classes: see `candidates`. max_det: poses an image.

    Raises ValueError if the arrays do not fit together.
    """
    result = []
    for count, index, boxes, pose, scores in zip(*found.check()):
        n = int(count[0])
        keypoints = pose[:n].reshape(n, pose.shape[1] // 3, 3)
        poses = Poses(boxes[:n], scores[:n, 0], index[:n, 1].astype(np.int64), keypoints)
        keep = (poses.scores > conf_thres) & np.isfinite(poses.scores)  # see candidates
        keep &= np.isfinite(poses.boxes).all(1) & np.isfinite(poses.keypoints).all((1, 2))
        if classes is not None:
            keep &= np.isin(poses.classes, np.asarray(list(classes), np.int64))
        result.append(poses.select(np.flatnonzero(keep)[:max_det]))
    return result


def suppress(
    poses: Poses, iou_thres: float, agnostic: bool = False, *, max_det: int = 300
) -> Poses:
    """Greedy NMS: the Poses that survive, best first.

    Exact: a box goes if a kept, higher-scored box (of its class, unless `agnostic`) overlaps
    it with IoU > iou_thres. Equal scores keep their input order. The same float32 arithmetic
    as torchvision.ops.nms, so also the same boxes.
    """
    order = np.argsort(-poses.scores, kind="stable")[:MAX_CANDIDATES]
    keep = greedy_nms(
        poses.boxes[order],
        iou_thres,
        None if agnostic else poses.classes[order],
        max_det=max_det,
    )
    return poses.select(order[keep])
