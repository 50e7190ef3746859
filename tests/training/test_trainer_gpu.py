"""CUDA graphs and the fused normalisation train as plain PyTorch does; skipped without a GPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)

from models import common  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.small_train import make_trainer  # noqa: E402
from utils.training import trainer as trainer_module  # noqa: E402
from utils.training.trainer import TrainerOptions  # noqa: E402


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """TF32 rounds otherwise in ways that differ from run to run, and training enlarges it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make(tmp_path, graphs, freeze=0, hyp=None):
    options = TrainerOptions(3, torch.device("cuda", 0), freeze=freeze, amp=False, graphs=graphs,
                      progress=False)  # fmt: skip
    cfg = str(ROOT / "models" / "hub" / "yolov5n6_kpts.yaml")
    return make_trainer(tmp_path, cfg, options, hyp=hyp, workers=2 * graphs, pin=True)


def losses(tmp_path, graphs, freeze=0):
    """Loss of three epochs, and the weights."""
    trainer = make(tmp_path, graphs, freeze)
    found = [trainer.train_epoch(e).losses["loss"] for e in range(3)]
    return found, {k: v.cpu() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize("freeze", [0, 12])
def test_graphs_and_fused_norm_train_alike(tmp_path, monkeypatch, freeze):
    quick, ours = losses(tmp_path, True, freeze)
    monkeypatch.setattr(common, "usable", lambda *_: False)
    plain, theirs = losses(tmp_path, False, freeze)
    np.testing.assert_allclose(quick, plain, rtol=0.02)
    for name, value in theirs.items():
        if name.endswith("num_batches_tracked"):
            assert int(ours[name]) == int(value), name
        if name.endswith("running_mean"):
            torch.testing.assert_close(ours[name], value, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("share, captured", [(0.5, 1), (1.0, 0)])
def test_nothing_is_captured_that_the_first_epoch_would_drop(
    tmp_path, monkeypatch, *, share, captured
):
    calls = []
    monkeypatch.setattr(trainer_module.Trainer, "_capture", lambda *_: calls.append(1))
    make(tmp_path, True, hyp={"close_norm": share})
    assert len(calls) == captured


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradients_of_several_batches_add_up(tmp_path, monkeypatch, steps):
    """A graph's gradients lie in memory that the next replay overwrites."""
    gradients = []
    for graphs in (True, False):
        if not graphs:
            monkeypatch.setattr(common, "usable", lambda *_: False)
        trainer = make(tmp_path, graphs)
        assert trainer.accumulate == 16
        trainer.network.train()
        for step, (images, targets) in zip(range(steps), endless(trainer)):
            trainer._step(images, targets, step=step, last=False)
        gradients.append([p.grad.clone() for p in trainer._parameters()])
    for ours, theirs in zip(*gradients):
        assert float((ours - theirs).norm()) <= 0.02 * float(theirs.norm()) + 1e-4


def endless(trainer):
    """Batches of the trainer, epoch after epoch."""
    for epoch in range(3):
        yield from trainer._device_batches(trainer.batches.epoch(epoch))


def test_all_epochs_use_the_same_streams(tmp_path, monkeypatch):
    """PyTorch keeps freed memory for the stream that used it: a stream for each epoch adds up."""
    trainer = make(tmp_path, True)
    trainer.train_epoch(0)
    made = []
    real = torch.cuda.Stream

    def counted(*args, **kwargs):
        if "stream_id" not in kwargs:  # torch.cuda.current_stream() wraps one that is there
            made.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.cuda, "Stream", counted)
    trainer.train_epoch(1)
    assert not made
