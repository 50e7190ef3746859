"""An ONNX Runtime session whose input and outputs stay in GPU memory of ours.

bound = BoundSession(onnxruntime, opened, ["output"])
bound.record()                              # a fixed shape: the run is one CUDA graph from now on
found = bound(images)                       # {"output": tensor on the GPU}
found = bound(images, reader.reading(bound, "output", settings))    # see engine_readers.py

ONNX Runtime, "CUDA Execution Provider": I/O binding, `user_compute_stream`, "Using CUDA Graphs".
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from utils.runtime.onnx_session import GRAPH_RUN, OpenSession, RunError, guarded, run_options
from utils.trt.device_memory import Buffer, DeviceMemory
from utils.trt.engine import Reading
from utils.trt.pixels import Pixels, planes_shape

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
Shape = Tuple[int, ...]


class BoundSession:
    """A session that runs on the stream of the memory; calls may come from several threads.

    Args:
        opened: with `memory`.
        outputs: names of those wanted; their shapes follow from that of the input.
        pixels: makes float inputs of uint8 images on the GPU.
        device: name and index as ONNX Runtime has them.

    Attributes: graph_refused, why `record` recorded nothing.
    """

    def __init__(
        self,
        onnxruntime: ModuleType,
        opened: OpenSession,
        outputs: Sequence[str],
        *,
        pixels: Optional[Pixels] = None,
        device: Tuple[str, int] = ("cuda", 0),
    ):
        assert opened.memory is not None
        self._onnxruntime, self._opened, self._session = onnxruntime, opened, opened.session
        self._memory: DeviceMemory = opened.memory
        self._pixels, self._device = pixels, device
        given = self._session.get_inputs()[0]
        self._input, self._names = given.name, list(outputs)
        kinds = {o.name: o.type for o in [given, *self._session.get_outputs()]}
        self._dtypes = {n: np.dtype(TYPES[kinds[n]]) for n in [self._input, *self._names]}
        self._binding = self._session.io_binding()
        self._options = run_options(onnxruntime, graphs=opened.graphs, wait=False)
        self._thread: Optional[ThreadPoolExecutor] = None  # a graph belongs to its thread
        self.graph_refused: Optional[str] = None
        self._lock = threading.Lock()
        self._buffers: Dict[str, Any] = {}
        self._shapes: Dict[Shape, List[Shape]] = {}  # of the outputs, by that of the input
        self._bound: Optional[Shape] = None  # of the input

    def __call__(self, images: np.ndarray, read: Optional[Reading] = None) -> Dict[str, Any]:
        """Run on (B, 3, H, W) floats, or on pixels where the model or `pixels` takes them.

        Args: read: see Engine.__call__ in utils/trt/engine.py.

        Returns the outputs by name: tensors on the GPU where PyTorch holds the memory, else NumPy.
        """
        memory, dtype = self._memory, self._dtypes[self._input]
        made_of_pixels = images.dtype == np.uint8 and dtype != np.uint8
        with memory.active():
            with self._lock:
                self._bind(planes_shape(images) if made_of_pixels else images.shape)
                buffer = self._buffers[self._input]
                if made_of_pixels:
                    assert self._pixels is not None
                    self._pixels.upload(buffer, np.ascontiguousarray(images), dtype)
                else:
                    memory.upload(buffer, np.ascontiguousarray(images, dtype))
                self._execute()
                outputs = {name: (read or self._copy)(name) for name in self._names}
                done = memory.mark()
            memory.wait(done)  # while another call starts
            del done  # pycuda destroys it only where its context is current
        return outputs

    def record(self, shape: Shape) -> None:
        """Run on inputs of one fixed shape as a CUDA graph from now on.

        ONNX Runtime records in a mode that forbids other threads to take memory of the GPU
        meanwhile, and keeps the graph of each thread for itself: call it before others start.
        """
        with self._lock, self._memory.active():
            self._bind(shape)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")
            self._options = run_options(
                self._onnxruntime, graphs=True, graph_id=GRAPH_RUN, wait=False
            )
            try:
                self._execute()
                self._memory.synchronize()
            except RunError as e:
                self.graph_refused = str(e)
                self._thread.shutdown()

    def milliseconds(self, runs: int = 100) -> np.ndarray:
        """(runs,) GPU times, ms, of the network alone on the input of the last call.

        Raises ValueError before the first call.
        """
        if self._bound is None:
            raise ValueError("run the model once, so that it has a shape")
        with self._lock, self._memory.active():
            for _ in range(5):
                self._execute()
            self._memory.synchronize()
            return np.array([self._memory.milliseconds(self._execute) for _ in range(runs)])

    def output(self, name: str) -> Tuple[Buffer, Shape]:
        """(buffer, shape) of an output of the call in progress."""
        assert self._bound is not None
        return self._buffers[name], self._shapes[self._bound][self._names.index(name)]

    def dtype(self, name: str) -> np.dtype:
        """Type of an input or output."""
        return self._dtypes[name]

    def _copy(self, name: str) -> Any:
        buffer, shape = self.output(name)
        return self._memory.download(buffer, shape, self._dtypes[name])

    def _execute(self) -> None:
        if self._thread is None:
            guarded(self._session.run_with_iobinding, self._binding, self._options)
        else:
            self._thread.submit(
                guarded, self._session.run_with_iobinding, self._binding, self._options
            ).result()

    def _bind(self, shape: Shape) -> None:
        """Bind buffers that are large enough; the first time a shape comes, ONNX Runtime makes
        the outputs, to know their shapes."""
        if shape == self._bound:
            return
        self._bound = None
        self._memory.synchronize()
        binding, dtype = self._binding, self._dtypes[self._input]
        address = self._buffer(self._input, shape, dtype)
        binding.bind_input(self._input, *self._device, dtype.type, list(shape), address)
        if shape not in self._shapes:
            binding.clear_binding_outputs()
            for name in self._names:
                binding.bind_output(name, *self._device)
            guarded(self._session.run_with_iobinding, binding, self._options)
            self._memory.synchronize()
            self._shapes[shape] = [tuple(value.shape()) for value in binding.get_outputs()]
        binding.clear_binding_outputs()
        for name, made in zip(self._names, self._shapes[shape]):
            dtype = self._dtypes[name]
            address = self._buffer(name, made, dtype)
            binding.bind_output(name, *self._device, dtype.type, list(made), address)
        self._bound = shape

    def _buffer(self, name: str, shape: Shape, dtype: np.dtype) -> int:
        """Address of the buffer of an input or output."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or self._memory.size(buffer) < size:
            buffer = self._buffers[name] = self._memory.allocate(size)
        return self._memory.address(buffer)
