"""How similar predictions and persons are: object keypoint similarity and IoU, as in COCO.

    oks(rows, ground_truth, sigmas)                              # (D, G)
    poses, boxes = zip(*score_images([(rows, ground_truth), ...], sigmas))

Images are compared many at a time, as a list of pairs of a prediction and a person, because a
call of NumPy for a few numbers costs more than the numbers.
"""

from typing import Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from utils.dataset.coco_results import Rows
from utils.evaluation.matching import Scored
from utils.pose.ground_truth import GroundTruth

MAX_POSES, MAX_BOXES = 20, 100  # predictions of an image that count, best first
MAX_PAIRS = 1 << 14  # of a prediction and a person, compared together; they fit the CPU's cache
_TINY = np.spacing(1)


class Pairs(NamedTuple):
    """Every prediction of an image beside every person of it, image after image."""

    prediction: np.ndarray  # (n,) index into the predictions of all images
    person: np.ndarray  # (n,) index into the persons of all images
    starts: np.ndarray  # (images + 1,) first pair of each image

    @classmethod
    def of_counts(cls, predictions: np.ndarray, persons: np.ndarray) -> "Pairs":
        """Args: (images,) int64 predictions and persons of each."""
        counts = predictions * persons
        starts = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        row, column = np.divmod(within, np.repeat(persons, counts))
        row += np.repeat(np.cumsum(predictions) - predictions, counts)
        column += np.repeat(np.cumsum(persons) - persons, counts)
        return cls(row, column, starts)


def oks(rows: Rows, ground_truth: GroundTruth, sigmas: Sequence[float]) -> np.ndarray:
    """(D, G) object keypoint similarity of D predictions with G persons, 0..1.

    exp(-d^2 / (2 (2 sigma)^2 area)) averaged over the labelled keypoints of the person. Without
    a labelled keypoint d is the distance to the box grown to twice its size on each side.
    """
    return keypoint_similarity(rows.keypoints, ground_truth, sigmas)[1]


def keypoint_similarity(
    keypoints: np.ndarray, ground_truth: GroundTruth, sigmas: Sequence[float]
) -> Tuple[np.ndarray, np.ndarray]:
    """Args: keypoints: (D, K, 3). Returns: (D, G, K) of each keypoint, and (D, G) the OKS."""
    shape = len(keypoints), ground_truth.count
    row, column, _ = Pairs.of_counts(*(np.array([n]) for n in shape))
    each, mean = pair_similarity(keypoints, ground_truth, sigmas, row=row, column=column)
    return each.reshape(*shape, len(sigmas)), mean.reshape(shape)


def pair_similarity(
    keypoints: np.ndarray,
    ground_truth: GroundTruth,
    sigmas: Sequence[float],
    *,
    row: np.ndarray,
    column: np.ndarray,
) -> Tuple[np.ndarray, np.ndarray]:
    """Of n pairs: (n, K) similarity of each keypoint, and (n,) the OKS, see oks.

    Args: keypoints: (D, K, 3). row, column: (n,) which of them and which person.
    """
    variances = (2 * np.asarray(sigmas, np.float64)) ** 2
    labelled = ground_truth.keypoints[..., 2] > 0  # (G, K)
    blank = np.asarray(~labelled.any(1))
    beside = np.flatnonzero(blank[column]) if blank.any() else column[:0]
    squares = []
    for axis in (0, 1):
        points = keypoints[..., axis][row]  # (n, K)
        d = points - ground_truth.keypoints[..., axis][column]
        if len(beside):
            points = points[beside]
            start = ground_truth.boxes[column[beside], axis, None]
            size = ground_truth.boxes[column[beside], axis + 2, None]
            below = np.maximum(0, start - size - points)
            d[beside] = below + np.maximum(0, points - (start + 2 * size))
        squares.append(d**2)
    squared = squares[0] + squares[1]
    scale = variances * (ground_truth.areas[:, None] + _TINY) * 2  # (G, K)
    np.negative(squared, out=squared)
    squared /= scale[column]
    each = np.exp(squared, out=squared)
    counted = labelled | blank[:, None]
    return each, (each * counted[column]).sum(-1) / counted.sum(-1)[column]


def box_iou(boxes: np.ndarray, ground_truth_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(D, G) IoU of (D, 4) with (G, 4) x y width height; a crowd's is intersection / own area."""
    shape = len(boxes), len(ground_truth_boxes)
    row, column, _ = Pairs.of_counts(*(np.array([n]) for n in shape))
    return pair_iou(boxes, ground_truth_boxes, crowd, row=row, column=column).reshape(shape)


def pair_iou(
    boxes: np.ndarray,
    ground_truth_boxes: np.ndarray,
    crowd: np.ndarray,
    *,
    row: np.ndarray,
    column: np.ndarray,
) -> np.ndarray:
    """(n,) IoU of pairs, see box_iou. Args: row, column: (n,) which box and which person."""
    a, b = boxes.T, ground_truth_boxes.T
    sides = []
    for low, size in ((0, 2), (1, 3)):
        side = np.minimum((a[low] + a[size])[row], (b[low] + b[size])[column])
        side -= np.maximum(a[low][row], b[low][column])
        sides.append(side.clip(0))
    inter = sides[0] * sides[1]
    own = (a[2] * a[3])[row]
    union = np.where(crowd[column], own, own + (b[2] * b[3])[column] - inter)
    return np.divide(inter, union, out=np.zeros_like(inter), where=inter > 0)


def score_images(
    images: Sequence[Tuple[Rows, GroundTruth]], sigmas: Sequence[float]
) -> List[Tuple[Scored, Scored]]:
    """Keypoints and boxes of one class in each image.

    A person without a labelled keypoint is ignored where keypoints are compared.
    """
    found: List[Tuple[Scored, Scored]] = []
    for group in _groups(images):
        rows, persons = [best_rows(r) for r, _ in group], [t for _, t in group]
        everybody = GroundTruth(*map(np.concatenate, zip(*persons)))
        there = np.array([t.count for t in persons])
        few = np.array([min(r.count, MAX_POSES) for r in rows])
        pairs = Pairs.of_counts(few, there)
        points = np.concatenate([r.keypoints[:MAX_POSES] for r in rows])
        _, similar = pair_similarity(
            points, everybody, sigmas, row=pairs.prediction, column=pairs.person
        )
        blank = np.asarray(~(everybody.keypoints[..., 2] > 0).any(1))
        poses = _scored(similar, rows, persons, pairs=pairs, most=MAX_POSES, blank=blank)
        pairs = Pairs.of_counts(np.array([r.count for r in rows]), there)
        boxes = np.concatenate([r.boxes for r in rows])
        iou = pair_iou(
            boxes, everybody.boxes, everybody.crowd, row=pairs.prediction, column=pairs.person
        )
        nobody = np.zeros_like(blank)
        found += zip(poses, _scored(iou, rows, persons, pairs=pairs, most=MAX_BOXES, blank=nobody))
    return found


def _groups(
    images: Sequence[Tuple[Rows, GroundTruth]],
) -> Iterator[List[Tuple[Rows, GroundTruth]]]:
    """Images whose pairs are at most MAX_PAIRS; one with more is alone."""
    group: List[Tuple[Rows, GroundTruth]] = []
    pairs = 0
    for rows, persons in images:
        more = min(rows.count, MAX_BOXES) * persons.count
        if group and pairs + more > MAX_PAIRS:
            yield group
            group, pairs = [], 0
        group.append((rows, persons))
        pairs += more
    if group:
        yield group


def best_rows(rows: Rows) -> Rows:
    """The MAX_BOXES best, best first; equal ones in their order."""
    if (rows.scores[1:] > rows.scores[:-1]).any():
        order = np.argsort(-rows.scores, kind="stable")[:MAX_BOXES]
        return Rows(*(field[order] for field in rows))
    return rows if rows.count <= MAX_BOXES else Rows(*(field[:MAX_BOXES] for field in rows))


def _scored(
    similarity: np.ndarray,
    rows: Sequence[Rows],
    persons: Sequence[GroundTruth],
    *,
    pairs: Pairs,
    most: int,
    blank: np.ndarray,
) -> Iterator[Scored]:
    """Scored of each image. Args: similarity: of all pairs. most: predictions of an image."""
    starts, place = pairs.starts.tolist(), 0
    for i, (r, t) in enumerate(zip(rows, persons)):
        mine = similarity[starts[i] : starts[i + 1]].reshape(min(r.count, most), t.count)
        boxes, ignored = r.boxes[:most], t.crowd | blank[place : place + t.count]
        areas = boxes[:, 2] * boxes[:, 3]
        yield Scored(mine, r.scores[:most], areas, t.areas, ignored, t.crowd)
        place += t.count
