"""A deserialized engine with its context, buffers and stream."""

import threading
from typing import (
    Any,
    Callable,
    Dict,
    NamedTuple,
    Optional,
    Tuple,
)

import numpy as np

from utils.errors import InputError, one_line
from utils.trt.api import Profile, Shape, Tensorrt
from utils.trt.device_memory import Buffer, DeviceMemory
from utils.trt.pixels import Pixels, planes_shape

# By name: `trt.nptype` of 8.5 needs np.bool, which NumPy 1.24 has no more.
DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}
# Puts on the stream what reads an output, by name; returns what holds it once that is done.
Reading = Callable[[str], Any]
RUNS_BEFORE_GRAPH = 2  # sizes that come once or twice are not worth a recording


class IoTensor(NamedTuple):
    """An input or output of an engine; -1 where the shape is dynamic."""

    name: str
    is_input: bool
    shape: Shape
    dtype: np.dtype


class Engine:
    """A deserialized engine with its context, buffers and stream.

    A call of another thread is put on the stream behind the one that runs, so that the GPU need not
    wait for the host between them.

    Args:
        memory: see device_memory.
        pixels: makes float inputs of uint8 images on the GPU.
        cuda_graph: record a graph and replay it while the input shape stays. An engine that cannot
            be recorded runs without; `graph_refused` says why.

    Attributes: tensors, the IoTensors; profile, the Profile of the first input.

    Raises InputError for bytes that are no engine of this version and GPU.
    """

    def __init__(
        self,
        trt: Tensorrt,
        plan: bytes,
        memory: DeviceMemory,
        *,
        pixels: Optional[Pixels] = None,
        cuda_graph: bool = True,
    ):
        self._trt, self._memory, self._wants_graph = trt, memory, cuda_graph
        self._pixels = pixels
        self.graph_refused: Optional[str] = None
        self._lock = threading.Lock()
        module, log = trt.module, trt.log
        log.clear()
        with memory.active():
            try:
                self._runtime = module.Runtime(log)
                self._engine = self._runtime.deserialize_cuda_engine(plan)
            except (TypeError, RuntimeError) as e:
                raise InputError("%s cannot start its runtime: %s" % (trt, one_line(e))) from e
            if self._engine is None:
                raise InputError(
                    "not an engine that %s on %s can run; build it again here from the .onnx (%s)"
                    % (trt, memory.device_name, log.reason())
                )
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise InputError(
                    "the GPU memory does not suffice to run the engine (%s)" % log.reason()
                )
        self.tensors = [self._tensor(i) for i in range(self._engine.num_io_tensors)]
        self._dtypes = {t.name: t.dtype for t in self.tensors}
        self.inputs = [t for t in self.tensors if t.is_input]
        self.outputs = [t for t in self.tensors if not t.is_input]
        self.profile: Optional[Profile] = None
        if self.inputs and min(self.inputs[0].shape) < 0:
            shapes = self._engine.get_tensor_profile_shape(self.inputs[0].name, 0)
            self.profile = Profile(*(tuple(int(v) for v in s) for s in shapes))
        self._buffers: Dict[str, Any] = {}
        self._shapes: Optional[Tuple[Shape, ...]] = None  # of the inputs, as the context has them
        self._graph: Optional[Callable[[], None]] = None  # replays a call of these shapes
        self._runs = 0  # in these shapes

    def _tensor(self, index: int) -> IoTensor:
        engine, module = self._engine, self._trt.module
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise InputError("tensor %s of the engine has the unknown type %s" % (name, kind))
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        shape = tuple(int(v) for v in engine.get_tensor_shape(name))
        return IoTensor(name, is_input, shape, np.dtype(DTYPES[kind]))

    def __call__(
        self, feed: Dict[str, np.ndarray], read: Optional[Reading] = None
    ) -> Dict[str, Any]:
        """Run on host arrays, by name of the input.

        Args:
            feed: an input (B, 3, H, W) of floats takes any float dtype, and (B, H, W, 3) uint8 BGR
                where there are `pixels`.
            read: puts on the stream what reads an output, by name, and returns what holds it
                once the stream has been synchronized; see `output`. Without: copies.

        Returns the outputs by name: tensors on the GPU where PyTorch holds the memory, else NumPy.
        Raises ValueError for a shape the engine does not take.
        """
        memory = self._memory
        with memory.active():
            with self._lock:
                outputs, done = self._start(feed, read)
            memory.wait(done)
            del done  # pycuda destroys it only where its context is current
        return outputs

    def _start(
        self, feed: Dict[str, np.ndarray], read: Optional[Callable[[str], Any]]
    ) -> Tuple[Dict[str, Any], Any]:
        """The outputs of a call, and the mark behind which they are complete."""
        shapes = tuple(self._shape_of(t, feed[t.name]) for t in self.inputs)
        if shapes != self._shapes:
            self._bind(shapes)
        for tensor in self.inputs:
            self._upload(tensor, feed[tensor.name])
        self._execute()
        outputs = {t.name: (read or self._copy)(t.name) for t in self.outputs}
        return outputs, self._memory.mark()

    def _made_of_pixels(self, tensor: IoTensor, array: np.ndarray) -> bool:
        wanted = array.dtype == np.uint8 and tensor.dtype in (np.float32, np.float16)
        return wanted and array.ndim == 4 and self._pixels is not None

    def _shape_of(self, tensor: IoTensor, array: np.ndarray) -> Shape:
        return planes_shape(array) if self._made_of_pixels(tensor, array) else array.shape

    def _upload(self, tensor: IoTensor, array: np.ndarray) -> None:
        buffer = self._buffers[tensor.name]
        if self._made_of_pixels(tensor, array):
            assert self._pixels is not None
            self._pixels.upload(buffer, np.ascontiguousarray(array), tensor.dtype)
        else:
            self._memory.upload(buffer, np.ascontiguousarray(array, tensor.dtype))

    def _bind(self, shapes: Tuple[Shape, ...]) -> None:
        """Tell the context the shapes, and give it buffers that are large enough.

        Graphs go: they hold addresses, and NVIDIA's guide says that one recorded from a context
        must not be replayed once that context was changed, as another shape does.
        """
        context, memory = self._context, self._memory
        memory.synchronize()
        self._shapes = None
        self._graph, self._runs = None, 0
        for tensor, shape in zip(self.inputs, shapes):
            self._check_shape(tensor, shape)
            if min(tensor.shape) < 0 and not context.set_input_shape(tensor.name, shape):
                raise ValueError("the engine refuses the shape %s" % (shape,))
        for tensor in self.tensors:
            shape = tuple(int(v) for v in context.get_tensor_shape(tensor.name))
            if min(shape, default=0) < 0:
                raise InputError(
                    "output %s has a size that depends on the data; export the model with "
                    "`nms` static" % tensor.name
                )
            size = int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize
            buffer = self._buffers.get(tensor.name)
            if buffer is None or memory.size(buffer) < size:
                self._buffers[tensor.name] = memory.allocate(size)
        for tensor in self.tensors:
            address = memory.address(self._buffers[tensor.name])
            if not context.set_tensor_address(tensor.name, address):
                raise InputError("TensorRT refuses the buffer of %s" % tensor.name)
        self._shapes = shapes

    def _check_shape(self, tensor: IoTensor, shape: Shape) -> None:
        lows, highs = (self.profile.smallest, self.profile.largest) if self.profile else (
            tensor.shape, tensor.shape)  # fmt: skip
        inside = len(shape) == len(lows) and all(
            low <= s <= high for low, s, high in zip(lows, shape, highs)
        )
        if not inside:
            raise ValueError(
                "the engine takes %s, got %s"
                % (
                    " to ".join("x".join(map(str, s)) for s in dict.fromkeys((lows, highs))),
                    "x".join(map(str, shape)),
                )
            )

    def _execute(self) -> None:
        """Enqueue on our stream; with graphs: plain a few times, then recorded and replayed."""
        if self._graph is not None:
            self._graph()
            return
        if not self._wants_graph or self._runs < RUNS_BEFORE_GRAPH:
            self._enqueue()  # the first run of a shape may allocate, which no graph can hold
            self._runs += 1
            return
        self._memory.synchronize()
        try:
            self._graph = self._memory.capture(self._enqueue)
        except (InputError, RuntimeError) as e:
            self._wants_graph, self.graph_refused = False, one_line(e)
            self._enqueue()
            return
        self._graph()

    def milliseconds(self, runs: int = 100) -> np.ndarray:
        """(runs,) GPU time of the network alone, by CUDA events, on the input of the last call.

        What trtexec reports with --useCudaGraph --noDataTransfers: nothing is copied.

        Raises ValueError before the first call.
        """
        if self._shapes is None:
            raise ValueError("run the engine once, so that it has a shape")
        with self._lock, self._memory.active():
            for _ in range(RUNS_BEFORE_GRAPH + 5):
                self._execute()
            self._memory.synchronize()
            return np.array([self._memory.milliseconds(self._execute) for _ in range(runs)])

    def layer_milliseconds(self, runs: int = 20) -> Dict[str, float]:
        """{layer: GPU time in ms}, the mean of some runs on the input of the last call.

        By TensorRT's profiler, which waits for each layer: short layers look longer than they are
        within `milliseconds`. The engine must have been made without `cuda_graph`.

        Raises ValueError before the first call.
        """
        if self._shapes is None or self._wants_graph:
            raise ValueError("run the engine once, without CUDA graphs")
        times: Dict[str, float] = {}

        class Profiler(self._trt.module.IProfiler):  # type: ignore[name-defined]
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name] = times.get(layer_name, 0.0) + ms

        with self._lock, self._memory.active():
            for _ in range(5):
                self._enqueue()
            profiler = self._profiler = Profiler()  # TensorRT keeps no reference
            self._context.profiler = profiler
            for _ in range(runs):
                self._enqueue()
                self._memory.synchronize()
        return {name: ms / runs for name, ms in times.items()}

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise InputError("TensorRT could not run the engine: %s" % self._trt.log.reason())

    def output(self, name: str) -> Tuple[Buffer, Shape]:
        """(buffer, shape) of an output of the call in progress."""
        shape = tuple(int(v) for v in self._context.get_tensor_shape(name))
        return self._buffers[name], shape

    def dtype(self, name: str) -> np.dtype:
        """Type of an input or output."""
        return self._dtypes[name]

    def _copy(self, name: str) -> Any:
        buffer, shape = self.output(name)
        return self._memory.download(buffer, shape, self._dtypes[name])
