"""Batch normalisation and SiLU in one, for training on a GPU.

    if usable(x, bn, act):
        y = norm_silu(x, bn)             # equal to act(bn(x))

As operations of PyTorch the two read and write each map 13 times, forward and backward; here it is
8 times, and the map between them is not kept. They are most of the time of a training step.
"""

import functools
import importlib.util
import os
from typing import Any, Tuple

import torch
from torch import nn

TILE = 4096  # numbers a program works on at a time
PROGRAMS = 528  # that add up shares: four for each multiprocessor of a large GPU
SHARES = 32  # added up at a time


@functools.lru_cache(maxsize=None)
def _there() -> bool:
    return importlib.util.find_spec("triton") is not None


def usable(x: torch.Tensor, bn: nn.Module, act: nn.Module) -> bool:
    """Whether norm_silu may stand for act(bn(x)): training on a GPU, channels last, with Triton.

    `TRITON_INTERPRET=1`, Triton's own switch, lets the CPU do it, slowly.
    """
    return (
        bn.training
        and type(bn) is nn.BatchNorm2d
        and type(act) is nn.SiLU
        and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")
        and torch.is_grad_enabled()
        and bn.momentum is not None
        and bn.affine
        and bn.track_running_stats
        and x.numel() > x.shape[1]  # one value a channel: bn says that it has no variance
        and x.is_contiguous(memory_format=torch.channels_last)
        and _there()
        and not torch.compiler.is_compiling()
    )


def norm_silu(x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
    """silu(bn(x)) of a (B, C, H, W) map in channels-last memory; updates bn's running statistics.

    Sums are float32 whatever x is. Raises nothing that bn would not.
    """
    with torch.cuda.device_of(x):  # Triton starts kernels on the current device
        return _NormSilu.apply(
            x, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.num_batches_tracked,
            bn.momentum, bn.eps,
        )  # fmt: skip


class _NormSilu(torch.autograd.Function):
    """Ioffe & Szegedy 2015, arXiv 1502.03167, and Elfwing et al. 2018, arXiv 1702.03118."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        tracked: torch.Tensor,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        from models import norm_silu_kernels as kernels

        rows, channels, m, c, grid = _layout(x)
        programs = min(grid[0], max(PROGRAMS // grid[1], 1))
        shares = x.new_empty((programs, 2, channels), dtype=torch.float32)
        kernels.sum_values[(programs, grid[1])](x, shares, rows, channels, BLOCK_M=m, BLOCK_C=c)
        terms = x.new_empty((4, channels), dtype=torch.float32)
        kernels.finish_forward[(grid[1],)](
            x, shares, programs, weight, bias, running_mean, running_var, tracked, terms, rows,
            channels, momentum, eps, BLOCK_P=SHARES, BLOCK_C=c,
        )  # fmt: skip
        y = torch.empty_like(x)
        kernels.apply_silu[grid](x, terms, y, rows, channels, BLOCK_M=m, BLOCK_C=c)
        ctx.save_for_backward(x, terms)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Tuple[Any, ...]:
        from models import norm_silu_kernels as kernels

        x, terms = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        rows, channels, m, c, grid = _layout(x)
        programs = min(grid[0], max(PROGRAMS // grid[1], 1))
        shares = x.new_empty((programs, 2, channels), dtype=torch.float32)
        kernels.sum_gradients[(programs, grid[1])](
            x, dy, terms, shares, rows, channels, BLOCK_M=m, BLOCK_C=c
        )
        dweight, dbias = x.new_empty((2, channels), dtype=torch.float32).unbind()
        kernels.finish_backward[(grid[1],)](
            shares, programs, dweight, dbias, channels, BLOCK_P=SHARES, BLOCK_C=c
        )
        dx = torch.empty_like(x)
        kernels.apply_gradients[grid](
            x, dy, terms, dweight, dbias, dx, rows, channels, BLOCK_M=m, BLOCK_C=c
        )
        return dx, dweight, dbias, None, None, None, None, None


def _layout(x: torch.Tensor) -> Tuple[int, int, int, int, Tuple[int, int]]:
    """(rows, channels, rows and channels of a tile, tiles along rows and channels)."""
    b, channels, h, w = x.shape
    rows = b * h * w
    c = min(1 << (channels - 1).bit_length(), 64)
    m = TILE // c
    return rows, channels, m, c, (-(-rows // m), -(-channels // c))
