"""The layers of a built engine: what each reads and writes, and in which precision."""

import collections
import json
import re
from typing import Dict, List, NamedTuple

import numpy as np

from utils.errors import InputError
from utils.trt.api import Tensorrt
from utils.trt.device_memory import DeviceMemory
from utils.trt.engine import Engine


class Layer(NamedTuple):
    """A layer of a built engine."""

    name: str
    kind: str  # as TensorRT calls it: CaskConvolution, Reformat, PointWiseV2, ...
    inputs: List[str]  # INT8, FP16, FP32, ...
    outputs: List[str]
    ms: float  # GPU time by TensorRT's profiler, see Engine.layer_milliseconds


def layer_table(trt: Tensorrt, plan: bytes, memory: DeviceMemory) -> List[Layer]:
    """The layers of an engine that was built with `layers`, in the order they run.

    A dynamic engine is timed at the shape it was optimized for.
    """
    times = layer_times(trt, plan, memory)
    with memory.active():
        runtime = trt.module.Runtime(trt.log)
        engine = runtime.deserialize_cuda_engine(plan)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.module.LayerInformationFormat.JSON)
        del inspector  # before its engine, and that before its runtime, or TensorRT says error
        del engine
    found = []
    listed = json.loads(text)["Layers"]
    same = collections.Counter(layer["Name"] for layer in listed if not isinstance(layer, str))
    for layer in listed:
        if isinstance(layer, str):  # an engine without details
            raise InputError("the engine was built without the details of its layers")
        reads, writes = (
            [_format_type(tensor.get("Format/Datatype", "")) for tensor in layer.get(side, [])]
            for side in ("Inputs", "Outputs")
        )
        ms = times.get(layer["Name"], 0.0) / same[layer["Name"]]  # the profiler adds up a name
        found.append(Layer(layer["Name"], layer["LayerType"], reads, writes, ms))
    return found


def layer_times(trt: Tensorrt, plan: bytes, memory: DeviceMemory) -> Dict[str, float]:
    """{layer: GPU time in ms} on random input; see Engine.layer_milliseconds."""
    network = Engine(trt, plan, memory, cuda_graph=False)
    rng = np.random.default_rng(0)  # zeros may run faster than images
    feed = {}
    for tensor in network.inputs:
        shape = network.profile.common if network.profile else tensor.shape
        values = rng.random(shape, np.float32) * (255 if tensor.dtype == np.uint8 else 1)
        feed[tensor.name] = values.astype(tensor.dtype)
    network(feed)
    return network.layer_milliseconds()


def _format_type(text: str) -> str:
    """`Channel major FP16 format where channel % 8 == 0` -> `FP16`."""
    match = re.search(r"INT8|FP16|FP32|INT32|BOOL", text.upper())
    return match.group(0) if match else text
