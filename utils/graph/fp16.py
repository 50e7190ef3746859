"""FP16 as types in the ONNX: `--half`, and TensorRT 11 and RTX, whose precision is the types.

    rounding.prepare(model, images)     # weights that lose little by it
    to_fp16(model)

Weights and convolutions become FP16; the decode (and NMS behind it) stays FP32, because an FP16
coordinate has steps of 0.5 px above 512 and of 1 px above 1024.
"""

from typing import TYPE_CHECKING, Any, Dict, List

import numpy as np

from utils.graph.analysis import Graph

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# inputs that are parameters of the node, not data (ONNX operators, opset 13)
PARAMETERS = {"Resize": (1, 2, 3), "Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,)}
# what the decode begins with, before any arithmetic: half as many bytes in FP16
MOVING = ("Concat", "Reshape", "Transpose")
SMALLEST = 2.0**-14  # below, FP16 loses bits
PAIRS = ("QuantizeLinear", "DequantizeLinear")


def is_fp16(model: "ModelProto") -> bool:
    """Whether convolutions of the model compute in FP16."""
    from onnx import TensorProto

    graph = Graph(model)
    return any(
        graph.constants[conv.input[1]].data_type == TensorProto.FLOAT16
        for conv in graph.convs
        if conv.input[1] in graph.constants
    )


def has_qdq(model: "ModelProto") -> bool:
    """Whether the model is quantised explicitly."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _of_sizes(graph: Graph, node: Any) -> bool:
    """Whether a node makes sizes or a constant, which are no activations to be halved."""
    return node.op_type == "Constant" or all(name in graph.sizes for name in node.output)


class _Twins:
    """FP16 constants beside the float32 ones of a graph: `added`."""

    def __init__(self, graph: Graph):
        self._constants = graph.constants
        pairs = (node for node in graph.nodes if node.op_type in PAIRS and len(node.input) > 1)
        self._scales = {node.input[1] for node in pairs}
        self._names: Dict[str, str] = {}
        self.added: List[Any] = []

    def of(self, name: str) -> str:
        """Name of the twin of a constant."""
        from onnx import numpy_helper

        if name not in self._names:
            value = numpy_helper.to_array(self._constants[name]).astype(np.float32)
            if name in self._scales:
                value = np.maximum(value, SMALLEST)
            limit = float(np.finfo(np.float16).max)
            value = np.clip(value, -limit, limit).astype(np.float16)
            self._names[name] = name + "/half"
            self.added.append(numpy_helper.from_array(value, self._names[name]))
        return self._names[name]


def _body(graph: Graph) -> List["NodeProto"]:
    """The nodes that become FP16: those before the decode, and those that move their values."""
    body = [n for n in graph.nodes if id(n) not in graph.decode and not _of_sizes(graph, n)]
    made = {name for node in body for name in node.output}
    for node in graph.nodes:
        if id(node) in graph.decode and node.op_type in MOVING:
            data = node.input if node.op_type == "Concat" else node.input[:1]
            if all(name in made for name in data) and not set(node.output) & set(graph.outputs):
                body.append(node)
                made |= set(node.output)
    return body


def to_fp16(model: "ModelProto", fp16_input: bool = False) -> None:
    """Type everything before the decode FP16, in place. Nothing happens to a model that is.

    Input and outputs stay FP32; with `fp16_input` the input is FP16, too. Scales of Q/DQ pairs
    become FP16 (TensorRT: what they dequantise to has their type).
    """
    from onnx import TensorProto, helper

    if is_fp16(model):
        return
    graph = Graph(model)
    twins = _Twins(graph)

    def cast(name: str, label: str, kind: int) -> Any:
        return helper.make_node("Cast", [name], [name + label], name=name + label, to=kind)

    body = _body(graph)
    made = {name for node in body for name in node.output}
    nodes: List[Any] = []
    if fp16_input:
        for entry in model.graph.input:
            if entry.name in graph.inputs:
                entry.type.tensor_type.elem_type = TensorProto.FLOAT16
    else:
        nodes = [cast(name, "/half", TensorProto.FLOAT16) for name in graph.inputs]
    casted: Dict[str, str] = {}
    floats = {n for n, c in graph.constants.items() if c.data_type == TensorProto.FLOAT}
    inside = {id(node) for node in body}
    for node in graph.nodes:
        if id(node) in inside:
            for i, name in enumerate(node.input):
                if i in PARAMETERS.get(node.op_type, ()):
                    continue
                if name in graph.inputs and not fp16_input:
                    node.input[i] = name + "/half"
                elif name in floats:
                    node.input[i] = twins.of(name)
        elif id(node) in graph.decode:
            for i, name in enumerate(node.input):
                if name in made:
                    if name not in casted:
                        casted[name] = name + "/float"
                        nodes.append(cast(name, "/float", TensorProto.FLOAT))
                    node.input[i] = casted[name]
        nodes.append(node)
    kept = {name for node in nodes for name in node.input}
    constants = [c for c in model.graph.initializer if c.name in kept] + twins.added
    del model.graph.node[:], model.graph.initializer[:]
    del model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
