"""Layers of the YOLO-Pose network.

Attribute names (`conv`, `bn`, `cv1`, `m`, ...) are part of the file format: they are the
`state_dict` keys of the public checkpoints. All feature maps are (B, C, H, W) float.
"""

from typing import Any, List, Sequence, Tuple, Union

import torch
from torch import nn

from models.norm_silu import norm_silu, usable

ACTIVATIONS = {
    "SiLU": nn.SiLU,
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "Hardswish": nn.Hardswish,
    "Identity": nn.Identity,
}


def activation_name(text: str) -> str:
    """`nn.ReLU()`, `nn.ReLU` or `ReLU` -> `ReLU`."""
    return text.replace("nn.", "").replace("()", "")


def make_activation(name: str) -> nn.Module:
    """Activation module for a name such as `SiLU`, `nn.ReLU` or `nn.ReLU()`.

    Raises ValueError for a name outside ACTIVATIONS.
    """
    key = activation_name(str(name))
    if key not in ACTIVATIONS:
        raise ValueError("unknown activation %r, known: %s" % (name, ", ".join(ACTIVATIONS)))
    return ACTIVATIONS[key]()


def _pair(values: Any) -> Tuple[int, int]:
    return values[0], values[1]


def fuse_conv_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One Conv2d (with bias) equal to `bn(conv(x))` in eval mode."""
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        _pair(conv.kernel_size),
        _pair(conv.stride),
        _pair(conv.padding),
        groups=conv.groups,
        bias=True,
    ).to(conv.weight.device, conv.weight.dtype)
    assert fused.bias is not None and bn.running_var is not None and bn.running_mean is not None
    # Fold in float64: the product of two float32 factors rounds once instead of three times.
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    bias = conv.bias.double() if conv.bias is not None else torch.zeros_like(scale)
    with torch.no_grad():
        fused.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
        fused.bias.copy_((bias - bn.running_mean.double()) * scale + bn.bias.double())
    return fused


class Conv(nn.Module):
    """Conv2d (no bias) + BatchNorm + activation; `k // 2` padding keeps H and W at stride 1."""

    def __init__(
        self, c_in: int, c_out: int, k: int = 1, *, s: int = 1, g: int = 1, act: str = "SiLU"
    ):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, k, s, k // 2, groups=g, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = make_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.training and usable(x, self.bn, self.act):
            return norm_silu(x, self.bn)  # type: ignore[arg-type]  # usable says that it is
        return self.act(self.bn(x))

    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution; inference only."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn(self.conv, self.bn)
            self.bn = nn.Identity()


class Focus(nn.Module):
    """Space to depth (four pixels of a 2x2 cell become channels), then a k x k Conv.

    Channel order: top-left, bottom-left, top-right, bottom-right, three colours each.
    """

    def __init__(self, c_in: int, c_out: int, k: int = 1, *, act: str = "SiLU"):
        super().__init__()
        self.conv = Conv(c_in * 4, c_out, k, act=act)
        self.fused = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.fused:
            x = torch.cat(
                [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1
            )
        return self.conv(x)

    def fuse(self) -> None:
        """Rewrite slices + k x k convolution as one 2k x 2k convolution of stride 2.

        Cell offset (dy, dx) of the k x k kernel and pixel (py, px) inside the cell together
        address pixel (2 dy + py, 2 dx + px): the same products, without eight Slice nodes.
        """
        if self.fused:
            return
        self.conv.fuse()
        old = self.conv.conv
        k, c_in = old.kernel_size[0], old.in_channels // 4
        new = nn.Conv2d(c_in, old.out_channels, 2 * k, 2, 2 * (k // 2), bias=True)
        new = new.to(old.weight.device, old.weight.dtype)
        with torch.no_grad():
            for i, (py, px) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
                part = old.weight[:, i * c_in : (i + 1) * c_in]
                new.weight[:, :, py::2, px::2] = part
            assert new.bias is not None and old.bias is not None
            new.bias.copy_(old.bias)
        self.conv.conv = new
        self.fused = True


class ConvFocus(nn.Module):
    """The stem of the ti_lite models: a strided 3x3 Conv to 4 c_in channels instead of slicing."""

    def __init__(self, c_in: int, c_out: int, k: int = 1, *, act: str = "SiLU"):
        super().__init__()
        self.conv_slice = Conv(c_in, c_in * 4, 3, s=2, act=act)
        self.conv = Conv(c_in * 4, c_out, k, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.conv_slice(x))


class Bottleneck(nn.Module):
    """1x1 Conv, 3x3 Conv, and the input added back when `shortcut`."""

    def __init__(self, c: int, *, shortcut: bool = True, act: str = "SiLU"):
        super().__init__()
        self.cv1 = Conv(c, c, 1, act=act)
        self.cv2 = Conv(c, c, 3, act=act)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Cross-stage-partial block: cv3(cat(bottlenecks(cv1 x), cv2 x)), half the width inside."""

    def __init__(
        self, c_in: int, c_out: int, n: int = 1, *, shortcut: bool = True, act: str = "SiLU"
    ):
        super().__init__()
        c = c_out // 2
        self.cv1 = Conv(c_in, c, 1, act=act)
        self.cv2 = Conv(c_in, c, 1, act=act)
        self.cv3 = Conv(2 * c, c_out, 1, act=act)
        self.m = nn.Sequential(*[Bottleneck(c, shortcut=shortcut, act=act) for _ in range(n)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class SPP(nn.Module):
    """Spatial pyramid pooling: max-pools of several odd window sizes, concatenated."""

    def __init__(
        self, c_in: int, c_out: int, kernels: Sequence[int] = (5, 9, 13), *, act: str = "SiLU"
    ):
        super().__init__()
        if any(k % 2 == 0 for k in kernels) or list(kernels) != sorted(set(kernels)):
            raise ValueError("SPP window sizes must be odd and ascending, got %s" % (kernels,))
        self.cv1 = Conv(c_in, c_in // 2, 1, act=act)
        self.cv2 = Conv(c_in // 2 * (len(kernels) + 1), c_out, 1, act=act)
        # A k1 pool after a k0 pool is exactly a (k0 + k1 - 1) pool, so each window grows out of
        # the one before it: (3, 5, 7) costs three 3x3 pools.
        steps = [kernels[0]] + [b - a + 1 for a, b in zip(kernels, kernels[1:])]
        self.m = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in steps])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pyramid = [self.cv1(x)]
        for pool in self.m:
            pyramid.append(pool(pyramid[-1]))
        return self.cv2(torch.cat(pyramid, 1))


class Concat(nn.Module):
    """Concatenate feature maps along one axis (default: channels)."""

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def forward(self, xs: Union[List[torch.Tensor], Tuple[torch.Tensor, ...]]) -> torch.Tensor:
        return torch.cat(list(xs), self.dim)
