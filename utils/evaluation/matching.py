"""Which prediction found whom, by the rules of COCO (cocodataset.org/#detection-eval).

matches = match([Scored(...) for each image])              # at each of THRESHOLDS
by_area = match_areas([[Scored(...), ...]], POSE_AREAS)    # of [class][image]
"""

from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of OKS or IoU
INF = 1e10
# px^2, what COCO calls small, medium and large
AREAS: Dict[str, Tuple[float, float]] = {
    "all": (0.0, INF),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, INF),
}
POSE_AREAS, BOX_AREAS = ("all", "medium", "large"), ("all", "small", "medium", "large")
_CHUNK = 128  # images matched at a time


class Scored(NamedTuple):
    """Predictions of one image and one class beside its ground truth; predictions best first."""

    similarity: np.ndarray  # (D, G) OKS or IoU
    scores: np.ndarray  # (D,) descending
    areas: np.ndarray  # (D,) px^2 of the predicted boxes
    ground_truth_areas: np.ndarray  # (G,) px^2
    ignored: np.ndarray  # (G,) bool; neither finding nor missing it counts
    crowd: np.ndarray  # (G,) bool; may be found several times


class Matches(NamedTuple):
    """Who was found by which prediction, over all images of a class; T thresholds.

    Predictions lie image after image, in each image best first.
    """

    scores: np.ndarray  # (n,)
    rank: np.ndarray  # (n,) place in its image, from 0
    person: np.ndarray  # (T, n) index of the person found in its image, -1 nobody
    ignored: np.ndarray  # (T, n) bool; neither right nor wrong
    positives: int  # persons there are to find
    by_score: Optional[np.ndarray] = None  # (n,) stable order, best first; None: not sorted yet


ByArea = Dict[str, List[Matches]]  # key of AREAS -> of each class


def match(
    images: Sequence[Scored], area: str = "all", thresholds: np.ndarray = THRESHOLDS
) -> Matches:
    """Give each prediction, best first, the most similar person that is still free.

    Args: area: key of AREAS; persons outside are ignored, and so are predictions outside that
    found nobody.
    """
    low, high = AREAS[area]
    counts = [len(i.scores) for i in images]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    steps = len(thresholds)
    person = np.full((steps, starts[-1]), -1, np.int64)
    spare = np.zeros((steps, starts[-1]), bool)  # found an ignored person
    ignored = [i.ignored | _outside(i.ground_truth_areas, low, high) for i in images]
    limit = np.minimum(thresholds, 1 - 1e-10)
    # whoever resembles nobody enough takes no part
    near = [np.flatnonzero((i.similarity >= limit.min()).any(1)) for i in images]
    for chunk in _chunks(images, near):
        parts = [_Part(images[i].similarity[near[i]], ignored[i], images[i].crowd) for i in chunk]
        for i, whom, is_spare in zip(chunk, *_match_chunk(parts, limit)):
            person[:, starts[i] + near[i]] = whom[:, : len(near[i])]
            spare[:, starts[i] + near[i]] = is_spare[:, : len(near[i])]
    areas = np.concatenate([np.zeros(0), *(i.areas for i in images)])
    return Matches(
        np.concatenate([np.zeros(0), *(i.scores for i in images)]),
        np.concatenate([starts[:0], *map(np.arange, counts)]).astype(np.int64),
        person,
        spare | ((person < 0) & _outside(areas, low, high)),
        sum(int((~i).sum()) for i in ignored),
    )


def match_areas(classes: Sequence[Sequence[Scored]], areas: Sequence[str]) -> ByArea:
    """match() of [class][image] in each area."""
    return {area: [match(images, area) for images in classes] for area in areas}


def join(
    parts: Sequence[ByArea], cls: int, counts: np.ndarray, *, order: np.ndarray
) -> List[Matches]:
    """Matches of a class in each area, of images that were matched in parts.

    Args: counts: (n,) predictions of each image as they come in `parts`. order: (n,) which of these
        images comes first, second, ...
    """
    starts = np.cumsum(counts) - counts
    ends = np.cumsum(counts[order])
    within = np.arange(counts.sum()) - np.repeat(ends - counts[order], counts[order])
    take = np.repeat(starts[order], counts[order]) + within
    found: List[Matches] = []
    for area in parts[0]:
        mine = [part[area][cls] for part in parts]
        if not found:
            scores = np.concatenate([m.scores for m in mine])[take]
            rank = np.concatenate([m.rank for m in mine])[take]
            by_score = np.argsort(-scores, kind="stable")
        person = np.concatenate([m.person for m in mine], 1)[:, take]
        ignored = np.concatenate([m.ignored for m in mine], 1)[:, take]
        positives = sum(m.positives for m in mine)
        found.append(Matches(scores, rank, person, ignored, positives, by_score))
    return found


def _outside(areas: np.ndarray, low: float, high: float) -> np.ndarray:
    return (areas < low) | (areas > high)


def _chunks(images: Sequence[Scored], near: Sequence[np.ndarray]) -> Iterator[List[int]]:
    """Images that are matched together: those with about as many persons and predictions."""
    sizes = [(images[i].similarity.shape[1], len(near[i]), i) for i in range(len(images))]
    order = [i for _, d, i in sorted(sizes) if d]
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]


class _Part(NamedTuple):
    """An image as it is matched."""

    similarity: np.ndarray  # (D, G)
    ignored: np.ndarray  # (G,) bool
    crowd: np.ndarray  # (G,) bool


def _match_chunk(images: Sequence[_Part], limit: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Greedy matching of all images and thresholds at once: one step for each rank.

    Args: limit: (T,) least similarity.

    Returns (images, T, most D) the person found, -1 nobody, and whether it is an ignored one.
    """
    count, steps = len(images), len(limit)
    limit = limit[None, :, None]
    most_d = max(len(i.similarity) for i in images)
    most_g = max(i.similarity.shape[1] for i in images)
    similarity = np.full((count, most_d, most_g), -1.0)  # -1: nobody is there
    ignored = np.ones((count, most_g), bool)
    crowd = np.zeros((count, most_g), bool)
    for i, image in enumerate(images):
        d, g = image.similarity.shape
        similarity[i, :d, :g] = image.similarity
        ignored[i, :g], crowd[i, :g] = image.ignored, image.crowd
    person = np.full((count, steps, most_d), -1, np.int64)
    is_ignored = np.zeros((count, steps, most_d), bool)
    free = np.ones((count, steps, most_g), bool)
    rows, columns = np.ogrid[:count, :steps]
    for d in range(most_d):
        value = np.where(free, similarity[:, None, d], -1.0)  # (images, T, G)
        value[value < limit] = -1.0
        real = np.where(ignored[:, None], -1.0, value)
        best = _last_argmax(real)
        found = real[rows, columns, best] >= 0
        other = _last_argmax(value)  # an ignored one only where no real one is left
        spare = ~found & (value[rows, columns, other] >= 0)
        best = np.where(spare, other, best)
        found |= spare
        person[:, :, d] = np.where(found, best, -1)
        is_ignored[:, :, d] = spare
        free[rows, columns, best] &= ~found | crowd[rows, best]
    return person, is_ignored


def _last_argmax(values: np.ndarray) -> np.ndarray:
    """Index of the largest value on the last axis; of equal ones the last, as COCO's loop does."""
    return values.shape[-1] - 1 - values[..., ::-1].argmax(-1)
