"""Pixels as bytes: an input (B, H, W, 3) uint8 BGR in front of a network that reads RGB 0..1.

    add_pixels(model)       # input `input` (B, 3, H, W) -> `pixels` (B, H, W, 3)
    remove_pixels(model)    # back

A quarter of the bytes to copy, and no float image on the host. The arithmetic is that of
utils/pose/letterbox.py, k * float32(1 / 255), so the network reads the same bits. In between the
tensor keeps its name, so that calibration caches and Q/DQ pairs of one form fit the other.
"""

from typing import TYPE_CHECKING, Any, List

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT = "pixels"
UNIT = np.float32(1 / 255.0)  # as utils/pose/letterbox.py
PREFIX = "pixels/"  # of the nodes and constants that are put in front


def reads_pixels(model: "ModelProto") -> bool:
    """Whether the input of a ModelProto is uint8."""
    from onnx import TensorProto

    return any(_is_of(i, TensorProto.UINT8) for i in model.graph.input)


def add_pixels(model: "ModelProto") -> None:
    """Put the cast, the scale and the change of axes and channels in front, in place.

    Args: model: one input (B, 3, H, W) float32 or float16, batch and size static or dynamic.
    """
    from onnx import helper, numpy_helper

    constants = {c.name for c in model.graph.initializer}
    (entry,) = [i for i in model.graph.input if i.name not in constants]
    kind = entry.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    b, channels, h, w = (_dimension(d) for d in entry.type.tensor_type.shape.dim)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(
                np.asarray(np.float32(1 / 255.0)).astype(dtype), PREFIX + "unit"
            ),
            numpy_helper.from_array(np.array([2, 1, 0], np.int64), PREFIX + "rgb"),
        ]
    )
    made: List[Any] = [
        helper.make_node("Cast", [INPUT], [PREFIX + "level"], name=PREFIX + "cast", to=kind),
        helper.make_node(
            "Mul", [PREFIX + "level", PREFIX + "unit"], [PREFIX + "bgr"], name=PREFIX + "scale"
        ),
        helper.make_node(
            "Transpose", [PREFIX + "bgr"], [PREFIX + "planes"], name=PREFIX + "planar",
            perm=[0, 3, 1, 2],
        ),
        helper.make_node(
            "Gather", [PREFIX + "planes", PREFIX + "rgb"], [entry.name], name=PREFIX + "swap",
            axis=1,
        ),
    ]  # fmt: skip
    nodes = made + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _set_input(model, INPUT, _uint8(), shape=[b, h, w, channels])


def remove_pixels(model: "ModelProto") -> None:
    """Take away what add_pixels put in front, in place.

    Raises ValueError (reason only) for a model with another uint8 input.
    """
    from onnx import TensorProto

    last = [n for n in model.graph.node if n.name == PREFIX + "swap"]
    cast = [n for n in model.graph.node if n.name == PREFIX + "cast"]
    if len(last) != 1 or len(cast) != 1:
        raise ValueError("a uint8 input that was not made by `uint8` of export_onnx.py")
    constants = {c.name for c in model.graph.initializer}
    (entry,) = [i for i in model.graph.input if i.name not in constants]
    b, h, w, channels = (_dimension(d) for d in entry.type.tensor_type.shape.dim)
    kind = next(a.i for a in cast[0].attribute if a.name == "to")
    assert kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
    nodes = [n for n in model.graph.node if not n.name.startswith(PREFIX)]
    kept = [c for c in model.graph.initializer if not c.name.startswith(PREFIX)]
    name = last[0].output[0]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    _set_input(model, name, kind, shape=[b, channels, h, w])


def _uint8() -> int:
    from onnx import TensorProto

    return int(TensorProto.UINT8)


def _is_of(value: Any, kind: int) -> bool:
    return bool(value.type.tensor_type.elem_type == kind)


def _dimension(dim: Any) -> Any:
    """A number, or the name of a dynamic dimension."""
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def _set_input(model: "ModelProto", name: str, kind: int, *, shape: List[Any]) -> None:
    from onnx import helper

    constants = {c.name for c in model.graph.initializer}
    others = [i for i in model.graph.input if i.name in constants]
    del model.graph.input[:]
    model.graph.input.extend([helper.make_tensor_value_info(name, kind, shape), *others])
