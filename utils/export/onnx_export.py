"""Checkpoint -> ONNX."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Sequence, Tuple

import numpy as np

from utils.errors import InputError
from utils.pose.skeleton import skeleton_keys

if TYPE_CHECKING:
    from onnx import ModelProto

    from models.yolo import Model

DEFAULT_OPSET = 13  # the newest that every TensorRT from 8.2 to 11 and ONNX Runtime 1.10 parse
OPSETS = (12, 17)  # TensorRT 8.5 parses up to 17; the torch exporter used here from 12 on works
ROUND = ("cancel", "nearest")
DYNAMIC_AXES = {
    "input": {0: "batch", 2: "height", 3: "width"},
    "output": {0: "batch", 1: "predictions"},
}


def output_path(weights: str, dynamic: bool, end2end: bool = False, *, uint8: bool = False) -> Path:
    """X.pt -> X.onnx, X-dynamic.onnx, X-uint8.onnx, X-NMS.onnx, or several suffixes in a row."""
    path = Path(weights)
    asked = (("-dynamic", dynamic), ("-uint8", uint8), ("-NMS", end2end))
    suffix = "".join(part for part, wanted in asked if wanted)
    return path.with_name(path.stem + suffix + ".onnx")


def export(
    model: "Model",
    path: Path,
    net_hw: Tuple[int, int],
    *,
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    opset: int = DEFAULT_OPSET,
    simplify: bool = False,
    device: str = "cpu",
    images: Sequence[np.ndarray] = (),
) -> "ModelProto":
    """Write a fused Model to `path` and return the loaded onnx.ModelProto.

    Args:
        model: models.yolo.Model in eval mode, fused; it is moved to the device.
        net_hw: (height, width) px, multiples of the stride; for `dynamic` the size traced.
        images: with `half`: (1, 3, height, width) float32, weights are rounded so that their
            errors cancel on them; without any to the nearest.

    Raises InputError if onnx or, with `simplify`, onnxslim is not installed.
    """
    import onnx
    import torch

    model = model.to(device)
    model.head.dynamic = dynamic
    zeros = torch.zeros(batch, 3, *net_hw, device=device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every int() and of itself
        torch.onnx.export(
            model,
            (zeros,),
            str(path),
            opset_version=opset,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=DYNAMIC_AXES if dynamic else None,
            **_exporter_options(),
        )
    graph = onnx.load(str(path))
    ir_version = graph.ir_version
    if simplify:
        graph = simplified(graph)
    if half:
        to_fp16(graph, images)
    # The tracer loses the known width of the rows when height and width are dynamic.
    graph.graph.output[0].type.tensor_type.shape.dim[2].dim_value = model.head.no
    graph.ir_version = ir_version  # simplifiers stamp their own, which old parsers refuse
    graph.producer_name, graph.producer_version = "yolo-pose", ""
    _set_metadata(graph, model, net_hw)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    return graph


def to_fp16(graph: "ModelProto", images: Sequence[np.ndarray]) -> None:
    """FP16 weights, convolutions and input, in place.

    Args: images: (1, 3, height, width) float32, see `export`.
    """
    from utils.graph import fp16
    from utils.quantization import adaptive_rounding

    adaptive_rounding.prepare(graph, images, progress=True)
    fp16.to_fp16(graph, fp16_input=True)


def _exporter_options() -> Dict[str, Any]:
    """torch >= 2.5 has two exporters; the one that writes opset 13 directly is `dynamo=False`."""
    import inspect

    import torch

    known = inspect.signature(torch.onnx.export).parameters
    return {"dynamo": False} if "dynamo" in known else {}


def simplified(graph: "ModelProto") -> "ModelProto":
    """A ModelProto with constants folded and nodes merged, by onnxslim.

    As few nodes are left as with onnx-simplifier, and the wheel runs on every Python and machine.
    Callers compare what it computes. Raises InputError where it is not installed.
    """
    try:
        import onnxslim
    except ImportError as e:
        raise InputError("`simplify`: pip install onnxslim, or export without it") from e
    return onnxslim.slim(graph)


def _set_metadata(graph: Any, model: Any, net_hw: Tuple[int, int]) -> None:
    """What a backend cannot read off the graph; JSON values in `metadata_props`."""
    values = {
        "task": "pose",
        "names": list(model.names),
        "nc": model.nc,
        "nkpt": model.nkpt,
        **skeleton_keys(model.skeleton),
        "stride": model.max_stride,
        "imgsz": list(net_hw),
    }
    del graph.metadata_props[:]
    add_metadata(graph, values)


def add_metadata(graph: "ModelProto", values: Dict[str, Any]) -> None:
    for key, value in values.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)


def torch_device(device: str) -> str:
    """`cpu` or `cuda:N` for --device. Raises InputError if PyTorch does not see that GPU."""
    import torch

    from utils.device import check_gpu, parse_device

    gpu = parse_device(device)
    if gpu is None or gpu < 0:
        return "cpu"
    advice = "; `device` cpu exports the same file"
    check_gpu(gpu, torch.cuda.device_count(), "PyTorch", advice=advice)
    return "cuda:%d" % gpu


def require(package: str) -> None:
    import importlib

    try:
        importlib.import_module(package)
    except ImportError as e:
        raise InputError("exporting needs %s: pip install %s (%s)" % (package, package, e)) from e
