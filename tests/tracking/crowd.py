"""A drawn crowd with known identities: what a pose model would say of it, frame by frame."""

from typing import List, NamedTuple

import numpy as np

from utils.pose.poses import Poses

# Template of a standing person in its box, 0..1, COCO order
TEMPLATE = np.array(
    [
        (0.50, 0.08), (0.54, 0.06), (0.46, 0.06), (0.58, 0.08), (0.42, 0.08), (0.68, 0.20),
        (0.32, 0.20), (0.78, 0.36), (0.22, 0.36), (0.80, 0.50), (0.20, 0.50), (0.62, 0.52),
        (0.38, 0.52), (0.62, 0.74), (0.38, 0.74), (0.62, 0.95), (0.38, 0.95),
    ]
)  # fmt: skip


class Person(NamedTuple):
    """A walk: where the box is in each frame, and in which frames it is in the image."""

    boxes: np.ndarray  # (T, 4) float64 xyxy px
    present: np.ndarray  # (T,) bool


class Moment(NamedTuple):
    """One frame."""

    boxes: np.ndarray  # (G, 4) xyxy px of who is there
    ids: np.ndarray  # (G,) int64
    keypoints: np.ndarray  # (G, 17, 3) px, confidence 1
    found: Poses  # what the model says
    ground_truth_of: np.ndarray  # (D,) row of `boxes` that each detection shows, -1: false


def walk(start, velocity, frames: int, *, height: float = 160.0, sway: float = 0.0) -> Person:
    """Centre from `start` (x, y) px with `velocity` px a frame, swaying by `sway` px."""
    t = np.arange(frames)
    center = np.asarray(start, float) + t[:, None] * np.asarray(velocity, float)
    center[:, 0] += sway * np.sin(t / 9.0)
    half = np.array([0.2, 0.5]) * height
    boxes = np.concatenate([center - half, center + half], 1)
    return Person(boxes, np.ones(frames, bool))


def gait(boxes: np.ndarray, frame: int, phase: np.ndarray) -> np.ndarray:
    """(G, 17, 3) keypoints of persons in these boxes, arms and legs swinging."""
    points = np.repeat(TEMPLATE[None], len(boxes), 0)
    swing = 0.12 * np.sin(frame / 3.0 + phase)[:, None]
    points[:, [9, 16], 0] += swing
    points[:, [10, 15], 0] -= swing
    size = (boxes[:, 2:] - boxes[:, :2])[:, None]
    points = boxes[:, None, :2] + points * size
    return np.concatenate([points, np.ones(points.shape[:2] + (1,))], -1)


def visible(boxes: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Share of each box that no nearer person (lower feet) and no wall (xyxy rows) covers."""
    share = np.ones(len(boxes))
    for i, box in enumerate(boxes):
        nearer = boxes[boxes[:, 3] > box[3]]
        for other in np.concatenate([nearer, hidden.reshape(-1, 4)]):
            wh = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
            if (wh > 0).all():
                share[i] -= wh.prod() / (box[2:] - box[:2]).prod()
    return share.clip(0)


def film(
    people: List[Person], *, walls=(), seed: int = 0, noise: float = 0.02, false_rate: float = 0.0
) -> List[Moment]:
    """What a model says of the walks, with its errors.

    A person of whom less than 30 % is visible is not found, one half hidden has a low score.
    Boxes and points have an error of `noise` heights; single frames have false detections.
    """
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, len(people))
    moments = []
    for t in range(len(people[0].present)):
        ids = np.array([i for i, p in enumerate(people) if p.present[t]], np.int64)
        boxes = np.array([people[i].boxes[t] for i in ids]).reshape(-1, 4)
        points = gait(boxes, t, phase[ids])
        share = visible(boxes, np.asarray(walls, float))
        seen = np.flatnonzero(share > 0.3)
        height = (boxes[seen, 3] - boxes[seen, 1])[:, None]
        found = boxes[seen] + rng.normal(0, noise, (len(seen), 4)) * height
        keypoints = points[seen].copy()
        keypoints[..., :2] += rng.normal(0, noise, (len(seen), 17, 2)) * height[..., None]
        keypoints[..., 2] = 0.9
        scores = np.clip(share[seen] * 0.9 + rng.normal(0, 0.03, len(seen)) - 0.05, 0.05, 0.99)
        ground_truth_of = seen
        false = rng.random(3) < false_rate
        if false.any():
            corner = rng.uniform(0, 1000, (false.sum(), 2))
            wrong = np.concatenate([corner, corner + (60, 150)], 1)
            found = np.concatenate([found, wrong])
            keypoints = np.concatenate([keypoints, gait(wrong, t, rng.uniform(0, 6, len(wrong)))])
            scores = np.concatenate([scores, rng.uniform(0.3, 0.6, len(wrong))])
            ground_truth_of = np.concatenate([ground_truth_of, np.full(len(wrong), -1)])
        order = np.argsort(-scores, kind="stable")
        poses = Poses(
            found[order].astype(np.float32),
            scores[order].astype(np.float32),
            np.zeros(len(order), np.int64),
            keypoints[order].astype(np.float32),
        )
        moments.append(Moment(boxes, ids, points, poses, ground_truth_of[order]))
    return moments


def crowd(count: int = 20, frames: int = 300, seed: int = 0) -> List[Person]:
    """Walkers crossing a 1280 x 720 px image both ways; who leaves returns 40 frames later."""
    rng = np.random.default_rng(seed)
    people = []
    for _ in range(count):
        height = rng.uniform(90, 220)
        speed = rng.uniform(1.5, 5) * rng.choice([-1, 1])
        start = (rng.uniform(0, 1280), rng.uniform(200, 700) - height / 2)
        velocity, sway = (speed, rng.uniform(-0.3, 0.3)), rng.uniform(0, 12)
        person = walk(start, velocity, frames, height=height, sway=sway)
        # turn at 100 px outside the image: gone for a while, back in the other direction
        x = person.boxes[:, [0, 2]].mean(1)
        span = 1280 + 200
        folded = np.abs((x + 100) % (2 * span) - span) - 100
        folded = 1280 - folded
        boxes = person.boxes.copy()
        boxes[:, [0, 2]] += (folded - x)[:, None]
        present = (boxes[:, 2] > 10) & (boxes[:, 0] < 1270)
        people.append(Person(boxes, present))
    return people
