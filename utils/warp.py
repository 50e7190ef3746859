"""Training pictures from images, on the device the network runs on.

    batch = warp(plan, pixels)        # (B, 3, H, W) float 0..1 RGB

Images travel as the bytes they have, one after the other in one flat array, and every output pixel
looks up where it comes from: mosaic, rotation, zoom and flip are one bilinear sample, and no image
is padded or drawn on a larger canvas before.
"""

from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np

from utils.augment import Sample
from utils.letterbox import HW, PAD_VALUE

CHUNK_PIXELS = 8 << 20  # output pixels at a time: bounds the memory of the indices


class Plan(NamedTuple):
    """Samples as arrays; B of them, four tiles each."""

    inverse: np.ndarray  # (B, 9) float32, output -> canvas
    center: np.ndarray  # (B, 2) float32 x, y
    tiles: np.ndarray  # (B, 4, 6) float32: 1 / scale x, y, origin x, y, width, height
    offsets: np.ndarray  # (B, 4) int64, first byte of each tile's image
    color: np.ndarray  # (B, 9) float32
    blend: np.ndarray  # (B,) float32 share of the own pixels; the rest is sample `partner`
    partner: np.ndarray  # (B,) int64
    size: HW


def make_plan(
    samples: Sequence[Sample],
    offsets: Sequence[int],
    hws: Sequence[HW],
    size: HW,
    blend: Sequence[Tuple[float, int]] = (),
) -> Plan:
    """Args: offsets, hws: of each image a tile may name. blend: (share, partner) of each sample."""
    count = len(samples)
    tiles = np.zeros((count, 4, 6), np.float32)
    starts = np.zeros((count, 4), np.int64)
    for i, sample in enumerate(samples):
        # a single image is the bottom-right of a centre far away; the others are never looked at
        four = sample.tiles if len(sample.tiles) == 4 else sample.tiles * 4
        for j, tile in enumerate(four):
            (sy, sx), (oy, ox) = tile.scale, tile.origin
            h, w = hws[tile.image]
            tiles[i, j] = (1 / sx, 1 / sy, ox, oy, w, h)
            starts[i, j] = offsets[tile.image]
    inverse = np.stack([np.linalg.inv(s.matrix).ravel() for s in samples]).astype(np.float32)
    center = np.array([s.center[::-1] for s in samples], np.float32)
    color = np.stack([s.color.ravel() for s in samples]).astype(np.float32)
    pairs = list(blend) or [(1.0, i) for i in range(count)]
    share = np.array([p[0] for p in pairs], np.float32)
    partner = np.array([p[1] for p in pairs], np.int64)
    return Plan(inverse, center, tiles, starts, color, share, partner, size)


def warp(plan: Plan, pixels: Any) -> Any:
    """The pictures of a plan.

    Args:
        pixels: flat uint8 torch tensor on the device: all images, rows of RGB triples.

    Returns (B, 3, H, W) float32 RGB 0..1 on that device.
    """
    import torch

    device = pixels.device
    count, (h, w) = len(plan.inverse), plan.size
    inverse, center, tiles, offsets, color, share, partner = (
        torch.from_numpy(np.ascontiguousarray(part)).to(device, non_blocking=True)
        for part in plan[:7]
    )
    ys = (torch.arange(h, device=device, dtype=torch.float32) + 0.5).view(1, h, 1)
    xs = (torch.arange(w, device=device, dtype=torch.float32) + 0.5).view(1, 1, w)
    batch = torch.empty((count, 3, h, w), device=device)
    step = max(CHUNK_PIXELS // (h * w), 1)
    for i in range(0, count, step):
        part = slice(i, i + step)
        where = _look_up(inverse[part], center[part], tiles[part], offsets[part], ys, xs)
        sampled = _sample(pixels, *where)  # [b, h, w, 3]
        colored = torch.bmm(sampled.flatten(1, 2), color[part].view(-1, 3, 3).transpose(1, 2))
        batch[part] = colored.clamp_(0, 255).view(-1, h, w, 3).permute(0, 3, 1, 2)
    batch *= 1 / 255.0
    if (plan.blend < 1).any():
        share = share.view(-1, 1, 1, 1)
        batch = batch * share + batch[partner] * (1 - share)
    return batch


def _look_up(
    inverse: Any, center: Any, tiles: Any, offsets: Any, ys: Any, xs: Any
) -> Tuple[Any, Any, Any, Any, Any]:
    """Source x, y, width, height (float32) and first byte (int64) of every output pixel, each
    (b, H, W)."""
    m = inverse.view(-1, 9, 1, 1)
    z = m[:, 6] * xs + m[:, 7] * ys + m[:, 8]
    x = (m[:, 0] * xs + m[:, 1] * ys + m[:, 2]) / z
    y = (m[:, 3] * xs + m[:, 4] * ys + m[:, 5]) / z
    right = x >= center[:, 0].view(-1, 1, 1)
    below = y >= center[:, 1].view(-1, 1, 1)
    b = tiles.shape[0]
    index = (right.long() + 2 * below.long()).view(b, -1)  # [b, h*w] of the four tiles

    def of_tile(column: int) -> Any:
        return tiles[:, :, column].gather(1, index).view_as(x)

    x = (x - of_tile(2)) * of_tile(0)
    y = (y - of_tile(3)) * of_tile(1)
    return x, y, of_tile(4), of_tile(5), offsets.gather(1, index).view_as(x)


def _sample(pixels: Any, x: Any, y: Any, width: Any, height: Any, start: Any) -> Any:
    """Bilinear values (b, H, W, 3) float32 at continuous source coordinates; grey outside."""
    import torch

    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    x, y = x - 0.5, y - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0).unsqueeze(-1), (y - y0).unsqueeze(-1)
    zero = torch.zeros((), device=x.device)
    left = torch.minimum(torch.maximum(x0, zero), width - 1).long()
    right = torch.minimum(torch.maximum(x0 + 1, zero), width - 1).long()
    top = torch.minimum(torch.maximum(y0, zero), height - 1).long()
    bottom = torch.minimum(torch.maximum(y0 + 1, zero), height - 1).long()
    wide = width.long()
    channels = torch.arange(3, device=x.device)

    def at(row: Any, column: Any) -> Any:
        first = start + (row * wide + column) * 3
        return pixels[first.unsqueeze(-1) + channels].float()

    upper = torch.lerp(at(top, left), at(top, right), fx)
    lower = torch.lerp(at(bottom, left), at(bottom, right), fx)
    value = torch.lerp(upper, lower, fy)
    return value.masked_fill_(outside.unsqueeze(-1), float(PAD_VALUE))


def flatten(images: Sequence[np.ndarray], out: np.ndarray) -> List[int]:
    """Copy (h, w, 3) uint8 images one after the other into `out`; first byte of each."""
    starts, end = [], 0
    for image in images:
        starts.append(end)
        out[end : end + image.size] = image.reshape(-1)
        end += image.size
    return starts
