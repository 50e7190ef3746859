"""YOLO-Pose: a network built from a cfg, and the head that decodes boxes and keypoints.

    model = Model("models/hub/yolov5s6_kpts.yaml")
    predictions = model.eval()(images)           # (B, 3, H, W) RGB 0..1 -> (B, N, 5 + nc + 3K)

A cfg is a dict (or a yaml file) with `nc`, `nkpt`, `depth_multiple`, `width_multiple`,
`anchors`, `backbone`, `head` and optionally `act`, `act_by_layer`, `dw_conv_kpt`, `ch`. Layer
rows are `[from, repeats, module, args]`; modules come from the table LAYERS, nothing is eval'd.

Network and decode: YOLO-Pose, Maji et al. 2022, arXiv 2204.06806.
"""

import copy
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple, Union

import torch
from torch import nn

from models.common import C3, SPP, Concat, Conv, ConvFocus, Focus
from utils.pose.keypoints import Skeleton
from utils.pose.skeleton import of_model, skeleton_keys

Cfg = Dict[str, Any]

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

    def fuse(self) -> None:
        """Where both branches are single 1x1 convolutions of the same map, make them one."""
        if self.merged or self.dw_conv_kpt:
            return
        for i, (box, kpt) in enumerate(zip(self.m, self.m_kpt)):
            conv = nn.Conv2d(box.in_channels, self.no * self.na, 1).to(
                box.weight.device, box.weight.dtype
            )
            with torch.no_grad():
                conv.weight.copy_(torch.cat([box.weight, kpt.weight]))
                conv.bias.copy_(torch.cat([box.bias, kpt.bias]))
            self.m[i] = conv
        self.m_kpt = nn.ModuleList()
        self.merged = True

    def init_biases(self) -> None:
        """Start values: about 8 objects in a 640 px image, class probability 0.6 / nc.

        Every anchor gets them; channel `a * no + j` of the concatenated level is value j of
        anchor a, whichever convolution it lies in.
        """
        for i, s in enumerate(self.stride.tolist()):
            last = self.m_kpt[i][-1] if self.dw_conv_kpt else self.m_kpt[i]
            with torch.no_grad():
                bias = torch.cat([self.m[i].bias, last.bias]).view(self.na, self.no)
                bias[:, 4] += math.log(8 / (640 / s) ** 2)
                bias[:, 5 : 5 + self.nc] += math.log(0.6 / (self.nc - 0.99999))
                bias = bias.flatten()
                border = self.m[i].bias.numel()
                self.m[i].bias.copy_(bias[:border])
                last.bias.copy_(bias[border:])

    def settle_class(self) -> None:
        """Make the probability of a single class 1 everywhere, which it is by definition.

        The public trainer gives it no gradient, so in its checkpoints it is what chance made it,
        and a factor of the score.
        """
        for i, box in enumerate(self.m):
            last = self.m_kpt[i][-1] if self.dw_conv_kpt else self.m_kpt[i]
            border = box.bias.numel()
            for channel in range(5, self.no * self.na, self.no):  # value 5 of each anchor
                conv = box if channel < border else last
                row = channel if channel < border else channel - border
                with torch.no_grad():
                    conv.weight[row] = 0.0
                    conv.bias[row] = SURE


def make_divisible(x: float, divisor: int = 8) -> int:
    """Smallest multiple of `divisor` that is not below x."""
    return int(math.ceil(x / divisor) * divisor)


class _Builder:
    """State of the walk over the cfg rows: width and depth multiples, channels so far."""

    def __init__(self, cfg: Cfg):
        self.cfg = cfg
        self.width, self.depth = float(cfg["width_multiple"]), float(cfg["depth_multiple"])
        self.channels: List[int] = [int(cfg.get("ch", 3))]  # channels[-1] feeds the next layer
        self.act_by_layer = {int(k): v for k, v in (cfg.get("act_by_layer") or {}).items()}

    def act(self, i: int) -> str:
        return self.act_by_layer.get(i, self.cfg.get("act") or "SiLU")

    def c_out(self, c: int) -> int:
        return self.checked(make_divisible(c * self.width, 8))

    @staticmethod
    def checked(channels: int) -> int:
        if channels > MAX_CHANNELS:
            raise ValueError("%d channels in a layer, at most %d" % (channels, MAX_CHANNELS))
        return channels

    def repeats(self, n: int) -> int:
        repeats = max(round(n * self.depth), 1) if n > 1 else n
        if repeats > MAX_REPEATS:
            raise ValueError("%d repeats of a layer, at most %d" % (repeats, MAX_REPEATS))
        return repeats


# Each entry: (builder, c_in, layer index, repeats, args) -> (module, c_out). `c_in` is a list
# for layers with several inputs.
def _block(layer: Callable[..., nn.Module]) -> Callable[..., Tuple[nn.Module, int]]:
    """Builder of a layer with the arguments c_in, c_out, (C3: repeats,) args of the row, act."""

    def make(b: _Builder, c_in: int, i: int, n: int, args: List[Any]) -> Tuple[nn.Module, int]:
        c_out = b.c_out(args[0])
        inside = [n] if layer is C3 else []
        return layer(c_in, c_out, *inside, *args[1:], act=b.act(i)), c_out

    return make


def _concat(b: _Builder, c_in: List[int], i: int, n: int, args: List[Any]):
    return Concat(*args), b.checked(sum(c_in))


def _upsample(b: _Builder, c_in: int, i: int, n: int, args: List[Any]) -> Tuple[nn.Module, int]:
    size, factor, mode = args
    if size not in (None, "None"):
        raise ValueError("layer %d: Upsample takes a scale factor, not a size" % i)
    return nn.Upsample(scale_factor=float(factor), mode=mode), c_in


def _detect(b: _Builder, c_in: List[int], i: int, n: int, args: List[Any]):
    cfg = b.cfg
    head = PoseHead(
        cfg["nc"],
        cfg["nkpt"],
        cfg["anchors"],
        c_in,
        bool(cfg.get("dw_conv_kpt", False)),
        b.act(i),
    )
    return head, 0


LAYERS: Dict[str, Callable[..., Tuple[nn.Module, int]]] = {
    "Conv": _block(Conv),
    "Focus": _block(Focus),
    "ConvFocus": _block(ConvFocus),
    "C3": _block(C3),
    "SPP": _block(SPP),
    "Concat": _concat,
    "nn.Upsample": _upsample,
    "Upsample": _upsample,
    "Detect": _detect,
}
REQUIRED_KEYS = ("nc", "nkpt", "depth_multiple", "width_multiple", "anchors", "backbone", "head")


def read_cfg(path: Union[str, Path]) -> Cfg:
    """Read a cfg yaml. Raises ValueError (with the file name) if it is not one."""
    import yaml

    with open(str(path), encoding="utf-8") as f:
        cfg = yaml.safe_load(f)
    try:
        check_cfg(cfg)
    except ValueError as e:
        raise ValueError("%s: %s" % (path, e)) from e
    return cfg


# Far beyond any sensible network; a cfg may come out of a file from elsewhere.
MAX_ROWS, MAX_REPEATS, MAX_CHANNELS, MAX_KERNEL = 100, 30, 8192, 31
MAX_UPSAMPLE = 64  # product of the factors of all layers; they hold no tensors that could tell


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def check_cfg(cfg: Any) -> None:
    """Raise ValueError naming what a cfg misses or has too much of."""
    if not isinstance(cfg, dict):
        raise ValueError("a cfg is a mapping with the keys %s" % ", ".join(REQUIRED_KEYS))
    missing = [k for k in REQUIRED_KEYS if k not in cfg]
    if missing:
        raise ValueError("cfg misses the keys %s" % ", ".join(missing))
    for key, high in (("nc", 10000), ("nkpt", 1000)):
        if not _is_int(cfg[key], 1, high):
            raise ValueError("%s is %s, expected 1 to %d" % (key, cfg[key], high))
    if not _is_int(cfg.get("ch", 3), 1, 64):
        raise ValueError("ch is %s, expected 1 to 64" % cfg["ch"])
    for key in ("depth_multiple", "width_multiple"):
        if type(cfg[key]) not in (int, float) or not 0 < cfg[key] <= 16:
            raise ValueError("%s is %s, expected a number up to 16" % (key, cfg[key]))
    act, by_layer = cfg.get("act"), cfg.get("act_by_layer") or {}
    if not (act is None or isinstance(act, str)):
        raise ValueError("act is %s, expected the name of an activation" % act)
    if not isinstance(by_layer, dict) or not all(isinstance(v, str) for v in by_layer.values()):
        raise ValueError("act_by_layer is not a mapping of layer numbers to activations")
    _check_anchors(cfg["anchors"])
    if not (isinstance(cfg["backbone"], list) and isinstance(cfg["head"], list)):
        raise ValueError("backbone and head are lists of layers")
    rows = cfg["backbone"] + cfg["head"]
    if not 0 < len(rows) <= MAX_ROWS:
        raise ValueError("%d layers, expected 1 to %d" % (len(rows), MAX_ROWS))
    for i, row in enumerate(rows):
        _check_row(i, row)
    factors = [max(abs(row[3][1]), 1) ** row[1] for row in rows if "Upsample" in row[2]]
    if not math.prod(factors) <= MAX_UPSAMPLE:  # NaN is none either
        raise ValueError("the layers upsample by more than %d" % MAX_UPSAMPLE)
    if rows[-1][2] != "Detect":
        raise ValueError("the last layer must be Detect, got %s" % rows[-1][2])
    levels = rows[-1][0]
    if not isinstance(levels, list) or len(levels) != len(cfg["anchors"]):
        raise ValueError("Detect takes one layer for each of %d anchor lists" % len(cfg["anchors"]))


def _check_anchors(anchors: Any) -> None:
    good = isinstance(anchors, list) and 0 < len(anchors) <= 8
    good = good and all(isinstance(a, (list, tuple)) for a in anchors)
    good = good and all(len(a) == len(anchors[0]) and len(a) in range(2, 65, 2) for a in anchors)
    good = good and all(type(v) in (int, float) and 0 < v < 1e5 for a in anchors for v in a)
    if not good:
        raise ValueError("anchors must be one list of w,h pairs (px) a level, all of one length")


def _check_row(i: int, row: Any) -> None:
    """One layer: [from, repeats, module, args]."""
    if not (isinstance(row, (list, tuple)) and len(row) == 4 and str(row[2]) in LAYERS):
        raise ValueError(
            "layer %d is %s, expected [from, repeats, module, args] with a module of %s"
            % (i, str(row)[:80], ", ".join(sorted(LAYERS)))
        )
    source, repeats, module, args = row
    sources = source if isinstance(source, list) else [source]
    low = -max(i, 1)  # -1 is the image for layer 0, later ones count back to layer 0
    if not sources or not all(_is_int(s, low, i - 1) for s in sources):
        raise ValueError("layer %d %s: from %s is no earlier layer" % (i, module, source))
    if isinstance(source, list) != (module in ("Concat", "Detect")):
        raise ValueError("layer %d %s: from %s" % (i, module, source))
    if not _is_int(repeats, 1, MAX_REPEATS):
        raise ValueError("layer %d %s: repeats %s" % (i, module, repeats))
    if not isinstance(args, (list, tuple)):
        raise ValueError("layer %d %s: args %s are no list" % (i, module, args))
    if "Upsample" in module and not (len(args) == 3 and type(args[1]) in (int, float)):
        raise ValueError("layer %d %s: args %s, expected None, factor, mode" % (i, module, args))
    numbers = [a for a in args if type(a) in (int, float)]
    if module in ("Conv", "Focus", "ConvFocus", "C3", "SPP"):
        if not (args and _is_int(args[0], 1, MAX_CHANNELS)):
            raise ValueError("layer %d %s: %s output channels" % (i, module, args[:1]))
        numbers = numbers[1:]
        for a in args[1:]:
            numbers += list(a) if isinstance(a, (list, tuple)) else []
    if any(type(n) not in (int, float) or abs(n) > MAX_KERNEL for n in numbers):
        raise ValueError("layer %d %s: args %s are out of range" % (i, module, str(args)[:80]))


class Model(nn.Module):
    """YOLO-Pose network.

    Args:
        cfg: dict or path of a yaml file.
        nc, nkpt: override the cfg's number of classes and keypoints.

    Attributes: `cfg` (the dict it was built from, overrides included), `names` (class names),
    `skeleton` (what the keypoints are), `stride` (float tensor, px a cell for each level), `head`.

    Raises ValueError for a cfg that does not describe a network.
    """

    def __init__(self, cfg: Union[str, Path, Cfg], nc: int = 0, nkpt: int = 0):
        super().__init__()
        cfg = read_cfg(cfg) if isinstance(cfg, (str, Path)) else copy.deepcopy(cfg)
        if nc:
            cfg["nc"] = nc
        if nkpt:
            cfg["nkpt"] = nkpt
        check_cfg(cfg)
        self.cfg = cfg
        self.model, self.inputs, self.keep = _build(cfg)
        self.names = ["person"] if cfg["nc"] == 1 else ["class%d" % i for i in range(cfg["nc"])]
        self._keypoints: Dict[str, Any] = {}  # plain values, see skeleton
        head = self.head
        head.stride = _measure_stride(cfg)
        self.stride = head.stride
        head.anchors /= head.stride.view(-1, 1, 1).to(head.anchors.device)
        self._init_weights()

    @property
    def head(self) -> PoseHead:
        return self.model[-1]

    @property
    def fused(self) -> bool:
        """Whether fuse() was called."""
        return not any(isinstance(m, nn.BatchNorm2d) for m in self.modules())

    @property
    def nc(self) -> int:
        return self.head.nc

    @property
    def nkpt(self) -> int:
        return self.head.nkpt

    @property
    def skeleton(self) -> Skeleton:
        """What the keypoints are; until somebody says it, COCO's if they are 17."""
        return of_model(self._keypoints, self.nkpt)

    @skeleton.setter
    def skeleton(self, value: Skeleton) -> None:
        self._keypoints = skeleton_keys(value)

    @property
    def max_stride(self) -> int:
        """Input height and width must be multiples of this many pixels."""
        return int(self.stride.max())

    def _init_weights(self) -> None:
        self.head.init_biases()

    def forward(self, x: torch.Tensor):
        """(B, 3, H, W) RGB 0..1, H and W multiples of `max_stride` -> see PoseHead.forward."""
        return _run(self.model, self.inputs, self.keep, x)

    def fuse(self) -> "Model":
        """Rewrite for inference, in place: BatchNorm folded, Focus as one convolution, head merged.

        The outputs stay the same up to float rounding. Not for training or saving.
        """
        for m in list(self.modules()):
            if isinstance(m, (Focus, PoseHead)):
                m.fuse()
        for m in self.modules():
            if isinstance(m, Conv):
                m.fuse()
        return self.eval()

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


Inputs = List[Union[int, List[int]]]


def _run(layers: nn.Sequential, inputs: Inputs, keep: Sequence[int], x: torch.Tensor):
    """The output of the last layer; arguments as _build returns them."""
    kept: Dict[int, torch.Tensor] = {}
    for i, (layer, source) in enumerate(zip(layers, inputs)):
        if isinstance(source, int):
            y = x if source == -1 else kept[source]
        else:
            y = [x if j == -1 else kept[j] for j in source]
        x = layer(y)
        if i in keep:
            kept[i] = x
    return x


def _measure_stride(cfg: Cfg) -> torch.Tensor:
    """Pixels a cell of each level; from shapes alone, since the maps may be of any size."""
    size = 256
    with torch.device("meta"), torch.no_grad():
        maps = _run(*_build(cfg), torch.zeros(1, int(cfg.get("ch", 3)), size, size))
    return torch.tensor([size / m.shape[2] for m in maps], device="cpu")


def _build(cfg: Cfg) -> Tuple[nn.Sequential, Inputs, List[int]]:
    """Layers, the absolute source index of each (-1: the previous output), indices to keep."""
    builder = _Builder(cfg)
    layers: List[nn.Module] = []
    inputs: Inputs = []
    out: List[int] = []  # channels of each layer

    def absolute(i: int, source: int) -> int:
        """-1 stays; other negative numbers count back from layer i."""
        return source if source >= -1 else i + source

    for i, (source, n, module, args) in enumerate(cfg["backbone"] + cfg["head"]):
        if isinstance(source, int):
            src: Union[int, List[int]] = absolute(i, source)
            c_in: Any = builder.channels[-1] if src == -1 else out[src]
        else:
            src = [absolute(i, s) for s in source]
            c_in = [builder.channels[-1] if s == -1 else out[s] for s in src]
        repeats = builder.repeats(n)
        make = LAYERS[module]
        try:
            if module == "C3" or repeats == 1:
                layer, c_out = make(builder, c_in, i, repeats, list(args))
            else:
                blocks, c = [], c_in
                for _ in range(repeats):
                    block, c = make(builder, c, i, 1, list(args))
                    blocks.append(block)
                layer, c_out = nn.Sequential(*blocks), c
        except (TypeError, IndexError, RuntimeError) as e:
            raise ValueError("layer %d %s: args %s do not fit (%s)" % (i, module, args, e)) from e
        layers.append(layer)
        inputs.append(src)
        out.append(c_out)
        builder.channels.append(c_out)
    keep = sorted(
        {s for src in inputs for s in ([src] if isinstance(src, int) else src) if s != -1}
    )
    return nn.Sequential(*layers), inputs, keep
