"""Batches of training images, made ahead of the network.

    batches = TrainBatches(train_set, hyp, spec, epochs=300)
    for batch in batches.epoch(0): ...

Worker processes (PyTorch's DataLoader) decode, draw the augmentation, match the persons and put the
bytes of all images a batch needs into one array; the pixels are warped on the device (warp.py).
Everything random comes from generators seeded with (seed, epoch, step, rank), so that a run that is
taken up again sees what it would have seen, whatever the number of workers.
"""

import collections
import weakref
from typing import Any, Deque, Dict, Iterator, List, Optional

import cv2
import numpy as np

from utils.errors import InputError, one_line
from utils.parallel import after_fork
from utils.training.assembler import AHEAD, HELD, POOL, Assembler, BatchJob, Spec, TrainBatch
from utils.training.hyper_parameters import Hyp
from utils.training.pixel_ring import PixelRing
from utils.training.train_set import TrainSet


class TrainBatches:
    """All batches of a run, epoch by epoch.

    Args:
        epochs: of the run; the workers go on to the next one while the last is validated.
        plain_from: first epoch without mosaic and mixup.

    Attributes: steps: batches an epoch. draws: (n,) how often each image is drawn in an epoch;
    `redraw` changes it. broken: path -> reason of images that could not be decoded.
    """

    def __init__(
        self,
        train_set: TrainSet,
        hyp: Hyp,
        spec: Spec,
        *,
        epochs: int,
        plain_from: Optional[int] = None,
    ):
        self.train_set, self.spec, self.epochs = train_set, spec, epochs
        self.plain_from = epochs if plain_from is None else plain_from
        self.draws = train_set.repeats
        self.steps = -(-max(round(float(self.draws.sum())), 1) // (spec.batch * spec.world))
        self.broken: Dict[str, str] = {}
        self._assembler = Assembler(train_set, hyp, spec)
        self._stream: Optional[Iterator[TrainBatch]] = None
        self._next = -1  # epoch the stream has come to
        self._held: Deque[int] = collections.deque()  # slots of the last batches

    def epoch(self, epoch: int) -> Iterator[TrainBatch]:
        """The batches of an epoch, `steps` of them.

        The pixels of a batch stay as they are until the second one after it is asked for.
        """
        if self._stream is None or self._next != epoch:
            self.restart()
            self._stream = self._start(epoch)
        self._next = -1  # unless all of it is taken
        for _ in range(self.steps):
            try:
                batch = next(self._stream)
            except RuntimeError as e:
                if "DataLoader worker" not in str(e):
                    raise
                raise InputError(
                    "a process that loads images ended (%s); with too little memory take fewer "
                    "`workers`" % one_line(e, 150)
                ) from e
            self.broken.update(batch.broken)
            # pinning makes a list of a plain tuple
            batch = batch._replace(size=(batch.size[0], batch.size[1]))
            slot, count = batch.slot
            ring = self._assembler.ring
            if slot >= 0 and ring is not None:
                if batch.pixels is None:
                    batch = batch._replace(pixels=ring.view(slot, count))
                self._held.append(slot)
            if len(self._held) > HELD and ring is not None:
                ring.give_back(self._held.popleft())
            yield batch
        self._next = epoch + 1

    def one(self, epoch: int, step: int) -> TrainBatch:
        """A single batch, made here and now."""
        return self._assembler[self._jobs(epoch)[step]]

    def redraw(self, draws: np.ndarray) -> None:
        """Draw the images so often, (n,), from the next epoch on."""
        self.draws = draws
        self.restart()

    def restart(self) -> None:
        """Forget what was made in advance; the workers end."""
        self._stream, self._next = None, -1
        self._held.clear()
        if self._assembler.ring is not None:
            self._assembler.ring.close()
            self._assembler.ring = None

    def _start(self, epoch: int) -> Iterator[TrainBatch]:
        from torch.utils.data import DataLoader

        spec = self.spec
        ring = self._assembler.open_ring()
        if ring is not None and spec.pin and not ring.pin():
            print("note: the memory of the batches cannot be page-locked; copies are slower")
        # Not `self`: in a cycle the loader would be freed by the garbage collector, which takes its
        # queues first, and then it waits five seconds for each process.
        batches = weakref.ref(self)
        jobs = _Lazy(lambda: _with_slots(batches, epoch, ring))
        loader = DataLoader(
            self._assembler,  # type: ignore  # a map from jobs to batches
            batch_size=None,
            sampler=jobs,
            num_workers=spec.workers,
            prefetch_factor=AHEAD if spec.workers else None,
            collate_fn=_as_it_is,
            pin_memory=spec.pin,
            worker_init_fn=_start_worker,
        )
        return iter(loader)

    def order(self, epoch: int) -> np.ndarray:
        """(steps, batch) image indices of this process.

        The last batch is filled from the beginning of the order.
        """
        spec = self.spec
        rng = np.random.default_rng([spec.seed, epoch])
        whole = np.floor(self.draws).astype(np.int64)
        whole += rng.random(len(whole)) < self.draws - whole
        order = np.repeat(np.arange(len(whole)), whole)
        rng.shuffle(order)
        wanted = self.steps * spec.batch * spec.world
        order = np.resize(order if len(order) else np.arange(len(whole)), wanted)
        if spec.rect:  # alike in shape, the batches in random order
            aspect = self.train_set.sizes[order, 0] / self.train_set.sizes[order, 1]
            order = order[np.argsort(aspect, kind="stable")]
            order = rng.permutation(order.reshape(self.steps, -1)).ravel()
        return order.reshape(self.steps, spec.batch, spec.world)[:, :, spec.rank]

    def _jobs(self, epoch: int) -> List[BatchJob]:
        spec = self.spec
        mosaic = epoch < self.plain_from and not spec.rect
        order = self.order(epoch).ravel()
        width = min(max(spec.batch, POOL), len(order)) if mosaic else spec.batch
        jobs = []
        for step in range(self.steps):
            begin = step * spec.batch
            low = min(max(begin + spec.batch - width, 0), len(order) - width)
            own = np.arange(begin - low, begin - low + spec.batch)
            jobs.append(BatchJob(epoch, step, own, order[low : low + width], mosaic))
        return jobs


def _with_slots(
    batches: "weakref.ref[TrainBatches]", epoch: int, ring: Optional[PixelRing]
) -> Iterator[BatchJob]:
    """All jobs to come, each with a slot that is free when it is given to a worker."""
    while True:
        owner = batches()
        if owner is None or epoch >= owner.epochs:
            return
        jobs = owner._jobs(epoch)
        del owner
        for job in jobs:
            slot = None if ring is None else ring.take()
            yield job if slot is None else job._replace(slot=slot)
        epoch += 1


class _Lazy:
    """An iterable that begins anew each time."""

    def __init__(self, make: Any):
        self._make = make

    def __iter__(self) -> Iterator[BatchJob]:
        return self._make()


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    import signal

    after_fork()
    cv2.setNumThreads(0)  # one process is one core; OpenCV's threads would fight
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
