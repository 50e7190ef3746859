"""Source -> (frame, poses), with decoding, inference and the consumer overlapped and timed.

detector = Detector(open_source("street.mp4"), predictor)
for frame, poses in detector.run():
    ...
detector.timer.seconds        # of each stage
"""

import time
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from utils.errors import InputError
from utils.pipeline import StageTimer, gather, parallel_map, prefetch
from utils.pose.poses import Poses
from utils.runtime.predictor import Predictor, Prepared
from utils.runtime.sources import Frame, Source

STAGES = ["decode", "preprocess", "inference", "nms", "track", "draw", "write"]
MAX_WAIT_MS = 10.0
WARM_UP_FROM = 20  # images, below which the warm-up would cost more than it saves


class _FrameBatch(NamedTuple):
    """Frames on their way through the network."""

    frames: List[Frame]
    prepared: Prepared
    raws: List[Any]


class Detector:
    """The stages between a source and its results.

    Args:
        batch_size: frames of files at a time, and of live streams at most as many as there are
            streams [what a model of fixed batch takes, else 1].
        max_wait_ms: how long a frame of a live stream waits for those of the others.

    Raises InputError for a batch_size that the model does not take.

    Attributes: `timer`, seconds of each of STAGES; "track", "draw" and "write" are for the consumer
        to time. `warm_up_s`, what the first calls of a GPU cost, paid before the first frame.
    """

    def __init__(
        self,
        source: Source,
        predictor: Predictor,
        *,
        batch_size: Optional[int] = None,
        max_wait_ms: float = MAX_WAIT_MS,
    ):
        backend = predictor.backend
        self.source, self.predictor = source, predictor
        self.batch_size, self.max_wait_ms = batch_size or backend.batch or 1, max_wait_ms
        if backend.batch not in (None, self.batch_size):
            raise InputError(
                "`batch_size` %d: the model has a fixed batch of %d; drop it, or export the model "
                "with `dynamic`" % (self.batch_size, backend.batch)
            )
        if backend.max_batch is not None and self.batch_size > backend.max_batch:
            raise InputError(
                "`batch_size` %d: the engine takes up to %d images; build it with a larger "
                "`max_batch`" % (self.batch_size, backend.max_batch)
            )
        self.timer = StageTimer(STAGES)
        self.warm_up_s = 0.0

    def run(self) -> Iterator[Tuple[Frame, Poses]]:
        """Frames in source order with their Poses in image pixels.

        One thread decodes, one letterboxes, `backend.workers` infer, NMS runs in the caller's.
        A GPU may be done with a frame sooner than one thread decodes and letterboxes it.
        Closing the iterator closes the source.
        """
        workers = self.predictor.backend.workers
        depth = 1 if self.source.live else 2  # frames that wait are frames that come late
        stop = self.source.close
        prepared = prefetch(self._prepare(), depth, stop)
        jobs = prefetch(parallel_map(self._infer, prepared, workers), depth, stop)
        try:
            for job in jobs:
                with self.timer("nms"):
                    found = self.predictor.postprocess(job.raws, job.prepared)
                yield from zip(job.frames, found)
        finally:
            stop()
            jobs.close()  # type: ignore  # a generator

    def _prepare(self) -> Iterator[_FrameBatch]:
        batches = self._batches()
        if self.predictor.backend.on_gpu and not self.source.live:
            batches = prefetch(batches, 2, self.source.close)
        for frames in batches:
            self.timer.seconds["decode"] = self.source.decode_s
            with self.timer("preprocess"):
                prepared = self.predictor.preprocess([f.image for f in frames])
            if not self.warm_up_s and self._worth_warming_up():
                started = time.perf_counter()
                self.predictor.warm_up(prepared)
                self.warm_up_s = time.perf_counter() - started
            yield _FrameBatch(frames, prepared, [])

    def _worth_warming_up(self) -> bool:
        total = self.source.total
        return self.predictor.backend.on_gpu and (total is None or total > WARM_UP_FROM)

    def _batches(self) -> Iterator[List[Frame]]:
        """Up to `batch_size` frames; of live streams those that come within `max_wait_ms`."""
        if self.source.live:
            size = min(self.batch_size, max(len(self.source.streams), 1))
            if size == 1:
                return ([frame] for frame in self.source)
            wait_s = self.max_wait_ms / 1000
            return gather(self.source, size, wait_s, fits=self._fits, on_stop=self.source.close)
        return self._filled()

    def _filled(self) -> Iterator[List[Frame]]:
        frames: List[Frame] = []
        for frame in self.source:
            if frames and not self._fits(frames, frame):
                yield frames
                frames = []
            frames.append(frame)
            if len(frames) == self.batch_size:
                yield frames
                frames = []
        if frames:
            yield frames

    def _fits(self, frames: List[Frame], frame: Frame) -> bool:
        """Whether a frame may share a batch: in a rectangle that fits the image all have one."""
        return not self.predictor.auto or frames[0].image.shape == frame.image.shape

    def _infer(self, job: _FrameBatch) -> _FrameBatch:
        with self.timer("inference"):
            raws = self.predictor.infer(job.prepared)
        used = [view._replace(batch=None) for view in job.prepared]  # frees the pixels
        return _FrameBatch(job.frames, used, raws)
