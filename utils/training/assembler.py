"""One batch of training images: the worker processes put it together.

    assembler = Assembler(train_set, hyp, spec)
    batch = assembler[job]

A worker decodes the images, draws the augmentation and matches the persons. It writes the bytes of
all images of the batch into one array; warp.py transforms the pixels on the device.
"""

from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.dataset.labels import Labels, join_labels
from utils.errors import InputError, one_line, reason_of
from utils.pose.letterbox import HW, PAD_VALUE, fit, stride_multiple
from utils.training import augment, collage, pixel_ring, targets
from utils.training.augment import Persons
from utils.training.collage import Collage
from utils.training.hyper_parameters import Hyp
from utils.training.image_cache import ImageCache, decode
from utils.training.pixel_ring import PixelRing
from utils.training.targets import Targets
from utils.training.train_set import TrainSet
from utils.training.warp import WarpPlan, make_plan

if TYPE_CHECKING:
    import torch

POOL = 64  # partners of a mosaic come from this many neighbours in the shuffled order, or a batch
AHEAD = 2  # batches each worker makes in advance
HELD = 2  # batches whose pixels stay as they are: the last one and the one before
ROOM = 1.3  # bytes of a slot, over what a batch needs on average


class Spec(NamedTuple):
    """What a batch looks like."""

    size: HW  # px of the images
    batch: int  # images of this process
    anchors: np.ndarray  # (levels, anchors, 2) px
    strides: List[int]  # px a cell
    seed: int = 0
    rank: int = 0
    world: int = 1
    here: int = 1  # processes on this host, which share its memory
    workers: int = 8  # processes that make batches; 0: none, this one does
    cache: bool = False  # keep decoded images in memory
    rect: bool = False  # no mosaic, batches of one shape
    multi_scale: bool = False
    pin: bool = False  # page-locked memory, for copies to a GPU
    flip_index: Optional[Tuple[int, ...]] = None  # see Skeleton; None: images are not mirrored


class TrainBatch(NamedTuple):
    """One step of one process; tensors on the host."""

    # flat uint8: all images the plan names (None on the way from a worker)
    pixels: Optional["torch.Tensor"]
    plan: WarpPlan
    matches: Targets  # its arrays as tensors
    persons: Persons
    size: HW
    blended: bool  # some images are mixed with others
    broken: List[Tuple[str, str]]  # (path, reason) of images that are grey instead
    slot: Tuple[int, int] = (-1, 0)  # of the ring, -1: none; bytes of it that the pixels take


class BatchJob(NamedTuple):
    """What a worker is to make."""

    epoch: int
    step: int
    own: np.ndarray  # (B,) images whose turn it is, as indices into `window`
    window: np.ndarray  # (W,) images of the set that may be shown
    mosaic: bool
    slot: int = -1  # of the ring, for the pixels; -1: into memory of their own


class Assembler:
    """Makes batches; a copy of it lives in each worker."""

    def __init__(self, train_set: TrainSet, hyp: Hyp, spec: Spec):
        self.paths, self.sizes = train_set.paths, train_set.sizes
        self.hyp, self.spec = hyp, spec
        longest = max(spec.size)
        hws = [augment.reduced_hw((int(h), int(w)), longest) for h, w in train_set.sizes]
        self.hws = np.array(hws, np.int64)
        self.labels, self.starts = _in_a_row(train_set.labels)
        # images that a mosaic would enlarge
        self.small = np.flatnonzero((self.hws < spec.size).all(1))
        self.cache = ImageCache(self.hws, spec.here) if spec.cache else None
        self.ring: Optional[PixelRing] = None

    def open_ring(self) -> Optional[PixelRing]:
        """Memory for the batches of the workers, if there are any.

        Raises InputError if the system has not enough.
        """
        spec = self.spec
        if not spec.workers:
            return None
        pixels = self.hws.prod(1).astype(np.float64)
        share = self.hyp.collage * (self.hws < spec.size).all(1)
        pixels += share * (spec.size[0] * spec.size[1] - pixels)
        images = min(max(spec.batch, POOL), len(pixels))
        size = int(ROOM * 3 * images * pixels.mean()) // 4096 * 4096 + 4096
        slots = spec.workers * AHEAD + HELD + 1
        needed, free = slots * size * spec.here, pixel_ring.free_memory()
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

    def __getitem__(self, job: BatchJob) -> TrainBatch:
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
        samples = augment.draw(rng, hyp, job.own, hws=hws, size=size, mosaic=job.mosaic)
        used = np.unique(np.where(samples.single[:, None], samples.images[:, -1:], samples.images))
        pixels, offsets, broken = self._pixels(job, used, hws=hws, collages=collages)
        labels, starts = self._labels(job.window, collages, broken)
        persons = augment.transform_labels(
            samples, labels, starts, hws=hws, size=size, flip_index=spec.flip_index
        )
        matched = targets.match(
            persons, spec.anchors, spec.strides, size=size, anchor_t=hyp.anchor_t
        )
        slot = (job.slot, 0)  # comes back unused, unless
        if self._fits(job, len(pixels)):
            slot, pixels = (job.slot, len(pixels)), None
        index, classes, boxes, points = (torch.from_numpy(part) for part in matched[:-1])
        matches = Targets(index, classes, boxes, points, matched.counts)
        return TrainBatch(
            pixels=pixels,
            plan=make_plan(samples, offsets, hws),
            matches=matches,
            persons=persons,
            size=size,
            blended=bool((samples.blend < 1).any()),
            broken=[(self.paths[image], reason) for image, reason in broken.items()],
            slot=slot,
        )

    def _collages(self, rng: np.random.Generator, job: BatchJob, size: HW) -> Dict[int, Collage]:
        """Place in the window -> the collage that is shown instead of the small image there."""
        shown = rng.random(len(job.window)) < self.hyp.collage
        small = (self.hws[job.window] < size).all(1)
        return {
            int(i): collage.arrange(rng, int(job.window[i]), self.small, hws=self.hws, size=size)
            for i in np.flatnonzero(shown & small & (len(self.small) > 1))
        }

    def _pixels(
        self, job: BatchJob, used: np.ndarray, *, hws: np.ndarray, collages: Dict[int, Collage]
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

    def _fits(self, job: BatchJob, count: int) -> bool:
        """Whether the pixels go into the ring; those of an unusually large batch do not."""
        return job.slot >= 0 and self.ring is not None and count <= self.ring.size

    def _read(self, image: int, target: np.ndarray, broken: Dict[int, str]) -> None:
        """An image of the set into `target`; grey, and a reason in `broken`, if there is none."""
        if self.cache is not None and self.cache.read(image, target):
            return
        try:
            decode(self.paths[image], self.sizes[image], target)
        except (OSError, ValueError) as e:
            broken[image] = reason_of(e)
            target[:] = PAD_VALUE
            return
        if self.cache is not None:
            self.cache.write(image, target)

    def _labels(
        self, window: np.ndarray, collages: Dict[int, Collage], broken: Dict[int, str]
    ) -> Tuple[Labels, np.ndarray]:
        """(labels of the window one after the other, where each begins).

        On a grey image nobody is to be found.
        """
        if not (collages or broken):
            return augment.select(self.labels, self.starts, window)
        items = []
        for place, image in enumerate(window):
            if place not in collages:
                items.append(self._labels_of(image, none=image in broken))
                continue
            made = collages[place]
            lost = [k for k, i in enumerate(made.images) if int(i) in broken]
            parts = [self._labels_of(i) for i in made.images]
            items.append(collage.merge(made, parts, self.hws, without=lost))
        return _in_a_row(items)

    def _labels_of(self, image: int, *, none: bool = False) -> Labels:
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


def own_bytes(count: int) -> "torch.Tensor":
    """An uninitialised uint8 tensor (count,); in a worker process in the memory it is handed over
    in, so that handing over copies nothing."""
    import torch
    from torch.utils.data import get_worker_info

    if get_worker_info() is None or not count:
        return torch.empty(count, dtype=torch.uint8)
    return pixel_ring.shared_bytes(count)
