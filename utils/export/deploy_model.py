"""A model on its way into a server: inputs, outputs and metadata of an ONNX and its engine."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from utils.errors import InputError, one_line
from utils.graph.fp16 import has_qdq
from utils.graph.nms import has_efficientnms
from utils.pose.layout import decode_text
from utils.pose.letterbox import MAX_SIZE
from utils.reading import is_integer
from utils.runtime.backend import format_shape
from utils.runtime.metadata import EmbeddedNms, Identity, identify
from utils.trt.sidecar import info_path, read_info

# of ONNX's tensor types, the words of Triton and TensorRT
TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "INT32": "INT32", "INT64": "INT64", "UINT8": "UINT8"}
SAME = ("names", "nkpt", "topk", "conf_thres", "iou_thres")  # of an ONNX and its engine


class Tensor(NamedTuple):
    """An input or output."""

    name: str
    dtype: str  # FP32, FP16, INT32, ...
    dims: Tuple[Optional[int], ...]  # batch first; None where dynamic

    def __str__(self) -> str:
        return "%s %s %s" % (self.name, format_shape(self.dims), self.dtype)


class DeployModel(NamedTuple):
    """What a server has to know of a model."""

    path: Path
    input: Tensor  # (B, 3, H, W)
    outputs: List[Tensor]
    identity: Identity
    properties: Dict[str, str]  # metadata as the file has it
    plugin: bool  # TensorRT's EfficientNMS is inside
    pairs: bool  # Q/DQ pairs are inside

    @property
    def embedded_nms(self) -> Optional[EmbeddedNms]:
        """The NMS inside, None if there is none."""
        return self.identity.embedded_nms


class DeployEngine(NamedTuple):
    """An engine that was built of the ONNX."""

    path: Path
    precision: str
    # smallest, most common and largest input shape, None where it has one
    profile: Optional[List[List[int]]]


def read_model(path: str) -> DeployModel:
    """Inputs, outputs and metadata of an ONNX. Raises InputError for what is no pose model."""
    try:
        import onnx
    except ImportError as e:
        raise InputError("`onnx` %s: reading it needs pip install onnx" % path) from e
    file = Path(path)
    if file.suffix.lower() != ".onnx":
        raise InputError("`onnx` %s: expected an .onnx file" % path)
    if not file.is_file():
        raise InputError("`onnx` %s: no such file" % path)
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as e:  # protobuf's and onnx's errors share no base class but Exception
        raise InputError("`onnx` %s: not a valid ONNX (%s)" % (path, one_line(e, 150))) from e
    weights = {w.name for w in model.graph.initializer}
    inputs = [_tensor(i) for i in model.graph.input if i.name not in weights]
    if len(inputs) != 1 or len(inputs[0].dims) != 4 or inputs[0].dims[1] != 3:
        raise InputError(
            "`onnx` %s: inputs %s; expected one of (B, 3, H, W)"
            % (path, ", ".join(map(str, inputs)) or "none")
        )
    outputs = [_tensor(o) for o in model.graph.output]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    try:
        identity = identify(properties, {o.name: o.dims for o in outputs})
    except ValueError as e:
        raise InputError("`onnx` %s: not a YOLO-Pose model (%s)" % (path, e)) from e
    by_name = {o.name: o for o in outputs}
    kept = [by_name[name] for name in identity.outputs]
    inside = {"plugin": has_efficientnms(model), "pairs": has_qdq(model)}
    return DeployModel(file, inputs[0], kept, identity, properties, **inside)


def read_engine(path: str, model: DeployModel) -> DeployEngine:
    """What the side file of an engine says. Raises InputError without one, or of another model."""
    file = Path(path)
    if not file.is_file():
        raise InputError("`engine` %s: no such file" % path)
    info = read_info(file)
    if info is None:
        raise InputError(
            "`engine` %s: no %s beside it, so its batch and sizes are unknown; build it with "
            "models/export_TRT.py and copy both" % (path, info_path(file).name)
        )
    for key in SAME:
        ours = decode_text(model.properties[key]) if key in model.properties else None
        if key in info and ours is not None and info[key] != ours:
            raise InputError(
                "`engine` %s: %s %s, but %s has %s; it was built of another model"
                % (path, key, info[key], model.path.name, ours)
            )
    return DeployEngine(file, str(info.get("precision", "FP32")), _profile(file, info))


def _profile(engine: Path, info: Dict[str, Any]) -> Optional[List[List[int]]]:
    """Three shapes of four, None where the side file has none. Raises InputError for others."""
    shapes = info.get("profile")
    if shapes is None:
        return None
    whole = isinstance(shapes, list) and len(shapes) == 3
    for shape in shapes if whole else ():
        whole = whole and isinstance(shape, list) and len(shape) == 4
        whole = whole and all(is_integer(side, 1, MAX_SIZE) for side in shape)
    if not whole:
        raise InputError(
            "`engine` %s: profile in %s: expected three shapes of four numbers; build it again"
            % (engine, info_path(engine).name)
        )
    return shapes


def bound(model: DeployModel, engine: Optional[DeployEngine]) -> DeployModel:
    """The model with the batch and size to which an engine bound it, where its ONNX is dynamic."""
    if engine is None or engine.profile is None:
        return model
    low, high = engine.profile[0], engine.profile[2]
    dims = list(model.input.dims)
    for axis in (2, 3):
        if low[axis] == high[axis]:
            dims[axis] = low[axis]
    batch = low[0] if low[0] == high[0] > 1 else None  # a batch of 1 leaves Triton its own
    dims[0] = dims[0] or batch
    outputs = [o._replace(dims=(o.dims[0] or batch, *o.dims[1:])) for o in model.outputs]
    return model._replace(input=model.input._replace(dims=tuple(dims)), outputs=outputs)


def _tensor(value: Any) -> Tensor:
    from onnx import TensorProto

    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type)
    dims = tuple(d.dim_value or None for d in kind.shape.dim)
    return Tensor(value.name, TYPES.get(name, name), dims)
