"""Greedy non-maximum suppression of boxes, on the host and in PyTorch on a GPU.

A box goes if a kept box that is better (of its class, unless agnostic) overlaps it with
IoU > threshold. Both ways are exact and compute IoU in the same float32 arithmetic as
torchvision.ops.nms, so they keep the same boxes.
"""

from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCK = 64  # on the host: boxes decided together; their overlaps are the bits of a 64-bit integer
_BITS = np.uint64(1) << np.arange(BLOCK, dtype=np.uint64)
MAX_PAIRS = 1 << 25  # on a GPU: pairs of boxes looked at together, about 0.7 GB
# On a GPU: longest chain of boxes, each suppressing the next, that is resolved without a look
# whether it was. At a confidence of 0.001 crowded images of COCO have chains of up to 14.
ROUNDS = 16


def greedy_nms(
    boxes: np.ndarray, iou_thres: float, classes: Optional[np.ndarray], *, max_det: int
) -> np.ndarray:
    """Indices kept of (n, 4) float32 xyxy boxes that are sorted by descending score.

    Block by block: whom of a block the boxes before left is decided among themselves, then those
    kept suppress all later boxes at once. Calls into NumPy are few, because each has to hold the
    interpreter's lock.
    """
    if len(boxes) < 2:
        return np.arange(len(boxes))[:max_det]
    if classes is not None and (classes[1:] == classes[:-1]).all():
        classes = None
    columns = np.empty((5, len(boxes)), np.float32)  # x1 y1 x2 y2 area
    columns[:4] = boxes.T
    np.multiply(columns[2] - columns[0], columns[3] - columns[1], out=columns[4])
    limit = below(iou_thres)  # A float32 IoU of 0.6 is more than the threshold 0.6.
    alive = np.arange(len(boxes))
    keep: List[np.ndarray] = []
    found = 0
    while len(alive) and found < max_det:
        first, own = columns[:, :BLOCK], alive[:BLOCK]
        overlaps = _overlaps(first, first, limit)
        if classes is not None:
            overlaps &= classes[own, None] == classes[own]
        kept = _first_come(overlaps)
        keep.append(own[kept])
        found += len(kept)
        columns, alive = columns[:, BLOCK:], alive[BLOCK:]
        if not len(alive):
            break
        overlaps = _overlaps(first.take(kept, 1), columns, limit)
        if classes is not None:
            overlaps &= classes[own[kept], None] == classes[alive]
        stays = np.flatnonzero(~overlaps.any(0))
        columns, alive = columns.take(stays, 1), alive[stays]
    return np.concatenate([alive[:0], *keep])[:max_det]


def _overlaps(a: np.ndarray, b: np.ndarray, limit: np.float32) -> np.ndarray:
    """(k, m) whether the IoU of two boxes is above the limit; False where both are empty.

    The arithmetic of iou_one_to_many. Args: a, b: (5, k) and (5, m) x1 y1 x2 y2 area.
    """
    inter = np.minimum(a[2, :, None], b[2])
    inter -= np.maximum(a[0, :, None], b[0])
    np.maximum(inter, 0, out=inter)
    height = np.minimum(a[3, :, None], b[3])
    height -= np.maximum(a[1, :, None], b[1])
    np.maximum(height, 0, out=height)
    inter *= height
    union = np.add(a[4, :, None], b[4], out=height)
    union -= inter
    with np.errstate(divide="ignore", invalid="ignore"):
        inter /= union
        return inter > limit


def _first_come(overlaps: np.ndarray) -> List[int]:
    """Who is kept of (k, k) boxes, k <= BLOCK: whoever overlaps nobody that is kept already."""
    kept, gone = [], 0
    for i, row in enumerate((overlaps @ _BITS[: len(overlaps)]).tolist()):
        if not gone >> i & 1:
            kept.append(i)
            gone |= row
    return kept


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


def greedy_nms_torch(
    boxes: "torch.Tensor",
    labels: Optional["torch.Tensor"],
    counts: Sequence[int],
    *,
    iou_thres: float,
) -> "torch.Tensor":
    """(B, n) mask of the boxes that are kept, of several images.

    Images with about as many boxes are looked at together, so that the pairs that are computed
    are few, and so are the calls: each gives the interpreter's lock away.

    Args:
        boxes: (B, n, 4) float32 xyxy, best first, the most crowded image first.
        labels: (B, n), None: boxes of all classes suppress each other.
        counts: of the boxes of each image, descending; those behind are nobody.
    """
    import torch

    number = torch.arange(boxes.shape[1], device=boxes.device)
    passed = number < torch.tensor(counts, device=boxes.device)[:, None]
    keep = torch.zeros_like(passed)
    parts = list(image_groups(counts))
    settled = []
    for part in parts:
        mine = None if labels is None else labels[part]
        suppresses = suppression_matrix(boxes[part], mine, iou_thres=iou_thres)
        kept, previous = keep_rounds(passed[part], suppresses, passed[part], rounds=ROUNDS)
        keep[part] = kept
        settled.append((kept == previous).all())
    for part, done in zip(parts, torch.stack(settled).tolist() if settled else []):
        if not done:  # a chain that is longer
            mine = None if labels is None else labels[part]
            suppresses = suppression_matrix(boxes[part], mine, iou_thres=iou_thres)
            keep[part] = _settled(passed[part], suppresses, keep[part])
    return keep


def image_groups(counts: Sequence[int]) -> Iterator[Tuple[slice, slice]]:
    """(images, boxes) of parts of a (B, n) line-up whose pairs are at most MAX_PAIRS.

    Args: counts: of the boxes of each image, descending. An image that is more crowded is alone.
    """
    start = 0
    while start < len(counts) and counts[start]:
        most = counts[start]
        stop = start + max(MAX_PAIRS // most**2, 1)
        yield slice(start, stop), slice(most)
        start = stop


def _settled(
    passed: "torch.Tensor", suppresses: "torch.Tensor", keep: "torch.Tensor"
) -> "torch.Tensor":
    """(B, n) boxes kept once nothing changes any more."""
    while True:
        keep, previous = keep_rounds(passed, suppresses, keep, rounds=ROUNDS)
        if bool((keep == previous).all()):
            return keep


def suppression_matrix(
    boxes: "torch.Tensor", labels: Optional["torch.Tensor"], *, iou_thres: float
) -> "torch.Tensor":
    """(B, n, n), 1 where the box of the row suppresses that of the column if it is kept.

    The arithmetic of iou_one_to_many.

    Args: boxes: (B, n, 4) float32 xyxy, best first. labels: (B, n), see greedy_nms_torch.
    """
    import torch

    low, high = boxes[..., :2], boxes[..., 2:]
    areas = (high - low).prod(-1)
    sides = torch.minimum(high[:, :, None], high[:, None])
    sides.sub_(torch.maximum(low[:, :, None], low[:, None])).clamp_(0)
    inter = sides[..., 0] * sides[..., 1]
    union = (areas[:, :, None] + areas[:, None]).sub_(inter)
    overlaps = inter.div_(union) > float(below(iou_thres))  # as in float64 on the host
    if labels is not None:
        overlaps &= labels[:, :, None] == labels[:, None]
    return overlaps.triu_(1).to(torch.float16 if boxes.is_cuda else torch.float32)


def keep_rounds(
    passed: "torch.Tensor", suppresses: "torch.Tensor", keep: "torch.Tensor", *, rounds: int
) -> Tuple["torch.Tensor", "torch.Tensor"]:
    """(B, n) bool boxes kept after the last round and after the one before.

    Starts with everybody kept and lets the kept suppress, again and again: after k rounds the
    first k links of every chain of suppression are right, and what no longer changes is greedy.

    Args: passed: (B, n) bool, the others are nobody. keep: (B, n) bool to start with.
    """
    import torch

    nobody = (~passed)[:, None].to(suppresses.dtype)
    line = previous = keep[:, None].to(suppresses.dtype)
    for _ in range(rounds):
        previous = line
        line = torch.baddbmm(nobody, previous, suppresses).eq_(0)
    return line[:, 0] > 0, previous[:, 0] > 0


def below(threshold: float) -> np.float32:
    """Largest float32 that is not above `threshold`: for a float32 x, x > it is x > threshold."""
    limit = np.float32(threshold)
    return np.nextafter(limit, np.float32(-1)) if float(limit) > threshold else limit
