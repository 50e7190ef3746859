"""What a GPU does with CUDA graphs, on a CPU: operations are recorded and replayed in place."""

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils import _pytree  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT, tiny_cfg  # noqa: E402
from utils.hyper_parameters import read_hyp  # noqa: E402
from utils.labels import Labels  # noqa: E402
from utils.train_batches import Spec, TrainBatches  # noqa: E402
from utils.train_set import TrainSet  # noqa: E402
from utils.trainer import Options, Trainer  # noqa: E402


class Recorder(TorchDispatchMode):
    """Stands for a capture."""

    def __init__(self):
        super().__init__()
        self.log = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.log.append((function, args, kwargs or {}, out))
        return out


class Graph:
    """Stands for torch.cuda.CUDAGraph: a replay writes where the capture wrote."""

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, out in self.log:
                new = function(*args, **kwargs)
                for old, value in zip(_pytree.tree_leaves(out), _pytree.tree_leaves(new)):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != value.data_ptr():
                        old.copy_(value)


@contextlib.contextmanager
def capture(graph, pool=None, **_):
    with Recorder() as recorder:
        yield
    graph.log = recorder.log


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())


def make(folder: Path) -> Trainer:
    """A network in training; 16 batches of 4 are one update."""
    torch.manual_seed(0)
    model = Model(tiny_cfg())
    rng = np.random.default_rng(0)
    paths = []
    for i in range(8):
        path = folder / ("%d.png" % i)
        path.write_bytes(
            cv2.imencode(".png", rng.integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
        )
        paths.append(str(path))
    points = np.concatenate([rng.random((1, 17, 2)), np.full((1, 17, 1), 2.0)], 2)
    one = Labels(np.zeros(1, np.int64), np.array([[0.5, 0.5, 0.6, 0.8]]), points)
    train_set = TrainSet(paths, np.full((8, 2), 64), [one] * 8, np.ones(8), [])
    anchors = (model.head.anchors * model.head.stride.view(-1, 1, 1)).numpy().astype(float)
    spec = Spec((128, 128), 4, anchors, [8, 16, 32, 64], workers=0)
    hyp = read_hyp(ROOT / "data" / "hyp.scratch.yaml")
    batches = TrainBatches(train_set, hyp, spec, 3)
    return Trainer(model, batches, hyp, Options(3, torch.device("cpu"), progress=False))


def test_gradients_of_replays_add_up(tmp_path, graphs):
    """Two batches before an update, as launched one by one; statistics, too."""
    found = []
    for replayed in (False, True):
        trainer = make(tmp_path)
        assert trainer.accumulate == 16
        if replayed:
            before = {k: v.clone() for k, v in trainer.model.named_buffers()}
            trainer._capture(trainer.network)
            after = dict(trainer.model.named_buffers())
            assert all(torch.equal(value, after[k]) for k, value in before.items())
            trainer._hold_gradients()
        trainer.network.train()
        for step, (images, targets) in zip(range(2), trainer._pictures(trainer.batches.epoch(0))):
            trainer._step(images, targets, step, False)
        buffers = [b for k, b in trainer.model.named_buffers() if "running" in k]
        found.append([p.grad for p in trainer._parameters()] + buffers)
    whole = [torch.cat([t.flatten() for t in tensors]) for tensors in found]
    assert float((whole[0] - whole[1]).norm()) < 2e-2 * float(whole[1].norm())


def test_an_update_forgets_gradients_in_place(tmp_path):
    trainer = make(tmp_path)
    trainer._hold_gradients()
    kept = [p.grad for p in trainer._parameters()]
    trainer.network.train()
    images, targets = next(iter(trainer._pictures(trainer.batches.epoch(0))))
    trainer._step(images, targets, 0, False)
    assert sum(float(g.abs().sum()) for g in kept) > 0
    trainer._step(images, targets, 1, True)
    assert all(p.grad is g for p, g in zip(trainer._parameters(), kept))
    assert sum(float(g.abs().sum()) for g in kept) == 0
