"""Tracks of the persons of a source: a tracker for each video and stream."""

import warnings
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from utils.errors import InputWarning
from utils.pose.poses import Poses
from utils.runtime.backend import Backend
from utils.runtime.predictor import DEFAULT_CONF
from utils.runtime.sources import Frame, Source, display_name
from utils.tracking.tracker import Tracked, Tracker, TrackerConfig

ALL_IMAGES = ""  # the images of a source are one sequence


class _Sequence(NamedTuple):
    """What belongs to one camera."""

    tracker: Tracker
    restarts: int  # of the stream, so far


class Tracks:
    """IDs for the frames of a source; those of different videos and streams count on their own."""

    def __init__(self, config: TrackerConfig):
        self.config = config
        self._sequences: Dict[str, _Sequence] = {}

    @property
    def count(self) -> int:
        """IDs given so far, over all videos and streams."""
        return sum(s.tracker.count for s in self._sequences.values())

    def update(self, frame: Frame, poses: Poses) -> Tracked:
        """The persons of the next frame of its video or stream that have an ID."""
        key = ALL_IMAGES if frame.kind == "image" else frame.path
        before = self._sequences.get(key)
        tracker = before.tracker if before is not None else Tracker(self.config)
        if before is not None and frame.restarts > before.restarts:
            tracker.restart()
            _warn(
                "%s: the stream broke off and was connected again; its persons get new IDs"
                % display_name(frame.path)
            )
        self._sequences[key] = _Sequence(tracker, frame.restarts)
        return tracker.update(poses)


def thresholds(
    backend: Backend, conf_thres: Optional[float], low_thres: float
) -> Tuple[float, float]:
    """Score above which a detection starts a track, and above which the Predictor delivers.

    Args: conf_thres: None: 0.25, or that of embedded NMS. low_thres: see TrackerConfig.

    Warns where embedded NMS removes the scores that keep hidden persons tracked.
    """
    high = DEFAULT_CONF if conf_thres is None else conf_thres
    inside = 0.0 if backend.embedded_nms is None else backend.embedded_nms.conf_thres
    if inside > low_thres:
        _warn(
            "`track`: the embedded NMS of this model returns nothing below %g, so persons who are "
            "half hidden lose their ID sooner; export it again with `conf_thres` %g"
            % (inside, low_thres)
        )
    high = max(high, inside)
    return high, max(min(low_thres, high), inside)


def check_sequence(source: Source) -> None:
    """Warn where a source is no video: images are taken as the frames of one."""
    if source.images:
        _warn(
            "`track`: %d images are taken as the frames of one video, in this order: %s; IDs of "
            "unrelated images mean nothing"
            % (len(source.images), _first_last([display_name(p) for p in source.images]))
        )


def _first_last(names: Sequence[str]) -> str:
    shown: List[str] = list(names) if len(names) < 3 else [names[0], "...", names[-1]]
    return " ".join(shown)


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)
