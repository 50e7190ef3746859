"""Walks over an ONNX graph: who makes a tensor, who reads it, where the decode begins.

    graph = Graph(onnx.load("x.onnx"))
    graph.head        # the last convolutions of each level
    graph.decode      # what comes after them

The structure is read off the graph, never off names, so models of other exporters work, too.
"""

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Hw = Tuple[int, int]
ACTIVATIONS = ("Relu", "LeakyRelu", "HardSwish", "Clip", "Sigmoid", "Tanh", "Elu")
PASSING = ("Concat", "MaxPool", "Resize")  # their outputs hold values of their inputs, unchanged


class Graph:
    """Indices over an onnx.ModelProto. The model may be changed afterwards; the indices stay.

    Attributes:
        nodes: of the graph, in its (topological) order.
        maker: tensor name -> node that makes it. readers: tensor name -> nodes that read it.
        constants: name -> TensorProto of every initializer.
        inputs: names of the inputs that are no initializers.
        convs: every Conv node before the decode.
        head: the convolutions with no further one between them and an output, but those that only
            take the mean of a distribution (see `_takes_mean`), which are part of the decode.
        sizes: tensors computed of the shapes of others, and of nothing else but constants.
        bins: of the distributions that the decode takes the mean of, 0: none.
        decode: ids (`id(node)`) of the nodes behind `head`, and of those that only they read.
    """

    def __init__(self, model: "ModelProto"):
        self.model = model
        graph = model.graph
        self.nodes: List[Any] = list(graph.node)
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: Dict[str, List[Any]] = {}
        for node in self.nodes:
            for name in set(node.input):
                self.readers.setdefault(name, []).append(node)
        self.constants = {i.name: i for i in graph.initializer}
        self.inputs = [i.name for i in graph.input if i.name not in self.constants]
        self.outputs = [o.name for o in graph.output]
        self.convs = [node for node in self.nodes if node.op_type == "Conv"]
        self.sizes = self._sizes()
        means = [self.weights(node) for node in self.convs if self._takes_mean(node)]
        self.bins = means[0].size if means else 0  # type: ignore
        self.head = self._head()
        self.decode = self._decode()
        self.convs = [node for node in self.convs if id(node) not in self.decode]

    def _head(self) -> List[Any]:
        found: Dict[int, Any] = {}
        seen: Set[str] = set()
        waiting = list(self.outputs)
        while waiting:
            name = waiting.pop()
            if name in seen or name in self.sizes:  # a grid is made of the size of a map
                continue
            seen.add(name)
            node = self.maker.get(name)
            if node is None:
                continue
            if node.op_type == "Conv" and not self._takes_mean(node):
                found[id(node)] = node
            else:
                waiting += node.input
        return [node for node in self.nodes if id(node) in found]

    def _takes_mean(self, conv: Any) -> bool:
        """Whether a convolution has the weights 0, 1, ..., n - 1 behind a softmax.

        The sides of a box as expectations over n bins (Li et al. 2020, arXiv 2006.04388), a decode
        written as a convolution.
        """
        weights = self.weights(conv)
        if weights is None or weights.shape != (1, weights.size, 1, 1) or weights.size < 2:
            return False
        if not np.array_equal(weights.ravel(), np.arange(weights.size)):
            return False
        maker = self.maker.get(conv.input[0])
        while maker is not None and maker.op_type in ("Transpose", "Reshape", "Cast"):
            maker = self.maker.get(maker.input[0])
        return maker is not None and maker.op_type == "Softmax"

    def _decode(self) -> Set[int]:
        heads = {id(node) for node in self.head}
        behind: Set[int] = set()
        reached = {name for node in self.head for name in node.output}
        for node in self.nodes:
            if id(node) not in heads and reached & set(node.input):
                behind.add(id(node))
                reached |= set(node.output)
        # constants computed for the decode alone (grids of a dynamic model)
        for node in reversed(self.nodes):
            if id(node) in behind or node.op_type == "Conv":
                continue
            readers = [r for name in node.output for r in self.readers.get(name, [])]
            if readers and all(id(r) in behind for r in readers):
                behind.add(id(node))
        return behind

    def _sizes(self) -> Set[str]:
        found: Set[str] = set()
        constant = set(self.constants)
        for node in self.nodes:
            names = {n for n in node.input if n}
            if node.op_type == "Constant":
                constant |= set(node.output)
            elif node.op_type in ("Shape", "Size") or (names & found and names <= found | constant):
                found |= set(node.output)
        return found

    def weights(self, conv: "NodeProto") -> Optional[np.ndarray]:
        """Weights of a convolution as float32 (out, in / groups, k, k); None: not constant."""
        from onnx import numpy_helper

        value = self.constants.get(conv.input[1])
        return None if value is None else numpy_helper.to_array(value).astype(np.float32)

    def block_output(self, conv: "NodeProto") -> str:
        """What a convolution makes, behind its SiLU or other activation if it has one."""
        name = conv.output[0]
        readers = self.readers.get(name, [])
        for node in readers:
            if self.is_silu(node) or (len(readers) == 1 and node.op_type in ACTIVATIONS):
                return node.output[0]
        return name

    def is_silu(self, node: "NodeProto") -> bool:
        """Whether a node is the product of a SiLU, x * sigmoid(x)."""
        made = [self.maker[name].op_type for name in node.input if name in self.maker]
        return node.op_type == "Mul" and "Sigmoid" in made

    def float_tensors(self) -> List[str]:
        """Activations before the decode that a quantiser may want a range of, in graph order."""
        names = list(self.inputs)
        for node in self.nodes:
            if id(node) not in self.decode and node.op_type != "Constant":
                names += [name for name in node.output if name and name not in self.sizes]
        return names


def find(groups: Dict[str, str], name: str) -> str:
    """Representative of a tensor in the sets that `union` makes."""
    while groups.get(name, name) != name:
        groups[name] = groups.get(groups[name], groups[name])
        name = groups[name]
    return name


def union(groups: Dict[str, str], names: Sequence[str]) -> None:
    """Put tensors into one set."""
    first = find(groups, names[0])
    for name in names[1:]:
        groups[find(groups, name)] = first


def attribute(node: "NodeProto", name: str, default: Any) -> Any:
    """Value of a node's attribute."""
    from onnx import helper

    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def with_input_hw(model: "ModelProto", batch: int, hw: Hw) -> "ModelProto":
    """A copy of a model whose only input is (batch, 3, height, width)."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for dim, value in zip(dims, (batch, 3) + tuple(hw)):
        dim.Clear()
        dim.dim_value = value
    return fixed


def conv_macs(model: "ModelProto", hw: Hw) -> Dict[str, int]:
    """Multiply-accumulates of each convolution (by name of its output) for one image of `hw` px.

    MACs = output pixels x output channels x weights of one output channel.
    """
    import onnx

    shapes = onnx.shape_inference.infer_shapes(with_input_hw(model, 1, hw))
    values = list(shapes.graph.value_info) + list(shapes.graph.output)
    known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    graph = Graph(model)
    unknown = [c.output[0] for c in graph.convs if len(known.get(c.output[0], [])) != 4]
    known.update(_shapes_by_running(model, hw, unknown) if unknown else {})
    macs = {}
    for conv in graph.convs:
        weights = graph.weights(conv)
        shape = known.get(conv.output[0], [])
        if weights is None or len(shape) != 4:
            raise ValueError("unknown shape of %s" % conv.output[0])
        macs[conv.output[0]] = int(np.prod(shape[1:], dtype=np.int64)) * int(weights[0].size)
    return macs


def _shapes_by_running(model: "ModelProto", hw: Hw, names: Sequence[str]) -> Dict[str, List[int]]:
    """Shapes of tensors behind reshapes that shape inference does not follow."""
    import onnx
    import onnxruntime

    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    wider = with_input_hw(model, batch, hw)
    wider.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        wider.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0]
    dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
    found = session.run(list(names), {entry.name: np.zeros((batch, 3) + tuple(hw), dtype)})
    return {name: list(value.shape) for name, value in zip(names, found)}
