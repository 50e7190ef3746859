"""What TensorRT and ONNX Runtime with CUDA share as Backends: memory of ours around a network."""

from typing import Any, Dict, Optional, Protocol, Tuple

import numpy as np

from utils.pose.fixed_nms import NmsSettings
from utils.runtime.backend import Backend, Found, Output
from utils.runtime.engine_readers import Ran, Reader, TorchReader
from utils.trt.device_memory import DeviceMemory
from utils.trt.engine import RUNS_BEFORE_GRAPH

GPU_WORKERS = 2  # while one waits for the GPU, the other gives it work


class Runner(Ran, Protocol):
    """An Engine or a BoundSession."""

    def milliseconds(self, runs: int = 100) -> np.ndarray:
        """(runs,) GPU times, ms, of the network alone on the last input."""


class GpuBackend(Backend):
    """Raw outputs stay on the GPU: poses leave it through PyTorch, candidates through pycuda.

    What __call__ returns is a tensor there where PyTorch holds the memory, else NumPy. A subclass
    runs `runner` in `_run`; without a `runner` it has a `_run_on_host`.
    """

    runner: Optional[Runner] = None
    _memory: Optional[DeviceMemory] = None
    _reader: Optional[Reader] = None  # of raw outputs

    def new_batch(self, shape: Tuple[int, int, int]) -> np.ndarray:
        """Page-locked memory on a GPU, which is copied without a stop on the way."""
        if self.runner is None or self._memory is None:
            return super().new_batch(shape)
        batch, height, width = shape
        if self.takes_pixels:
            return self._memory.host.array((batch, height, width, 3), np.uint8)
        return self._memory.host.array((batch, 3, height, width), np.float32)

    def find(self, images: np.ndarray, settings: NmsSettings) -> Found:
        """Poses or candidates where the GPU can find them; else what __call__ returns."""
        raw, runner, reader = self._outputs[0], self.runner, self._reader
        if (
            runner is None
            or reader is None
            or self.embedded_nms is not None
            or runner.dtype(raw) != np.float32
            or not reader.serves(settings, len(images))
        ):
            return self(images)
        found = self._run(images, reader.reading(runner, raw, settings))
        poses = reader.result(found[raw], settings, len(images))
        return self(images) if poses is None else poses

    def warm_up(self, images: np.ndarray, settings: NmsSettings) -> None:
        """Let the kernels be chosen, and record the CUDA graphs."""
        for _ in range(RUNS_BEFORE_GRAPH + 1 if self.runner is not None else 0):
            self.find(images, settings)
        if self._reader is not None:  # one batch says nothing of those to come
            self._reader.start_over(settings)

    def engine_ms(self) -> Optional[np.ndarray]:
        """(100,) GPU times, ms, of the network alone on the last input; None on a CPU."""
        return None if self.runner is None else self.runner.milliseconds()

    def __call__(self, images: np.ndarray) -> Output:
        if self.runner is None:
            self._check_input(images)  # `_run` does so itself
            return self._run_on_host(images)
        raw = self._outputs[0]
        foreign = self.layout is not None and not self.layout.suppressed
        if foreign and isinstance(self._reader, TorchReader):
            return self._run(images, self._reader.whole(self.runner, raw))[raw]
        found = self._run(images)
        return self._read([found[name] for name in self._outputs])

    def _run(self, images: np.ndarray, read: Any = None) -> Dict[str, Any]:
        """Outputs by name. Raises InputError. Args: read: see Engine.__call__."""
        raise NotImplementedError

    def _run_on_host(self, images: np.ndarray) -> Output:
        raise NotImplementedError
