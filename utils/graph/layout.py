"""Files of other exporters, rewritten: the same network with our raw output.

    tidy(model)
    to_our_output(model, Layout(1, 17, objectness=False, turned=True))

`model` is an onnx.ModelProto with one input and one output in a layout of utils/pose/layout.py.
Afterwards it has `input` and `output` (B, N, 5 + nc + 3K), whose last node is the transposition
that utils/graph/nms.py takes off. Values are moved, never computed.
"""

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from utils.errors import InputError
from utils.graph.nodes import Nodes, dims_of, free_prefix, opset_of
from utils.pose.layout import Layout

if TYPE_CHECKING:
    from onnx import ModelProto

OPSETS = (13, 20)  # what was tried; Q/DQ pairs need 13


def tidy(model: "ModelProto") -> None:
    """Sort the nodes, make constants of Constant nodes and of copies of constants, in place.

    Other exporters leave nodes out of order, and let convolutions share one bias behind Identity
    nodes; here each has its own, which INT8 may change.

    Raises InputError for a graph that cannot be sorted: a cycle, or a tensor nobody makes.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {c.name: c for c in graph.initializer}
    entries = [i for i in graph.input if i.name not in constants]
    del graph.input[:]  # old exporters list the constants, too
    graph.input.extend(entries)
    known = {"", *constants, *(i.name for i in graph.input)}
    waiting: List[Any] = list(graph.node)
    ordered: List[Any] = []
    outputs = {o.name for o in graph.output}
    while waiting:
        later: List[Any] = []
        for node in waiting:
            if not known.issuperset(_read(node)):
                later.append(node)
                continue
            known.update(node.output)
            source = node.input[0] if node.input else ""
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                value = node.attribute[0].t
            elif node.op_type == "Identity" and source in constants:
                value = constants[source]
            else:
                ordered.append(node)
                continue
            if node.output[0] in outputs:
                ordered.append(node)
                continue
            copy = numpy_helper.from_array(numpy_helper.to_array(value), node.output[0])
            constants[copy.name] = copy
        if len(later) == len(waiting):
            missing = next(name for name in _read(later[0]) if name not in known)
            raise InputError("nodes that cannot be sorted: nothing makes %s in time" % missing)
        waiting = later
    read = {name for node in ordered for name in _read(node)} | outputs
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(ordered)
    graph.initializer.extend(c for name, c in constants.items() if name in read)
    _rewire_identities(graph, outputs)


def is_ordered(model: "ModelProto") -> bool:
    """Whether each node reads only what was made before it."""
    graph = model.graph
    known = {"", *(i.name for i in graph.input), *(i.name for i in graph.initializer)}
    known.update(i.values.name for i in graph.sparse_initializer)
    for node in graph.node:
        if not known.issuperset(_read(node)):
            return False
        known.update(node.output)
    return True


def _read(node: Any) -> List[str]:
    """What a node reads, with what its branches read from outside."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            made = {name for inner in attribute.g.node for name in inner.output}
            made |= {c.name for c in attribute.g.initializer} | {i.name for i in attribute.g.input}
            inner = [name for node in attribute.g.node for name in _read(node)]
            names += [name for name in inner if name not in made]
    return names


def _rewire_identities(graph: Any, outputs: Any) -> None:
    """Take Identity nodes out, but those that make an output."""
    passed: Dict[str, str] = {}
    kept: List[Any] = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = passed.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            passed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if any(a.HasField("g") for node in kept for a in node.attribute):
        return  # branches may read them by name
    del graph.node[:]
    graph.node.extend(kept)


def to_our_output(model: "ModelProto", layout: Layout, rows: Optional[int]) -> None:
    """Put the nodes behind the output that make it ours, in place, and name the two ends.

    Args: rows: predictions of an image, None where dynamic.

    Raises InputError for an output that is no float, and ValueError for a layout after NMS.
    """
    from onnx import TensorProto, helper

    if layout.suppressed:
        raise ValueError("predictions after NMS have no raw form")
    graph = model.graph
    output = graph.output[0]
    kind = output.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise InputError("its output %s is neither float32 nor float16" % output.name)
    batch = dims_of(output)[0]
    _rename(graph, graph.input[0].name, "input", ends=graph.input)
    if layout.is_ours and kind == TensorProto.FLOAT:
        _rename(graph, output.name, "output", ends=graph.output)
    else:
        n = Nodes(free_prefix(graph, "ours"), opset_of(model))
        source = output.name
        if _is_taken(graph, "output"):  # the output, or a tensor inside
            inner = n.prefix + "output"
            _rename(graph, "output", inner, ends=[])
            source = inner if source == "output" else source
        static = (batch, rows) if isinstance(batch, int) and rows else None
        source = n.cast(source, "FLOAT") if kind == TensorProto.FLOAT16 else source
        n.turn(_values(n, source, layout, static=static))
        n.nodes[-1].output[0] = "output"
        graph.node.extend(n.nodes)
        graph.initializer.extend(n.constants)
    del graph.output[:]
    shape = [batch, rows or "predictions", 5 + layout.nc + 3 * layout.nkpt]
    graph.output.append(helper.make_tensor_value_info("output", TensorProto.FLOAT, shape))


def _values(n: Nodes, source: str, layout: Layout, *, static: Optional[Tuple[int, int]]) -> str:
    """(B, 5 + nc + 3K, N) of an output in the layout. Args: static: (B, N), None where dynamic."""
    values = source if layout.turned else n.turn(source)
    first = 4 + layout.objectness
    scores = n.slice(values, first, first + layout.nc)
    points = n.slice(values, first + layout.nc, layout.width)
    if layout.objectness:
        objectness = n.slice(values, 4, 5)
    elif static is not None:
        objectness = n.const(np.ones((static[0], 1, static[1])))
    else:
        objectness = _ones(n, n.slice(values, 4, 5))
    if layout.kpt_values == 2:
        points = n.op("Reshape", points, n.const([0, layout.nkpt, 2, -1], np.int64))
        if static is not None:
            sure = n.const(np.ones((static[0], layout.nkpt, 1, static[1])))
        else:
            sure = _ones(n, n.slice(points, 0, 1, axis=2))
        points = n.op("Concat", points, sure, axis=2)
        points = n.op("Reshape", points, n.const([0, 3 * layout.nkpt, -1], np.int64))
    return n.op("Concat", n.slice(values, 0, 4), objectness, scores, points, axis=1)


def _ones(n: Nodes, like: str) -> str:
    """1 in the shape of a tensor of finite numbers."""
    return n.op("Add", n.op("Mul", like, n.const(0.0)), n.const(1.0))


def _is_taken(graph: Any, name: str) -> bool:
    """Whether a node makes a tensor of that name, or a constant has it."""
    made = any(name in node.output for node in graph.node)
    return made or any(constant.name == name for constant in graph.initializer)


def _rename(graph: Any, old: str, new: str, *, ends: Any) -> None:
    """Give a tensor another name."""
    if old == new:
        return
    if _is_taken(graph, new):
        free = free_prefix(graph, new) + new
        _rename(graph, new, free, ends=[])
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for constant in graph.initializer:
        if constant.name == old:
            constant.name = new
    for end in ends:
        if end.name == old:
            end.name = new
