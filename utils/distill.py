"""Win back what INT8 lost: teach the quantised network to say what its float original says.

    distill(model, original, pictures...)

Scales, biases and weights of a model with Q/DQ pairs are adjusted by a few hundred small steps, so
that its predictions on calibration images equal those of the original; no labels are needed. The
graph, and so what TensorRT makes of it, stays. Needs PyTorch; on a GPU if there is one.

Rounding passes gradients on, and the gradient of a scale is that of LSQ (Esser et al. 2020, arXiv
1902.08153).
"""

from typing import Any, Dict, Iterable, List

import numpy as np

from utils.errors import InputError

LEARN_SCALE, LEARN_BIAS, LEARN_WEIGHT = 2e-3, 1e-3, 1e-5  # learning rates (Adam; scales: of log)
MIN_SCORE = 0.05  # rows of the original that count as somebody


def _rounding(torch: Any) -> Any:
    """autograd.Function of quantise and dequantise; scale (1,) or (out, 1, 1, 1)."""

    class Rounding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, scale: Any) -> Any:
            ctx.save_for_backward(x, scale)
            return torch.clamp(torch.round(x / scale), -128, 127) * scale

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, scale = ctx.saved_tensors
            v = x / scale
            rounded = torch.clamp(torch.round(v), -128, 127)
            inside = (v >= -128) & (v <= 127)
            slope = torch.where(inside, rounded - v, rounded)
            if scale.numel() > 1:  # of weights: they stay
                return grad * inside, None
            return grad * inside, (grad * slope).sum().reshape(1)

    return Rounding.apply


class _Torch:
    """The nodes of a ModelProto in PyTorch, with its float constants as parameters."""

    def __init__(self, torch: Any, model: Any, device: Any):
        from onnx import helper, numpy_helper

        self._torch, self._round = torch, _rounding(torch)
        self.nodes = [
            (n.op_type, list(n.input), list(n.output),
             {a.name: helper.get_attribute_value(a) for a in n.attribute})
            for n in model.graph.node
        ]  # fmt: skip
        arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.constants = {k: torch.from_numpy(v.copy()).to(device) for k, v in arrays.items()}
        self.entry = model.graph.input[0].name
        self.output = model.graph.output[0].name

    def __call__(self, images: Any) -> Any:
        """(B, 3, H, W) -> the first output."""
        torch = self._torch
        values = {self.entry: images}
        readers: Dict[str, int] = {}
        for _, inputs, _, _ in self.nodes:
            for name in inputs:
                readers[name] = readers.get(name, 0) + 1
        for kind, inputs, outputs, a in self.nodes:
            x = [values[n] if n in values else self.constants.get(n) for n in inputs]
            if kind == "Conv":
                pads = a.get("pads", [0, 0, 0, 0])
                if pads[:2] != pads[2:]:
                    x[0] = torch.nn.functional.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
                    pads = [0, 0]
                y = torch.nn.functional.conv2d(
                    x[0], x[1], x[2] if len(x) > 2 else None, a.get("strides", [1, 1]),
                    pads[:2], a.get("dilations", [1, 1]), a.get("group", 1)
                )  # fmt: skip
            elif kind == "QuantizeLinear":
                scale = x[1] if x[1].ndim == 0 else x[1].reshape(-1, 1, 1, 1)
                y = self._round(x[0], scale.reshape(1) if scale.ndim == 0 else scale)
            elif kind == "DequantizeLinear":
                y = x[0]
            elif kind == "Sigmoid":
                y = torch.sigmoid(x[0])
            elif kind == "Relu":
                y = torch.relu(x[0])
            elif kind in ("Mul", "Add"):
                y = x[0] * x[1] if kind == "Mul" else x[0] + x[1]
            elif kind == "Concat":
                y = torch.cat(x, a["axis"])
            elif kind == "MaxPool":
                y = torch.nn.functional.max_pool2d(
                    x[0], a["kernel_shape"], a.get("strides", [1, 1]), a.get("pads", [0, 0])[:2]
                )
            elif kind == "Resize":
                y = torch.nn.functional.interpolate(x[0], scale_factor=2.0, mode="nearest")
            elif kind == "Reshape":
                shape = [x[0].shape[i] if s == 0 else int(s) for i, s in enumerate(x[1].tolist())]
                y = x[0].reshape(shape)
            elif kind == "Transpose":
                y = x[0].permute(*a["perm"])
            elif kind == "Split":
                parts = torch.split(x[0], [int(v) for v in x[1].tolist()], a.get("axis", 0))
                values.update(zip(outputs, parts))
                continue
            elif kind == "Constant":
                continue  # the scales of Resize
            elif kind == "Identity":
                y = x[0]
            else:
                raise InputError("--tune: the model has an operator %s it does not know" % kind)
            values[outputs[0]] = y
        return values[self.output]


def distill(
    model: Any, original: Any, batches: Iterable[np.ndarray], nc: int = 1, decay: int = 200
) -> List[float]:
    """Adjust a model with Q/DQ pairs, in place; returns the loss of each step.

    Args:
        model, original: onnx.ModelProtos with the raw output (B, N, 5 + nc + 3K), static.
        batches: float32 images, one step each.
        decay: steps after which learning rates have fallen to a tenth.

    Raises InputError without PyTorch, or for an operator that it does not know.
    """
    try:
        import torch
    except ImportError as e:
        raise InputError("--tune needs PyTorch; pip install torch, or leave it out") from e
    from onnx import numpy_helper

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = _Torch(torch, model, device), _Torch(torch, original, device)
    scales, biases, weights = {}, {}, {}
    for kind, inputs, _, _ in student.nodes:
        if kind == "QuantizeLinear":
            value = student.constants[inputs[1]]
            if value.ndim == 0:
                scales[inputs[1]] = value.clone().requires_grad_()
            else:
                weights[inputs[0]] = student.constants[inputs[0]].clone().requires_grad_()
        elif kind == "Conv" and len(inputs) > 2:
            biases[inputs[2]] = student.constants[inputs[2]].clone().requires_grad_()
    groups: Dict[float, List[str]] = {}  # tensors that share a scale go on sharing it
    for name, value in scales.items():
        groups.setdefault(float(value), []).append(name)
    logs = {}
    for value, names in groups.items():
        log = torch.tensor(np.log(value), dtype=torch.float32, device=device, requires_grad=True)
        logs.update(dict.fromkeys(names, log))
    unique = list({id(v): v for v in logs.values()}.values())
    optimizer = torch.optim.Adam(
        [
            {"params": unique, "lr": LEARN_SCALE},
            {"params": list(biases.values()), "lr": LEARN_BIAS},
            {"params": list(weights.values()), "lr": LEARN_WEIGHT},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step / decay))
    losses = []
    student.constants.update(biases)
    student.constants.update(weights)
    for batch in batches:
        images = torch.from_numpy(batch).to(device)
        with torch.no_grad():
            wanted = teacher(images)
        student.constants.update({name: log.exp() for name, log in logs.items()})
        loss = _difference(torch, student(images), wanted, nc)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
    final = {name: log.detach().exp() for name, log in logs.items()}
    final.update(biases)
    final.update(weights)
    for initializer in model.graph.initializer:
        if initializer.name in final:
            value = final[initializer.name].detach().cpu().numpy()
            initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))
    return losses


def _difference(torch: Any, found: Any, wanted: Any, nc: int) -> Any:
    """Loss of (B, N, 5 + nc + 3K) rows: who is where, and with which confidences.

    Points count relative to the box, and as much as the original is sure of the row; confidences
    count everywhere, since a false alarm is an error, too.
    """
    conf = slice(4, 5 + nc)
    score = wanted[..., 4] * wanted[..., 5 : 5 + nc].amax(-1)
    alarm = ((found[..., conf] - wanted[..., conf]) ** 2).sum(-1)
    persons = torch.clamp(score, min=0) * (score > MIN_SCORE)
    weight = persons / torch.clamp(persons.sum(), min=1e-6)
    size = torch.clamp((wanted[..., 2] * wanted[..., 3]), min=64.0).sqrt()
    moved = (found - wanted)[..., 5 + nc :].unflatten(-1, (-1, 3))
    points = (moved[..., :2] ** 2).sum(-1).mean(-1) / size**2
    seen = (moved[..., 2] ** 2).mean(-1)
    boxes = ((found - wanted)[..., :4] ** 2).sum(-1) / size**2
    sure = alarm.sum() / torch.clamp((score > MIN_SCORE).sum(), min=1)
    return (weight * (100 * points + 10 * boxes + seen)).sum() + 10 * sure
