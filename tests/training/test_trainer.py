"""What a GPU does with CUDA graphs, on a CPU: operations are recorded and replayed in place."""

import contextlib
import copy
import types

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch._dynamo")  # 2.4 cannot import it while a Recorder is active

from torch.utils import _pytree  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tests.conftest import tiny_cfg  # noqa: E402
from tests.small_train import make_trainer  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.training.trainer import TrainerOptions  # noqa: E402


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
    card = types.SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)


def make(folder):
    return make_trainer(folder, tiny_cfg(), TrainerOptions(3, torch.device("cpu"), progress=False))


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
        for step, (images, targets) in zip(
            range(2), trainer._device_batches(trainer.batches.epoch(0))
        ):
            trainer._step(images, targets, step=step, last=False)
        buffers = [b for k, b in trainer.model.named_buffers() if "running" in k]
        found.append([p.grad for p in trainer._parameters()] + buffers)
    whole = [torch.cat([t.flatten() for t in tensors]) for tensors in found]
    assert float((whole[0] - whole[1]).norm()) < 2e-2 * float(whole[1].norm())


@pytest.mark.parametrize(
    "share, memory",
    [
        (None, "80 GB of GPU memory"),  # a PyTorch that does not say it
        (1.0, "80 GB of GPU memory"),
        (0.05, "the 4.0 of 80 GB of GPU memory that PyTorch is limited to"),
    ],
)
def test_too_little_memory_names_the_limit_that_held(tmp_path, graphs, monkeypatch, share, memory):
    trainer = make(tmp_path)
    if share is None:
        monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction", raising=False)
    else:
        monkeypatch.setattr(
            torch.cuda, "get_per_process_memory_fraction", lambda _: share, raising=False
        )

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "_step", full)
    with pytest.raises(InputError) as fault:
        trainer.train_epoch(0)
    assert memory + " do not suffice at " in str(fault.value)


def test_an_update_forgets_gradients_in_place(tmp_path):
    trainer = make(tmp_path)
    trainer._hold_gradients()
    kept = [p.grad for p in trainer._parameters()]
    trainer.network.train()
    images, targets = next(iter(trainer._device_batches(trainer.batches.epoch(0))))
    trainer._step(images, targets, step=0, last=False)
    assert sum(float(g.abs().sum()) for g in kept) > 0
    trainer._step(images, targets, step=1, last=True)
    assert all(p.grad is g for p, g in zip(trainer._parameters(), kept))
    assert sum(float(g.abs().sum()) for g in kept) == 0


def test_a_run_taken_up_keeps_weights_and_average_apart(tmp_path):
    """train.py hands the network with the averaged weights to the trainer and to `restore`."""
    first, second = make(tmp_path), make(tmp_path)
    first.ema.updates = 5000  # an average that is far from the last weights
    first.train_epoch(0)
    weights, average = (copy.deepcopy(m.state_dict()) for m in (first.model, first.ema.model))
    second.model.load_state_dict(average)
    second.restore(second.model, first.state())
    assert any(not torch.equal(value, average[k]) for k, value in weights.items())
    for found, wanted in ((second.model, weights), (second.ema.model, average)):
        assert all(torch.equal(value, wanted[k]) for k, value in found.state_dict().items())
