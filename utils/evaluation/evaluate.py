"""Accuracy of a predictor on an EvalSet; test and train both measure with it.

evaluation = evaluate(predictor, eval_set)
evaluation.pose["AP"], evaluation.box["AP50"]
"""

import contextlib
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.coco_results import Rows, result_rows_each
from utils.dataset.eval_set import EvalSet
from utils.evaluation import metrics
from utils.evaluation.agreement import check_model, common_skeleton
from utils.evaluation.bootstrap import pose_draws
from utils.evaluation.matching import Matches, Scored
from utils.evaluation.metrics import Curve, Precision
from utils.evaluation.predict import STAGES, predict
from utils.evaluation.scores import Scores
from utils.evaluation.similarity import best_rows, pair_similarity
from utils.pipeline import StageTimer
from utils.pose.ground_truth import GroundTruth
from utils.pose.keypoints import COCO, Skeleton
from utils.pose.letterbox import HW
from utils.runtime.predictor import Predictor


class ClassRow(NamedTuple):
    """One line of the table: a class, or all of them."""

    name: str
    images: int  # with at least one of this class; for all: images in the set
    labels: int  # persons there are to find
    precision: float  # where F1 is largest, OKS or IoU 0.5
    recall: float
    ap50: float
    ap: float


class ImageErrors(NamedTuple):
    """What went wrong on one image, at the confidence with the largest F1."""

    index: int  # type: ignore[assignment]  # of tuple
    missed: int
    false: int
    oks: float  # mean of those found, 0 if nobody was


class Accuracy(NamedTuple):
    """Predictions measured against the ground truth."""

    pose: Dict[str, float]  # COCO's ten figures, see metrics.POSE_FIGURES
    box: Dict[str, float]  # COCO's twelve, see metrics.BOX_FIGURES
    pose_rows: List[ClassRow]  # all first, then each class
    box_rows: List[ClassRow]
    pose_curve: Curve  # over confidence, at OKS 0.5
    box_curve: Curve
    pose_precision: np.ndarray  # (10, 101) over recall, at each OKS threshold
    box_precision: np.ndarray
    keypoint_oks: np.ndarray  # (K,) mean similarity of each keypoint of those found; NaN: none
    errors: List[ImageErrors]  # of each image
    confidence: float  # where F1 of the poses is largest


class Evaluation(NamedTuple):
    """What evaluate found."""

    accuracy: Accuracy
    # of each image of the set; classes as the model and the data say also where one counts
    rows: List[Rows]
    ground_truths: List[GroundTruth]
    sizes: List[HW]  # (height, width) px
    count: int  # type: ignore[assignment]  # images
    ms_each: Dict[str, float]  # milliseconds an image of each stage, added over threads
    wall_s: float  # reading to NMS, and what of the comparison is done meanwhile
    metrics_s: float
    skeleton: Skeleton = COCO  # what the keypoints are
    drawn: Optional[np.ndarray] = None  # (draws, 2), see bootstrap.pose_draws

    @property
    def pose(self) -> Dict[str, float]:
        return self.accuracy.pose

    @property
    def box(self) -> Dict[str, float]:
        return self.accuracy.box

    def figures_only(self) -> "Evaluation":
        """Without what it holds of each image: up to a gigabyte for 5,000."""
        return self._replace(rows=[], ground_truths=[], sizes=[])


def evaluate(
    predictor: Predictor,
    eval_set: EvalSet,
    batch_size: int = 1,
    *,
    single_class: bool = False,
    progress: bool = True,
    bootstrap: int = 0,
) -> Evaluation:
    """Run the predictor over all images and measure.

    Args:
        batch_size: images at a time where the model does not say.
        single_class: look at all classes, of ground truth and predictions, as one.
        bootstrap: draws for confidence intervals.

    Raises InputError for a model that does not fit the data and images that cannot be read.
    """
    check_model(predictor, eval_set, single_class)
    skel = common_skeleton(predictor.backend, eval_set)
    timer = StageTimer(STAGES)
    one_class = predictor.backend.nc != len(eval_set.names)  # the data does not know the classes
    merged = single_class and len(eval_set.names) > 1
    names = ["object"] if merged else eval_set.names
    rows: List[Any] = [None] * eval_set.count
    ground_truths: List[Any] = [None] * eval_set.count
    sizes: List[HW] = [(0, 0)] * eval_set.count
    scores = Scores(len(names), skel.sigmas, eval_set.count)
    started = time.perf_counter()
    with _bar(eval_set.count, progress) as bar:
        for batch in predict(predictor, eval_set, batch_size, timer=timer):
            indices, hws, poses = zip(*batch)
            for i, hw, found in zip(indices, hws, result_rows_each(poses)):
                there = eval_set.ground_truth(i, hw)
                rows[i] = _one_class(found) if one_class else found
                sizes[i], ground_truths[i] = hw, there
                scores.add(i, *(map(_one_class, (found, there)) if merged else (rows[i], there)))
            bar.update(len(batch))
    wall = time.perf_counter() - started
    started = time.perf_counter()
    measured = rows, ground_truths
    if merged:
        measured = [_one_class(r) for r in rows], [_one_class(t) for t in ground_truths]
    accuracy = measure(*measured, eval_set.image_ids, names, skel.sigmas, scores=scores)
    spent = time.perf_counter() - started
    drawn = pose_draws(scores.ordered(np.arange(eval_set.count))[0], bootstrap)
    each = timer.milliseconds_each(eval_set.count)
    return Evaluation(
        accuracy, rows, ground_truths, sizes, eval_set.count, each, wall, spent, skel, drawn
    )


def _one_class(items: Any) -> Any:
    """Rows or GroundTruth with everybody in class 0."""
    return items._replace(classes=np.zeros_like(items.classes))


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[Any]:
    from tqdm import tqdm

    hidden = None if shown else True  # None: shown on a terminal
    with tqdm(total=total, unit="image", desc="test", disable=hidden, leave=False) as bar:
        yield bar


def measure(  # noqa: PLR0917
    rows: Sequence[Rows],
    ground_truths: Sequence[GroundTruth],
    image_ids: Sequence[int],
    names: Sequence[str],
    sigmas: Sequence[float],
    scores: Optional[Scores] = None,
) -> Accuracy:
    """Accuracy of the Rows of each image.

    Args: image_ids: they decide the order of equal scores. scores: of these images, if known.
    """
    if scores is None:
        scores = Scores(len(names), sigmas, len(rows))
        for i, (r, t) in enumerate(zip(rows, ground_truths)):
            scores.add(i, r, t)
    order = np.argsort(np.asarray(image_ids), kind="stable")
    poses, boxes = scores.ordered(order)
    pose_matches, box_matches = scores.matches(order)
    pose_curve, pose_rows, pose_precision = _summary(poses, pose_matches["all"], names)
    box_curve, box_rows, box_precision = _summary(boxes, box_matches["all"], names)
    confidence = pose_curve.best()[0]
    by_image = [
        _per_image(
            rows,
            ground_truths,
            order,
            cls=c,
            scored=poses[c],
            matches=pose_matches["all"][c],
            confidence=confidence,
            sigmas=sigmas,
        )
        for c in range(len(names))
    ]
    return Accuracy(
        metrics.pose_figures(poses, pose_matches),
        metrics.box_figures(boxes, box_matches),
        pose_rows,
        box_rows,
        pose_curve,
        box_curve,
        pose_precision,
        box_precision,
        _mean_similarity([p[0] for p in by_image]),
        _sum_errors([p[1] for p in by_image], len(rows)),
        confidence,
    )


def _summary(
    images: Sequence[Sequence[Scored]], matches: Sequence[Matches], names: Sequence[str]
) -> Tuple[Curve, List[ClassRow], np.ndarray]:
    """Confidence curve, table rows and precision over recall of [class]."""
    curves = [metrics.confidence_curve(m) for m in matches if m.positives]
    curve = metrics.mean_curve(curves)
    precisions = [metrics.average_precision(m) for m in matches]
    rows = []
    for name, found, matched, precision in zip(names, images, matches, precisions):
        holding = sum(bool((~i.ignored).any()) for i in found)
        _, p, r, _ = metrics.confidence_curve(matched).best()
        rows.append(ClassRow(name, holding, matched.positives, p, r, *_ap(precision)))
    known = [p for p in precisions if p is not None]
    mean = np.mean([p.precision for p in known], 0) if known else np.zeros((10, 101))
    total = sum(m.positives for m in matches)
    _, p, r, _ = curve.best()
    ap50, ap = (float(mean[0].mean()), float(mean.mean())) if known else (-1.0, -1.0)
    everything = ClassRow("all", len(images[0]), total, p, r, ap50, ap)
    return curve, [everything] + rows, mean


def _ap(precision: Optional[Precision]) -> Tuple[float, float]:
    """(AP50, AP); -1 where nobody is to be found."""
    if precision is None:
        return -1.0, -1.0
    return float(precision.precision[0].mean()), float(precision.precision.mean())


def _per_image(
    rows: Sequence[Rows],
    ground_truths: Sequence[GroundTruth],
    order: np.ndarray,
    *,
    cls: int,
    scored: Sequence[Scored],
    matches: Matches,
    confidence: float,
    sigmas: Sequence[float],
) -> Tuple[np.ndarray, List[ImageErrors]]:
    """Similarity of each labelled keypoint of those found (m, K, NaN if not), errors by image."""
    shapes = np.array([image.similarity.shape for image in scored]).reshape(-1, 2)
    numbers = np.arange(len(scored))
    whose = np.repeat(numbers, shapes[:, 0])
    there = np.repeat(numbers, shapes[:, 1])[~np.concatenate([i.ignored for i in scored])]
    person = matches.person[0]
    sure = ~matches.ignored[0] & (matches.scores >= confidence)
    hits = np.flatnonzero(sure & (person >= 0))
    right, wrong, real = (
        np.bincount(images, minlength=len(scored))
        for images in (whose[hits], whose[sure & (person < 0)], there)
    )
    means, points, found = np.zeros(len(scored)), [], []
    places = np.flatnonzero(right).tolist()
    for place, mine in zip(places, np.split(hits, np.cumsum(right[places])[:-1])):
        rank, whom = matches.rank[mine], person[mine]
        similar = scored[place].similarity[rank, whom]
        means[place] = similar[0] if len(similar) == 1 else similar.mean()
        r, t = metrics.of_class(rows[order[place]], ground_truths[order[place]], cls)
        points.append(best_rows(r).keypoints[rank])
        found.append(GroundTruth(*(field[whom] for field in t)))
    each = np.zeros((0, len(sigmas)))
    if points:  # of each hit beside the person that it found
        persons, pair = GroundTruth(*map(np.concatenate, zip(*found))), np.arange(len(hits))
        each, _ = pair_similarity(np.concatenate(points), persons, sigmas, row=pair, column=pair)
        each[persons.keypoints[..., 2] <= 0] = np.nan
    columns = order, real - right, wrong, means
    errors = [ImageErrors(*values) for values in zip(*(c.tolist() for c in columns))]
    return each, errors


def _mean_similarity(parts: Sequence[np.ndarray]) -> np.ndarray:
    every = np.concatenate(parts)
    known = np.isfinite(every)
    count = known.sum(0)
    total = np.where(known, every, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sum_errors(classes: Sequence[Sequence[ImageErrors]], count: int) -> List[ImageErrors]:
    """Errors of all classes, in the order of the set."""
    merged: List[ImageErrors] = [ImageErrors(i, 0, 0, 0.0) for i in range(count)]
    for errors in classes:
        for e in errors:
            m = merged[e.index]
            merged[e.index] = ImageErrors(
                e.index, m.missed + e.missed, m.false + e.false, max(m.oks, e.oks)
            )
    return merged


def worst(errors: Sequence[ImageErrors], count: int) -> List[ImageErrors]:
    """Images with the most persons missed or invented; of equal ones the least similar."""
    wrong = [e for e in errors if e.missed + e.false or 0 < e.oks < 0.75]
    return sorted(wrong, key=lambda e: (-(e.missed + e.false), e.oks))[:count]
