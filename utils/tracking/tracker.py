"""IDs that persist: persons of one frame joined to those of the frames before.

tracker = Tracker(TrackerConfig())
for poses in frames:
    tracked = tracker.update(poses)
    tracked.ids        # (n,) beside tracked.poses
"""

import dataclasses
from typing import NamedTuple, Optional, Sequence

import numpy as np

from utils.errors import InputError
from utils.pose.keypoints import skeleton
from utils.pose.poses import Poses
from utils.tracking.assignment import assign
from utils.tracking.motion import BoxMotion
from utils.tracking.similarity import follow_box, paired_oks, pairwise_iou

NO_ID = 0  # of a track that is not confirmed; IDs count from 1


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """When a detection belongs to a track. Raises InputError for values that cannot be."""

    high_thres: float = 0.25  # detections with a higher score start and continue tracks
    low_thres: float = 0.1  # those with a higher score than this one only continue them
    match_thres: float = 0.2  # similarity that a high-score detection needs
    low_match_thres: float = 0.5  # similarity that a low-score detection needs
    oks_weight: float = 0.0  # share of the OKS in the similarity, the rest is the IoU
    max_lost: int = 30  # frames after which a person who is not found is forgotten
    confirm: int = 2  # frames in which a person must be found before it gets an ID

    def __post_init__(self) -> None:
        for name in ("high_thres", "low_thres", "match_thres", "low_match_thres", "oks_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError("`%s` %g: expected 0 to 1" % (name, getattr(self, name)))
        for name in ("max_lost", "confirm"):
            if getattr(self, name) < 1:
                raise InputError("`%s` %d: expected at least 1" % (name, getattr(self, name)))


class Tracked(NamedTuple):
    """Poses of one frame that belong to tracks, best score first, and their IDs."""

    poses: Poses
    ids: np.ndarray  # (n,) int64, from 1, never used again


class Tracker:
    """ByteTrack (Zhang et al. 2022, arXiv 2110.06864) for one camera or video.

    Each frame: the tracks are moved on by a Kalman filter; detections with high scores are
    assigned to them; those with low scores are assigned to the tracks that remain, because
    persons who are half hidden have low scores. What remains of the high scores starts tracks; a
    track that is not found is kept for `max_lost` frames.

    Where this differs from the paper: the similarity may hold the OKS, detections are assigned
    within their class only, and a new track gets its ID with its second detection (except in the
    first frame), so that false detections of a single frame have none.
    """

    def __init__(
        self, config: Optional[TrackerConfig] = None, sigmas: Optional[Sequence[float]] = None
    ):
        """Args: sigmas: of the OKS, one a keypoint; None: COCO's, see keypoints.skeleton."""
        self.config = config or TrackerConfig()
        self._sigmas = sigmas
        self._last_id = NO_ID
        self.restart()

    def restart(self) -> None:
        """Forget all tracks, for instance after a gap in a stream; IDs go on counting."""
        self._motion = BoxMotion()
        self._ids = np.zeros(0, np.int64)
        self._hits = np.zeros(0, np.int64)  # frames found
        self._lost = np.zeros(0, np.int64)  # frames since it was found, 1: in the frame before
        self._classes = np.zeros(0, np.int64)
        self._boxes = np.zeros((0, 4))  # where it was found
        self._keypoints = np.zeros((0, 0, 3))  # (T, K, 3), there
        self._first_frame = True

    @property
    def count(self) -> int:
        """IDs given so far."""
        return self._last_id

    def update(self, poses: Poses) -> Tracked:
        """The next frame's detections, best score first and down to `low_thres`, -> with IDs.

        Detections that belong to no confirmed track are left out.
        """
        config = self.config
        self._lost += 1
        self._motion.predict(self._lost > 1)
        similarity = self._similarity(poses)
        high = poses.scores > config.high_thres
        low = (poses.scores > config.low_thres) & ~high
        confirmed = self._ids != NO_ID
        track_of = np.full(poses.count, -1)
        for tracks, detections, threshold in (
            (confirmed, high, config.match_thres),
            (confirmed, low, config.low_match_thres),
            (~confirmed, high, config.match_thres),
        ):
            free = tracks.copy()
            free[track_of[track_of >= 0]] = False
            rows, columns = np.flatnonzero(free), np.flatnonzero(detections & (track_of < 0))
            if len(rows) and len(columns):
                a, b = assign(similarity[np.ix_(rows, columns)], threshold)
                track_of[columns[b]] = rows[a]
        self._found(poses, track_of)
        new = np.flatnonzero(high & (track_of < 0))
        track_of[new] = len(self._ids) + np.arange(len(new))
        if len(new):
            self._start(poses.select(new))
        self._first_frame = False
        ids = np.full(poses.count, NO_ID)
        ids[track_of >= 0] = self._ids[track_of[track_of >= 0]]
        self._forget()
        shown = ids != NO_ID
        return Tracked(poses.select(shown), ids[shown])

    def _similarity(self, poses: Poses) -> np.ndarray:
        """(T, D) of the tracks, moved to this frame, with the detections.

        0 across classes and where the boxes do not touch.
        """
        config, boxes = self.config, self._motion.boxes
        similarity = pairwise_iou(boxes, poses.boxes)
        similarity *= self._classes[:, None] == poses.classes
        tracks, found = np.nonzero(similarity)
        if config.oks_weight and len(tracks):
            before = follow_box(self._keypoints, self._boxes, boxes)[tracks]
            sigmas = self._sigmas or skeleton(before.shape[1]).sigmas
            alike = paired_oks(before, poses.keypoints[found], boxes[tracks], sigmas=sigmas)
            similarity[tracks, found] += config.oks_weight * (alike - similarity[tracks, found])
        return similarity

    def _found(self, poses: Poses, track_of: np.ndarray) -> None:
        """Correct the tracks that have a detection, and confirm those found often enough."""
        seen = np.flatnonzero(track_of >= 0)
        tracks = track_of[seen]
        self._motion.correct(tracks, poses.boxes[seen])
        self._boxes[tracks] = poses.boxes[seen]
        if len(seen):
            self._keypoints[tracks] = poses.keypoints[seen]
        self._hits[tracks] += 1
        self._lost[tracks] = 0
        sure = tracks[(self._hits[tracks] >= self.config.confirm) & (self._ids[tracks] == NO_ID)]
        self._name(sure)

    def _start(self, poses: Poses) -> None:
        """New tracks; in the first frame everybody has an ID at once."""
        count = poses.count
        self._motion.add(poses.boxes)
        self._ids = np.concatenate([self._ids, np.full(count, NO_ID)])
        self._hits = np.concatenate([self._hits, np.ones(count, np.int64)])
        self._lost = np.concatenate([self._lost, np.zeros(count, np.int64)])
        self._classes = np.concatenate([self._classes, poses.classes])
        self._boxes = np.concatenate([self._boxes, poses.boxes])
        before = self._keypoints if len(self._keypoints) else poses.keypoints[:0]
        self._keypoints = np.concatenate([before, poses.keypoints])
        if self._first_frame or self.config.confirm == 1:
            self._name(np.arange(len(self._ids) - count, len(self._ids)))

    def _name(self, tracks: np.ndarray) -> None:
        """Give IDs to tracks (indices)."""
        self._ids[tracks] = self._last_id + 1 + np.arange(len(tracks))
        self._last_id += len(tracks)

    def _forget(self) -> None:
        """Drop tracks lost for too long, and unconfirmed ones at once."""
        keep = self._lost <= np.where(self._ids == NO_ID, 0, self.config.max_lost)
        if not keep.all():
            self._motion.select(keep)
            self._ids, self._hits, self._lost = self._ids[keep], self._hits[keep], self._lost[keep]
            self._classes, self._boxes = self._classes[keep], self._boxes[keep]
            self._keypoints = self._keypoints[keep]
