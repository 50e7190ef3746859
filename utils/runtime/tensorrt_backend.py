"""A TensorRT engine (`.trt`, `.engine`, `.plan`) as a Backend."""

import json
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

from utils.errors import InputError
from utils.runtime.engine_readers import open_reader
from utils.runtime.gpu_backend import GPU_WORKERS, GpuBackend
from utils.runtime.metadata import identify
from utils.trt.api import Tensorrt, import_tensorrt
from utils.trt.engine import Engine
from utils.trt.memory import open_memory
from utils.trt.pixels import open_pixels
from utils.trt.sidecar import info_path, read_info, split_engine

REBUILD = "build it again here: python models/export_TRT.py --onnx %s"


class TensorrtBackend(GpuBackend):
    """An engine on a GPU: `engine`. Shapes and types come from it, names from the side file.

    Raises InputError without GPU or TensorRT, and for a file of another version, GPU or network.
    """

    def __init__(
        self, path: Path, gpu: Optional[int], *, throughput: bool = False, cuda_graph: bool = True
    ):
        if gpu is not None and gpu < 0:
            raise InputError("`device` cpu: %s needs a GPU; use the .onnx on a CPU" % path.name)
        content = path.read_bytes()
        self._check_size(path, content, read_info(path) or {})
        inside, plan = split_engine(content)
        info = {**inside, **(read_info(path) or {})}
        trt = import_tensorrt()
        _check_version(path, trt, info)
        memory = open_memory(gpu or 0)
        _check_gpu(path, memory.device_name, info)
        self._memory = memory
        try:
            pixels = open_pixels(memory)
            self._pixels = pixels if pixels.usable else None
            self.engine = self.runner = Engine(
                trt, plan, memory, pixels=self._pixels, cuda_graph=cuda_graph
            )
        except InputError as e:
            raise InputError("`weights` %s: %s" % (path, e)) from e
        self.on_gpu, self.workers = True, GPU_WORKERS if throughput else 1
        self.precision = str(info.get("precision", "unknown precision"))
        self._read_tensors(path, info)
        self._reader = open_reader(memory, self.nc, self.layout)
        where = "%s through %s" % (memory.device_name, memory.kind)
        self.description = "%s, %s, %s" % (trt, where, self.precision)
        if self.layout is not None:
            self.description += ", " + str(self.layout)
        if self.embedded_nms is not None:
            self.description += ", " + str(self.embedded_nms)

    @staticmethod
    def _check_size(path: Path, plan: bytes, info: Dict[str, Any]) -> None:
        size = info.get("bytes", len(plan))
        if not plan or size != len(plan):
            raise InputError(
                "`weights` %s: %d bytes, but %s says %s: the file is damaged, or was built anew "
                "without it; %s"
                % (path, len(plan), info_path(path).name, size, REBUILD % info.get("onnx", "..."))
            )

    def _read_tensors(self, path: Path, info: Dict[str, Any]) -> None:
        """Shapes, dtype and metadata. Raises InputError for a network that is not YOLO-Pose."""
        inputs, outputs = self.engine.inputs, {t.name: t for t in self.engine.outputs}
        foreign = "`weights` %s: not a YOLO-Pose engine (%%s)" % path
        shapes = ", ".join("%s %s" % (t.name, list(t.shape)) for t in self.engine.tensors)
        pixels = len(inputs) == 1 and inputs[0].dtype == np.uint8
        channels = 3 if pixels else 1  # axis
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[channels] != 3:
            raise InputError(foreign % shapes)
        if not pixels and not np.issubdtype(inputs[0].dtype, np.floating):
            raise InputError(foreign % ("input type %s" % inputs[0].dtype))
        self._input = inputs[0].name
        self.dtype = np.dtype(np.uint8 if pixels else np.float32)  # the engine casts to its own
        profile = self.engine.profile
        limits = (profile.smallest, profile.largest) if profile else (inputs[0].shape,) * 2
        fixed = [low if low == high else None for low, high in zip(*limits)]
        self._set_input_shape(list(fixed))
        self.takes_pixels = pixels or self._pixels is not None
        self.max_batch = limits[1][0]
        properties = {key: json.dumps(value) for key, value in info.items()}
        try:
            dims = {n: [d if d >= 0 else None for d in t.shape] for n, t in outputs.items()}
            self._set_identity(identify(properties, dims))
        except ValueError as e:
            raise InputError(foreign % e) from e
        if self.static_hw is None and profile is not None:
            first = 1 if pixels else 2  # axis of the height
            self.imgsz = self.imgsz or (profile.common[first], profile.common[first + 1])

    def _run(self, images: np.ndarray, read: Any = None) -> Dict[str, Any]:
        self._check_input(images)
        try:
            return self.engine({self._input: images}, read)
        except ValueError as e:
            raise InputError(
                "%s; choose `img_size` and `batch_size` within it, or build the engine for other "
                "sizes" % e
            ) from e


def _check_version(path: Path, trt: Tensorrt, info: Dict[str, Any]) -> None:
    """An engine runs on the version that built it, to the digit of the build."""
    built = (info.get("runtime"), info.get("version"))
    if None not in built and built != (trt.name, trt.version):
        raise InputError(
            "`weights` %s: built by %s %s, here is %s; %s"
            % (path, *built, trt, REBUILD % info.get("onnx", "..."))
        )


def _check_gpu(path: Path, device: str, info: Dict[str, Any]) -> None:
    built = info.get("gpu")
    if built and built != device:
        raise InputError(
            "`weights` %s: built for %s, here is %s; %s"
            % (path, built, device, REBUILD % info.get("onnx", "..."))
        )
