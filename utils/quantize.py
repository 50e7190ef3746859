"""Explicit INT8: QuantizeLinear / DequantizeLinear pairs in an ONNX, from ranges of its tensors.

    plan = make_plan(Graph(model), keep=[])
    scales = shared_scales(plan, amax)
    insert(model, plan, scales)

Where the pairs go follows what TensorRT fuses:
- Convolution, SiLU and a residual addition are one block: pairs stand only where a convolution
  reads, never between convolution, sigmoid and multiplication.
- A tensor has one pair, read by all its INT8 readers; so the branch of a residual addition that
  its convolution reads, too, is INT8 and read once.
- Concat, MaxPool and Resize move values about: what goes in and what comes out share one scale,
  and their inputs carry pairs, too, so that the moving is done in INT8.
- A tensor that is moved about and read by a convolution larger than 1x1, too (a backbone level: on
  to the next one, and to a concat of the neck), has two pairs. With one scale for all of these the
  levels of the backbone, which everything else is made of, lose more than any other tensor.
- Weights are symmetric with one scale an output channel, activations symmetric with one a tensor,
  zero points are 0: what TensorRT takes.
- Where only 1x1 convolutions read, a SiLU tensor is quantised around the middle of its range
  instead of around 0: x - c, and c times the sum of the weights in the bias. Its negative half is
  nearly empty, so this doubles the resolution, with zero points still 0. (A padded convolution
  would need c in its padding.)
- The convolutions that make the raw predictions, and the decode, stay in floating point; `keep`
  names more. Of a network so small that these are more than a twentieth of it, `final_for_share`
  chooses some: with INT8 inputs and weights, but what they make is float all the same.
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Sequence, Set, Tuple

import numpy as np

from utils.errors import InputError
from utils.onnx_graph import PASSING, Graph, attribute, conv_macs, find, union
from utils.ranges import LEVELS

PREFIX = "int8/"  # of everything that is put into the graph
MOVED = "/moved"  # after the name of a tensor: its second pair
MIN_SHARE = 0.95  # of the multiply-accumulates
SILU_LOWEST = -0.27846454  # x sigmoid(x) at x = -1.2784645
WIDER = 1.15  # per bit: clipping a Laplacian best, Banner et al. 2019, arXiv 1810.05723, table 1


class Plan(NamedTuple):
    """What is quantised.

    convs: Conv nodes in INT8. tensors: activations that get a pair, in graph order; second pairs
    have the tensor's name with MOVED behind it.
    group: tensor -> representative of those that share its scale.
    lowest: representative -> the least value of the group, of those that may be shifted.
    """

    graph: Graph
    convs: List[Any]
    tensors: List[str]
    group: Dict[str, str]
    lowest: Dict[str, float]


def make_plan(graph: Graph, keep: Iterable[str] = (), final: Iterable[str] = ()) -> Plan:
    """Decide which convolutions and tensors are INT8.

    Args:
        keep: convolutions that stay floating point, by parts of the name of node or output.
        final: outputs of the head's final ones that are INT8 nevertheless.

    Raises InputError for a `keep` that names nothing, or if nothing is left.
    """
    wanted_final = set(final)
    last = {id(node) for node in graph.head if node.output[0] not in wanted_final}
    check_keep(graph, keep)
    convs = [
        conv
        for conv in graph.convs
        if id(conv) not in last and not matches(conv, keep) and graph.weights(conv) is not None
    ]
    if not convs:
        raise InputError("no convolution is left to be INT8")
    wanted: Set[str] = {conv.input[0] for conv in convs}
    large = {
        conv.input[0]
        for conv in convs
        if graph.weights(conv).shape[2:] != (1, 1)  # type: ignore
        and (conv.input[0] in graph.inputs or graph.maker[conv.input[0]].op_type not in PASSING)
    }
    groups: Dict[str, str] = {}
    for node in reversed(graph.nodes):
        if node.op_type in PASSING and id(node) not in graph.decode and node.output[0] in wanted:
            moved = [n for n in node.input if n in graph.maker or n in graph.inputs]
            moved = moved if node.op_type == "Concat" else moved[:1]
            moved = [name + MOVED if name in large else name for name in moved]
            wanted.update(moved)
            union(groups, [node.output[0], *moved])
    order = [*graph.inputs, *(name for node in graph.nodes for name in node.output)]
    tensors = [n for name in order for n in (name, name + MOVED) if n in wanted]
    group = {name: find(groups, name) for name in tensors}
    return Plan(graph, convs, tensors, group, _shiftable(graph, convs, group))


def _shiftable(graph: Graph, convs: Sequence[Any], group: Dict[str, str]) -> Dict[str, float]:
    """Lowest value of the groups whose range is known below and that only 1x1 convolutions read.

    Additions may read, too; they get c back.
    """
    low: Dict[str, float] = {}
    for node in graph.nodes:
        known = [low[n] for n in node.input if n in low]
        every = len(known) == len(node.input)
        if graph.is_silu(node):
            low[node.output[0]] = SILU_LOWEST
        elif node.op_type == "Relu":
            low[node.output[0]] = 0.0
        elif node.op_type == "Add" and every:
            low[node.output[0]] = sum(known)
        elif node.op_type in PASSING and known:
            low[node.output[0]] = min(known)
    quantised = {id(conv) for conv in convs}
    lowest: Dict[str, float] = {}
    refused: Set[str] = set()
    for name, key in group.items():
        tensor = tensor_of(name)
        made_here = graph.maker.get(tensor)
        moved = made_here is not None and made_here.op_type in PASSING
        for node in graph.readers.get(name, []):
            if node.op_type == "Conv" and id(node) in quantised:
                weights = graph.weights(node)
                fits = weights.shape[2:] == (1, 1) and len(node.input) == 3  # type: ignore
                fits = fits and node.input[2] in graph.constants
                fits = fits and len(graph.readers[node.input[2]]) == 1
            else:  # what reads the float tensor must find it unshifted
                fits = node.op_type == "Add" or (
                    node.op_type in PASSING and node.output[0] in group
                )
                fits = fits or not moved
            if not fits:
                refused.add(key)
        if tensor not in low:
            refused.add(key)
        lowest[key] = min(lowest.get(key, 0.0), low.get(tensor, 0.0))
    return {key: value for key, value in lowest.items() if key not in refused}


def matches(conv: Any, words: Iterable[str]) -> bool:
    """Whether one of the words is in the name of a node or of its output."""
    return any(word in conv.name or word in conv.output[0] for word in words)


def check_keep(graph: Graph, keep: Iterable[str]) -> None:
    """Raise InputError for a word that is in the name of no convolution."""
    for word in keep:
        if not any(matches(conv, [word]) for conv in graph.convs):
            raise InputError("--keep %s: no convolution of that name in the model" % word)


def tensor_of(name: str) -> str:
    """The tensor that a pair of the plan quantises."""
    return name[: -len(MOVED)] if name.endswith(MOVED) else name


def shared_scales(plan: Plan, amax: Dict[str, float]) -> Dict[str, float]:
    """Scale of each tensor of the plan: the largest of its group, over 127.

    Raises KeyError for a tensor that no range is known of.
    """
    largest: Dict[str, float] = {}
    for name in plan.tensors:
        group = plan.group[name]
        largest[group] = max(largest.get(group, 0.0), amax[tensor_of(name)])
    floor = 1e-6  # a tensor that is always 0
    return {n: max(largest[plan.group[n]], floor) / LEVELS for n in plan.tensors}


def shifts(plan: Plan, scales: Dict[str, float]) -> Dict[str, Tuple[float, float]]:
    """Tensor -> (c, scale) of those that are quantised around c instead of around 0.

    The scale stands for one more bit, with which the range of least error is WIDER.
    """
    found = {}
    for name in plan.tensors:
        if plan.group[name] in plan.lowest:
            low, high = plan.lowest[plan.group[name]], scales[name] * LEVELS * WIDER
            if high > -3 * low:  # else the negative half is in use
                found[name] = ((high + low) / 2, (high - low) / 2 / LEVELS)
    return found


def weight_scales(weights: np.ndarray) -> np.ndarray:
    """Scale of each output channel of (out, in, k, k) weights: largest magnitude over 127."""
    largest = np.abs(weights).reshape(len(weights), -1).max(1)
    return np.maximum(largest, 1e-12).astype(np.float32) / np.float32(LEVELS)


def insert(model: Any, plan: Plan, scales: Dict[str, float], shift: bool = True) -> None:
    """Put the pairs into a ModelProto, in place; float32 scales.

    Args: shift: quantise around the middle of the range where that costs nothing, see above.

    Weights stay float32 with a pair of their own, which every TensorRT folds; not all of them take
    INT8 constants.

    Raises InputError for an opset before 13, whose pairs know no channels.
    """
    from onnx import helper, numpy_helper

    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < 13:
        raise InputError(
            "INT8 needs opset 13, the model has %d; export it again with --opset 13" % opset
        )

    graph = model.graph
    zero = PREFIX + "zero"
    constants = [numpy_helper.from_array(np.int8(0), zero)]
    nodes: Dict[str, List[Any]] = {}  # tensor -> its pair

    def pair(name: str, scale: Any, zero_point: str, label: str, **attributes: Any) -> List[Any]:
        constants.append(numpy_helper.from_array(np.asarray(scale, np.float32), label + "/scale"))
        inputs = [label + "/scale", zero_point]
        q, dq = label + "/q", label + "/dq"
        return [
            helper.make_node("QuantizeLinear", [name, *inputs], [q], name=q, **attributes),
            helper.make_node("DequantizeLinear", [q, *inputs], [dq], name=dq, **attributes),
        ]

    moved_about = shifts(plan, scales) if shift else {}
    back: Dict[str, str] = {}  # tensor -> its quantised values, unshifted

    def add_node(kind: str, name: str, value: float, label: str) -> Any:
        constants.append(numpy_helper.from_array(np.float32(value), label + "/c"))
        return helper.make_node(kind, [name, label + "/c"], [label], name=label)

    for name in plan.tensors:
        label, tensor = PREFIX + name, tensor_of(name)
        if name not in moved_about:
            nodes[name] = pair(tensor, scales[name], zero, label)
            continue
        c, scale = moved_about[name]
        maker = plan.graph.maker[tensor]
        first = []
        x = tensor
        if maker.op_type not in PASSING:  # what those pass on is shifted already
            x = label + "/shifted"
            first = [add_node("Sub", tensor, c, x)]
        nodes[name] = [*first, *pair(x, scale, zero, label)]
        if any(r.op_type == "Add" for r in plan.graph.readers.get(name, [])):
            back[name] = label + "/back"
            nodes[name].append(add_node("Add", label + "/dq", c, back[name]))
    quantised = {id(conv) for conv in plan.convs}
    moved = {id(n) for n in plan.graph.nodes if n.op_type in PASSING and n.output[0] in nodes}
    done: Dict[str, str] = {}
    ordered: List[Any] = []

    def place(name: str) -> None:
        """The pairs of a tensor that is made now."""
        ordered.extend(nodes.get(name, []))
        ordered.extend(nodes.get(name + MOVED, []))

    for name in plan.graph.inputs:
        place(name)
    for node in plan.graph.nodes:
        reads = id(node) in quantised or id(node) in moved
        reads = reads or (node.op_type == "Add" and id(node) not in plan.graph.decode)
        if reads:
            for i, name in enumerate(node.input):
                if id(node) in moved and name + MOVED in nodes:
                    node.input[i] = PREFIX + name + MOVED + "/dq"
                elif name in nodes:
                    unshifted = node.op_type == "Add" and name in back
                    node.input[i] = back[name] if unshifted else PREFIX + name + "/dq"
                    if name in moved_about and id(node) in quantised:
                        _fold(model, plan, node, moved_about[name][0])
        if id(node) in quantised:
            name = node.input[1]
            if name not in done:
                w = plan.graph.weights(node)
                scale = weight_scales(w)
                zeros = "%szero%d" % (PREFIX, len(scale))
                if not any(c.name == zeros for c in constants):
                    constants.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), zeros))
                both = pair(name, scale, zeros, PREFIX + name, axis=0)
                done[name] = both[1].output[0]
                ordered += both
            node.input[1] = done[name]
        ordered.append(node)
        for name in node.output:
            place(name)
    del graph.node[:]
    graph.node.extend(ordered)
    graph.initializer.extend(constants)


def coverage(model: Any, convs: Sequence[Any], hw: Any) -> float:
    """Share of the multiply-accumulates of all convolutions that is done in `convs`."""
    macs = conv_macs(model, hw)
    return sum(macs[conv.output[0]] for conv in convs) / float(sum(macs.values()))


def _fold(model: Any, plan: Plan, conv: Any, c: float) -> None:
    """Add c times the sum of the (rounded) weights to the bias of a 1x1 convolution."""
    from onnx import numpy_helper

    weights = original_weights(plan, conv)
    scale = weight_scales(weights).reshape(-1, 1, 1, 1)
    rounded = np.clip(np.round(weights / scale), -LEVELS, LEVELS).astype(np.float64) * scale
    for constant in model.graph.initializer:
        if constant.name == conv.input[2]:
            bias = numpy_helper.to_array(constant) + c * rounded.sum((1, 2, 3))
            constant.CopyFrom(numpy_helper.from_array(bias.astype(np.float32), constant.name))


def usual_plan(model: Any, graph: Graph, keep: Sequence[str], hw: Any) -> Plan:
    """The plan of export_INT8.py: depthwise convolutions in float, final ones for MIN_SHARE.

    Args:
        model: what `graph` is of, as ONNX Runtime takes it. keep: further ones in float.
        hw: (height, width) px of its input.

    Raises InputError as make_plan does.
    """
    thin = depthwise(graph)
    final = final_for_share(model, graph, thin, hw)
    final = [c.output[0] for c in graph.head if c.output[0] in final and not matches(c, keep)]
    return make_plan(graph, [*keep, *thin], final)


def final_for_share(model: Any, graph: Graph, keep: Sequence[str], hw: Any) -> List[str]:
    """Outputs of the final convolutions that have to be INT8 so that MIN_SHARE of all work is.

    The one with most work first: at the finest level, where a rounding error is the fewest pixels.
    """
    macs = conv_macs(model, hw)
    missing = MIN_SHARE * sum(macs.values())
    missing -= sum(macs[conv.output[0]] for conv in make_plan(graph, keep).convs)
    chosen: List[str] = []
    for conv in sorted(graph.head, key=lambda conv: -macs[conv.output[0]]):
        if missing > 0:
            chosen.append(conv.output[0])
            missing -= macs[conv.output[0]]
    return chosen


def depthwise(graph: Graph) -> List[str]:
    """Outputs of the depthwise convolutions: hardly any arithmetic, much of the INT8 error."""
    names = []
    for conv in graph.convs:
        weights = graph.weights(conv)
        if weights is not None and weights.shape[1] == 1 and attribute(conv, "group", 1) > 1:
            names.append(conv.output[0])
    return names


def correct_bias(model: Any, plan: Plan, batches: Iterable[np.ndarray]) -> None:
    """Take the mean error of rounding out of the biases of a quantised model, in place.

    Rounding and clipping shift the mean of a channel, and the convolution that reads it shifts
    with it, by the sum of its weights times that mean error, measured on the batches
    (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
    """
    from onnx import numpy_helper

    from utils.ranges import open_session, with_outputs

    sources = {id(conv): source(conv) for conv in plan.convs}
    names = sorted(set(sources.values()))
    pairs = {}
    read = {}  # what is rounded: the tensor, or the tensor shifted
    for node in model.graph.node:
        tensor = node.name[len(PREFIX) : -len("/q")]
        if node.op_type == "QuantizeLinear" and tensor in names:
            pairs[tensor], read[tensor] = PREFIX + tensor + "/dq", node.input[0]
    entry = model.graph.input[0].name
    inner = [read[n] for n in names if read[n] != entry] + [pairs[n] for n in names]
    session = open_session(with_outputs(model, inner))
    errors: Dict[str, Any] = {}
    images = 0
    for batch in batches:
        found = dict(zip(inner, session.run(inner, {entry: batch})))
        found[entry] = batch
        for name in names:
            mean = (found[pairs[name]] - found[read[name]]).mean((2, 3), dtype=np.float64).sum(0)
            errors[name] = errors.get(name, 0.0) + mean
        images += len(batch)
    constants = {i.name: i for i in model.graph.initializer}
    for conv in plan.convs if images else []:
        if len(conv.input) < 3 or conv.input[2] not in constants:
            continue
        if len(plan.graph.readers[conv.input[2]]) > 1:  # another convolution has the same one
            continue
        sums = original_weights(plan, conv).sum((2, 3))  # (out, in / groups)
        groups = attribute(conv, "group", 1)
        error = (errors[sources[id(conv)]] / images).reshape(groups, -1)
        shift = np.einsum("goi,gi->go", sums.reshape(groups, -1, error.shape[1]), error)
        bias = constants[conv.input[2]]
        value = numpy_helper.to_array(bias).astype(np.float64) - shift.reshape(-1)
        bias.CopyFrom(numpy_helper.from_array(value.astype(np.float32), conv.input[2]))


def source(conv: Any) -> str:
    """The tensor that a convolution reads, without its pair."""
    return without_pair(conv.input[0])


def without_pair(name: str) -> str:
    """What a pair quantises, for the name of its result; other names as they are."""
    return name[len(PREFIX) : -len("/dq")] if name.startswith(PREFIX) else name


def original_weights(plan: Plan, conv: Any) -> np.ndarray:
    """Weights of a convolution of the plan, also after insert."""
    from onnx import numpy_helper

    name = without_pair(conv.input[1])
    return numpy_helper.to_array(plan.graph.constants[name]).astype(np.float32)
