"""Nodes that are added to an ONNX graph, and what is asked of the graph for that.

n = Nodes(free_prefix(model.graph, "nms"), opset_of(model))
y = n.op("Add", x, n.const(1.0))
model.graph.node.extend(n.nodes), model.graph.initializer.extend(n.constants)
"""

from typing import TYPE_CHECKING, Any, List

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike
    from onnx import GraphProto, ModelProto, ValueInfoProto


class Nodes:
    """Nodes under construction; `prefix` keeps their names apart from those in the graph."""

    def __init__(self, prefix: str, opset: int):
        self.prefix, self.nodes, self.constants = prefix, [], []  # type: str, List, List
        self.opset = opset

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any):
        """Append a node; the name of its output, or a list of them."""
        from onnx import helper

        if kind.startswith("Reduce") and "axes" in attributes and self.opset >= 18:
            inputs = (*inputs, self.const(attributes.pop("axes"), np.int64))  # an input since then
        number = len(self.nodes)
        names = ["%s%d_%s%s" % (self.prefix, number, kind, "_b" * i) for i in range(outputs)]
        name = "%s%d" % (self.prefix, number)
        node = helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def const(self, value: "ArrayLike", dtype: "DTypeLike" = np.float32) -> str:
        from onnx import numpy_helper

        name = "%sc%d" % (self.prefix, len(self.constants))
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def slice(self, x: str, start: int, stop: int, *, axis: int = 1) -> str:
        ints = [self.const([v], np.int64) for v in (start, stop, axis)]
        return self.op("Slice", x, *ints)

    def cast(self, x: str, dtype: str) -> str:
        from onnx import TensorProto

        return self.op("Cast", x, to=getattr(TensorProto, dtype))

    def turn(self, x: str) -> str:
        """(B, a, b) -> (B, b, a)."""
        return self.op("Transpose", x, perm=[0, 2, 1])

    def take(self, x: str, index: str, rows: int) -> str:
        """Columns of (B, rows, n) at index (B, 1, k) -> (B, rows, k)."""
        if rows > 1:
            index = self.op("Add", index, self.const(np.zeros((1, rows, 1)), np.int64))
        return self.op("GatherElements", x, index, axis=2)


def dims_of(value: "ValueInfoProto") -> List:
    """Dimensions of an input or output: numbers, names, or `?`."""
    return [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def opset_of(model: "ModelProto") -> int:
    """Version of the standard operators that a ModelProto uses."""
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def free_prefix(graph: "GraphProto", word: str) -> str:
    """`word/`, or `word2/`, ... if names in the graph begin with that."""
    taken = [name for node in graph.node for name in [node.name, *node.output]]
    taken += [i.name for i in graph.initializer]
    number = 1
    while True:
        prefix = "%s%s/" % (word, number if number > 1 else "")
        if not any(name.startswith(prefix) for name in taken):
            return prefix
        number += 1
