"""Tracks of the persons of a source: a tracker for each video and stream."""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from utils.errors import warn
from utils.pose.poses import Poses
from utils.runtime.backend import Backend
from utils.runtime.predictor import DEFAULT_CONF
from utils.runtime.sources import Frame, Source, display_name
from utils.tracking.smoothing import KeypointSmoother, SmoothConfig
from utils.tracking.tracker import Tracked, Tracker, TrackerConfig

ALL_IMAGES = ""  # the images of a source are one sequence
IMAGES_FPS = 30.0  # that of images, which carry none; only the smoothing asks for it


class _Sequence(NamedTuple):
    """What belongs to one camera."""

    tracker: Tracker
    smoother: Optional[KeypointSmoother]
    restarts: int  # of the stream, so far
    frames: int


class Tracks:
    """IDs for the frames of a source; those of different videos and streams count on their own.

    Args:
        smooth: also take the jitter out of the keypoints; None: leave them as they are.
        sigmas: OKS sigma of each keypoint, None: COCO's.
    """

    def __init__(
        self,
        config: TrackerConfig,
        smooth: Optional[SmoothConfig] = None,
        *,
        sigmas: Optional[Sequence[float]] = None,
    ):
        self.config, self.smooth, self.sigmas = config, smooth, sigmas
        self._sequences: Dict[str, _Sequence] = {}

    @property
    def count(self) -> int:
        """IDs given so far, over all videos and streams."""
        return sum(s.tracker.count for s in self._sequences.values())

    def update(self, frame: Frame, poses: Poses) -> Tracked:
        """The persons of the next frame of its video or stream that have an ID."""
        key = ALL_IMAGES if frame.kind == "image" else frame.path
        now = self._sequences.get(key) or self._new_sequence()
        if frame.restarts > now.restarts and now.frames:
            now.tracker.restart()
            warn(
                "%s: the stream broke off and was connected again; its persons get new IDs"
                % display_name(frame.path)
            )
        self._sequences[key] = now._replace(restarts=frame.restarts, frames=now.frames + 1)
        tracked = now.tracker.update(poses)
        if now.smoother is None:
            return tracked
        time_s = now.frames / IMAGES_FPS if frame.kind == "image" else frame.time_s
        return tracked._replace(poses=now.smoother.update(*tracked, time_s))

    def _new_sequence(self) -> _Sequence:
        smoother = None if self.smooth is None else KeypointSmoother(self.smooth)
        return _Sequence(Tracker(self.config, self.sigmas), smoother, restarts=0, frames=0)


def thresholds(
    backend: Backend, conf_thres: Optional[float], low_thres: float
) -> Tuple[float, float]:
    """Score above which a detection starts a track, and above which the Predictor delivers.

    Args: conf_thres: None: 0.25, or that of embedded NMS. low_thres: see TrackerConfig.

    Warns where embedded NMS removes the scores that keep hidden persons tracked.
    """
    high = DEFAULT_CONF if conf_thres is None else conf_thres
    nms = backend.embedded_nms
    inside = 0.0 if nms is None or nms.conf_thres is None else nms.conf_thres
    if inside > low_thres:
        warn(
            "`track`: the embedded NMS of this model returns nothing below %g, so persons who are "
            "half hidden lose their ID sooner; export it again with `conf_thres` %g"
            % (inside, low_thres)
        )
    high = max(high, inside)
    return high, max(min(low_thres, high), inside)


def check_sequence(source: Source) -> None:
    """Warn where a source is no video: images are taken as the frames of one."""
    if source.images:
        warn(
            "`track`: %d images are taken as the frames of one video, in this order: %s; IDs of "
            "unrelated images mean nothing"
            % (len(source.images), _first_last([display_name(p) for p in source.images]))
        )


def _first_last(names: Sequence[str]) -> str:
    shown: List[str] = list(names) if len(names) < 3 else [names[0], "...", names[-1]]
    return " ".join(shown)
