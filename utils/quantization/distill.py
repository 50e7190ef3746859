"""Distillation: a quantised ONNX learns to predict what its FP32 original predicts.

    distill(model, teacher, plan, images, (640, 640), Options(steps=300))

Needs images but no labels. Weights, biases and the scales of activations are trained, with the
rounding in place (straight-through), so the network finds values that lose less by it; then they
are put back into the ONNX, whose nodes stay what they were. Imports torch, so callers do it late.
"""

import math
import random
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Sequence

import numpy as np
import torch

from utils.errors import InputError
from utils.pose.letterbox import HW
from utils.quantization.activation_ranges import LEVELS
from utils.quantization.head_loss import open_head
from utils.quantization.images import read_batch
from utils.quantization.qdq import PREFIX, QdqPlan, weight_scales, without_pair
from utils.quantization.torch_graph import TorchGraph

if TYPE_CHECKING:
    from onnx import ModelProto

MULTIPLE = 64  # px, of every stride
LARGEST_ZOOM = 1.2  # of what the model will see
WARM_UP = 0.05  # of the steps


class DistillOptions(NamedTuple):
    """How to distil.

    Rates are for weights and biases relative to their size, for scales in log. INT8 is off by so
    little that larger steps easily do harm: a run with 3e-5 ended worse than it began.
    """

    steps: int
    size: int = 320  # px of the square crops
    batch: int = 4
    rate: float = 5e-6
    scale_rate: float = 1e-3
    features: float = 1.0  # gain of the head's inputs
    seed: int = 0
    device: str = "cpu"
    progress: bool = True


def crops(
    paths: Sequence[str], net_hw: HW, options: DistillOptions, *, letterboxed: bool
) -> Iterator[np.ndarray]:
    """Endless batches (B, 3, size, size) of pieces, zoomed and mirrored at random.

    The zoom goes from the whole image in the crop to a little more than what the model sees, so
    that activations are those of use.
    """
    dice = random.Random(options.seed)
    h, w = (
        side if options.size >= side else options.size // MULTIPLE * MULTIPLE or side
        for side in net_hw
    )
    order: List[str] = []
    least = max(h / net_hw[0], w / net_hw[1])
    while True:
        batch = []
        for _ in range(options.batch):
            if not order:
                order = list(paths)
                dice.shuffle(order)
            zoom = math.exp(dice.uniform(math.log(least), math.log(max(LARGEST_ZOOM, least))))
            hw = (max(round(net_hw[0] * zoom), h), max(round(net_hw[1] * zoom), w))
            image = read_batch([order.pop()], hw, letterboxed)[0]
            top, left = dice.randint(0, hw[0] - h), dice.randint(0, hw[1] - w)
            image = image[:, top : top + h, left : left + w]
            batch.append(image[..., ::-1] if dice.random() < 0.5 else image)
        yield np.ascontiguousarray(np.stack(batch))


class Student:
    """The quantised graph with what is trained in it.

    Attributes: values: names of the constants of the ONNX -> trained tensors.
    """

    def __init__(self, model: "ModelProto", plan: QdqPlan, outputs: Sequence[str], *, device: str):
        self.graph = TorchGraph(model, outputs, device)
        values = self.graph.values
        self.weights = []  # (name, name of its scale or None)
        self.biases = []
        for node in self.graph.nodes:
            if node.op_type != "Conv":
                continue
            name = without_pair(node.input[1])
            self.weights.append((name, PREFIX + name + "/scale" if name != node.input[1] else None))
            self.biases += [n for n in node.input[2:3] if n in values]
        kept = {constant.name for constant in model.graph.initializer}  # what can be put back
        names = [n for n, _ in self.weights if n in values] + self.biases
        self.trained = {n: values[n].requires_grad_() for n in names if n in kept}
        self.groups: Dict[str, List[str]] = {}  # representative -> scales that are one
        for tensor in plan.tensors:
            name = PREFIX + tensor + "/scale"
            if name in values:
                self.groups.setdefault(plan.group[tensor], []).append(name)
        self.logs = {
            key: values[names[0]].log().requires_grad_() for key, names in self.groups.items()
        }

    def __call__(self, images: torch.Tensor) -> List[torch.Tensor]:
        self.round_scales()
        return self.graph(images)

    def round_scales(self) -> None:
        """Scales follow from what is trained."""
        values = self.graph.values
        for key, names in self.groups.items():
            values.update(dict.fromkeys(names, self.logs[key].exp()))
        with torch.no_grad():
            for name, scale in self.weights:
                if scale is not None:
                    largest = values[name].abs().amax((1, 2, 3))
                    values[scale] = largest.clamp(min=1e-12) / LEVELS

    def parameters(self, options: DistillOptions) -> List[Dict[str, Any]]:
        """Groups of Adam, whose steps are as large as the rate: a share of each tensor's size."""
        groups = [
            {
                "params": [p],
                "rate": options.rate * max(float(p.detach().square().mean().sqrt()), 1e-3),
            }
            for p in self.trained.values()
        ]
        return [*groups, {"params": list(self.logs.values()), "rate": options.scale_rate}]

    def write(self, model: "ModelProto") -> None:
        """Put the values into the ONNX they are from."""
        from onnx import numpy_helper

        self.round_scales()
        found = {n: self.graph.values[n].detach().cpu().numpy() for n in self.trained}
        for name, scale in self.weights:
            if scale is not None:
                found[scale] = weight_scales(found[name])
        for names in self.groups.values():
            for name in names:
                found[name] = self.graph.values[name].detach().cpu().numpy()
        for constant in model.graph.initializer:
            if constant.name in found:
                value = found[constant.name].astype(np.float32)
                constant.CopyFrom(numpy_helper.from_array(value, constant.name))


def distill(
    model: "ModelProto",
    teacher: "ModelProto",
    plan: QdqPlan,
    *,
    paths: Sequence[str],
    net_hw: HW,
    options: DistillOptions,
    letterboxed: bool = False,
) -> List[float]:
    """Train a quantised model in place. Returns the loss of each step.

    Args:
        model: onnx.ModelProto with the pairs of `plan`. teacher: the same before `insert`.
        images: files. net_hw: (height, width) px the model is used at.

    Raises InputError for a head that is no YOLO-Pose one, or if it diverges.
    """
    from tqdm import tqdm

    if options.steps < 1:
        return []
    torch.backends.cudnn.allow_tf32 = False  # it rounds as coarsely as what is to be learnt
    head = open_head(teacher, plan.graph)
    heads = head.outputs
    features = list(dict.fromkeys(without_pair(conv.input[0]) for conv in plan.graph.head))
    student = Student(model, plan, heads + features, device=options.device)
    reference = TorchGraph(teacher, heads + features, options.device)
    optimizer = torch.optim.Adam(student.parameters(options), lr=0.0, betas=(0.9, 0.99))
    losses = []
    if reference.bound:  # sizes are in the graph
        options = options._replace(size=max(net_hw))
    batches = crops(paths, net_hw, options, letterboxed=letterboxed)
    with tqdm(range(options.steps), "distill", disable=None if options.progress else True) as bar:
        for step in bar:
            images = torch.from_numpy(next(batches)).to(options.device)
            with torch.no_grad():
                wanted = dict(zip(reference.outputs, reference(images)))
            found = dict(zip(student.graph.outputs, student(images)))
            loss = head.loss(found, wanted)
            for name in features if options.features else []:
                error = (found[name] - wanted[name]).square().mean()
                loss = loss + options.features / len(features) * error / (wanted[name].var() + 1e-6)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * share(step, options.steps)
            optimizer.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise InputError("`distill`: the loss is not finite after %d steps" % len(losses))
            bar.set_postfix(loss="%.3f" % np.mean(losses[-20:]), refresh=False)
    student.write(model)
    return losses


def share(step: int, steps: int) -> float:
    """Of the rate: up over WARM_UP, then down to 0 along a cosine."""
    warm = max(int(WARM_UP * steps), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))
