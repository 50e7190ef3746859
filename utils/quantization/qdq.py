"""Explicit INT8: QuantizeLinear / DequantizeLinear pairs in an ONNX, from ranges of its tensors.

    plan = make_plan(Graph(model), keep=[])
    amax = activation_ranges.choose(histograms, "Foreground", read_together(plan))
    insert(model, plan, shared_scales(plan, amax))

Where the pairs go follows what TensorRT fuses:
- Convolution and SiLU are one block, with no pair in between. TensorRT runs the block as one INT8
  kernel only where a pair stands behind it, so there is one where a residual addition reads it.
  There is none where only a depthwise convolution does: in the heads that would move the keypoints
  half as far again, see docs/lab/int8.md.
- A tensor has one pair, read by all its INT8 readers; so the branch of a residual addition that
  its convolution reads, too, is INT8 and read once.
- Concat, MaxPool and Resize move values about: what goes in and what comes out share one scale,
  and their inputs carry pairs, too, so that the moving is done in INT8.
- Weights are symmetric with one scale an output channel, activations symmetric with one a tensor,
  zero points are 0: what TensorRT takes.
- The convolutions that make the raw predictions, and the decode, stay in floating point; `keep`
  names more. Of a network so small that these are more than a twentieth of it, `final_for_share`
  chooses some: with INT8 inputs and weights, but what they make is float all the same. Where there
  is room, `early_for_share` adds the first 1x1 convolutions.
"""

from typing import TYPE_CHECKING, Any, Dict, FrozenSet, Iterable, List, NamedTuple, Sequence, Set

import numpy as np

from utils.errors import InputError
from utils.graph.analysis import PASSING, Graph, Hw, attribute, conv_macs, find, union
from utils.graph.nodes import opset_of
from utils.quantization.activation_ranges import LEVELS

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PREFIX = "int8/"  # of everything that is put into the graph
MIN_SHARE = 0.95  # of the multiply-accumulates


class QdqPlan(NamedTuple):
    """What is quantised.

    convs: Conv nodes in INT8. tensors: activations that get a pair, in graph order.
    group: tensor -> representative of those that share its scale.
    added: those of the tensors that additions read and that an INT8 convolution made.
    """

    graph: Graph
    convs: List["NodeProto"]
    tensors: List[str]
    group: Dict[str, str]
    added: FrozenSet[str] = frozenset()


def make_plan(graph: Graph, keep: Iterable[str] = (), final: Iterable[str] = ()) -> QdqPlan:
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
    added = {name for name in map(graph.block_output, convs) if _is_added(graph, name)}
    wanted: Set[str] = {conv.input[0] for conv in convs} | added
    groups: Dict[str, str] = {}
    for node in reversed(graph.nodes):
        if node.op_type in PASSING and id(node) not in graph.decode and node.output[0] in wanted:
            moved = [n for n in node.input if n in graph.maker or n in graph.inputs]
            moved = moved if node.op_type == "Concat" else moved[:1]
            wanted.update(moved)
            union(groups, [node.output[0], *moved])
    order = [*graph.inputs, *(name for node in graph.nodes for name in node.output)]
    tensors = [name for name in order if name in wanted]
    group = {name: find(groups, name) for name in tensors}
    return QdqPlan(graph, convs, tensors, group, frozenset(added))


def _is_added(graph: Graph, name: str) -> bool:
    """Whether an addition before the decode reads a tensor."""
    return any(
        node.op_type == "Add" and id(node) not in graph.decode
        for node in graph.readers.get(name, [])
    )


def _is_depthwise(graph: Graph, node: Any) -> bool:
    if node.op_type != "Conv" or id(node) in graph.decode:
        return False
    weights = graph.weights(node)
    return weights is not None and weights.shape[1] == 1 and attribute(node, "group", 1) > 1


def matches(conv: "NodeProto", words: Iterable[str]) -> bool:
    """Whether one of the words is in the name of a node or of its output."""
    return any(word in conv.name or word in conv.output[0] for word in words)


def check_keep(graph: Graph, keep: Iterable[str]) -> None:
    """Raise InputError for a word that is in the name of no convolution."""
    for word in keep:
        if not any(matches(conv, [word]) for conv in graph.convs):
            raise InputError("`keep` %s: no convolution of that name in the model" % word)


def read_together(plan: QdqPlan) -> Dict[str, List[str]]:
    """Tensor of the plan -> the tensors of its group that convolutions read, for `choose`.

    What only goes into a Concat is not read for itself: what comes out holds its values, too.
    """
    read: Dict[str, List[str]] = {}
    wanted = {source(conv) for conv in plan.convs} | plan.added
    for name in plan.tensors:
        if name in wanted:
            read.setdefault(plan.group[name], []).append(name)
    return {name: read[plan.group[name]] for name in plan.tensors}


def shared_scales(plan: QdqPlan, amax: Dict[str, float]) -> Dict[str, float]:
    """Scale of each tensor of the plan: the largest of its group, over 127.

    Raises KeyError for a tensor that no range is known of.
    """
    largest: Dict[str, float] = {}
    for name in plan.tensors:
        group = plan.group[name]
        largest[group] = max(largest.get(group, 0.0), amax[name])
    floor = 1e-6  # a tensor that is always 0
    return {n: max(largest[plan.group[n]], floor) / LEVELS for n in plan.tensors}


def weight_scales(weights: np.ndarray) -> np.ndarray:
    """Scale of each output channel of (out, in, k, k) weights: largest magnitude over 127."""
    largest = np.abs(weights).reshape(len(weights), -1).max(1)
    return np.maximum(largest, 1e-12).astype(np.float32) / np.float32(LEVELS)


def _check_opset(model: "ModelProto") -> None:
    """Raise InputError for an opset before 13, whose pairs know no channels."""
    opset = opset_of(model)
    if opset < 13:
        raise InputError(
            "INT8 needs opset 13, the model has %d; export it again with `opset` 13" % opset
        )


def insert(model: "ModelProto", plan: QdqPlan, scales: Dict[str, float]) -> None:
    """Put the pairs into a ModelProto, in place; float32 scales.

    Weights stay float32 with a pair of their own, which every TensorRT folds; not all of them take
    INT8 constants.

    Raises InputError for an opset before 13, whose pairs know no channels.
    """
    from onnx import helper, numpy_helper

    _check_opset(model)
    graph = model.graph
    zero = PREFIX + "zero"
    constants = [numpy_helper.from_array(np.array(0, np.int8), zero)]
    nodes: Dict[str, List[Any]] = {}  # tensor -> its pair

    def pair(name: str, scale: Any, zero_point: str, label: str, **attributes: Any) -> List[Any]:  # noqa: PLR0917
        constants.append(numpy_helper.from_array(np.asarray(scale, np.float32), label + "/scale"))
        inputs = [label + "/scale", zero_point]
        q, dq = label + "/q", label + "/dq"
        return [
            helper.make_node("QuantizeLinear", [name, *inputs], [q], name=q, **attributes),
            helper.make_node("DequantizeLinear", [q, *inputs], [dq], name=dq, **attributes),
        ]

    for name in plan.tensors:
        nodes[name] = pair(name, scales[name], zero, PREFIX + name)
    quantised = {id(conv) for conv in plan.convs}
    moved = {id(n) for n in plan.graph.nodes if n.op_type in PASSING and n.output[0] in nodes}
    done: Dict[str, str] = {}
    ordered: List[Any] = []

    for name in plan.graph.inputs:
        ordered.extend(nodes.get(name, []))
    for node in plan.graph.nodes:
        reads = id(node) in quantised or id(node) in moved
        reads = reads or (node.op_type == "Add" and id(node) not in plan.graph.decode)
        if reads:
            for i, name in enumerate(node.input):
                if name in nodes:
                    node.input[i] = PREFIX + name + "/dq"
        if id(node) in quantised:
            name = node.input[1]
            if name not in done:
                w = plan.graph.weights(node)
                assert w is not None  # the plan has convolutions with constant weights
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
            ordered.extend(nodes.get(name, []))
    del graph.node[:]
    graph.node.extend(ordered)
    graph.initializer.extend(constants)


def coverage(model: "ModelProto", convs: Sequence["NodeProto"], hw: Hw) -> float:
    """Share of the multiply-accumulates of all convolutions that is done in `convs`."""
    macs = conv_macs(model, hw)
    return sum(macs[conv.output[0]] for conv in convs) / float(sum(macs.values()))


def usual_plan(model: "ModelProto", graph: Graph, keep: Sequence[str], *, hw: Hw) -> QdqPlan:
    """The plan of export_INT8.py: what may be float with MIN_SHARE of the work in INT8 is.

    Depthwise convolutions first, then final ones, then early 1x1 ones.

    Args:
        model: what `graph` is of, as ONNX Runtime takes it. keep: further ones in float.
        hw: (height, width) px of its input.

    Raises InputError as make_plan does.
    """
    thin = depthwise(graph)
    final = final_for_share(model, graph, thin, hw=hw)
    final = [c.output[0] for c in graph.head if c.output[0] in final and not matches(c, keep)]
    plan = make_plan(graph, [*keep, *thin], final)
    early = early_for_share(model, plan, hw)
    return make_plan(graph, [*keep, *thin, *early], final) if early else plan


def early_for_share(model: "ModelProto", plan: QdqPlan, hw: Hw) -> List[str]:
    """Outputs of the first 1x1 convolutions that may be float, too, with MIN_SHARE left in INT8.

    What the first layers lose, all others inherit, and 1x1 convolutions are little work. They lie
    together, so what they pass to each other has no pairs either.
    """
    macs = conv_macs(model, hw)
    spare = sum(macs[conv.output[0]] for conv in plan.convs) - MIN_SHARE * sum(macs.values())
    chosen: List[str] = []
    for conv in plan.convs[:-1]:
        if plan.graph.weights(conv).shape[2:] == (1, 1):  # type: ignore
            spare -= macs[conv.output[0]]
            if spare < 0:
                break
            chosen.append(conv.output[0])
    return chosen


def final_for_share(model: "ModelProto", graph: Graph, keep: Sequence[str], *, hw: Hw) -> List[str]:
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
    return [conv.output[0] for conv in graph.convs if _is_depthwise(graph, conv)]


def correct_bias(model: "ModelProto", plan: QdqPlan, batches: Iterable[np.ndarray]) -> None:
    """Take the mean error of rounding out of the biases of a quantised model, in place.

    Rounding and clipping shift the mean of a channel, and the convolution that reads it shifts
    with it, by the sum of its weights times that mean error, measured on the batches
    (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
    """
    from onnx import numpy_helper

    from utils.quantization.activation_ranges import open_session, with_outputs

    sources = {id(conv): source(conv) for conv in plan.convs}
    names = sorted(set(sources.values()))
    entry = model.graph.input[0].name
    pairs = {name: PREFIX + name + "/dq" for name in names}
    inner = [n for n in names if n != entry] + list(pairs.values())
    session = open_session(with_outputs(model, inner))
    errors: Dict[str, Any] = {}
    images = 0
    for batch in batches:
        found = dict(zip(inner, session.run(inner, {entry: batch})))
        found[entry] = batch
        for name in names:
            mean = (found[pairs[name]] - found[name]).mean((2, 3), dtype=np.float64).sum(0)
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


def source(conv: "NodeProto") -> str:
    """The tensor that a convolution reads, without its pair."""
    return without_pair(conv.input[0])


def without_pair(name: str) -> str:
    """What a pair quantises, for the name of its result; other names as they are."""
    return name[len(PREFIX) : -len("/dq")] if name.startswith(PREFIX) else name


def original_weights(plan: QdqPlan, conv: "NodeProto") -> np.ndarray:
    """Weights of a convolution of the plan, also after insert."""
    from onnx import numpy_helper

    name = without_pair(conv.input[1])
    return numpy_helper.to_array(plan.graph.constants[name]).astype(np.float32)
