"""Raw network outputs -> Poses: confidence filter, greedy non-maximum suppression."""

from typing import Any, List, Optional, Sequence

import numpy as np

from utils.poses import Poses, cxcywh_to_xyxy

MAX_CANDIDATES = 30000  # best candidates of an image that enter NMS


def raw_to_poses(
    raw: Any,
    nc: int,
    conf_thres: float,
    iou_thres: float,
    agnostic: bool = False,
    max_det: int = 300,
    classes: Optional[Sequence[int]] = None,
) -> List[Poses]:
    """Poses of each image, after NMS, in the frame of the raw boxes.

    Args:
        raw, nc, conf_thres, classes: see `candidates`.
        iou_thres, agnostic, max_det: see `suppress`.
    """
    found = candidates(raw, nc, conf_thres, classes)
    return [suppress(poses, iou_thres, agnostic, max_det) for poses in found]


def candidates(
    raw: Any, nc: int, conf_thres: float, classes: Optional[Sequence[int]] = None
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
        rows = image[image[:, 4] > conf_thres]  # score <= objectness
        if hasattr(rows, "cpu"):
            rows = rows.cpu().numpy()
        poses = rows_to_poses(np.asarray(rows, np.float32), nc)
        # a network that overflows in FP16 says inf or NaN; nobody is there
        keep = (poses.scores > conf_thres) & np.isfinite(poses.boxes).all(1)
        keep &= np.isfinite(poses.keypoints).all((1, 2))
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
    found: Any,
    conf_thres: float = 0.0,
    max_det: int = 300,
    classes: Optional[Sequence[int]] = None,
) -> List[Poses]:
    """What a model with NMS inside found in each image, in the frame of its boxes.

    Args:
        found: backends.Detections, NumPy.
        conf_thres, classes: see `candidates`. max_det: poses an image.
    """
    result = []
    for count, index, boxes, pose, scores in zip(*found):
        n = int(count[0])
        keypoints = pose[:n].reshape(n, pose.shape[1] // 3, 3)
        poses = Poses(boxes[:n], scores[:n, 0], index[:n, 1].astype(np.int64), keypoints)
        keep = (poses.scores > conf_thres) & np.isfinite(poses.keypoints).all((1, 2))
        if classes is not None:
            keep &= np.isin(poses.classes, np.asarray(list(classes), np.int64))
        result.append(poses.select(np.flatnonzero(keep)[:max_det]))
    return result


def suppress(poses: Poses, iou_thres: float, agnostic: bool = False, max_det: int = 300) -> Poses:
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
        max_det,
    )
    return poses.select(order[keep])


def greedy_nms(
    boxes: np.ndarray, iou_thres: float, classes: Optional[np.ndarray], max_det: int
) -> np.ndarray:
    """Indices kept of (n, 4) float32 xyxy boxes that are sorted by descending score."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.arange(len(boxes))
    keep: List[int] = []
    while len(alive) and len(keep) < max_det:
        best, alive = alive[0], alive[1:]
        keep.append(int(best))
        iou = iou_one_to_many(boxes[best], area[best], boxes[alive], area[alive])
        # Compared in float64: a float32 IoU of 0.6 is more than the threshold 0.6.
        overlaps = iou.astype(np.float64) > iou_thres
        if classes is not None:
            overlaps &= classes[alive] == classes[best]
        alive = alive[~overlaps]
    return np.asarray(keep, np.int64)


def iou_one_to_many(
    box: np.ndarray, box_area: np.ndarray, boxes: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """IoU of one xyxy box with (n, 4) xyxy boxes, areas given; NaN where both are empty."""
    top_left = np.maximum(box[:2], boxes[:, :2])
    bottom_right = np.minimum(box[2:], boxes[:, 2:])
    wh = (bottom_right - top_left).clip(0)
    inter = wh[:, 0] * wh[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return inter / (box_area + areas - inter)
