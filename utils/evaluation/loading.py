"""Batches of images from files: read, decoded and letterboxed by threads or by processes.

loader = open_loader(predictor, eval_set, batch_size=32, timer=timer)
prepared = loader.load([0, 1, 2])      # from up to `loader.workers` threads at a time
loader.close()

Decoding gives the interpreter's lock away, but what stands around it in Python does not, and a GPU
that takes 3,000 images a second waits for it. Processes have locks of their own; they letterbox
into memory that they share with this one.
"""

import contextlib
import mmap
import multiprocessing
import os
import queue
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Iterator, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from utils import outputs
from utils.dataset.eval_set import EvalSet
from utils.dataset.images import read_image
from utils.device import available_cores
from utils.errors import InputError
from utils.parallel import before_fork, start_worker
from utils.pipeline import StageTimer
from utils.pose.letterbox import HW, draw_canvas, place
from utils.runtime.predictor import Predictor, Prepared, View

MAX_WORKERS = 16  # threads or processes that decode
PIECE = 8  # images that a process loads before it reports
# Fewer images are loaded by threads before processes have started; on fewer cores decoding itself
# is what a GPU waits for.
FROM_IMAGES, FROM_CORES = 400, 4
OWN_CORES = 2  # that this process needs: it gives work to the GPU, and scores


class ImageBatch(NamedTuple):
    """A batch that the network can take."""

    indices: List[int]
    sizes: List[HW]
    prepared: Prepared


class ThreadLoader:
    """Loads in the threads that call it."""

    def __init__(self, predictor: Predictor, eval_set: EvalSet, timer: StageTimer):
        self._predictor, self._eval_set, self._timer = predictor, eval_set, timer
        self.workers = min(available_cores(), MAX_WORKERS)

    def load(self, indices: List[int]) -> ImageBatch:
        """Raises InputError for an image that cannot be read or that contradicts the JSON."""
        images = []
        with self._timer("decode"):
            for i in indices:
                images.append(read_or_say(self._eval_set.paths[i]))
                self._eval_set.check_size(i, images[-1].shape[:2])  # now, not after the last image
        with self._timer("preprocess"):
            prepared = self._predictor.preprocess(images)
        return ImageBatch(indices, [(m.shape[0], m.shape[1]) for m in images], prepared)

    def close(self) -> None:
        """Nothing is held."""


class _Piece(NamedTuple):
    """What a process has loaded."""

    canvas: HW
    sizes: List[HW]
    decode_s: float
    letterbox_s: float


class ProcessLoader:
    """Loads in processes; the threads that call it wait, and copy into the backend's memory.

    Args: batch_size: most images of a batch. processes: how many.

    Raises InputError if there is not enough memory.
    """

    def __init__(
        self,
        predictor: Predictor,
        eval_set: EvalSet,
        timer: StageTimer,
        *,
        batch_size: int,
        processes: int,
    ):
        self._predictor, self._eval_set, self._timer = predictor, eval_set, timer
        self._threads = ThreadLoader(predictor, eval_set, timer)
        pieces = -(-batch_size // PIECE)
        self.workers = -(-2 * processes // pieces) + 1  # batches under way: two pieces a process
        self._tray = batch_size * int(np.prod(predictor.net_hw)) * 3  # bytes of a batch
        try:
            # anonymous, so that it is not bounded by what containers give to /dev/shm
            self._memory = mmap.mmap(-1, self.workers * self._tray)
        except OSError as e:
            raise InputError(
                "`batch_size` %d: the memory does not suffice to load images; choose a smaller one"
                % batch_size
            ) from e
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for tray in range(self.workers):
            self._free.put(tray)
        before_fork()
        self._pool = ProcessPoolExecutor(
            processes,
            multiprocessing.get_context("fork"),
            _start,
            (outputs.writer(), os.getpid(), self._memory),
        )
        with _told_if_ended():
            list(self._pool.map(_nothing, range(processes)))  # start them before other threads do

    def load(self, indices: List[int]) -> ImageBatch:
        """As ThreadLoader.load."""
        predictor, tray = self._predictor, self._free.get()
        try:
            begin = tray * self._tray
            with _told_if_ended():
                waiting = [
                    self._pool.submit(
                        _load,
                        [self._eval_set.paths[i] for i in indices[first : first + PIECE]],
                        predictor.net_hw,
                        predictor.crop_stride,
                        begin=begin,
                        first=first,
                    )
                    for first in range(0, len(indices), PIECE)
                ]
                pieces = [future.result() for future in waiting]
            sizes = [size for piece in pieces for size in piece.sizes]
            for i, size in zip(indices, sizes):
                self._eval_set.check_size(i, size)
            self._timer.add("decode", sum(piece.decode_s for piece in pieces))
            self._timer.add("preprocess", sum(piece.letterbox_s for piece in pieces))
            canvas, boxes = place(sizes, predictor.net_hw, predictor.crop_stride)
            if any(piece.canvas != canvas for piece in pieces):  # images of several shapes
                return self._threads.load(indices)
            with self._timer("preprocess"):
                batch = predictor.backend.new_batch(
                    (predictor.backend.batch or len(sizes), *canvas)
                )
                found = np.frombuffer(
                    self._memory, np.uint8, len(sizes) * canvas[0] * canvas[1] * 3, begin
                )
                batch[: len(sizes)] = found.reshape(len(sizes), *canvas, 3)
                batch[len(sizes) :] = 0
            return ImageBatch(indices, sizes, [View(batch, boxes)])
        finally:
            self._free.put(tray)

    def close(self) -> None:
        """End the processes; those under way finish a piece."""
        self._pool.shutdown()


Loader = Union[ThreadLoader, ProcessLoader]


def open_loader(
    predictor: Predictor, eval_set: EvalSet, *, batch_size: int, timer: StageTimer
) -> Loader:
    """Processes where a GPU would wait for threads; call it before threads start."""
    cores = available_cores()
    if (
        type(predictor) is Predictor  # others look at flipped or smaller images
        and predictor.backend.on_gpu
        and predictor.backend.takes_pixels
        and batch_size >= PIECE
        and eval_set.count >= FROM_IMAGES
        and cores >= FROM_CORES
        and "fork" in multiprocessing.get_all_start_methods()
    ):
        processes = min(cores - OWN_CORES, MAX_WORKERS)
        return ProcessLoader(predictor, eval_set, timer, batch_size=batch_size, processes=processes)
    return ThreadLoader(predictor, eval_set, timer)


def read_or_say(path: str) -> np.ndarray:
    """read_image; raises InputError with the path."""
    try:
        return read_image(path)
    except (ValueError, OSError) as e:
        raise InputError("%s: %s" % (path, getattr(e, "strerror", None) or e)) from e


@contextlib.contextmanager
def _told_if_ended() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as e:
        raise InputError(
            "a process that loads images ended; if the memory does not suffice, choose a smaller "
            "`batch_size`"
        ) from e


_memory: Optional[mmap.mmap] = None  # of a process that loads


def _start(writer: outputs.Writer, parent: int, memory: mmap.mmap) -> None:
    global _memory
    start_worker(writer, parent)
    _memory = memory


def _nothing(_: int) -> None:
    pass


def _load(
    paths: Sequence[str], net_hw: HW, crop_stride: Optional[int], *, begin: int, first: int
) -> _Piece:
    """Letterbox images into the shared memory.

    Args: begin: byte at which their batch begins. first: place in the batch of the first of them.
    """
    started = time.perf_counter()
    images = [read_or_say(path) for path in paths]
    decoded = time.perf_counter()
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    canvas, boxes = place(sizes, net_hw, crop_stride)
    count = canvas[0] * canvas[1] * 3
    for number, (image, box) in enumerate(zip(images, boxes), first):
        out = np.frombuffer(_memory, np.uint8, count, begin + number * count)  # type: ignore
        draw_canvas(image, box, canvas, out=out.reshape(*canvas, 3))
    return _Piece(canvas, sizes, decoded - started, time.perf_counter() - decoded)
