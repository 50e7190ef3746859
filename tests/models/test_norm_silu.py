"""Without a GPU Triton's interpreter computes: TRITON_INTERPRET=1 before anything is imported."""

import importlib.util
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from models.norm_silu import norm_silu, usable  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(
    not (TRITON and (INTERPRETED or torch.cuda.is_available())),
    reason="Triton is not installed, or there is no GPU",
)
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"


def pair(channels, seed=0):
    """Two equal layers that have seen something already."""
    torch.manual_seed(seed)
    layers = [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03).to(DEVICE) for _ in range(2)]
    with torch.no_grad():
        layers[0].weight.uniform_(0.5, 1.5)
        layers[0].bias.normal_()
        layers[0].running_mean.normal_()
        layers[0].running_var.uniform_(0.5, 2)
    layers[1].load_state_dict(layers[0].state_dict())
    return layers


@runs
@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 24, 3, 3), (3, 96, 4, 6), (2, 130, 9, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_equal_to_pytorch(shape, dtype, offset):
    """Output, gradients and running statistics, against float64."""
    ours, theirs = pair(shape[1])
    theirs = theirs.double()
    x = (
        (torch.randn(shape) + offset)
        .to(DEVICE, dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    dy = torch.randn(shape).to(DEVICE, dtype)
    mine = x.clone(memory_format=torch.preserve_format).requires_grad_()
    exact = x.double().requires_grad_()
    assert usable(mine, ours, nn.SiLU())
    y = norm_silu(mine, ours)
    y.backward(dy)
    wanted = nn.functional.silu(theirs(exact))
    wanted.backward(dy.double())
    loose = 2e-5 if dtype == torch.float32 else 4e-3
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.double(), wanted, rtol=loose, atol=loose)
    torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=loose, atol=loose)
    for name in ("weight", "bias"):
        a, b = getattr(ours, name).grad.double(), getattr(theirs, name).grad
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value.double(), theirs.state_dict()[name].double(), rtol=1e-5,
                                   atol=1e-5)  # fmt: skip


@runs
def test_a_run_repeats_to_the_last_bit():
    ours, again = pair(48)
    x = torch.randn(4, 48, 20, 20).to(DEVICE).contiguous(memory_format=torch.channels_last)
    results = []
    for layer in (ours, again):
        mine = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm_silu(mine, layer)
        y.square().sum().backward()
        results.append((y.detach(), mine.grad, layer.weight.grad, layer.running_var))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_not_used_where_it_may_not_be(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("models.norm_silu._there", lambda: True)
    x = torch.zeros(1, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    bn, silu = nn.BatchNorm2d(4), nn.SiLU()
    assert usable(x, bn, silu)
    assert not usable(x, bn.eval(), silu)
    bn.train()
    assert not usable(x, bn, nn.ReLU())
    assert not usable(x, nn.SyncBatchNorm(4), silu)
    assert not usable(torch.zeros(1, 4, 2, 2), bn, silu)  # channels first
    assert not usable(x, nn.BatchNorm2d(4, momentum=None), silu)
    with torch.no_grad():
        assert not usable(x, bn, silu)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not usable(x, bn, silu)


@pytest.mark.skipif(not TRITON or INTERPRETED, reason="Triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests above have run on the GPU already")
def test_in_the_interpreter():
    """The tests above, on any machine that has Triton."""
    env = dict(os.environ, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=env, cwd=str(ROOT), stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
