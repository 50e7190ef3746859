"""The layers of a built engine: what each reads and writes, and in which precision."""

import json
import re
from typing import (
    List,
    NamedTuple,
)

from utils.errors import InputError
from utils.trt.api import Tensorrt
from utils.trt.device_memory import DeviceMemory


class Layer(NamedTuple):
    """A layer of a built engine."""

    name: str
    kind: str  # as TensorRT calls it: CaskConvolution, Reformat, PointWiseV2, ...
    inputs: List[str]  # INT8, FP16, FP32, ...
    outputs: List[str]


def layer_table(trt: Tensorrt, plan: bytes, memory: DeviceMemory) -> List[Layer]:
    """The layers of an engine that was built with `layers`, in the order they run."""
    with memory.active():
        runtime = trt.module.Runtime(trt.log)
        engine = runtime.deserialize_cuda_engine(plan)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.module.LayerInformationFormat.JSON)
        del inspector  # before its engine, and that before its runtime, or TensorRT says error
        del engine
    found = []
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, str):  # an engine without details
            raise InputError("the engine was built without the details of its layers")
        kinds = [
            [_format_type(tensor.get("Format/Datatype", "")) for tensor in layer.get(side, [])]
            for side in ("Inputs", "Outputs")
        ]
        found.append(Layer(layer["Name"], layer["LayerType"], *kinds))
    return found


def _format_type(text: str) -> str:
    """`Channel major FP16 format where channel % 8 == 0` -> `FP16`."""
    match = re.search(r"INT8|FP16|FP32|INT32|BOOL", text.upper())
    return match.group(0) if match else text
