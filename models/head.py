"""PoseHead: the output convolutions of a YOLO-Pose network, and the decode to network pixels.

Decode: YOLO-Pose, Maji et al. 2022, arXiv 2204.06806.
"""

import math
from typing import Any, Callable, List, Sequence, Tuple

import torch
from torch import nn

from models.common import Conv

SURE = 11.0  # a logit: 1 but for 1.7e-5


class PoseHead(nn.Module):
    """Convolutions of the output levels, and the decode to network pixels.

    Two convolutions per level, `m[i]` with na * (5 + nc) channels and `m_kpt[i]` with
    na * 3K channels. Their outputs are concatenated and only then viewed as na anchors x `no`
    values, so the border between the two does not fall on the border between box and keypoint
    values. That view is part of the public checkpoints' format.

    The `no = 5 + nc + 3K` values of an anchor: cx cy w h objectness, nc classes, K x (x y conf).
    """

    def __init__(
        self,
        nc: int,
        nkpt: int,
        anchors: Sequence[Sequence[float]],
        *,
        channels: Sequence[int],
        dw_conv_kpt: bool = False,
        act: str = "SiLU",
    ):
        super().__init__()
        self.nc, self.nkpt = nc, nkpt
        self.no_det, self.no_kpt = 5 + nc, 3 * nkpt
        self.no = self.no_det + self.no_kpt
        self.nl, self.na = len(anchors), len(anchors[0]) // 2
        self.dw_conv_kpt = dw_conv_kpt
        self.stride = torch.zeros(self.nl)  # px a cell, set by Model
        # (nl, na, 2) w h in cells of the level; `anchor_grid` is the same in pixels
        self.anchors: torch.Tensor
        self.anchor_grid: torch.Tensor
        self.register_buffer("anchors", torch.tensor(anchors).float().view(self.nl, self.na, 2))
        self.register_buffer("anchor_grid", self.anchors.clone().view(self.nl, 1, -1, 1, 1, 2))
        self.m = nn.ModuleList([nn.Conv2d(c, self.no_det * self.na, 1) for c in channels])
        self.m_kpt = nn.ModuleList(
            [self._keypoint_branch(c, self.no_kpt * self.na, act) for c in channels]
        )
        self.merged = False
        self.dynamic = False  # trace grids as functions of the input size (ONNX dynamic axes)

    def _apply(self, fn: Callable[..., torch.Tensor], *args: Any) -> "PoseHead":
        """half() and friends leave the anchors FP32: 303.37 px would become 303.25."""
        exact = {"anchors": self.anchors, "anchor_grid": self.anchor_grid}
        super()._apply(fn, *args)
        for name, tensor in exact.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float32:
                setattr(self, name, tensor.to(moved.device))
        return self

    def _keypoint_branch(self, c: int, c_out: int, act: str) -> nn.Module:
        if not self.dw_conv_kpt:
            return nn.Conv2d(c, c_out, 1)
        layers: List[nn.Module] = []
        for i in range(6):
            layers.append(Conv(c, c, 3, g=c, act=act))
            layers.append(Conv(c, c, 1, act=act) if i < 5 else nn.Conv2d(c, c_out, 1))
        return nn.Sequential(*layers)

    def forward(self, features: Sequence[torch.Tensor]):
        """Per-level maps [(B, C_i, H/s_i, W/s_i)] -> predictions.

        Training: a list of (B, na, ny, nx, no) raw values. Eval: (B, N, no) float32 decoded,
        pixels of the network input, confidences after sigmoid, rows ordered level, anchor, y, x.
        """
        levels = [self.level(i, x) for i, x in enumerate(features)]
        if self.training:
            return [
                t.view(t.shape[0], self.na, self.no, t.shape[2], t.shape[3]).permute(0, 1, 3, 4, 2)
                for t in levels
            ]
        return self.decode(levels)

    def level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Raw values of one level: (B, C_i, ny, nx) -> (B, na * no, ny, nx)."""
        if self.merged:
            return self.m[i](x)
        return torch.cat([self.m[i](x), self.m_kpt[i](x)], 1)

    def decode(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Raw levels [(B, na * no, ny, nx)] -> (B, N, no) float32 predictions.

        Out of place, once for all levels, with values as rows (B, no, N) so that every slice is
        contiguous. Always in float32: an FP16 coordinate above 1024 px has steps of 1 px.

        Formulas (paper and public checkpoints), t raw, g grid cell, s stride, a anchor px:
        centre (2 sigmoid(t) - 0.5 + g) s; size (2 sigmoid(t))^2 a; keypoint (2 t - 0.5 + g) s.
        """
        hw = [(t.shape[2], t.shape[3]) for t in levels]
        origin, two_stride, four_anchor = self._priors(hw, levels[0].device)
        rows = []
        for t in levels:
            b = t.shape[0]
            t = t.reshape(b, self.na, self.no, -1).transpose(1, 2)  # [b, no, na, ny*nx]
            rows.append(t.reshape(b, self.no, -1))
        t = torch.cat(rows, 2)  # [b, no, n]
        if t.dtype != torch.float32:
            t = t.float()
        det, kpt = t.split([self.no_det, self.no_kpt], 1)
        xy, wh, conf = det.sigmoid().split([2, 2, 1 + self.nc], 1)
        xy = xy * two_stride + origin
        wh = wh * wh * four_anchor
        kpt = kpt.reshape(kpt.shape[0], self.nkpt, 3, -1)
        kpt_xy, kpt_conf = kpt.split([2, 1], 2)
        kpt = torch.cat([kpt_xy * two_stride + origin, kpt_conf.sigmoid()], 2)
        kpt = kpt.reshape(kpt.shape[0], self.no_kpt, -1)
        return torch.cat([xy, wh, conf, kpt], 1).transpose(1, 2)

    def _priors(
        self, hw: Sequence[Tuple[int, int]], device: torch.device
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Constants of the decode for level sizes `hw`, one column for each output row.

        Returns origin (2, N) = (g - 0.5) s px, two_stride (1, N) = 2 s px, four_anchor (2, N)
        = 4 a px. Float32.
        """
        # Broadcast by adding zeros: an `expand` to traced sizes costs five nodes in the ONNX.
        origin, two_stride, four_anchor = [], [], []
        for i, (ny, nx) in enumerate(hw):
            if not self.dynamic:
                ny, nx = int(ny), int(nx)
            s = float(self.stride[i])
            y = ((torch.arange(ny, device=device).float() - 0.5) * s).view(1, 1, -1, 1)
            x = ((torch.arange(nx, device=device).float() - 0.5) * s).view(1, 1, 1, -1)
            xy = torch.cat([x + 0 * y, y + 0 * x]).view(2, 1, -1)  # [2, 1, ny*nx]
            wh = 4.0 * self.anchor_grid[i].float().view(self.na, 2).t()  # [2, na]
            wh = wh.reshape(2, self.na, 1) + 0 * xy  # [2, na, ny*nx]
            xy = xy + 0 * wh
            origin.append(xy.reshape(2, -1))
            two_stride.append(0 * origin[-1][:1] + 2.0 * s)
            four_anchor.append(wh.reshape(2, -1))
        return torch.cat(origin, 1), torch.cat(two_stride, 1), torch.cat(four_anchor, 1)

    def convolutions(self, i: int) -> Tuple[nn.Conv2d, nn.Conv2d]:
        """The convolutions that end the two branches of a level."""
        box, kpt = self.m[i], self.m_kpt[i]
        last = kpt[-1] if isinstance(kpt, nn.Sequential) else kpt
        assert isinstance(box, nn.Conv2d) and isinstance(last, nn.Conv2d)
        return box, last

    def fuse(self) -> None:
        """Where both branches are single 1x1 convolutions of the same map, make them one."""
        if self.merged or self.dw_conv_kpt:
            return
        for i in range(self.nl):
            box, kpt = self.convolutions(i)
            conv = nn.Conv2d(box.in_channels, self.no * self.na, 1).to(
                box.weight.device, box.weight.dtype
            )
            with torch.no_grad():
                conv.weight.copy_(torch.cat([box.weight, kpt.weight]))
                _bias(conv).copy_(torch.cat([_bias(box), _bias(kpt)]))
            self.m[i] = conv
        self.m_kpt = nn.ModuleList()
        self.merged = True

    def init_biases(self) -> None:
        """Start values: about 8 objects in a 640 px image, class probability 0.6 / nc.

        Every anchor gets them; channel `a * no + j` of the concatenated level is value j of
        anchor a, whichever convolution it lies in.
        """
        for i, s in enumerate(self.stride.tolist()):
            box, last = self.convolutions(i)
            if _bias(box).is_meta:  # shapes alone: no values to start with
                continue
            with torch.no_grad():
                bias = torch.cat([_bias(box), _bias(last)]).view(self.na, self.no)
                bias[:, 4] += math.log(8 / (640 / s) ** 2)
                bias[:, 5 : 5 + self.nc] += math.log(0.6 / (self.nc - 0.99999))
                bias = bias.flatten()
                border = _bias(box).numel()
                _bias(box).copy_(bias[:border])
                _bias(last).copy_(bias[border:])

    def settle_class(self) -> None:
        """Make the probability of a single class 1 everywhere, which it is by definition.

        The public trainer gives it no gradient, so in its checkpoints it is what chance made it,
        and a factor of the score.
        """
        for i in range(self.nl):
            box, last = self.convolutions(i)
            border = _bias(box).numel()
            for channel in range(5, self.no * self.na, self.no):  # value 5 of each anchor
                conv = box if channel < border else last
                row = channel if channel < border else channel - border
                with torch.no_grad():
                    conv.weight[row] = 0.0
                    _bias(conv)[row] = SURE


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    assert conv.bias is not None
    return conv.bias
