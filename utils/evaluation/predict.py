"""Poses of all images of an EvalSet, batch after batch.

for batch in predict(predictor, eval_set, 32, timer=StageTimer(STAGES)):
    for index, image_hw, poses in batch: ...

Reading, letterboxing, inference and NMS overlap; dynamic models get batches of images that share a
rectangular canvas.
"""

from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from utils.dataset.eval_set import EvalSet
from utils.dataset.images import read_image, read_image_hw
from utils.device import available_cores
from utils.errors import InputError, reason_of
from utils.pipeline import StageTimer, parallel_map, prefetch
from utils.pose.letterbox import HW, rectangle
from utils.pose.poses import Poses
from utils.runtime.predictor import Predictor, Prepared

STAGES = ["decode", "preprocess", "inference", "nms"]
MAX_LOADERS = 16  # threads that decode; each holds a batch
SCORED_LATER = 4  # batches of poses that wait while others are scored


class Plan(NamedTuple):
    """A batch to come."""

    indices: List[int]  # of the images
    # images that the network gets, the last one again and again: on a GPU each new shape costs a
    # second, in which kernels are chosen and loaded
    count: int  # type: ignore[assignment]  # of tuple


class _ImageBatch(NamedTuple):
    """A batch on its way through the network."""

    indices: List[int]
    sizes: List[HW]
    prepared: Prepared


def predict(
    predictor: Predictor, eval_set: EvalSet, batch_size: int, *, timer: StageTimer
) -> Iterator[List[Tuple[int, HW, Poses]]]:
    """(index, (height, width), Poses) of the images of each batch, in the order of `batches`.

    Loader threads decode and letterbox, `backend.workers` infer and suppress. They go on while the
    caller does something else, up to SCORED_LATER batches.
    """

    def load(plan: Plan) -> _ImageBatch:
        images = []
        with timer("decode"):
            for i in plan.indices:
                images.append(read_or_say(eval_set.paths[i]))
                eval_set.check_size(i, images[-1].shape[:2])  # now, not after the last image
        sizes = [(m.shape[0], m.shape[1]) for m in images]
        with timer("preprocess"):
            filled = images + images[-1:] * (plan.count - len(images))
            prepared = predictor.preprocess(filled)
        return _ImageBatch(plan.indices, sizes, prepared)

    def infer(job: _ImageBatch) -> List[Tuple[int, HW, Poses]]:
        with timer("inference"):
            raws = predictor.infer(job.prepared)
        with timer("nms"):
            found = predictor.postprocess(raws, job.prepared)
        return list(zip(job.indices, job.sizes, found))

    loaders = min(available_cores(), MAX_LOADERS)
    loaded = prefetch(
        parallel_map(load, batches(predictor, eval_set, batch_size), loaders), depth=1
    )
    inferred = parallel_map(infer, loaded, predictor.backend.workers)
    done = prefetch(inferred, SCORED_LATER)
    try:
        yield from done
    finally:
        done.close()  # type: ignore  # a generator


def read_or_say(path: str) -> np.ndarray:
    """read_image; raises InputError with the path."""
    try:
        return read_image(path)
    except (ValueError, OSError) as e:
        raise InputError("%s: %s" % (path, reason_of(e))) from e


def batches(predictor: Predictor, eval_set: EvalSet, batch_size: int) -> List[Plan]:
    """The images of each batch; images of one canvas together where it may vary."""
    size = predictor.backend.batch or batch_size

    def cut(group: List[int]) -> Iterator[Plan]:
        fill = predictor.backend.on_gpu and len(group) > size and predictor.backend.batch is None
        for i in range(0, len(group), size):
            part = group[i : i + size]
            yield Plan(part, size if fill else len(part))

    if not predictor.auto or size == 1:
        return list(cut(list(range(eval_set.count))))
    groups: Dict[HW, List[int]] = {}
    for i, hw in enumerate(_image_sizes(eval_set)):
        canvas = rectangle(hw, predictor.net_hw, predictor.backend.stride)
        groups.setdefault(canvas, []).append(i)
    # largest first: if the memory does not suffice, it shows at once
    ordered = sorted(groups.items(), key=lambda item: -item[0][0] * item[0][1])
    return [plan for _, group in ordered for plan in cut(group)]


def _image_sizes(eval_set: EvalSet) -> Iterator[HW]:
    """(height, width) of each image, from the JSON or the head of the file."""

    def size(index: int) -> HW:
        known = eval_set.sizes[index]
        if known is not None:
            return known
        path = eval_set.paths[index]
        try:
            return read_image_hw(path)
        except (ValueError, OSError) as e:
            raise InputError("%s: %s" % (path, reason_of(e))) from e

    return parallel_map(size, range(eval_set.count), min(available_cores(), MAX_LOADERS))
