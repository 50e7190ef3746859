"""How long one batch takes, one after the other, on images already decoded.

times = measure(predictor, images, batch_size=1)
times.median("inference")      # ms an image
times.images_per_s
"""

import itertools
import time
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from utils.runtime.predictor import Predictor

STAGES = ("preprocess", "inference", "nms")
WARM_UP = 5  # batches: memory is taken, kernels are chosen, a CUDA graph is recorded


class Latency(NamedTuple):
    """Milliseconds an image of each batch."""

    ms: Dict[str, np.ndarray]  # stage -> (batches,)
    # the network alone on the GPU, median, without copies; None where the runtime cannot tell
    engine: Optional[float] = None

    def median(self, stage: str) -> float:
        return float(np.median(self.ms[stage]))

    def percentile(self, stage: str, percent: float) -> float:
        return float(np.percentile(self.ms[stage], percent))

    @property
    def total(self) -> np.ndarray:
        """(batches,) of all stages together."""
        return np.sum([self.ms[s] for s in STAGES], 0)

    @property
    def images_per_s(self) -> float:
        """Images over the sum of seconds; all batches are of one size."""
        return 1000 / float(self.total.mean())


def measure(predictor: Predictor, images: Sequence[np.ndarray], batch_size: int = 1) -> Latency:
    """Time the stages of a predictor; nothing overlaps.

    Args: images: (H, W, 3) uint8 BGR. batch_size: at a time, where the model does not say.

    The last batch is filled up with the first images: a smaller one costs more an image.
    """
    size = predictor.backend.batch or batch_size
    cycle = itertools.cycle(images)
    batches = [list(itertools.islice(cycle, size)) for _ in range(-(-len(images) // size))]
    for batch in (batches * WARM_UP)[:WARM_UP]:
        _time(predictor, batch)
    rows = [_time(predictor, batch) for batch in batches]
    alone = predictor.backend.engine_ms()
    engine = None if alone is None else float(np.median(alone)) / size
    return Latency({s: np.array([r[i] for r in rows]) for i, s in enumerate(STAGES)}, engine)


def _time(predictor: Predictor, images: Sequence[np.ndarray]) -> List[float]:
    times = [time.perf_counter()]
    prepared = predictor.preprocess(images)
    times.append(time.perf_counter())
    raws = predictor.infer(prepared)
    times.append(time.perf_counter())
    predictor.postprocess(raws, prepared)
    times.append(time.perf_counter())
    return [1000 * (b - a) / len(images) for a, b in zip(times, times[1:])]


def join(parts: Sequence[Latency]) -> Latency:
    """Rounds of the same predictor as one."""
    alone = [p.engine for p in parts if p.engine is not None]
    engine = float(np.median(alone)) if alone else None
    return Latency({s: np.concatenate([p.ms[s] for p in parts]) for s in STAGES}, engine)
