"""An ONNX file that is to be quantised or built: its content and the shape of its input."""

from pathlib import Path
from typing import Any, NamedTuple, Optional, Tuple

from utils.errors import InputError, one_line
from utils.graph.analysis import Graph
from utils.graph.fp16 import has_qdq, is_half
from utils.graph.nms import has_efficientnms, swap_efficientnms


class OnnxFile(NamedTuple):
    """A YOLO-Pose network in an ONNX file."""

    path: Path
    data: bytes
    model: Any  # onnx.ModelProto
    graph: Graph
    batch: Optional[int]  # None: any
    hw: Optional[Tuple[int, int]]  # (height, width) px, None: any


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
    data = file.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as e:  # protobuf's and onnx's errors share no base class but Exception
        if "EfficientNMS" not in str(e):  # NVIDIA's op is unknown to the checker
            raise InputError("`onnx` %s: not a valid ONNX (%s)" % (path, one_line(e, 150))) from e
    graph = Graph(model)
    entries = [i for i in model.graph.input if i.name in graph.inputs]
    dims = list(entries[0].type.tensor_type.shape.dim) if len(entries) == 1 else []
    if len(dims) != 4 or dims[1].dim_value != 3 or not graph.convs:
        raise InputError(
            "`onnx` %s: not a YOLO-Pose model: %d inputs, expected one of (B, 3, H, W)"
            % (path, len(entries))
        )
    b, _, h, w = (d.dim_value or None for d in dims)
    return OnnxFile(file, data, model, graph, b, None if h is None or w is None else (h, w))


def refuse_quantised(source: OnnxFile) -> None:
    """Raise InputError for a model that is INT8 or FP16 already."""
    if has_qdq(source.model):
        raise InputError("`onnx` %s: has Q/DQ pairs already" % source.path)
    if is_half(source.model):
        raise InputError("`onnx` %s: FP16 weights; export it without `half` for INT8" % source.path)


def runnable(model: Any) -> Any:
    """The model as ONNX Runtime takes it: TensorRT's NMS plugin replaced by standard ops."""
    import onnx

    if not has_efficientnms(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    swap_efficientnms(copy)
    return copy
