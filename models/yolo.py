"""YOLO-Pose: a network built from a cfg.

    model = Model("models/hub/yolov5s6_kpts.yaml")
    predictions = model.eval()(images)           # (B, 3, H, W) RGB 0..1 -> (B, N, 5 + nc + 3K)

cfg.py says what a cfg is, common.py has the layers, head.py the last of them.

YOLO-Pose: Maji et al. 2022, arXiv 2204.06806.
"""

import copy
import functools
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Union

import torch
from torch import nn

from models.cfg import MAX_CHANNELS, MAX_PARAMETERS, MAX_REPEATS, Cfg, check_cfg, read_cfg
from models.common import C3, SPP, Concat, Conv, ConvFocus, Focus
from models.head import PoseHead
from utils.errors import one_line
from utils.pose.keypoints import Skeleton
from utils.pose.skeleton import of_model, skeleton_keys


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
        return str(self.act_by_layer.get(i, self.cfg.get("act") or "SiLU"))

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


class _Row(NamedTuple):
    """A layer to make."""

    i: int  # its number
    c_in: Any  # channels; a list for layers with several inputs
    repeats: int
    args: List[Any]


Make = Callable[[_Builder, _Row], Tuple[nn.Module, int]]  # -> layer, c_out


def _block(layer: Callable[..., nn.Module], *names: str) -> Make:
    """Maker of a layer with the arguments c_in, c_out, those of the row as `names`, and act."""

    def make(b: _Builder, row: _Row) -> Tuple[nn.Module, int]:
        c_out, values = b.c_out(row.args[0]), row.args[1:]
        if len(values) > len(names):
            raise TypeError("at most channels and %s" % (", ".join(names) or "nothing"))
        given = dict(zip(names, values))
        if layer is C3:
            given["n"] = row.repeats
        return layer(row.c_in, c_out, **given, act=b.act(row.i)), c_out

    return make


def _concat(b: _Builder, row: _Row) -> Tuple[nn.Module, int]:
    return Concat(*row.args), b.checked(sum(row.c_in))


def _upsample(b: _Builder, row: _Row) -> Tuple[nn.Module, int]:
    size, factor, mode = row.args
    if size not in (None, "None"):
        raise ValueError("layer %d: Upsample takes a scale factor, not a size" % row.i)
    return nn.Upsample(scale_factor=float(factor), mode=mode), row.c_in


def _detect(b: _Builder, row: _Row) -> Tuple[nn.Module, int]:
    cfg = b.cfg
    head = PoseHead(
        cfg["nc"],
        cfg["nkpt"],
        cfg["anchors"],
        channels=row.c_in,
        dw_conv_kpt=bool(cfg.get("dw_conv_kpt", False)),
        act=b.act(row.i),
    )
    return head, 0


LAYERS: Dict[str, Make] = {
    "Conv": _block(Conv, "k", "s"),
    "Focus": _block(Focus, "k"),
    "ConvFocus": _block(ConvFocus, "k"),
    "C3": _block(C3, "shortcut"),
    "SPP": _block(SPP, "kernels"),
    "Concat": _concat,
    "nn.Upsample": _upsample,
    "Upsample": _upsample,
    "Detect": _detect,
}


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
        self.model: nn.Sequential
        stride = _measure_stride(cfg)  # before memory is taken
        self.model, self.inputs, self.keep = _build(cfg)
        self.names = ["person"] if cfg["nc"] == 1 else ["class%d" % i for i in range(cfg["nc"])]
        self._keypoints: Dict[str, Any] = {}  # plain values, see skeleton
        head = self.head
        head.stride = stride
        self.stride = head.stride
        head.anchors /= head.stride.view(-1, 1, 1).to(head.anchors.device)
        self._init_weights()

    @property
    def head(self) -> PoseHead:
        head = self.model[-1]
        assert isinstance(head, PoseHead)
        return head

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
        return _run(self.model, self.inputs, self.keep, x=x)

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


def _run(layers: nn.Sequential, inputs: Inputs, keep: Sequence[int], *, x: torch.Tensor):
    """The output of the last layer; arguments as _build returns them."""
    kept: Dict[int, torch.Tensor] = {}
    for i, (layer, source) in enumerate(zip(layers, inputs)):
        if isinstance(source, int):
            y: Any = x if source == -1 else kept[source]
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
        layers, inputs, keep = _build(cfg)
    count = sum(p.numel() for p in layers.parameters())
    if count > MAX_PARAMETERS:
        raise ValueError("%.0f M parameters, at most %.0f M" % (count / 1e6, MAX_PARAMETERS / 1e6))
    _without_memory(layers)
    try:
        with torch.device("cpu"), torch.no_grad():
            maps = _run(layers, inputs, keep, x=torch.zeros(0, int(cfg.get("ch", 3)), size, size))
        strides = [size / m.shape[2] for m in maps]
    except (RuntimeError, ArithmeticError, LookupError, TypeError, ValueError) as e:
        raise ValueError("the layers do not fit together (%s)" % one_line(e, 200)) from e
    if not all(s == int(s) <= 1024 for s in strides):
        raise ValueError("levels of %s px a cell, expected whole numbers" % strides)
    return torch.tensor(strides, device="cpu")


def _without_memory(layers: nn.Module) -> None:
    """Make layers of the device `meta` run on the CPU with batches of no image.

    On `meta` itself torch.cat and BatchNorm are Python, and import TorchDynamo: a second or two.
    """
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):  # else it would copy its weights
            module.forward = functools.partial(_convolved, module)  # type: ignore[method-assign]
        for name, tensor in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(_one_value(tensor), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, _one_value(buffer))
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _one_value(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of that shape on the CPU which takes no memory."""
    return torch.zeros((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)


def _convolved(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What a convolution makes of (0, C, H, W)."""
    if x.shape[1] != conv.in_channels:
        raise ValueError("%d channels, expected %d" % (x.shape[1], conv.in_channels))
    assert not isinstance(conv.padding, str)
    sizes = [
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(
            x.shape[2:], conv.padding, conv.dilation, conv.kernel_size, conv.stride
        )
    ]
    return x.new_zeros(0, conv.out_channels, *sizes)  # raises RuntimeError for less than nothing


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
            one = absolute(i, source)
            src: Union[int, List[int]] = one
            c_in: Any = builder.channels[-1] if one == -1 else out[one]
        else:
            several = [absolute(i, s) for s in source]
            src = several
            c_in = [builder.channels[-1] if s == -1 else out[s] for s in several]
        repeats = builder.repeats(n)
        make = LAYERS[module]
        try:
            if module == "C3" or repeats == 1:
                layer, c_out = make(builder, _Row(i, c_in, repeats, list(args)))
            else:
                blocks, c = [], c_in
                for _ in range(repeats):
                    block, c = make(builder, _Row(i, c, 1, list(args)))
                    blocks.append(block)
                layer, c_out = nn.Sequential(*blocks), c
        except (TypeError, IndexError, RuntimeError, ArithmeticError, ValueError) as e:
            what = (i, module, str(args)[:80], " ".join(str(e).split())[:200])
            raise ValueError("layer %d %s: args %s do not fit (%s)" % what) from e
        layers.append(layer)
        inputs.append(src)
        out.append(c_out)
        builder.channels.append(c_out)
    keep = sorted(
        {s for src in inputs for s in ([src] if isinstance(src, int) else src) if s != -1}
    )
    return nn.Sequential(*layers), inputs, keep
