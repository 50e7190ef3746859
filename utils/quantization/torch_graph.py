"""An ONNX graph as a PyTorch function: what comes before the decode, Q/DQ pairs included.

    graph = TorchGraph(model, ["head_out"])
    maps = graph(images)                    # list of (B, C, h, w), differentiable
    graph.values["conv1.weight"]            # every constant, by its name in the ONNX

A pair is computed as ONNX Runtime computes it; its gradient goes straight through the rounding, and
to the scale as in LSQ (Esser et al. 2020, arXiv 1902.08153). Imports torch, so callers do it late.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Set, Tuple

import torch
from torch.nn import functional as F

from utils.errors import InputError
from utils.graph.analysis import PASSING, attribute

if TYPE_CHECKING:
    from onnx import ModelProto

LOW, HIGH = -128, 127  # of an int8


class FakeQuant(torch.autograd.Function):
    """QuantizeLinear and DequantizeLinear with zero point 0: clip(round(x / scale)) * scale.

    Of the gradients only passes over memory cost anything, so there are as few as can be.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if scale.numel() == 1:
            y = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, LOW, HIGH)
        else:  # of weights, (out, 1, 1, 1); their largest is at the limit, nothing is cut off
            y = (x / scale).round_().clamp_(LOW, HIGH).mul_(scale)
        ctx.save_for_backward(x, y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tuple[torch.Tensor, None]:
        x, y, scale = ctx.saved_tensors
        if scale.numel() > 1:
            return grad, None
        s = float(scale)
        inside = torch.ops.aten.hardtanh_backward(grad, x, (LOW - 0.5) * s, (HIGH + 0.5) * s)
        to_scale = None
        if ctx.needs_input_grad[1]:  # the rounding error inside, the limit itself outside
            total = torch.dot(grad.reshape(-1), y.reshape(-1))
            to_scale = (total - torch.dot(inside.reshape(-1), x.reshape(-1))) / scale
        return inside, to_scale


class TorchGraph:
    """The part of a model that makes some of its tensors.

    Args:
        model: onnx.ModelProto, constants float32. outputs: names of the tensors wanted.

    Attributes:
        values: constant -> tensor; may be replaced or trained.
        bound: it computes one size of images only, for the shapes are constants of the graph. The
            batch is free all the same.

    Raises InputError for an operation it has no rule for.
    """

    def __init__(self, model: "ModelProto", outputs: Sequence[str], device: str = "cpu"):
        from onnx import numpy_helper

        self.outputs = list(outputs)
        self.entry = model.graph.input[0].name
        needed: Set[str] = set(outputs)
        self.nodes: List[Any] = []
        for node in reversed(model.graph.node):
            if needed & set(node.output):
                self.nodes.insert(0, node)
                needed.update(name for name in node.input if name)
        maker = {name: node for node in self.nodes for name in node.output}
        self.values: Dict[str, Any] = {}
        for constant in model.graph.initializer:
            if constant.name in needed:
                self._keep(constant.name, numpy_helper.to_array(constant), device)
        reshapes = [self.values.get(n.input[1]) for n in self.nodes if n.op_type == "Reshape"]
        self.bound = any(s is not None and -1 not in s.tolist()[1:] for s in reshapes)
        self.steps: List[Any] = []  # (function, names of its data, name of what it makes)
        sigmoids: Dict[str, str] = {}  # output -> input, of those that only make a SiLU
        readers: Dict[str, int] = {}
        for node in self.nodes:
            for name in node.input:
                readers[name] = readers.get(name, 0) + 1
        for node in self.nodes:
            if node.op_type == "Constant":
                value = attribute(node, "value", None)
                self._keep(node.output[0], numpy_helper.to_array(value), device)
                continue
            made = node.output[0]
            if node.op_type == "Sigmoid" and readers.get(made) == 1 and made not in outputs:
                reader = next(n for n in self.nodes if made in n.input)
                if reader.op_type == "Mul" and node.input[0] in reader.input:
                    sigmoids[made] = node.input[0]
                    continue
            if node.op_type == "Mul" and any(name in sigmoids for name in node.input):
                x = next(sigmoids[name] for name in node.input if name in sigmoids)
                self.steps.append((F.silu, [x], made))
            elif node.op_type == "QuantizeLinear" and self._moved(node, maker):
                self.steps.append((_same, [node.input[0]], made))
            elif node.op_type == "Split":
                for part, name in enumerate(node.output):
                    self.steps.append((_split(node, part, self.values), node.input[:1], name))
            else:
                self.steps.append((self._rule(node), _data(node), made))
        last: Dict[str, int] = {}
        for i, (_, names, _) in enumerate(self.steps):
            last.update(dict.fromkeys(names, i))
        self.done: List[List[str]] = [[] for _ in self.steps]  # what nobody reads any more
        for name, i in last.items():
            if name not in self.values and name not in outputs:
                self.done[i].append(name)

    def _keep(self, name: str, value: Any, device: Any) -> None:
        self.values[name] = torch.from_numpy(value.copy()).to(device)

    def _moved(self, node: Any, maker: Dict[str, Any]) -> bool:
        """Whether what is quantised was so before it was only moved: its pair changes nothing."""
        before = maker.get(node.input[0])
        if before is None or before.op_type not in PASSING:
            return False
        names = before.input if before.op_type == "Concat" else before.input[:1]
        pairs = [maker.get(name) for name in names]
        scale = self.values[node.input[1]]
        return all(
            p is not None
            and p.op_type == "DequantizeLinear"
            and torch.equal(self.values[p.input[1]], scale)
            for p in pairs
        )

    def __call__(self, images: torch.Tensor) -> List[torch.Tensor]:
        """(B, 3, H, W) RGB 0..1 -> the outputs, in their order."""
        found = {self.entry: images}
        for (function, names, made), done in zip(self.steps, self.done):
            data = [found[n] if n in found else self.values[n] for n in names]
            found[made] = function(*data)
            for name in done:
                del found[name]
        return [found[name] for name in self.outputs]

    def _rule(self, node: Any) -> Callable[..., Any]:
        """A function of the node's data."""
        rules: Dict[str, Callable[..., Any]] = {
            "Add": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Sigmoid": torch.sigmoid,
            "Relu": F.relu,
            "Identity": _same,
            "DequantizeLinear": _same,  # FakeQuant has done it
            "Div": _div,
            "MatMul": torch.matmul,
            "Reshape": _reshape,
            "Shape": lambda x: torch.tensor(x.shape, device=x.device),
        }
        if node.op_type in rules:
            return rules[node.op_type]
        if node.op_type == "Concat":
            axis = attribute(node, "axis", 1)
            return lambda *parts: torch.cat(parts, axis)
        if node.op_type in ("Transpose", "Softmax", "Gather", "Unsqueeze", "Slice", "Cast"):
            return _moves[node.op_type](node)
        if node.op_type == "QuantizeLinear":
            if self.values[node.input[1]].dim() == 1 and attribute(node, "axis", 1) == 0:
                return lambda x, scale: FakeQuant.apply(x, scale.reshape(-1, 1, 1, 1))
            return FakeQuant.apply
        makers = {"Conv": _conv, "MaxPool": _max_pool, "Resize": self._resize}
        rule = makers[node.op_type](node) if node.op_type in makers else None
        if rule is None:
            raise InputError(
                "`distill`: no rule for %s, a %s of this kind" % (node.name, node.op_type)
            )
        return rule

    def _resize(self, node: Any) -> Any:
        mode = attribute(node, "mode", b"nearest")
        scales = self.values.get(node.input[2]) if len(node.input) > 2 else None
        if mode != b"nearest" or scales is None or scales.numel() != 4:
            return None
        factor = (float(scales[2]), float(scales[3]))
        if any(f != int(f) or f < 1 for f in factor):
            return None
        return lambda x: F.interpolate(x, scale_factor=factor, mode="nearest")


def _div(x: Any, y: Any) -> Any:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _reshape(x: Any, shape: Any) -> Any:
    """A first dimension that is no -1 is the batch, whatever the graph says."""
    wanted = [x.shape[i] if v == 0 else v for i, v in enumerate(shape.tolist())]
    if len(wanted) > 1 and wanted[0] != -1:
        wanted[0] = x.shape[0]
    return x.reshape(wanted)


def _split(node: Any, part: int, values: Dict[str, Any]) -> Callable[..., Any]:
    axis, count = attribute(node, "axis", 0), len(node.output)
    sizes = values[node.input[1]].tolist() if len(node.input) > 1 else None

    def split(x: Any) -> Any:
        return x.split(sizes or -(-x.shape[axis] // count), axis)[part]

    return split


def _slice(node: Any) -> Callable[..., Any]:
    def cut(x: Any, *parameters: Any) -> Any:
        starts, stops, *rest = (p.tolist() for p in parameters)
        axes = rest[0] if rest else range(len(starts))
        steps = rest[1] if len(rest) > 1 else [1] * len(starts)
        for start, stop, axis, step in zip(starts, stops, axes, steps):
            index = [slice(None)] * x.dim()
            index[axis] = slice(start, stop, step)
            x = x[tuple(index)]
        return x

    return cut


def _gather(node: Any) -> Callable[..., Any]:
    axis = attribute(node, "axis", 0)
    return lambda x, i: x.index_select(axis, i.reshape(-1).to(x.device)).reshape(
        *x.shape[:axis], *i.shape, *x.shape[axis % x.dim() + 1 :]
    )


def _unsqueeze(node: Any) -> Callable[..., Any]:
    def widen(x: Any, axes: Any) -> Any:
        for axis in sorted(axes.tolist()):
            x = x.unsqueeze(axis)
        return x

    return widen


def _cast(node: Any) -> Callable[..., Any]:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64}  # of onnx.TensorProto
    kind = kinds.get(attribute(node, "to", 1))
    return None if kind is None else lambda x: x.to(kind)  # type: ignore


_moves: Dict[str, Callable[[Any], Callable[..., Any]]] = {
    "Transpose": lambda node: lambda x: x.permute(*attribute(node, "perm", None)),
    "Softmax": lambda node: lambda x: x.softmax(attribute(node, "axis", -1)),
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Cast": _cast,
}


def _same(x: Any, *_: Any) -> Any:
    return x


def _data(node: Any) -> List[str]:
    """Inputs that are no parameters of the node."""
    counts = {"Resize": 1, "QuantizeLinear": 2, "DequantizeLinear": 1}
    return [name for name in node.input if name][: counts.get(node.op_type)]


def _pads(node: Any) -> Any:
    """(height, width) on either side; None where the sides differ or `auto_pad` decides."""
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    return top, left


def _conv(node: Any) -> Any:
    pads = _pads(node)
    if pads is None:
        return None
    stride = tuple(attribute(node, "strides", [1, 1]))
    dilation = tuple(attribute(node, "dilations", [1, 1]))
    groups = attribute(node, "group", 1)
    return lambda x, w, b=None: F.conv2d(x, w, b, stride, pads, dilation, groups)


def _max_pool(node: Any) -> Any:
    pads = _pads(node)
    if pads is None or attribute(node, "ceil_mode", 0):
        return None
    kernel = tuple(attribute(node, "kernel_shape", None))
    stride = tuple(attribute(node, "strides", [1, 1]))
    dilation = tuple(attribute(node, "dilations", [1, 1]))
    return lambda x: F.max_pool2d(x, kernel, stride, pads, dilation)
