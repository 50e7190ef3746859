"""Streams and graphs of a `.pt` on a stand-in of torch.cuda: on a CPU only their book-keeping."""

import contextlib
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.yolo import Model  # noqa: E402
from tests.conftest import randomized, tiny_cfg  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.pose.fixed_nms import NmsSettings  # noqa: E402
from utils.pose.nms import no_memory_for_nms, raw_to_poses  # noqa: E402
from utils.runtime import fixed_suppression, graph_stream, torch_backend  # noqa: E402
from utils.runtime.graph_stream import GraphStream  # noqa: E402
from utils.runtime.torch_backend import TorchBackend  # noqa: E402
from utils.trt.engine import RUNS_BEFORE_GRAPH  # noqa: E402


@pytest.fixture
def backend(monkeypatch):
    """A backend that takes itself for one on a GPU; a replay computes anew, into the same place."""
    quiet = types.SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: quiet)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: quiet)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)

    def record(self, images, work):
        fixed = self._upload(images)
        made = work(fixed)

        def replay():
            for old, new in zip(made, work(fixed)):
                if old is not None:
                    old.copy_(new)

        self.recorded = getattr(self, "recorded", 0) + 1
        graph = types.SimpleNamespace(replay=replay)
        return graph_stream._Recorded(graph, fixed, made)

    monkeypatch.setattr(GraphStream, "_record", record)
    made = TorchBackend.of_model(randomized(Model(tiny_cfg()), 3).eval(), -1, False)
    made.on_gpu = made.takes_pixels = True
    made._page_locked = lambda size: np.empty(size, np.uint8)
    made._host._allocate = made._page_locked
    made.workers, made.streams = 2, [GraphStream(made._device, made._host) for _ in range(2)]
    for stream in made.streams:
        made._streams.put(stream)
    return made


REAL = fixed_suppression.FixedNms.poses
SETTINGS = NmsSettings(0.3, 0.9, max_det=20)  # no long chains in random boxes


def images(seed, batch=1):
    return np.random.default_rng(seed).integers(0, 256, (batch, 64, 64, 3), np.uint8)


def wanted(backend, pixels):
    with torch.inference_mode():
        raw = backend._forward(torch.from_numpy(pixels))
    return raw_to_poses(raw.numpy(), backend.nc, **SETTINGS._asdict())


def same(found, reference):
    assert len(found) == len(reference)
    for a, b in zip(found, reference):
        for mine, theirs in zip(a, b):
            np.testing.assert_array_equal(mine, theirs)


def test_each_call_gets_its_own_poses_before_and_after_the_recording(backend):
    for seed in range(RUNS_BEFORE_GRAPH + 4):
        batch = backend.new_batch((1 + seed % 2, 64, 64))
        batch[:] = images(seed, 1 + seed % 2)
        same(backend.find(batch, SETTINGS), wanted(backend, np.array(batch)))
    for seed in range(4):
        pixels = images(seed)
        raw = backend(pixels)
        kept = raw.clone()
        backend(images(seed + 9))  # does not write into what was returned
        assert torch.equal(raw, kept)


def test_a_warm_up_records_on_every_stream_and_gives_all_back(backend):
    backend.warm_up(images(0), SETTINGS)
    assert [stream.recorded for stream in backend.streams] == [1, 1]
    assert backend._streams.qsize() == 2
    same(backend.find(images(1), SETTINGS), wanted(backend, images(1)))


def test_graphs_are_bounded(backend, monkeypatch):
    monkeypatch.setattr(graph_stream, "MAX_GRAPHS", 1)
    for _ in range(RUNS_BEFORE_GRAPH + 2):
        for batch in (1, 2):
            same(
                backend.find(images(batch, batch), SETTINGS), wanted(backend, images(batch, batch))
            )
    assert sum(getattr(stream, "recorded", 0) for stream in backend.streams) == 1


def test_crowded_images_give_up_the_fixed_sizes(backend, monkeypatch):
    monkeypatch.setattr(fixed_suppression.FixedNms, "poses", lambda self, packed: [None])
    for seed in range(fixed_suppression.MISSES + 2):
        found = backend.find(images(seed), SETTINGS)
        if seed < fixed_suppression.MISSES:
            same(found, wanted(backend, images(seed)))
        else:  # NMS is the caller's again
            assert torch.is_tensor(found)


def test_crowded_images_of_a_batch_are_served_by_themselves(backend, monkeypatch):
    monkeypatch.setattr(
        fixed_suppression.FixedNms,
        "poses",
        lambda self, packed: [None if i % 2 else p for i, p in enumerate(REAL(self, packed))],
    )
    for seed in range(fixed_suppression.MISSES + 2):
        pixels = images(seed, 5)
        same(backend.find(pixels, SETTINGS), wanted(backend, pixels))


def test_half_of_a_batch_may_be_crowded(backend, monkeypatch):
    """More than half: that the whole batch goes another way is cheaper."""
    for missing, left in ((2, True), (3, False)):
        monkeypatch.setattr(
            fixed_suppression.FixedNms,
            "poses",
            lambda self, packed, n=missing: [None] * n + REAL(self, packed)[n:],
        )
        for seed in range(fixed_suppression.MISSES):
            same(backend.find(images(seed, 4), SETTINGS), wanted(backend, images(seed, 4)))
        assert torch.is_tensor(backend.find(images(0, 4), SETTINGS)) != left


def test_a_crowded_first_frame_does_not_decide(backend, monkeypatch):
    monkeypatch.setattr(fixed_suppression.FixedNms, "poses", lambda self, packed: [None])
    backend.warm_up(images(0), SETTINGS)
    monkeypatch.setattr(fixed_suppression.FixedNms, "poses", REAL)
    same(backend.find(images(1), SETTINGS), wanted(backend, images(1)))


def test_a_recording_without_memory_is_none(backend, monkeypatch):
    """What ran without a graph goes on without one, and is not tried again."""
    tried = []

    def no_memory(self, pixels, work):
        tried.append(self)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(GraphStream, "_record", no_memory)
    for seed in range(RUNS_BEFORE_GRAPH + 3):
        same(backend.find(images(seed), SETTINGS), wanted(backend, images(seed)))
    assert len(tried) == 1

    def broken(self, pixels, work):
        raise RuntimeError("CUDA error: device-side assert")

    monkeypatch.setattr(GraphStream, "_record", broken)
    with pytest.raises(RuntimeError, match="assert"):
        for _ in range(2 * RUNS_BEFORE_GRAPH + 2):
            backend.find(images(0, 2), NmsSettings(0.3, 0.8))
            backend._streams.queue.reverse()  # the stream that has not given up


def test_too_many_crowded_images_name_the_batch_that_was_asked_for(backend, monkeypatch):
    monkeypatch.setattr(
        fixed_suppression.FixedNms,
        "poses",
        lambda self, packed: [None] * 3 + REAL(self, packed)[3:],
    )

    def no_memory(raw, *_, **options):
        raise InputError(no_memory_for_nms(len(raw)))

    monkeypatch.setattr(torch_backend, "raw_to_poses", no_memory)
    with pytest.raises(InputError, match="`batch_size` 8: .* try 4"):
        backend.find(images(0, 8), SETTINGS)


def test_a_batch_that_is_too_large_names_one_that_fits(backend, monkeypatch):
    """Both workers have a batch at a time."""
    forward = backend._forward

    def limited(pixels):
        if len(pixels) > 7:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return forward(pixels)

    monkeypatch.setattr(backend, "_forward", limited)
    with pytest.raises(InputError) as error:
        backend.find(images(0, 16), SETTINGS)
    assert str(error.value) == (
        "`batch_size` 16: the GPU memory does not suffice; choose `batch_size` 2, which fits"
    )
    assert backend._streams.qsize() == 2
    assert len(backend.find(images(0, 2), SETTINGS)) == 2
