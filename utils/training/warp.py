"""Training images from images, on the device the network runs on.

    batch = warp(plan, pixels, (640, 640))        # (B, 3, 640, 640) float 0..1 RGB

Images travel as the bytes they have, one after the other in one flat array, and every output pixel
looks up where it comes from: mosaic, rotation, zoom and flip are one bilinear sample, and no image
is padded or drawn on a larger canvas before.
"""

import functools
from typing import TYPE_CHECKING, Any, List, NamedTuple, Tuple

import numpy as np

from utils.pose.letterbox import HW, PAD_VALUE
from utils.training.augment import TILES, Samples

if TYPE_CHECKING:
    import torch

CHUNK_PIXELS = 8 << 20  # output pixels at a time: bounds the memory of the indices


class WarpPlan(NamedTuple):
    """Samples as torch tensors, B of them, on the host or the device."""

    inverse: "torch.Tensor"  # (B, 9) float32, output -> canvas
    center: "torch.Tensor"  # (B, 2) float32 x, y
    tiles: "torch.Tensor"  # (B, 4, 6) float32: 1 / scale x, y, origin x, y, width, height
    offsets: "torch.Tensor"  # (B, 4) int64, first byte of each tile's image
    color: "torch.Tensor"  # (B, 9) float32
    blend: "torch.Tensor"  # (B,) float32 share of the own pixels; the rest is sample `partner`
    partner: "torch.Tensor"  # (B,) int64


def make_plan(samples: Samples, offsets: np.ndarray, hws: np.ndarray) -> WarpPlan:
    """Args: offsets (W,) first byte, hws (W, 2) px of each image that samples may name."""
    import torch

    tiles = np.empty((len(samples.images), TILES, 6))
    tiles[..., :2] = (1 / samples.scale)[..., None]
    tiles[..., 2:4] = samples.origin
    tiles[..., 4:] = hws[samples.images][..., ::-1]
    parts = (
        np.linalg.inv(samples.matrix).reshape(-1, 9).astype(np.float32),
        samples.center.astype(np.float32),
        tiles.astype(np.float32),
        offsets[samples.images].astype(np.int64),
        samples.color.reshape(-1, 9).astype(np.float32),
        samples.blend.astype(np.float32),
        samples.partner.astype(np.int64),
    )
    return WarpPlan(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def warp(plan: WarpPlan, pixels: "torch.Tensor", size: HW) -> "torch.Tensor":
    """The images of a plan.

    Args:
        pixels: flat uint8 torch tensor: all images, rows of RGB triples; on the plan's device.
        size: (height, width) px.

    Returns (B, 3, H, W) float32 RGB 0..1 on that device.
    """
    import torch

    h, w = size
    if pixels.device.type == "cuda" and _compiles():
        return _compiled()(pixels, *plan[:5], h=h, w=w)
    step = max(CHUNK_PIXELS // (h * w), 1)
    parts = [
        _warp_part(pixels, *(part[i : i + step] for part in plan[:5]), h=h, w=w)
        for i in range(0, len(plan.inverse), step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _compiles() -> bool:
    """Whether PyTorch can fuse the whole of it into one kernel, ten times as fast."""
    import importlib.util

    return importlib.util.find_spec("triton") is not None


@functools.lru_cache(maxsize=None)
def _compiled() -> Any:
    import torch

    return torch.compile(_warp_part)


def _warp_part(
    pixels: Any, inverse: Any, center: Any, tiles: Any, offsets: Any, color: Any, *, h: int, w: int
) -> Any:
    """(b, 3, h, w) float32 0..1 of a part of a plan."""
    import torch

    device = pixels.device
    ys = (torch.arange(h, device=device, dtype=torch.float32) + 0.5).view(1, h, 1)
    xs = (torch.arange(w, device=device, dtype=torch.float32) + 0.5).view(1, 1, w)
    red, green, blue = _sample(
        pixels, *_look_up(inverse, center, tiles, offsets=offsets, ys=ys, xs=xs)
    )
    m = color.view(-1, 9, 1, 1)
    rows = [m[:, i] * red + m[:, i + 1] * green + m[:, i + 2] * blue for i in (0, 3, 6)]
    return torch.stack(rows, 1).clamp(0, 255) * (1 / 255.0)


def blend(plan: WarpPlan, batch: "torch.Tensor") -> "torch.Tensor":
    """Mix the images that have a partner (mixup: Zhang et al. 2018, arXiv 1710.09412)."""
    share = plan.blend.view(-1, 1, 1, 1)
    return batch * share + batch[plan.partner] * (1 - share)


def _look_up(
    inverse: Any, center: Any, tiles: Any, *, offsets: Any, ys: Any, xs: Any
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


def _sample(pixels: Any, x: Any, y: Any, width: Any, height: Any, start: Any) -> List[Any]:
    """Bilinear red, green, blue (b, H, W) float32 at continuous source places; grey outside."""
    import torch

    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    x, y = x - 0.5, y - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    zero = torch.zeros((), device=x.device)
    left = torch.minimum(torch.maximum(x0, zero), width - 1).long()
    right = torch.minimum(torch.maximum(x0 + 1, zero), width - 1).long()
    wide = width.long()
    top = start + torch.minimum(torch.maximum(y0, zero), height - 1).long() * wide * 3
    bottom = start + torch.minimum(torch.maximum(y0 + 1, zero), height - 1).long() * wide * 3
    corners = (top + left * 3, top + right * 3, bottom + left * 3, bottom + right * 3)
    channels = []
    for c in range(3):
        a, b, d, e = (pixels[corner + c].float() for corner in corners)
        upper, lower = torch.lerp(a, b, fx), torch.lerp(d, e, fx)
        channels.append(torch.where(outside, float(PAD_VALUE), torch.lerp(upper, lower, fy)))
    return channels
