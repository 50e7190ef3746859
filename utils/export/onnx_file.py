"""An ONNX file that is to be quantised or built: its content and the shape of its input."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from utils.errors import InputError, one_line
from utils.graph.analysis import Graph
from utils.graph.fp16 import has_qdq, is_fp16
from utils.graph.layout import is_ordered
from utils.graph.nms import PLUGIN, has_efficientnms, swap_efficientnms
from utils.graph.pixels import reads_pixels, remove_pixels
from utils.pose.layout import Layout
from utils.reading import read_bytes
from utils.runtime.backend import check_input_dims
from utils.runtime.metadata import identify

if TYPE_CHECKING:
    from onnx import ModelProto

PLUGIN_DOMAIN = "TRT"


class OnnxFile(NamedTuple):
    """A YOLO-Pose network in an ONNX file."""

    path: Path
    data: bytes
    model: "ModelProto"  # onnx.ModelProto
    graph: Graph
    batch: Optional[int]  # None: any
    hw: Optional[Tuple[int, int]]  # (height, width) px, None: any
    layout: Optional[Layout] = None  # of another exporter, None: ours
    pixels: bool = False  # its input is uint8 BGR; `model` is without what makes RGB 0..1 of it


def read_onnx(path: str) -> OnnxFile:
    """Load and look at an ONNX. Raises InputError for a file that is no YOLO-Pose network."""
    try:
        import onnx
    except ImportError as e:
        raise InputError("building needs the onnx package: pip install onnx") from e

    file = Path(path)
    if file.suffix.lower() != ".onnx":
        raise InputError("`onnx` %s: expected an .onnx file" % path)
    if not file.is_file():
        raise InputError("`onnx` %s: no such file" % path)
    data = read_bytes(file, "ONNX")
    invalid = "`onnx` %s: not a valid ONNX (%%s)" % path
    try:
        model = onnx.load_model_from_string(data)
    except Exception as e:  # protobuf's errors share no base class but Exception
        raise InputError(invalid % one_line(e, 150)) from e
    if not is_ordered(model):
        raise InputError(
            "`onnx` %s: its nodes are not in order; python models/import_onnx.py --onnx %s "
            "sorts them" % (path, path)
        )
    try:
        onnx.checker.check_model(_checkable(model))
    except Exception as e:  # onnx's errors, too
        raise InputError(invalid % one_line(e, 150)) from e
    pixels = reads_pixels(model)
    if pixels:
        try:
            remove_pixels(model)
        except ValueError as e:
            raise InputError("`onnx` %s: %s" % (path, e)) from e
    graph = Graph(model)
    entries = [i for i in model.graph.input if i.name in graph.inputs]
    dims = list(entries[0].type.tensor_type.shape.dim) if len(entries) == 1 else []
    if len(dims) != 4 or dims[1].dim_value != 3 or not graph.convs:
        raise InputError(
            "`onnx` %s: not a YOLO-Pose model: %d inputs, expected one of (B, 3, H, W)"
            % (path, len(entries))
        )
    try:
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in dims]
        check_input_dims(sizes)
    except ValueError as e:
        raise InputError("`onnx` %s: %s" % (path, e)) from e
    b, _, h, w = sizes
    hw = None if h is None or w is None else (h, w)
    return OnnxFile(file, data, model, graph, b, hw, _layout(file, model), pixels)


def _checkable(model: "ModelProto") -> "ModelProto":
    """The model for the checker, which knows NVIDIA's operator in no domain but its own."""
    import onnx

    if not has_efficientnms(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == PLUGIN:
            node.domain = PLUGIN_DOMAIN
    if all(entry.domain != PLUGIN_DOMAIN for entry in copy.opset_import):
        copy.opset_import.add(domain=PLUGIN_DOMAIN, version=1)
    return copy


def _layout(path: Path, model: "ModelProto") -> Optional[Layout]:
    """How another exporter lays the output out, None: as we do. Raises InputError."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    dims = {
        o.name: [d.dim_value or None for d in o.type.tensor_type.shape.dim]
        for o in model.graph.output
    }
    if "kpt_shape" in properties and [d[1:] for d in dims.values()] == [[None, None]]:
        raise InputError(
            "`onnx` %s: it does not say how wide its output is; first python "
            "models/import_onnx.py --onnx %s" % (path, path)
        )
    try:
        return identify(properties, dims).layout
    except ValueError as e:
        raise InputError("`onnx` %s: not a YOLO-Pose model (%s)" % (path, e)) from e


def refuse_for_int8(source: OnnxFile) -> None:
    """Raise InputError for a model that is INT8 or FP16 already, or of another exporter."""
    if source.layout is not None:  # the boxes found in its output choose the ranges
        raise InputError(
            "`onnx` %s: its output is %s; for INT8 first python models/import_onnx.py --onnx %s"
            % (source.path, source.layout, source.path)
        )
    if has_qdq(source.model):
        raise InputError("`onnx` %s: has Q/DQ pairs already" % source.path)
    if is_fp16(source.model):
        raise InputError("`onnx` %s: FP16 weights; export it without `half` for INT8" % source.path)


def runnable(model: "ModelProto") -> "ModelProto":
    """The model as ONNX Runtime takes it: TensorRT's NMS plugin replaced by standard ops."""
    import onnx

    if not has_efficientnms(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    swap_efficientnms(copy)
    return copy
