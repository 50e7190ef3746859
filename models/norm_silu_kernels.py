"""Triton kernels of norm_silu.py. Tensors are rows x channels, as channels-last maps lie in memory.

Sums go in two steps, so that no addition is atomic and a run repeats to the last bit: every program
adds up a share of the rows, then one program a block of channels adds up the shares.
"""

import triton
import triton.language as tl

FIRST: tl.constexpr = tl.constexpr(8)  # rows whose mean the sums are taken around


@triton.jit
def sum_values(x, shares, rows, channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """shares[p, 0 | 1, c]: sum of x - origin and of its square over the rows of program p.

    Taking a value like the others away keeps the variance from being a difference of large sums.
    """
    p, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    origin = _origin(x, rows, channels, c, there)[None, :]
    first = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for begin in range(p * BLOCK_M, rows, programs * BLOCK_M):
        at, mask = _tile(begin, rows, channels, c, there, BLOCK_M)
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - origin
        value = tl.where(mask, value, 0.0)
        first += value
        second += value * value
    share = shares + p * 2 * channels + c
    tl.store(share, tl.sum(first, 0), mask=there)
    tl.store(share + channels, tl.sum(second, 0), mask=there)


@triton.jit
def finish_forward(
    x, shares, count, weight, bias, running_mean, running_var, tracked, out, rows, channels,
    momentum, eps, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """out[0..3, c]: mean, 1 / standard deviation, and z = (x - mean) out[2] + out[3]; running
    statistics."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    first, second = _add_up(shares, count, channels, c, there, BLOCK_P, BLOCK_C)
    old_mean = tl.load(running_mean + c, mask=there, other=0.0)
    old_var = tl.load(running_var + c, mask=there, other=0.0)
    far = first / rows
    mean = _origin(x, rows, channels, c, there) + far
    var = tl.maximum(second / rows - far * far, 0.0)
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = inverse * tl.load(weight + c, mask=there, other=0.0)
    tl.store(out + c, mean, mask=there)
    tl.store(out + channels + c, inverse, mask=there)
    tl.store(out + 2 * channels + c, scale, mask=there)
    tl.store(out + 3 * channels + c, tl.load(bias + c, mask=there, other=0.0), mask=there)
    unbiased = var * (rows / tl.maximum(rows - 1.0, 1.0))
    tl.store(running_mean + c, old_mean + momentum * (mean - old_mean), mask=there)
    tl.store(running_var + c, old_var + momentum * (unbiased - old_var), mask=there)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)


@triton.jit
def apply_silu(x, terms, y, rows, channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    """y = z sigmoid(z)."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    at, mask = _tile(tl.program_id(0) * BLOCK_M, rows, channels, c, there, BLOCK_M)
    mean, _, scale, offset = _terms(terms, channels, c, there)
    z = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean) * scale + offset
    tl.store(y + at, z * tl.sigmoid(z), mask=mask)


@triton.jit
def sum_gradients(
    x, dy, terms, shares, rows, channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """shares[p, 0 | 1, c]: sum of dz and of dz * normalised x over the rows of program p."""
    p, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    mean, inverse, scale, offset = _terms(terms, channels, c, there)
    first = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for begin in range(p * BLOCK_M, rows, programs * BLOCK_M):
        at, mask = _tile(begin, rows, channels, c, there, BLOCK_M)
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean
        dz = _through_silu(value * scale + offset, tl.load(dy + at, mask=mask, other=0.0))
        first += dz
        second += dz * value * inverse
    share = shares + p * 2 * channels + c
    tl.store(share, tl.sum(first, 0), mask=there)
    tl.store(share + channels, tl.sum(second, 0), mask=there)


@triton.jit
def finish_backward(
    shares, count, dweight, dbias, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Gradients of weight and bias: the shares added up."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    first, second = _add_up(shares, count, channels, c, there, BLOCK_P, BLOCK_C)
    tl.store(dbias + c, first, mask=there)
    tl.store(dweight + c, second, mask=there)


@triton.jit
def apply_gradients(
    x, dy, terms, dweight, dbias, dx, rows, channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """dx: what is left of dz once its mean and its projection on the normalised x are taken out."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    at, mask = _tile(tl.program_id(0) * BLOCK_M, rows, channels, c, there, BLOCK_M)
    mean, inverse, scale, offset = _terms(terms, channels, c, there)
    along = tl.load(dweight + c, mask=there, other=0.0)[None, :] / rows
    middle = tl.load(dbias + c, mask=there, other=0.0)[None, :] / rows
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean
    dz = _through_silu(value * scale + offset, tl.load(dy + at, mask=mask, other=0.0))
    left = dz - middle - value * inverse * along
    tl.store(dx + at, left * scale, mask=mask)


@triton.jit
def _tile(begin, rows, channels, c, there, BLOCK_M: tl.constexpr):
    """Places of BLOCK_M rows from `begin`, channels c, in memory, and which of them there are."""
    row = begin + tl.arange(0, BLOCK_M)
    at = row.to(tl.int64)[:, None] * channels + c[None, :]
    return at, (row < rows)[:, None] & there[None, :]


@triton.jit
def _terms(terms, channels, c, there):
    """The four rows of finish_forward: mean, 1 / standard deviation, scale, offset."""
    mean = tl.load(terms + c, mask=there, other=0.0)[None, :]
    inverse = tl.load(terms + channels + c, mask=there, other=0.0)[None, :]
    scale = tl.load(terms + 2 * channels + c, mask=there, other=0.0)[None, :]
    offset = tl.load(terms + 3 * channels + c, mask=there, other=0.0)[None, :]
    return mean, inverse, scale, offset


@triton.jit
def _origin(x, rows, channels, c, there):
    """Mean of the first rows."""
    row = tl.arange(0, FIRST)
    mask = (row < rows)[:, None] & there[None, :]
    values = tl.load(x + row[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
    return tl.sum(values, 0) / tl.minimum(rows, FIRST)


@triton.jit
def _through_silu(z, dy):
    """The gradient before SiLU."""
    s = tl.sigmoid(z)
    return dy.to(tl.float32) * s * (1 + z * (1 - s))


@triton.jit
def _add_up(shares, count, channels, c, there, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums (BLOCK_C,) of both rows of all shares."""
    first = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for begin in range(0, count, BLOCK_P):
        p = begin + tl.arange(0, BLOCK_P)
        mask = (p < count)[:, None] & there[None, :]
        at = p[:, None] * 2 * channels + c[None, :]
        first += tl.load(shares + at, mask=mask, other=0.0)
        second += tl.load(shares + at + channels, mask=mask, other=0.0)
    return tl.sum(first, 0), tl.sum(second, 0)
