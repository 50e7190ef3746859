"""Batches of training pictures, made ahead of the network.

    batches = TrainBatches(train_set, hyp, spec)
    for batch in batches.epoch(0): ...

Threads decode (OpenCV lets go of the interpreter), draw the augmentation, match the persons and put
the bytes of all images a batch needs into one array; the pixels are warped on the device (warp.py).
Everything random comes from generators seeded with (seed, epoch, rank, step), so that a run that
is taken up again sees what it would have seen, whatever the number of threads.
"""

import collections
import concurrent.futures
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from utils import augment, targets
from utils.augment import Persons, Sample
from utils.errors import InputError
from utils.hyper_parameters import Hyp
from utils.labels import Labels, empty_labels
from utils.letterbox import HW, PAD_VALUE, fit, stride_multiple
from utils.pipeline import parallel_map, prefetch
from utils.targets import Targets
from utils.train_set import TrainSet
from utils.warp import Plan, flatten, make_plan

ASSEMBLERS = 3  # threads that put batches together; decoding has its own
AHEAD = 3  # batches being decoded while one is put together
POOL = 128  # partners of a mosaic come from this many neighbours in the shuffled order, or a batch


class Spec(NamedTuple):
    """What a batch looks like."""

    size: HW  # px of the pictures
    batch: int  # pictures of this process
    anchors: np.ndarray  # (levels, anchors, 2) px
    strides: List[int]  # px a cell
    seed: int = 0
    rank: int = 0
    world: int = 1
    workers: int = 8  # threads that decode
    cache: bool = False  # keep decoded images in memory
    rect: bool = False  # no mosaic, batches of one shape
    multi_scale: bool = False
    pin: bool = False  # page-locked memory, for copies to a GPU


class TrainBatch(NamedTuple):
    """One step of one process."""

    pixels: Any  # flat uint8 torch tensor on the host
    plan: Plan
    targets: Targets
    persons: List[Persons]  # of each picture, px


class TrainBatches:
    """All batches of a run, epoch by epoch.

    Attributes: steps: batches an epoch. broken: path -> reason of images that could not be decoded;
    they are grey pictures without anybody.
    """

    def __init__(self, train_set: TrainSet, hyp: Hyp, spec: Spec):
        self.train_set, self.hyp, self.spec = train_set, hyp, spec
        self.longest = max(spec.size)
        self.hws = [augment.reduced_hw((int(h), int(w)), self.longest) for h, w in train_set.sizes]
        self.broken: Dict[str, str] = {}
        self._kept: Dict[int, np.ndarray] = {}
        self.draws = train_set.repeats  # --image-weights changes them
        self.steps = -(-max(round(float(self.draws.sum())), 1) // (spec.batch * spec.world))
        if spec.cache:
            self._check_memory()

    def _check_memory(self) -> None:
        """Raises InputError if --cache-images asks for more memory than there is."""
        need = sum(h * w * 3 for h, w in self.hws) * self.spec.world
        free = available_memory()
        if free is not None and need > 0.8 * free:
            raise InputError(
                "--cache-images: %d images need %.1f GB of memory, %.1f GB are free; drop the flag"
                % (self.train_set.count, need / 1e9, free / 1e9)
            )

    def epoch(self, epoch: int, mosaic: bool = True) -> Iterator[TrainBatch]:
        """The batches of an epoch, `steps` of them."""
        return prefetch(self._assemble_all(epoch, mosaic), depth=2)

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

    def _assemble_all(self, epoch: int, mosaic: bool) -> Iterator[TrainBatch]:
        spec = self.spec
        order = self.order(epoch)
        flat = order.ravel()
        window = min(max(spec.batch, POOL), len(flat)) if mosaic and not spec.rect else spec.batch
        with concurrent.futures.ThreadPoolExecutor(spec.workers) as pool:
            loading: Deque[concurrent.futures.Future] = collections.deque()
            first = 0  # position of loading[0]

            def jobs() -> Iterator[Tuple[int, int, List[int], List[Any]]]:
                nonlocal first
                for step in range(self.steps):
                    begin = step * spec.batch
                    low = min(max(begin + spec.batch - window, 0), len(flat) - window)
                    wanted = min((step + AHEAD) * spec.batch + window, len(flat))
                    while first + len(loading) < wanted:
                        image = int(flat[first + len(loading)])
                        loading.append(pool.submit(self._load, image))
                    while first < low:
                        loading.popleft()
                        first += 1
                    part = list(range(low, low + window))
                    futures = [loading[i - first] for i in part]
                    yield step, begin - low, [int(flat[i]) for i in part], futures

            def assemble(job: Tuple[int, int, List[int], List[Any]]) -> TrainBatch:
                step, own, images, futures = job
                rng = np.random.default_rng([spec.seed, epoch, spec.rank, step])
                shared = np.random.default_rng([spec.seed, epoch, step])  # same on every rank
                return self._assemble(rng, shared, own, images, futures, mosaic)

            batches = parallel_map(assemble, jobs(), ASSEMBLERS)
            try:
                yield from batches
            finally:
                batches.close()  # type: ignore  # a generator
                for future in loading:
                    future.cancel()

    def _assemble(
        self,
        rng: np.random.Generator,
        shared: np.random.Generator,
        own: int,
        images: Sequence[int],
        futures: Sequence[Any],
        mosaic: bool,
    ) -> TrainBatch:
        """Args: own: where the batch begins among the images of the window."""
        spec, hyp = self.spec, self.hyp
        turn = range(own, own + spec.batch)
        size = spec.size
        if spec.rect:
            size = self._rect([images[i] for i in turn])
        if spec.multi_scale:
            size = augment.multi_scale_hw(shared, size, max(spec.strides))
        hws = [self.hws[i] for i in images]
        samples = []
        for i in turn:
            candidates = [i, *range(len(images))]
            some = [hws[c] for c in candidates]
            sample = augment.draw(rng, hyp, candidates, some, size, mosaic and not spec.rect)
            samples.append(sample)
        used = sorted({tile.image for sample in samples for tile in sample.tiles})
        loaded = {i: futures[i].result() for i in used}
        persons = []
        for sample in samples:
            labels = [self._labels(images[t.image]) for t in sample.tiles]
            persons.append(
                augment.transform_labels(sample, labels, [hws[t.image] for t in sample.tiles], size)
            )
        blend = self._blend(rng, persons)
        pixels, starts = self._pack([loaded[i] for i in used])
        at = dict(zip(used, starts))
        offsets = [at.get(i, 0) for i in range(len(images))]
        plan = make_plan(samples, offsets, hws, size, blend)
        matched = targets.match(persons, spec.anchors, spec.strides, size, hyp.anchor_t)
        return TrainBatch(pixels, plan, matched, persons)

    def _labels(self, image: int) -> Labels:
        if self.train_set.paths[image] in self.broken:
            return empty_labels(self.train_set.labels[image].keypoints.shape[1])
        return self.train_set.labels[image]

    def _blend(self, rng: np.random.Generator, persons: List[Persons]) -> List[Tuple[float, int]]:
        """(share, partner) of each sample; a blended one gets its partner's persons, too."""
        pairs = []
        before = list(persons)
        for i in range(len(persons)):
            share = augment.mixup_share(rng, self.hyp) if self.hyp.mixup else None
            partner = int(rng.integers(len(persons))) if share is not None else i
            if share is None or partner == i:
                pairs.append((1.0, i))
                continue
            pairs.append((share, partner))
            persons[i] = augment.join([before[i], before[partner]], before[i].keypoints.shape[1])
        return pairs

    def _pack(self, images: Sequence[np.ndarray]) -> Tuple[Any, List[int]]:
        import torch

        total = sum(image.size for image in images)
        pixels = torch.empty(total, dtype=torch.uint8, pin_memory=self.spec.pin)
        return pixels, flatten(images, pixels.numpy())

    def _rect(self, images: Sequence[int]) -> HW:
        """Smallest size, in multiples of the stride, that holds these images as letterboxed."""
        fitted = [fit(self.hws[i], self.spec.size).resized_hw for i in images]
        h, w = max(f[0] for f in fitted), max(f[1] for f in fitted)
        return stride_multiple((h, w), max(self.spec.strides))

    def _load(self, image: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB of size hws[image]; grey if the file cannot be decoded."""
        kept = self._kept.get(image)
        if kept is not None:
            return kept
        path, hw = self.train_set.paths[image], self.hws[image]
        try:
            pixels = decode(path, tuple(self.train_set.sizes[image]), hw)
        except (OSError, ValueError) as e:
            self.broken[path] = getattr(e, "strerror", None) or str(e)
            return np.full((*hw, 3), PAD_VALUE, np.uint8)
        if self.spec.cache:
            self._kept[image] = pixels
        return pixels


def decode(path: str, image_hw: Sequence[int], hw: HW) -> np.ndarray:
    """An image file as (h, w, 3) uint8 RGB.

    A JPEG at least twice as large as wanted is decoded at half the size, or a quarter, or an
    eighth, which saves most of the time.

    Raises ValueError for what is no image, OSError as open().
    """
    data = np.fromfile(path, np.uint8)  # OpenCV's own file names know no Chinese on Windows
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
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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


def shown(sample: Sample) -> int:
    """How many images a sample shows."""
    return len(sample.tiles)
