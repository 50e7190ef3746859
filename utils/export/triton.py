"""A model repository for Triton: config.pbtxt from the model, and the model itself."""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from utils.errors import InputError
from utils.export.deepstream import copy_file
from utils.export.deploy_model import DeployEngine, DeployModel, Tensor, bound
from utils.files import atomic_path
from utils.runtime.predictor import DEFAULT_SIZE
from utils.trt.sidecar import FOREIGN_KEYS, KEYS

FLOATS = ("FP32", "FP16")
QUEUE_US = 1000  # a request waits this long for others to share a batch with


class Word(str):
    """A value without quotes: the name of an enum."""


class TritonSettings(NamedTuple):
    """What the model does not say."""

    name: str  # clients ask for it
    max_batch: int  # of a model that takes any number
    instances: int  # that run at the same time
    gpu: Optional[int]  # None: on the CPU


def check_for_triton(model: DeployModel, engine: Optional[DeployEngine]) -> None:
    """Raise InputError for what Triton or our client cannot run."""
    if model.input.dtype not in FLOATS:
        raise InputError(
            "`onnx` %s: input of type %s; expected FP32 or FP16, RGB 0..1"
            % (model.path, model.input.dtype)
        )
    if model.plugin and engine is None:
        raise InputError(
            "`onnx` %s: its NMS is a plugin of TensorRT, unknown to Triton's ONNX Runtime; "
            "export it with `nms` static, or give an `engine`" % model.path
        )


def triton_config(
    model: DeployModel, engine: Optional[DeployEngine], settings: TritonSettings
) -> Dict[str, Any]:
    """ModelConfig of Triton (its model_config.proto) as nested dictionaries."""
    inside = bound(model, engine)
    most = max_batch_size(inside, engine, settings.max_batch)
    kind = "KIND_CPU" if settings.gpu is None else "KIND_GPU"
    group: Dict[str, Any] = {"count": settings.instances, "kind": Word(kind)}
    if settings.gpu is not None:
        group["gpus"] = [settings.gpu]
    kept = {k: model.properties[k] for k in (*KEYS, *FOREIGN_KEYS) if k in model.properties}
    config: Dict[str, Any] = {
        "name": settings.name,
        "backend": "onnxruntime" if engine is None else "tensorrt",
        "default_model_filename": model_file(engine),
        "max_batch_size": most,
        "input": [_tensor(inside.input, most)],
        "output": [_tensor(output, most) for output in inside.outputs],
        "instance_group": [group],
    }
    if most > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": QUEUE_US}
    config["model_warmup"] = [warm_up(inside, engine, most)]
    # what the client reads: names, keypoints, thresholds
    metadata = json.dumps(kept, ensure_ascii=False)
    config["parameters"] = [{"key": "metadata", "value": {"string_value": metadata}}]
    return config


def max_batch_size(model: DeployModel, engine: Optional[DeployEngine], asked: int) -> int:
    """Images at a time; 0: a fixed number, which is part of the shapes."""
    if any(tensor.dims[0] is not None for tensor in (model.input, *model.outputs)):
        return 0
    if engine is not None and engine.profile is not None:
        return engine.profile[2][0]
    return asked


def warm_up(model: DeployModel, engine: Optional[DeployEngine], most: int) -> Dict[str, Any]:
    """A request of zeros before the first real one, which otherwise waits for the start-up."""
    size = model.identity.info.imgsz or (DEFAULT_SIZE, DEFAULT_SIZE)
    usual = (1, 3, *size)
    if engine is not None and engine.profile is not None:
        usual = tuple(engine.profile[1])  # type: ignore
    dims = [d if d is not None else u for d, u in zip(model.input.dims, usual)]
    zeros = {
        "data_type": Word("TYPE_" + model.input.dtype),
        "dims": dims[1:] if most else dims,
        "zero_data": True,
    }
    return {
        "name": "zeros",
        "batch_size": dims[0] if most else 0,
        "inputs": [{"key": model.input.name, "value": zeros}],
    }


def _tensor(tensor: Tensor, most: int) -> Dict[str, Any]:
    dims = [-1 if d is None else d for d in tensor.dims]
    return {
        "name": tensor.name,
        "data_type": Word("TYPE_" + tensor.dtype),
        "dims": dims[1:] if most else dims,
    }


def model_file(engine: Optional[DeployEngine]) -> str:
    """Name of the model in the folder of its version."""
    return "model.onnx" if engine is None else "model.plan"


def pbtxt(message: Dict[str, Any], indent: str = "") -> str:
    """The text format of Protocol Buffers (protobuf.dev/reference/protobuf/textformat-spec)."""
    lines: List[str] = []
    for key, value in message.items():
        for one in value if _is_list_of_messages(value) else [value]:
            if isinstance(one, dict):
                lines.append("%s%s {\n%s%s}\n" % (indent, key, pbtxt(one, indent + "  "), indent))
            else:
                lines.append("%s%s: %s\n" % (indent, key, _scalar(one)))
    return "".join(lines)


def _is_list_of_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word) or not isinstance(value, str):
        return str(value)  # a list of numbers is written as Python writes it
    return '"%s"' % value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write_triton(
    folder: Path, model: DeployModel, engine: Optional[DeployEngine], *, settings: TritonSettings
) -> Tuple[Path, Dict[str, Any]]:
    """Write `<folder>/<name>/config.pbtxt` and version 1 of the model; the folder and the config.

    Raises InputError where Triton cannot run the model.
    """
    check_for_triton(model, engine)
    config = triton_config(model, engine, settings)
    target = folder / settings.name
    source = model.path if engine is None else engine.path
    copy_file(source, target / "1" / model_file(engine))
    with atomic_path(target / "config.pbtxt") as tmp:
        tmp.write_text(pbtxt(config), encoding="utf-8")
    return target, config
