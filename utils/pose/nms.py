"""Raw network outputs -> Poses: confidence filter, greedy non-maximum suppression."""

import contextlib
import threading
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

import numpy as np

from utils.errors import InputError
from utils.pose.detections import Detections
from utils.pose.poses import Poses, cxcywh_to_xyxy, empty_poses

if TYPE_CHECKING:
    import torch

    from utils.arrays import Array

MAX_CANDIDATES = 30000  # best candidates of an image that enter NMS
MAX_PAIRS = 1 << 25  # on a GPU: pairs of boxes looked at together, about 0.7 GB
ROUNDS = 4  # on a GPU: between two looks whether anything still changes
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
            raise InputError(
                "`batch_size` %d: the GPU memory does not suffice for its NMS; try %d"
                % (len(raw), max(len(raw) // 2, 1))
            ) from e
    found = candidates(raw, nc, conf_thres, classes=classes)
    return [suppress(poses, iou_thres, agnostic, max_det=max_det) for poses in found]


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

    with torch.inference_mode(), _urgent_stream(raw):
        # score <= objectness, and <= the best class: of other exporters, whose objectness is 1
        likely = (raw[..., 4] > conf_thres) & (raw[..., 5 : 5 + nc].amax(-1) > conf_thres)
        image, row = likely.nonzero(as_tuple=True)
        rows = raw[image, row].float()
        # the surest class first, then the product, as on the host: products may be equal
        probability, labels = rows[:, 5 : 5 + nc].max(-1)
        scores = rows[:, 4] * probability
        keep = (scores > conf_thres) & torch.isfinite(rows).all(-1)
        if classes is not None:
            keep &= torch.isin(labels, torch.tensor(list(classes), device=raw.device))
        image, rows, scores, labels = image[keep], rows[keep], scores[keep], labels[keep]
        nkpt = (raw.shape[2] - 5 - nc) // 3
        if not len(image):
            return [empty_poses(nkpt) for _ in range(len(raw))]
        # each image's candidates side by side, (B, most); the rest of a line is nobody
        counts = torch.bincount(image, minlength=len(raw))
        most = int(counts.max())
        if most * most > MAX_PAIRS:  # a network that sees everything everywhere
            found = candidates(raw, nc, conf_thres, classes=classes)
            return [suppress(poses, iou_thres, agnostic, max_det=max_det) for poses in found]
        number = torch.arange(len(image), device=raw.device)
        place = number - (counts.cumsum(0) - counts)[image]
        line = scores.new_zeros(len(raw), most)
        index = number.new_zeros(len(raw), most)
        line[image, place], index[image, place] = scores, number
        line, order = torch.sort(line, dim=1, descending=True, stable=True)
        index = torch.gather(index, 1, order)
        passed = torch.arange(most, device=raw.device)[None] < counts[:, None]
        rows, labels = rows[index], labels[index]
        centre, half = rows[..., :2], rows[..., 2:4] / 2
        boxes = torch.cat([centre - half, centre + half], 2)
        # images at a time whose matrices of all pairs fit
        size = max(MAX_PAIRS // max(most * most, 1), 1)
        kept = [
            _greedy_nms_torch(*part, iou_thres=iou_thres, agnostic=agnostic)
            for part in zip(boxes.split(size), labels.split(size), passed.split(size))
        ]
        keep = torch.cat(kept)
        keep &= keep.cumsum(1) <= max_det
        kept_counts = keep.sum(1).tolist()
        parts = [boxes, line[..., None], labels[..., None].float(), rows[..., 5 + nc :]]
        table = torch.cat([part[keep] for part in parts], 1).cpu().numpy()
    return [table_to_poses(mine) for mine in np.split(table, np.cumsum(kept_counts)[:-1])]


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


def _greedy_nms_torch(
    boxes: Any, labels: Any, passed: Any, *, iou_thres: float, agnostic: bool
) -> Any:
    """(B, n) mask of the boxes that greedy NMS keeps.

    Args: boxes: (B, n, 4) float32 xyxy, best first. labels: (B, n). passed: (B, n) bool, the
    others are nobody.
    """
    suppresses = suppression_matrix(boxes, labels, iou_thres=iou_thres, agnostic=agnostic)
    keep = passed
    while True:
        keep, previous = keep_rounds(passed, suppresses, keep, rounds=ROUNDS)
        if bool((keep == previous).all()):
            return keep


def suppression_matrix(
    boxes: "torch.Tensor", labels: "torch.Tensor", *, iou_thres: float, agnostic: bool
) -> "torch.Tensor":
    """(B, n, n), 1 where the box of the row suppresses that of the column if it is kept.

    The arithmetic of iou_one_to_many. Args: see _greedy_nms_torch.
    """
    import torch

    wh = boxes[..., 2:] - boxes[..., :2]
    areas = wh[..., 0] * wh[..., 1]
    a, b = boxes[:, :, None], boxes[:, None]
    sides = [
        (torch.minimum(a[..., i + 2], b[..., i + 2]) - torch.maximum(a[..., i], b[..., i])).clamp_(
            0
        )
        for i in (0, 1)
    ]
    inter = sides[0].mul_(sides[1])
    iou = inter / (areas[:, :, None] + areas[:, None] - inter)
    overlaps = iou > float(below(iou_thres))  # as in float64 on the host
    if not agnostic:
        overlaps &= labels[:, :, None] == labels[:, None]
    return overlaps.triu_(1).to(torch.float16 if boxes.is_cuda else torch.float32)


def keep_rounds(
    passed: "torch.Tensor", suppresses: "torch.Tensor", keep: "torch.Tensor", *, rounds: int
) -> Tuple["torch.Tensor", "torch.Tensor"]:
    """(B, n) boxes kept after the last round and after the one before.

    Starts with everybody kept and lets the kept suppress, again and again: after k rounds the
    first k links of every chain of suppression are right, and what no longer changes is greedy.
    """
    import torch

    previous = keep
    for _ in range(rounds):
        previous = keep
        hits = torch.bmm(previous[:, None].to(suppresses.dtype), suppresses)[:, 0]
        keep = passed & (hits == 0)
    return keep, previous


def below(threshold: float) -> np.float32:
    """Largest float32 that is not above `threshold`: for a float32 x, x > it is x > threshold."""
    limit = np.float32(threshold)
    return np.nextafter(limit, np.float32(-1)) if float(limit) > threshold else limit


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
        likely = image[:, 4] > conf_thres  # score <= objectness, and <= the best class
        index = likely.nonzero()[0] if isinstance(likely, np.ndarray) else likely.nonzero()[:, 0]
        rows = image[index[(image[index, 5 : 5 + nc] > conf_thres).any(1)]]
        if hasattr(rows, "cpu"):
            rows = rows.cpu().numpy()
        rows = np.asarray(rows, np.float32)
        with np.errstate(invalid="ignore"):
            poses = rows_to_poses(rows, nc)
        # a network that overflows in FP16 says inf or NaN; nobody is there
        keep = (poses.scores > conf_thres) & np.isfinite(rows).all(1)
        if classes is not None:
            keep &= np.isin(poses.classes, np.asarray(list(classes), np.int64))
        found.append(poses.select(keep))
    return found


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


def greedy_nms(
    boxes: np.ndarray, iou_thres: float, classes: Optional[np.ndarray], *, max_det: int
) -> np.ndarray:
    """Indices kept of (n, 4) float32 xyxy boxes that are sorted by descending score."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.arange(len(boxes))
    keep: List[int] = []
    while len(alive) and len(keep) < max_det:
        best, alive = alive[0], alive[1:]
        keep.append(int(best))
        iou = iou_one_to_many(boxes[best], area[best], boxes[alive], areas=area[alive])
        # Compared in float64: a float32 IoU of 0.6 is more than the threshold 0.6.
        overlaps = iou.astype(np.float64) > iou_thres
        if classes is not None:
            overlaps &= classes[alive] == classes[best]
        alive = alive[~overlaps]
    return np.asarray(keep, np.int64)


def iou_one_to_many(
    box: np.ndarray, box_area: np.ndarray, boxes: np.ndarray, *, areas: np.ndarray
) -> np.ndarray:
    """IoU of one xyxy box with (n, 4) xyxy boxes, areas given; NaN where both are empty."""
    top_left = np.maximum(box[:2], boxes[:, :2])
    bottom_right = np.minimum(box[2:], boxes[:, 2:])
    wh = (bottom_right - top_left).clip(0)
    inter = wh[:, 0] * wh[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return inter / (box_area + areas - inter)
