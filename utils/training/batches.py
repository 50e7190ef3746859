"""Batches of training pictures, made ahead of the network.

    batches = TrainBatches(train_set, hyp, spec, epochs=300)
    for batch in batches.epoch(0): ...

Worker processes (PyTorch's DataLoader) decode, draw the augmentation, match the persons and put the
bytes of all images a batch needs into one array; the pixels are warped on the device (warp.py).
Everything random comes from generators seeded with (seed, epoch, step, rank), so that a run that is
taken up again sees what it would have seen, whatever the number of workers.
"""

import collections
import os
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from utils.dataset.labels import Labels, join_labels
from utils.errors import InputError, one_line
from utils.pose.letterbox import HW, PAD_VALUE, fit, stride_multiple
from utils.training import augment, collage, pixel_ring, targets
from utils.training.augment import Persons
from utils.training.collage import Collage
from utils.training.hyper_parameters import Hyp
from utils.training.pixel_ring import PixelRing
from utils.training.targets import Targets
from utils.training.train_set import TrainSet
from utils.training.warp import Plan, make_plan

POOL = 64  # partners of a mosaic come from this many neighbours in the shuffled order, or a batch
AHEAD = 2  # batches each worker makes in advance
HELD = 2  # batches whose pixels stay as they are: the last one and the one before
ROOM = 1.3  # bytes of a slot, over what a batch needs on average


class Spec(NamedTuple):
    """What a batch looks like."""

    size: HW  # px of the pictures
    batch: int  # pictures of this process
    anchors: np.ndarray  # (levels, anchors, 2) px
    strides: List[int]  # px a cell
    seed: int = 0
    rank: int = 0
    world: int = 1
    workers: int = 8  # processes that make batches; 0: none, this one does
    cache: bool = False  # keep decoded images in memory
    rect: bool = False  # no mosaic, batches of one shape
    multi_scale: bool = False
    pin: bool = False  # page-locked memory, for copies to a GPU


class TrainBatch(NamedTuple):
    """One step of one process; tensors on the host."""

    pixels: Any  # flat uint8 tensor: all images the plan names (None on the way from a worker)
    plan: Plan
    matches: Targets  # its arrays as tensors
    persons: Persons
    size: HW
    blended: bool  # some pictures are mixed with others
    broken: List[Tuple[str, str]]  # (path, reason) of images that are grey instead
    slot: Tuple[int, int] = (-1, 0)  # of the ring, -1: none; bytes of it that the pixels take


class _Job(NamedTuple):
    """What a worker is to make."""

    epoch: int
    step: int
    own: np.ndarray  # (B,) images whose turn it is, as indices into `window`
    window: np.ndarray  # (W,) images of the set that may be shown
    mosaic: bool
    slot: int = -1  # of the ring, for the pixels; -1: into memory of their own


class TrainBatches:
    """All batches of a run, epoch by epoch.

    Args:
        epochs: of the run; the workers go on to the next one while the last is validated.
        plain_from: first epoch without mosaic and mixup.

    Attributes: steps: batches an epoch. draws: (n,) how often each image is drawn in an epoch;
    after a change call `restart`. broken: path -> reason of images that could not be decoded.
    """

    def __init__(
        self,
        train_set: TrainSet,
        hyp: Hyp,
        spec: Spec,
        epochs: int,
        plain_from: Optional[int] = None,
    ):
        self.train_set, self.spec, self.epochs = train_set, spec, epochs
        self.plain_from = epochs if plain_from is None else plain_from
        self.draws = train_set.repeats
        self.steps = -(-max(round(float(self.draws.sum())), 1) // (spec.batch * spec.world))
        self.broken: Dict[str, str] = {}
        self._assembler = _Assembler(train_set, hyp, spec)
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
                    "a process that loads pictures ended (%s); with too little memory take fewer "
                    "`workers`" % one_line(e, 150)
                ) from e
            self.broken.update(batch.broken)
            # pinning makes a list of a plain tuple
            batch = batch._replace(size=(batch.size[0], batch.size[1]))
            slot, count = batch.slot
            if slot >= 0:
                if batch.pixels is None:
                    batch = batch._replace(pixels=self._assembler.ring.view(slot, count))
                self._held.append(slot)
            if len(self._held) > HELD:
                self._assembler.ring.give_back(self._held.popleft())
            yield batch
        self._next = epoch + 1

    def one(self, epoch: int, step: int) -> TrainBatch:
        """A single batch, made here and now."""
        return self._assembler[self._jobs(epoch)[step]]

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
        jobs = _Lazy(lambda: self._with_slots(epoch, ring))
        loader = DataLoader(
            self._assembler,  # type: ignore  # a map from jobs to batches
            batch_size=None,
            sampler=jobs,  # type: ignore
            num_workers=spec.workers,
            prefetch_factor=AHEAD if spec.workers else None,
            collate_fn=_as_it_is,
            pin_memory=spec.pin,
            worker_init_fn=_start_worker,
        )
        return iter(loader)

    def _with_slots(self, epoch: int, ring: Optional[PixelRing]) -> Iterator[_Job]:
        """All jobs to come, each with a slot that is free when it is given to a worker."""
        for e in range(epoch, self.epochs):
            for job in self._jobs(e):
                slot = None if ring is None else ring.take()
                yield job if slot is None else job._replace(slot=slot)

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

    def _jobs(self, epoch: int) -> List[_Job]:
        spec = self.spec
        mosaic = epoch < self.plain_from and not spec.rect
        order = self.order(epoch).ravel()
        width = min(max(spec.batch, POOL), len(order)) if mosaic else spec.batch
        jobs = []
        for step in range(self.steps):
            begin = step * spec.batch
            low = min(max(begin + spec.batch - width, 0), len(order) - width)
            own = np.arange(begin - low, begin - low + spec.batch)
            jobs.append(_Job(epoch, step, own, order[low : low + width], mosaic))
        return jobs


class _Lazy:
    """An iterable that begins anew each time."""

    def __init__(self, make: Any):
        self._make = make

    def __iter__(self) -> Iterator[_Job]:
        return self._make()


def _as_it_is(batch: TrainBatch) -> TrainBatch:
    return batch


def _start_worker(worker: int) -> None:
    import signal

    cv2.setNumThreads(0)  # one process is one core; OpenCV's threads would fight
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us


class _Assembler:
    """Makes batches; a copy of it lives in each worker."""

    def __init__(self, train_set: TrainSet, hyp: Hyp, spec: Spec):
        self.paths, self.sizes = train_set.paths, train_set.sizes
        self.hyp, self.spec = hyp, spec
        longest = max(spec.size)
        hws = [augment.reduced_hw((int(h), int(w)), longest) for h, w in train_set.sizes]
        self.hws = np.array(hws, np.int64)
        self.labels, self.starts = _in_a_row(train_set.labels)
        # images that a mosaic would enlarge
        self.small = np.flatnonzero(self.hws.max(1) < longest)
        self.cache = _Cache(self.hws, spec.world) if spec.cache else None
        self.ring: Optional[PixelRing] = None

    def open_ring(self) -> Optional[PixelRing]:
        """Memory for the batches of the workers, if there are any.

        Raises InputError if the system has not enough.
        """
        spec = self.spec
        if not spec.workers:
            return None
        pixels = self.hws.prod(1).astype(np.float64)
        share = self.hyp.collage * (self.hws.max(1) < max(spec.size))
        pixels += share * (spec.size[0] * spec.size[1] - pixels)
        images = min(max(spec.batch, POOL), len(pixels))
        size = int(ROOM * 3 * images * pixels.mean()) // 4096 * 4096 + 4096
        slots = spec.workers * AHEAD + HELD + 1
        # torchrun tells how many processes are on this host; otherwise all are
        here = int(os.environ.get("LOCAL_WORLD_SIZE", spec.world))
        needed, free = slots * size * here, pixel_ring.free_memory()
        if free is not None and needed > free:
            raise InputError(
                "`workers` %d: batches on their way need %.1f GB of shared memory, %.1f GB are "
                "free in %s; take fewer, or give a container more (docker run --shm-size 8g)"
                % (spec.workers, needed / 1e9, free / 1e9, pixel_ring.FOLDER)
            )
        try:
            self.ring = PixelRing(slots, size)
        except RuntimeError as e:
            text = "`workers` %d: no shared memory for batches on their way (%s)"
            raise InputError(text % (spec.workers, one_line(e, 150))) from e
        return self.ring

    def __getitem__(self, job: _Job) -> TrainBatch:
        import torch

        spec, hyp = self.spec, self.hyp
        rng = np.random.default_rng([spec.seed, job.epoch, job.step, 1 + spec.rank])
        hws = self.hws[job.window]
        size = self._rect(hws[job.own]) if spec.rect else spec.size
        if spec.multi_scale:  # alike on all ranks
            shared = np.random.default_rng([spec.seed, job.epoch, job.step, 0])
            size = augment.multi_scale_hw(shared, size, max(spec.strides))
        collages = self._collages(rng, job, size) if hyp.collage and not spec.rect else {}
        hws[list(collages)] = size
        samples = augment.draw(rng, hyp, job.own, hws, size, job.mosaic)
        used = np.unique(np.where(samples.single[:, None], samples.images[:, -1:], samples.images))
        pixels, offsets, broken = self._pixels(job, used, hws, collages)
        labels, starts = self._labels(job.window, collages, broken)
        persons = augment.transform_labels(samples, labels, starts, hws, size)
        matched = targets.match(persons, spec.anchors, spec.strides, size, hyp.anchor_t)
        slot = (job.slot, 0)  # comes back unused, unless
        if self._fits(job, len(pixels)):
            slot, pixels = (job.slot, len(pixels)), None
        return TrainBatch(
            pixels,
            make_plan(samples, offsets, hws),
            Targets(*(torch.from_numpy(part) for part in matched[:-1]), matched.counts),
            persons,
            size,
            bool((samples.blend < 1).any()),
            [(self.paths[image], reason) for image, reason in broken.items()],
            slot,
        )

    def _collages(self, rng: np.random.Generator, job: _Job, size: HW) -> Dict[int, Collage]:
        """Place in the window -> the collage that is shown instead of the small image there."""
        shown = rng.random(len(job.window)) < self.hyp.collage
        small = self.hws[job.window].max(1) < max(size)
        return {
            int(i): collage.arrange(rng, int(job.window[i]), self.small, self.hws, size)
            for i in np.flatnonzero(shown & small & (len(self.small) > 1))
        }

    def _pixels(
        self, job: _Job, used: np.ndarray, hws: np.ndarray, collages: Dict[int, Collage]
    ) -> Tuple[Any, np.ndarray, Dict[int, str]]:
        """(bytes of the images used, first byte of each of the window, image -> why it is broken).

        Broken images are grey.
        """
        window = job.window
        counts = np.zeros(len(window), np.int64)
        counts[used] = hws[used].prod(1) * 3
        offsets = np.cumsum(counts) - counts
        total = int(counts.sum())
        if self._fits(job, total):
            pixels = self.ring.view(job.slot, total)  # type: ignore
        else:
            pixels = own_bytes(total)
        flat = pixels.numpy()
        broken: Dict[int, str] = {}

        def read(image: int) -> Optional[np.ndarray]:
            target = np.empty((*self.hws[image], 3), np.uint8)
            self._read(image, target, broken)
            return None if image in broken else target

        for i in used:
            target = flat[offsets[i] : offsets[i] + counts[i]].reshape(*hws[i], 3)
            if int(i) in collages:
                collage.draw(collages[int(i)], target, read)
            else:
                self._read(int(window[i]), target, broken)
        return pixels, offsets, broken

    def _fits(self, job: _Job, count: int) -> bool:
        """Whether the pixels go into the ring; those of an unusually large batch do not."""
        return job.slot >= 0 and self.ring is not None and count <= self.ring.size

    def _read(self, image: int, target: np.ndarray, broken: Dict[int, str]) -> None:
        """An image of the set into `target`; grey, and a reason in `broken`, if there is none."""
        if self.cache is not None and self.cache.read(image, target):
            return
        try:
            decode(self.paths[image], self.sizes[image], target)
        except (OSError, ValueError) as e:
            broken[image] = getattr(e, "strerror", None) or str(e)
            target[:] = PAD_VALUE
            return
        if self.cache is not None:
            self.cache.write(image, target)

    def _labels(
        self, window: np.ndarray, collages: Dict[int, Collage], broken: Dict[int, str]
    ) -> Tuple[Labels, np.ndarray]:
        """(labels of the window one after the other, where each begins).

        On a grey picture nobody is to be found.
        """
        if not (collages or broken):
            return augment.select(self.labels, self.starts, window)
        items = []
        for place, image in enumerate(window):
            if place not in collages:
                items.append(self._labels_of(image, image in broken))
                continue
            made = collages[place]
            lost = [k for k, i in enumerate(made.images) if int(i) in broken]
            parts = [self._labels_of(i) for i in made.images]
            items.append(collage.merge(made, parts, self.hws, lost))
        return _in_a_row(items)

    def _labels_of(self, image: int, none: bool = False) -> Labels:
        rows = slice(self.starts[image], self.starts[image if none else image + 1])
        return Labels(*(part[rows] for part in self.labels))

    def _rect(self, hws: np.ndarray) -> HW:
        """Smallest size, in multiples of the stride, that holds these images as letterboxed."""
        fitted = [fit((int(h), int(w)), self.spec.size).resized_hw for h, w in hws]
        h, w = max(f[0] for f in fitted), max(f[1] for f in fitted)
        return stride_multiple((h, w), max(self.spec.strides))


def _in_a_row(items: Sequence[Labels]) -> Tuple[Labels, np.ndarray]:
    """(labels of some images one after the other, where each begins)."""
    return join_labels(items), np.cumsum([0, *(item.count for item in items)])


class _Cache:
    """Decoded images in memory that all workers share.

    Raises InputError if there is not enough of it.
    """

    def __init__(self, hws: np.ndarray, world: int):
        import torch

        self.counts = hws.prod(1) * 3
        self.starts = np.cumsum(self.counts) - self.counts
        total, free = int(self.counts.sum()), available_memory()
        if free is not None and total * world > 0.8 * free:
            raise InputError(
                "`cache_images`: %d images need %.1f GB of memory, %.1f GB are free; drop the flag"
                % (len(hws), total * world / 1e9, free / 1e9)
            )
        self.pixels = torch.empty(total, dtype=torch.uint8).share_memory_()
        self.there = torch.zeros(len(hws), dtype=torch.uint8).share_memory_()

    def _slot(self, image: int) -> np.ndarray:
        start = int(self.starts[image])
        return self.pixels.numpy()[start : start + int(self.counts[image])]

    def read(self, image: int, out: np.ndarray) -> bool:
        """Copy an image into `out`; False if it is not there yet."""
        if not self.there[image]:
            return False
        out.reshape(-1)[:] = self._slot(image)
        return True

    def write(self, image: int, pixels: np.ndarray) -> None:
        """Two workers may write one image: the same bytes."""
        self._slot(image)[:] = pixels.reshape(-1)
        self.there[image] = 1


def own_bytes(count: int) -> Any:
    """An uninitialised uint8 tensor (count,); in a worker process in the memory it is handed over
    in, so that handing over copies nothing."""
    import torch
    from torch.utils.data import get_worker_info

    if get_worker_info() is None or not count:
        return torch.empty(count, dtype=torch.uint8)
    return pixel_ring.shared_bytes(count)


def decode(path: str, image_hw: Sequence[int], out: np.ndarray) -> None:
    """Read an image file into `out`, (h, w, 3) uint8, as RGB of that size.

    A JPEG at least twice as large as wanted is decoded at half the size, or a quarter, or an
    eighth, which saves most of the time.

    Raises ValueError for what is no image, OSError as open().
    """
    data = np.fromfile(path, np.uint8)  # OpenCV's own file names know no Chinese on Windows
    hw = out.shape[:2]
    ratio = min(image_hw[0] / hw[0], image_hw[1] / hw[1])
    flag = cv2.IMREAD_COLOR
    for factor, reduced in ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4),
                            (2, cv2.IMREAD_REDUCED_COLOR_2)):  # fmt: skip
        if ratio >= factor:
            flag = reduced
            break
    image = cv2.imdecode(data, flag) if data.size else None
    if image is None:
        raise ValueError("not an image, or truncated")
    if image.shape[:2] != hw:
        image = cv2.resize(image, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)


def available_memory() -> Optional[int]:
    """Bytes of memory that are free; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
