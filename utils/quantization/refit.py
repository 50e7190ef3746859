"""Weights of a quantised ONNX, fitted again so that it computes what the FP32 network does.

    insert(model, plan, scales)
    refit(model, plan, original, images)     # instead of correct_bias

Convolution after convolution, in the order of the graph: least squares from what it reads in the
quantised network, all before it being fitted already, to what it makes in the FP32 one. That takes
out means (what correct_bias does, of all layers before as well) and what clipping does to the
channels that are clipped; noise stays noise. No labels, no gradients. How far a convolution goes
from its own weights is decided by images that the fit has not seen, so most stay almost as they
are. One at a time, strictly: fitted together, each would correct what the one before corrects, too.
"""

from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from utils.graph.analysis import Graph, attribute
from utils.quantization.activation_ranges import (
    LEVELS,
    foreground_masks,
    open_session,
    resized,
    sure_columns,
)
from utils.quantization.qdq import PREFIX, QdqPlan, weight_scales, without_pair

if TYPE_CHECKING:
    from onnx import ModelProto

POSITIONS = 500  # of each image and convolution, half of them in the foreground
COLUMNS = 1200  # weights of an output channel, above which only the bias is fitted: for the time
# of the mean square input: how much the weights are held back, what is tried
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
GAIN = 0.98  # of the error on other images has to be left at most, or the weights stay


def refit(
    model: "ModelProto",
    plan: QdqPlan,
    original: "ModelProto",
    *,
    images: Sequence[np.ndarray],
    progress: bool = False,
) -> None:
    """Fit weights and biases of all ungrouped convolutions, in place.

    Args: model: after `insert`. original: before. Both as ONNX Runtime takes them, with the same
    names. images: (B, 3, H, W) float32 RGB 0..1, all of one size; memory grows with them.
    progress: show a bar.

    Weights are left unrounded, with the scales that insert would give them. Convolutions that
    share a constant, or have no bias, stay as they are.
    """
    from tqdm import tqdm

    constants = {c.name: c for c in model.graph.initializer}
    convs = [conv for conv in plan.graph.convs if _can_be_fitted(plan.graph, conv)]
    if not convs or not len(images):
        return
    rng = np.random.default_rng(0)
    quantised = {id(conv) for conv in plan.convs}
    rounded = Steps(model, images, [conv.input[0] for conv in convs])
    exact = Steps(original, images, [conv.output[0] for conv in convs])
    whole = open_session(original.SerializeToString())
    entry = original.graph.input[0].name
    sure = sure_columns(original)
    masks = [foreground_masks(whole.run(None, {entry: p}), p.shape, sure) for p in images]
    stages = _stages(plan.graph, convs)
    for stage in tqdm(stages, desc="fit", unit="stage", disable=None if progress else True):
        reads, makes = ([c.input[0] for c in stage], [c.output[0] for c in stage])
        moments: List[List[Optional[Moments]]] = [[None, None] for _ in stage]
        number = 0  # of the image; halves are of images, also where batches hold many
        for found_masks, x, y in zip(masks, rounded.run(reads), exact.run(makes)):
            for b, mask in enumerate(found_masks):
                for conv, halves in zip(stage, moments):
                    found = measure(
                        *_samples(
                            conv,
                            constants,
                            x[conv.input[0]][b : b + 1],
                            y=y[conv.output[0]][b : b + 1],
                            masks=[mask],
                            rng=rng,
                        )
                    )
                    old = halves[number % 2]
                    halves[number % 2] = found if old is None else added(old, found)
                number += 1
        for conv, halves in zip(stage, moments):
            parts = [part for part in halves if part is not None]
            _fit(conv, constants, parts, quantised=id(conv) in quantised)


def _can_be_fitted(graph: Graph, conv: Any) -> bool:
    own = len(conv.input) > 2 and all(
        without_pair(name) in graph.constants and len(graph.readers[without_pair(name)]) == 1
        for name in conv.input[1:3]
    )
    return own and attribute(conv, "group", 1) == 1 and attribute(conv, "dilations", [1]) in (
        [1], [1, 1],
    )  # fmt: skip


def _stages(graph: Graph, convs: Sequence[Any]) -> List[List[Any]]:
    """Convolutions by how many of them lie before: those of one stage do not read each other."""
    mine = {id(conv) for conv in convs}
    depth: Dict[str, int] = {}
    stages: Dict[int, List[Any]] = {}
    for node in graph.nodes:  # insert has put the pairs' names into the inputs
        before = max([depth.get(without_pair(name), 0) for name in node.input] + [0])
        if id(node) in mine:
            stages.setdefault(before, []).append(node)
            before += 1
        for name in node.output:
            depth[name] = before
    return [stages[key] for key in sorted(stages)]


class Steps:
    """A model run piece by piece over images, whose constants may change in between.

    Args: names: all tensors that `run` will be asked for, which has to be in the graph's order.

    Of each image only what later pieces read is kept.
    """

    def __init__(self, model: "ModelProto", images: Sequence[np.ndarray], names: Sequence[str]):
        self.model = model
        self.maker = {name: node for node in model.graph.node for name in node.output if name}
        entry = model.graph.input[0].name
        self.known: List[Dict[str, np.ndarray]] = [{entry: image} for image in images]
        self.done: Set[int] = set()
        self.useful = self._behind(names)

    def _behind(self, names: Sequence[str]) -> Set[int]:
        """Nodes that names are made from and that were not run yet."""
        found: Set[int] = set()
        waiting = list(names)
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is not None and id(node) not in found and id(node) not in self.done:
                found.add(id(node))
                waiting += node.input
        return found

    def run(self, names: Sequence[str]) -> Iterator[Dict[str, np.ndarray]]:
        """Tensors of each image."""
        now = self._behind(names)
        self.done |= now
        nodes = [node for node in self.model.graph.node if id(node) in now]
        later = self.useful - self.done
        needed = {
            name for node in self.model.graph.node if id(node) in later for name in node.input
        }
        made = [name for node in nodes for name in node.output if name in needed or name in names]
        session = self._session(nodes, made) if made else None
        for i, known in enumerate(self.known):
            if session is not None:
                feed = {entry.name: known[entry.name] for entry in session.get_inputs()}
                known.update(zip(made, session.run(made, feed)))
            self.known[i] = {name: value for name, value in known.items() if name in needed}
            yield {name: known[name] for name in names}

    def _session(self, nodes: Sequence[Any], made: Sequence[str]) -> Any:
        import onnx
        from onnx import helper

        inside = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in node.input if name)
        piece = onnx.ModelProto()
        piece.ir_version = self.model.ir_version
        piece.opset_import.extend(self.model.opset_import)
        piece.graph.name = "piece"
        piece.graph.node.extend(nodes)
        piece.graph.initializer.extend(c for c in self.model.graph.initializer if c.name in read)
        constants = {c.name for c in piece.graph.initializer}
        for name in read:
            if name not in inside and name not in constants:
                value = self.known[0][name]
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                piece.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
        piece.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made)
        return open_session(piece.SerializeToString())


class Moments(NamedTuple):
    """Sums over samples of inputs x (n) and outputs y (m) of a convolution."""

    count: int  # type: ignore[assignment]  # of tuple
    x: np.ndarray  # (n,)
    y: np.ndarray  # (m,)
    xx: np.ndarray  # (n, n), where there are at most COLUMNS, else (0, 0)
    yx: np.ndarray  # (m, n) or (m, 0)
    yy: np.ndarray  # (m,)


def measure(x: np.ndarray, y: np.ndarray) -> Moments:
    """Moments of samples (N, n) and (N, m), in float64."""
    inner = x if x.shape[1] <= COLUMNS else x[:, :0]
    sums = (x.sum(0, dtype=np.float64), y.sum(0, dtype=np.float64))
    squares = (inner.T @ inner, y.T @ inner, np.square(y).sum(0))
    return Moments(len(x), *sums, *(s.astype(np.float64) for s in squares))


def added(a: Moments, b: Moments) -> Moments:
    """Moments of the samples of both."""
    return Moments(*(one + other for one, other in zip(a, b)))  # type: ignore[operator]


def _samples(
    conv: Any, constants: Any, x: np.ndarray, *, y: np.ndarray, masks: Sequence[Any], rng: Any
) -> List[Any]:
    """Receptive fields (N, C kh kw) and outputs (N, O) at random places of x and y (B, C, h, w)."""
    kh, kw = constants[without_pair(conv.input[1])].dims[2:]
    sy, sx = attribute(conv, "strides", [1, 1])
    top, left, bottom, right = attribute(conv, "pads", [0, 0, 0, 0])
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    count, _, h, w = y.shape
    inputs, outputs = [], []
    for b in range(count):
        at = np.arange(h * w)
        if h * w > POSITIONS:
            inside = np.zeros(0, np.int64)
            if masks[b] is not None:
                inside = np.flatnonzero(resized(masks[b], (h, w)))
                inside = rng.permutation(inside)[: POSITIONS // 2]
            at = np.concatenate([inside, rng.choice(at, POSITIONS - len(inside), replace=False)])
        rows, columns = np.divmod(at, w)
        field = x[b][
            :,
            (rows * sy)[:, None, None] + np.arange(kh)[:, None],
            (columns * sx)[:, None, None] + np.arange(kw),
        ]  # [C, N, kh, kw]
        inputs.append(field.transpose(1, 0, 2, 3).reshape(len(at), -1))
        outputs.append(y[b][:, rows, columns].T)
    return [np.ascontiguousarray(np.concatenate(part)) for part in (inputs, outputs)]


def _fit(conv: Any, constants: Any, parts: Sequence[Moments], *, quantised: bool) -> None:
    """Put new weights and a new bias into the constants."""
    from onnx import numpy_helper

    def put(name: str, value: np.ndarray) -> None:
        value = value.astype(np.float32)
        constants[name].CopyFrom(numpy_helper.from_array(value, name))

    name = without_pair(conv.input[1])
    weights = numpy_helper.to_array(constants[name]).astype(np.float32)
    both = parts[0] if len(parts) == 1 else added(*parts)
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    if len(parts) == 2 and len(both.xx):
        flat = fitted(flat, parts)
    weights = flat.reshape(weights.shape).astype(np.float32)
    put(name, weights)
    if quantised:
        scale = weight_scales(weights)
        put(PREFIX + name + "/scale", scale)
        scale = scale[:, None].astype(np.float64)
        flat = np.clip(np.round(flat / scale), -LEVELS, LEVELS) * scale
    put(conv.input[2], (both.y - flat @ both.x) / both.count)


def fitted(weights: np.ndarray, parts: Sequence[Moments]) -> np.ndarray:
    """(m, n) weights with the least error in `y - weights x`, apart from its mean.

    The ridge pulls towards the weights that are there. Which one, or none, is what two halves of
    the images, each fitted and looked at with the other, lose least with.
    """
    one, other = (_centred(part) for part in parts)
    best, chosen = GAIN * (_error(weights, one) + _error(weights, other)), None
    for ridge in RIDGES:
        error = _error(_solve(weights, one, ridge), other)
        error += _error(_solve(weights, other, ridge), one)
        if error < best:
            best, chosen = error, ridge
    if chosen is None:
        return weights
    return _solve(weights, _centred(added(*parts)), chosen)


def _centred(m: Moments) -> Moments:
    """Means and covariances instead of sums."""
    x, y = m.x / m.count, m.y / m.count
    xx, yx = m.xx / m.count - np.outer(x, x), m.yx / m.count - np.outer(y, x)
    return Moments(m.count, x, y, xx, yx, m.yy / m.count - y**2)


def _solve(weights: np.ndarray, m: Moments, ridge: float) -> np.ndarray:
    held = m.xx + (ridge * np.trace(m.xx) / len(m.xx) + 1e-12) * np.eye(len(m.xx))
    return weights + np.linalg.solve(held, (m.yx - weights @ m.xx).T).T


def _error(weights: np.ndarray, m: Moments) -> float:
    """Mean squared error of all outputs over their variance."""
    error = ((weights @ m.xx) * weights).sum() - 2 * (weights * m.yx).sum() + m.yy.sum()
    return float(error / max(m.yy.sum(), 1e-30))
