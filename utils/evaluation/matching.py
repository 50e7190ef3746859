"""Which prediction found whom, by the rules of COCO (cocodataset.org/#detection-eval).

matches = match([Scored(...) for each image])              # at each of THRESHOLDS
by_area = match_areas([[Scored(...), ...]], POSE_AREAS)    # of [class][image]
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

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
_CHUNK = 128  # images and areas matched at a time


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
    return _match(images, [area], thresholds)[0]


def match_areas(classes: Sequence[Sequence[Scored]], areas: Sequence[str]) -> ByArea:
    """match() of [class][image] in each area."""
    found = [_match(images, areas, THRESHOLDS) for images in classes]
    return {area: [matches[i] for matches in found] for i, area in enumerate(areas)}


def _match(images: Sequence[Scored], areas: Sequence[str], thresholds: np.ndarray) -> List[Matches]:
    """match() in each area."""
    limit = np.minimum(thresholds, 1 - 1e-10)
    line = _line_up(images)
    ignored = [line.ignored | _outside(line.ground_truth_areas, *AREAS[area]) for area in areas]
    near = _near(images, line, float(limit.min()))
    person, spare = _match_apart(line, near, ignored, limit=limit)
    if near.several:
        _match_several(images, line, near, ignored=ignored, limit=limit, person=person, spare=spare)
    rank = np.arange(line.starts[-1]) - np.repeat(line.starts[:-1], np.diff(line.starts))
    found = []
    for i, area in enumerate(areas):
        outside = _outside(line.areas, *AREAS[area])
        positives = int((~ignored[i]).sum())
        nobody = spare[i] | ((person[i] < 0) & outside)
        found.append(Matches(line.scores, rank, person[i], nobody, positives))
    return found


class _LineUp(NamedTuple):
    """Predictions (n,) and persons (m,) of all images, image after image."""

    starts: np.ndarray  # (images + 1,) first prediction of each image
    person_starts: np.ndarray  # (images + 1,) first person
    scores: np.ndarray  # (n,)
    areas: np.ndarray  # (n,)
    ground_truth_areas: np.ndarray  # (m,)
    ignored: np.ndarray  # (m,) bool
    crowd: np.ndarray  # (m,) bool


def _line_up(images: Sequence[Scored]) -> _LineUp:
    shapes = np.array([i.similarity.shape for i in images], np.int64).reshape(-1, 2)
    starts = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(shapes, 0)])
    none, nobody = np.zeros(0), np.zeros(0, bool)
    return _LineUp(
        starts[:, 0],
        starts[:, 1],
        np.concatenate([none, *(i.scores for i in images)]),
        np.concatenate([none, *(i.areas for i in images)]),
        np.concatenate([none, *(i.ground_truth_areas for i in images)]),
        np.concatenate([nobody, *(i.ignored for i in images)]),
        np.concatenate([nobody, *(i.crowd for i in images)]),
    )


class _Near(NamedTuple):
    """The n pairs of a prediction and a person that are similar enough to match at all."""

    image: np.ndarray  # (n,) ascending
    prediction: np.ndarray  # (n,) its place in the line-up, ascending
    person: np.ndarray  # (n,) its place in the line-up
    similarity: np.ndarray  # (n,)
    several: List[int]  # images in which a prediction is near several persons


def _near(images: Sequence[Scored], line: _LineUp, least: float) -> _Near:
    similarity = np.concatenate([np.zeros(0), *(i.similarity.ravel() for i in images)])
    persons = np.diff(line.person_starts)
    pair_starts = np.concatenate([[0], np.cumsum(np.diff(line.starts) * persons)])
    near = np.flatnonzero(similarity >= least)
    image = np.searchsorted(pair_starts, near, "right") - 1
    row, column = np.divmod(near - pair_starts[image], np.maximum(persons, 1)[image])
    prediction = row + line.starts[image]
    again = np.flatnonzero(prediction[1:] == prediction[:-1])
    several = np.unique(image[again]).tolist()
    person = column + line.person_starts[image]
    return _Near(image, prediction, person, similarity[near], several)


def _match_apart(
    line: _LineUp, near: _Near, ignored: Sequence[np.ndarray], *, limit: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Matches of the images in which no prediction can choose: the first one takes the person.

    Args: ignored: (m,) bool in each area. limit: (T,) least similarity.

    Returns (areas, T, n) the person found, -1 nobody, and whether it is an ignored one.
    """
    shape = len(ignored), len(limit), int(line.starts[-1])
    person, spare = np.full(shape, -1, np.int32), np.zeros(shape, bool)
    pairs = np.flatnonzero(~np.isin(near.image, near.several))
    if len(pairs):
        pairs = pairs[np.argsort(near.person[pairs], kind="stable")]
        whom, who = near.person[pairs], near.prediction[pairs]
        similar = near.similarity[pairs] >= limit[:, None]
        before: np.ndarray = np.cumsum(similar, 1) - similar
        first = np.flatnonzero(np.diff(whom, prepend=-1))  # pair of each person
        group = np.cumsum(np.diff(whom, prepend=-1) > 0) - 1
        taken: np.ndarray = before > before[:, first][:, group]
        found = similar & (~taken | line.crowd[whom])
        place = whom - line.person_starts[near.image[pairs]]
        person[:, :, who] = np.where(found, place, -1)
        for mine, out in zip(spare, ignored):
            mine[:, who] = found & out[whom]
    return person, spare


def _match_several(  # noqa: PLR0913
    images: Sequence[Scored],
    line: _LineUp,
    near: _Near,
    *,
    ignored: Sequence[np.ndarray],
    limit: np.ndarray,
    person: np.ndarray,
    spare: np.ndarray,
) -> None:
    """Matches of the other images, rank by rank, written into `person` and `spare`."""
    whose = {i: np.unique(near.prediction[near.image == i]) for i in near.several}
    jobs, parts = [], []
    for i, who in whose.items():
        there = slice(line.person_starts[i], line.person_starts[i + 1])
        similarity = images[i].similarity[who - line.starts[i]]
        for area, out in enumerate(ignored):
            jobs.append((area, who))
            parts.append(_Part(similarity, out[there], images[i].crowd))
    for chunk in _chunks(parts):
        for job, whom, is_spare in zip(chunk, *_match_chunk([parts[j] for j in chunk], limit)):
            area, who = jobs[job]
            person[area][:, who] = whom[:, : len(who)]
            spare[area][:, who] = is_spare[:, : len(who)]


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
    take: Any = np.repeat(starts[order], counts[order]) + within
    if (order == np.arange(len(order))).all():
        take = slice(None)  # as they come: nothing is copied
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


def _chunks(parts: Sequence["_Part"]) -> Iterator[List[int]]:
    """Parts that are matched together: those with about as many persons and predictions."""
    order = sorted(range(len(parts)), key=lambda i: parts[i].similarity.shape[::-1])
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]


class _Part(NamedTuple):
    """An image in one area as it is matched."""

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
