import gc
import weakref

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.conftest import ROOT  # noqa: E402
from utils.dataset.labels import Labels  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.training import assembler, image_cache, pixel_ring  # noqa: E402
from utils.training.assembler import Spec  # noqa: E402
from utils.training.batches import TrainBatches  # noqa: E402
from utils.training.hyper_parameters import read_hyp  # noqa: E402
from utils.training.train_set import TrainSet  # noqa: E402

HYP = read_hyp(ROOT / "data" / "hyp.scratch.yaml")
ANCHORS = np.array([[[10, 20], [20, 10], [30, 60]]], float)


@pytest.fixture
def train_set(tmp_path):
    """Ten small images with a person each."""
    rng = np.random.default_rng(0)
    paths, sizes = [], []
    for i in range(10):
        hw = (int(rng.integers(40, 120)), int(rng.integers(40, 120)))
        path = tmp_path / ("%d.png" % i)
        path.write_bytes(
            cv2.imencode(".png", rng.integers(0, 255, (*hw, 3), np.uint8))[1].tobytes()
        )
        paths.append(str(path))
        sizes.append(hw)
    one = Labels(np.zeros(1, np.int64), np.array([[0.5, 0.5, 0.5, 0.5]]), np.full((1, 2, 3), 0.5))
    one.keypoints[..., 2] = 2
    return TrainSet(paths, np.array(sizes), [one] * 10, np.ones(10), [])


def make(train_set, epochs=2, hyp=HYP, plain_from=None, **changes):
    spec = Spec((64, 64), 4, ANCHORS, [8], workers=0, flip_index=(0, 1))._replace(**changes)
    return TrainBatches(train_set, hyp, spec, epochs=epochs, plain_from=plain_from)


def same(a, b):
    return (
        torch.equal(a.pixels, b.pixels)
        and all(torch.equal(x, y) for x, y in zip(a.plan, b.plan))
        and all(torch.equal(x, y) for x, y in zip(a.matches[:4], b.matches[:4]))
        and a.size == b.size
    )


def test_the_same_whatever_the_number_of_workers(train_set):
    here, there = make(train_set), make(train_set, workers=2)
    for epoch in (0, 1):
        alike = [same(a, b) for a, b in zip(here.epoch(epoch), there.epoch(epoch))]
        assert alike == [True] * 3 and here.steps == 3


@pytest.mark.parametrize("room", [0.5, 3.0])
def test_memory_of_batches_is_used_again(train_set, monkeypatch, room):
    """Many more batches than slots, some of them too large for one: the same bytes as without."""
    monkeypatch.setattr(assembler, "ROOM", room)
    hyp = HYP._replace(collage=0.5)
    many = train_set._replace(repeats=np.full(10, 8.0))
    here, there = make(many, hyp=hyp), make(many, hyp=hyp, workers=2)
    slots, own = set(), 0
    held = []  # the two last batches, whose pixels have to be as they were
    for a, b in zip(here.epoch(0), there.epoch(0)):
        held = [*held[-1:], (a, b)]
        assert all(same(x, y) for x, y in held)
        slots.add(b.slot[0])
        own += b.slot[1] == 0
    assert slots <= set(range(2 * assembler.AHEAD + assembler.HELD + 1)) and here.steps == 20
    assert (own > 0) if room < 1 else (own < 50)
    there.restart()
    assert same(here.one(0, 0), next(there.epoch(0)))


def test_too_little_shared_memory_is_an_error_before_it_is_used(train_set, monkeypatch):
    monkeypatch.setattr(pixel_ring, "free_memory", lambda: 10000)
    with pytest.raises(InputError, match=r"`workers` 2: .* GB of shared memory, .*--shm-size 8g"):
        next(make(train_set, workers=2).epoch(0))
    next(make(train_set, workers=0).epoch(0))


def test_processes_end_without_the_garbage_collector(train_set):
    """It takes the queues of a loader first; then PyTorch waits five seconds for each process."""
    gc.collect()
    gc.disable()
    try:
        batches = make(train_set, workers=2)
        assert next(batches.epoch(0)).size == (64, 64)
        gone = weakref.ref(batches), weakref.ref(batches._stream)
        del batches
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_a_run_taken_up_sees_the_same(train_set):
    whole, second = make(train_set), make(train_set)
    first = [b.plan.inverse for b in whole.epoch(0)]
    later = [b.plan.inverse for b in whole.epoch(1)]
    assert not torch.equal(first[0], later[0])
    assert all(torch.equal(a, b.plan.inverse) for a, b in zip(later, second.epoch(1)))


def test_an_epoch_left_early_begins_anew(train_set):
    batches = make(train_set)
    first = next(batches.epoch(0))
    assert same(first, next(batches.epoch(0))) and same(first, batches.one(0, 0))


def test_ranks_share_the_epoch(train_set):
    alone = make(train_set).order(0)
    parts = [make(train_set, batch=2, rank=r, world=2).order(0) for r in (0, 1)]
    assert alone.shape == (3, 4) and parts[0].shape == (3, 2)
    np.testing.assert_array_equal(np.sort(alone), np.sort(np.concatenate(parts, 1)))
    assert set(alone.ravel()) == set(range(10))
    assert (alone != make(train_set).order(1)).any()
    a, b = (make(train_set, batch=2, rank=r, world=2).one(0, 0) for r in (0, 1))
    assert not torch.equal(a.plan.inverse, b.plan.inverse)


def test_repeats(train_set):
    weighted = train_set._replace(repeats=np.array([3.0, 0.5] + [1.0] * 8))
    batches = make(weighted, batch=1)
    assert batches.steps == 12  # 11.5
    counts = np.mean([np.bincount(batches.order(e).ravel(), minlength=10) for e in range(200)], 0)
    assert counts[0] == pytest.approx(3, abs=0.3) and counts[1] == pytest.approx(0.5, abs=0.15)


def test_broken_images_are_grey_and_named(train_set):
    with open(train_set.paths[3], "wb") as f:
        f.write(b"gone bad since the labels were read")
    batches = make(train_set, workers=1)
    assert sum(len(b.persons.classes) > 0 for b in batches.epoch(0)) == 3
    assert batches.broken == {train_set.paths[3]: "not an image OpenCV can decode"}


def test_nobody_is_taught_on_a_broken_image(train_set):
    with open(train_set.paths[3], "wb") as f:
        f.write(b"gone bad since the labels were read")
    hyp = HYP._replace(mosaic=0, scale=0, translate=0)
    batches = make(train_set, hyp=hyp)
    persons = sum(len(b.persons.classes) for b in batches.epoch(0))
    shown = np.bincount(make(train_set).order(0).ravel(), minlength=10)
    assert persons == 12 - shown[3]


def test_cache_gives_the_same_pixels(train_set):
    plain, cached = make(train_set), make(train_set, cache=True)
    for epoch in (0, 1):
        assert all(same(a, b) for a, b in zip(plain.epoch(epoch), cached.epoch(epoch)))
    for path in train_set.paths:
        open(path, "wb").close()  # from now on memory alone
    assert not make(train_set).one(0, 0).pixels.equal(cached.one(0, 0).pixels)
    assert cached.one(0, 0).broken == []


def test_cache_larger_than_memory(train_set, monkeypatch):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match="`cache_images`: 10 images need"):
        make(train_set, cache=True)


def test_last_epochs_without_mosaic(train_set):
    batches = make(train_set, plain_from=1)
    tiles = [next(batches.epoch(e)).plan.center.min() for e in (0, 1)]
    assert tiles[0] > 0 and tiles[1] < -1e6


def test_rect(train_set):
    batches = make(train_set, rect=True, strides=[8])
    for batch in batches.epoch(0):
        assert max(batch.size) == 64 and min(batch.size) % 8 == 0
    assert {b.size for b in batches.epoch(0)} != {(64, 64)}


def test_multi_scale_is_alike_on_all_ranks(train_set):
    sizes = [
        [b.size for e in (0, 1) for b in make(
            train_set, multi_scale=True, batch=2, rank=r, world=2).epoch(e)] for r in (0, 1)
    ]  # fmt: skip
    assert sizes[0] == sizes[1] and len(set(sizes[0])) > 1


@pytest.mark.parametrize("hw", [(40, 60), (20, 30), (9, 14), (5, 7)])
def test_decode_reduces(tmp_path, hw):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (0, 0, 255)  # the right half red
    path = tmp_path / "图.jpg"
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    out = np.empty((*hw, 3), np.uint8)
    image_cache.decode(str(path), (40, 60), out)
    assert out[:, : hw[1] // 3].max() < 60
    assert out[:, -(hw[1] // 3) :, 0].min() > 200 and out[:, -(hw[1] // 3) :, 1:].max() < 60
