"""Binding layers of a parsed network to a precision (8.5 to 10.x)."""

from typing import (
    Any,
    Collection,
    List,
)

FLOATS = ("FLOAT", "HALF")


def constrain(definition: Any, names: Collection[str], dtype: Any) -> int:
    """Bind the layers of some nodes to a precision; how many that were.

    Layers that compute shapes and indices are left alone, and casts, which say their type.
    """
    layers = [definition.get_layer(i) for i in range(definition.num_layers if names else 0)]
    named = named_layers(layers, names)
    count = 0
    for layer in named + broadcasts(layers, named):
        # TensorRT 8.5 finds "no supported formats" for a plugin whose precision is set. NMS reads
        # FP32 nevertheless: what makes its boxes and scores is bound.
        if layer.type.name.startswith("PLUGIN"):
            continue
        outputs = _outputs(layer)
        if not all(o.dtype.name in FLOATS for o in outputs) or not outputs:
            continue
        if layer.type.name in ("SHAPE", "CONSTANT", "CAST"):
            continue
        layer.precision = dtype
        for j in range(layer.num_outputs):
            layer.set_output_type(j, dtype)
        count += 1
    return count


def named_layers(layers: List[Any], names: Collection[str]) -> List[Any]:
    """Layers that have one of the names (of nodes or tensors in the ONNX), or make a tensor so."""
    wanted = set(names)
    return [n for n in layers if n.name in wanted or wanted & {o.name for o in _outputs(n)}]


def broadcasts(layers: List[Any], readers: List[Any]) -> List[Any]:
    """Shuffles that `readers` read, and the shuffles that those read.

    The parser puts them there, under names of its own, to give an operand the rank of the other:
    the grid of the decode, pixels up to 1280, would go through them in FP16.
    """
    known = {layer.name for layer in readers}
    read = {t.name for layer in readers for t in _inputs(layer)}
    found = []
    for layer in reversed(layers):  # what reads comes after what is read
        if layer.type.name != "SHUFFLE" or layer.name in known:
            continue
        if read & {o.name for o in _outputs(layer)}:
            found.append(layer)
            read |= {t.name for t in _inputs(layer)}
    return found


def _outputs(layer: Any) -> List[Any]:
    return [layer.get_output(j) for j in range(layer.num_outputs)]


def _inputs(layer: Any) -> List[Any]:
    tensors = [layer.get_input(j) for j in range(layer.num_inputs)]
    return [t for t in tensors if t is not None]  # optional ones
