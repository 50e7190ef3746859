"""GPU memory, streams and graphs, through PyTorch where it has CUDA and else through pycuda.

    memory = open_memory(0)
    with memory.active():
        buffer = memory.allocate(1 << 20)
        memory.upload(buffer, array)
        memory.synchronize()

pycuda works on the device's *primary* context, the one that PyTorch and the CUDA runtime use, so
all of them can live in one process. (`pycuda.autoinit` makes a second context; pointers and streams
of one are invalid in the other.)
"""

import contextlib
import ctypes
import itertools
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

from utils.device import check_gpu
from utils.errors import InputError, one_line
from utils.trt.device_memory import Buffer, DeviceMemory, Mark
from utils.trt.host_pool import HostPool

if TYPE_CHECKING:
    import torch

NO_CUDA = (
    "running TensorRT needs a CUDA GPU and either PyTorch with CUDA or pycuda (%s); on a PC: pip "
    "install pycuda; on a Jetson: sudo apt install python3-pycuda, or pip install pycuda"
)
STAGED = 16  # arrays on their way to the GPU that nobody else keeps; more than calls at a time


def open_memory(gpu: int = 0) -> DeviceMemory:
    """TorchMemory or PycudaMemory of a GPU. Raises InputError if neither works."""
    memory, reasons = find_memory(gpu)
    if memory is None:
        raise InputError(NO_CUDA % ", ".join(reasons))
    return memory


def find_memory(gpu: int = 0) -> Tuple[Optional[DeviceMemory], List[str]]:
    """TorchMemory or PycudaMemory of a GPU; if neither works None, and why.

    Raises InputError for a GPU that is not there.
    """
    reasons = []
    for kind in (TorchMemory, PycudaMemory):
        try:
            return kind(gpu), []
        except ImportError as e:
            reasons.append("no %s" % (e.name or e))
        except _NoCuda as e:
            reasons.append(str(e))
    return None, reasons


class GpuMemoryError(InputError):
    """The memory of the GPU does not suffice."""

    def __init__(self, size: int):
        super().__init__(
            "the GPU memory does not suffice for %.0f MB more; choose a smaller `batch_size` or "
            "`img_size`, or end other programs on this GPU" % (size / 1e6)
        )


class _NoCuda(Exception):
    """This way to the GPU is closed; the reason in a few words."""


class TorchMemory:
    """GPU memory as uint8 tensors of PyTorch.

    Attributes: stream, int, the CUDA stream everything here runs on; device, the torch.device;
        device_name; kind; host, the HostPool.
    """

    kind = "PyTorch"

    def __init__(self, gpu: int):
        import torch

        if not torch.cuda.is_available():
            raise _NoCuda("PyTorch %s without CUDA" % torch.__version__)
        check_gpu(gpu, torch.cuda.device_count(), "PyTorch", advice="")
        self._torch, self.device = torch, torch.device("cuda:%d" % gpu)
        self._stream = torch.cuda.Stream(self.device)
        self.stream = int(self._stream.cuda_stream)
        self.device_name = torch.cuda.get_device_name(gpu)
        self.host = HostPool(self._page_locked)

    def _page_locked(self, size: int) -> np.ndarray:
        return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True).numpy()

    def total_bytes(self) -> int:
        """Memory of the GPU."""
        return int(self._torch.cuda.get_device_properties(self.device).total_memory)

    def free_bytes(self) -> Optional[int]:
        """What of it nobody uses now; None after a fault of the GPU."""
        try:
            return int(self._torch.cuda.mem_get_info(self.device)[0])
        except RuntimeError:
            return None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The device and the stream are current in this thread."""
        with self._torch.cuda.device(self.device), self._torch.cuda.stream(self._stream):
            yield

    def allocate(self, size: int) -> "torch.Tensor":
        """A buffer of `size` bytes. Raises GpuMemoryError."""
        torch = self._torch
        try:
            return torch.empty(max(size, 1), dtype=torch.uint8, device=self.device)
        except torch.cuda.OutOfMemoryError as e:
            raise GpuMemoryError(size) from e

    def address(self, buffer: "torch.Tensor") -> int:
        """Device pointer of a buffer."""
        return int(buffer.data_ptr())

    def size(self, buffer: "torch.Tensor") -> int:
        """Bytes of a buffer."""
        return int(buffer.numel())

    def upload(self, buffer: "torch.Tensor", array: np.ndarray) -> None:
        """Copy a host array to the front of a buffer, in stream order.

        An array of `host` must live until the stream has been synchronized.
        """
        host = self._torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        buffer[: host.numel()].copy_(host, non_blocking=self.host.holds(array))

    def download(
        self, buffer: "torch.Tensor", shape: Tuple[int, ...], dtype: np.dtype
    ) -> "torch.Tensor":
        """A copy of the front of a buffer: a tensor that stays on the GPU."""
        return self.view(buffer, shape, dtype).clone()

    def view(
        self, buffer: "torch.Tensor", shape: Tuple[int, ...], dtype: np.dtype
    ) -> "torch.Tensor":
        """The front of a buffer as a tensor, without a copy."""
        count = int(np.prod(shape, dtype=np.int64))
        kind = getattr(self._torch, np.dtype(dtype).name)
        part = buffer[: count * np.dtype(dtype).itemsize]
        return part.view(kind).reshape(shape)

    def fetch(self, tensor: "torch.Tensor") -> np.ndarray:
        """A host copy of a float32 tensor; complete after `synchronize`."""
        host = self.host.array(tuple(tensor.shape), np.float32)
        self._torch.from_numpy(host).copy_(tensor, non_blocking=True)
        return host

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def mark(self) -> Mark:
        """A place on the stream."""
        event = self._torch.cuda.Event()
        event.record(self._stream)
        return event

    def wait(self, mark: Mark) -> None:
        """Wait until the stream has passed a place."""
        mark.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream as a CUDA graph; returns what replays it."""
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def milliseconds(self, work: Callable[[], None]) -> float:
        """GPU time of what `work` puts on the stream; waits for it."""
        start, stop = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        work()
        stop.record(self._stream)
        stop.synchronize()
        return float(start.elapsed_time(stop))


class PycudaMemory:
    """GPU memory through pycuda on the primary context; attributes as TorchMemory."""

    kind = "pycuda"

    def __init__(self, gpu: int):
        import pycuda.driver as driver

        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as e:
            raise _NoCuda("pycuda: %s" % one_line(e, 80)) from e
        if not count:
            raise _NoCuda("pycuda sees no GPU")
        check_gpu(gpu, count, "pycuda", advice="")
        self._driver = driver
        self._device = driver.Device(gpu)
        self._context = self._device.retain_primary_context()
        self.device_name = self._device.name()
        with self.active():
            self._stream = driver.Stream()
        self.stream = int(self._stream.handle)
        self.host = HostPool(self._page_locked)
        self._staged: Dict[int, np.ndarray] = {}  # by number, oldest first
        self._numbers = itertools.count()

    def _page_locked(self, size: int) -> np.ndarray:
        with self.active():
            return self._driver.pagelocked_empty((size,), np.dtype(np.uint8))

    def total_bytes(self) -> int:
        """Memory of the GPU."""
        return int(self._device.total_memory())

    def free_bytes(self) -> Optional[int]:
        """What of it nobody uses now; None after a fault of the GPU."""
        try:
            with self.active():
                return int(self._driver.mem_get_info()[0])
        except self._driver.Error:
            return None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The primary context is current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def allocate(self, size: int) -> Buffer:
        """A buffer of `size` bytes. Raises GpuMemoryError."""
        try:
            buffer = self._driver.mem_alloc(max(size, 1))
        except self._driver.MemoryError as e:
            raise GpuMemoryError(size) from e
        return _Sized(buffer, max(size, 1))

    def address(self, buffer: Buffer) -> int:
        """Device pointer of a buffer."""
        return int(buffer.memory)

    def size(self, buffer: Buffer) -> int:
        """Bytes of a buffer."""
        return int(buffer.size)

    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        """Copy a host array to the front of a buffer, in stream order.

        An array of `host` must live until the stream has been synchronized.
        """
        if not self.host.holds(array):  # the copy of a copy, which is kept until it is done
            staged = self.host.array(array.shape, array.dtype)
            staged[...] = array
            array = self._staged[next(self._numbers)] = staged
            if len(self._staged) > STAGED:
                self._staged.pop(next(iter(self._staged)))
        self._driver.memcpy_htod_async(buffer.memory, array, self._stream)

    def download(self, buffer: Buffer, shape: Tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A host copy of the front of a buffer; complete after `synchronize`."""
        host = self.host.array(shape, dtype)
        if host.nbytes:
            self._driver.memcpy_dtoh_async(host, buffer.memory, self._stream)
        return host

    def synchronize(self) -> None:
        """Wait for the stream."""
        staged = list(self._staged)  # others may be put there meanwhile
        self._stream.synchronize()
        for number in staged:
            self._staged.pop(number, None)

    def mark(self) -> Mark:
        """A place on the stream."""
        event = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)
        event.record(self._stream)
        return event

    def wait(self, mark: Mark) -> None:
        """Wait until the stream has passed a place."""
        mark.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream as a CUDA graph; returns what replays it."""
        return CudaGraph(self.stream, work).launch

    def zero(self, buffer: Buffer, words: int) -> None:
        """Set the first 32-bit words of a buffer to 0, in stream order."""
        self._driver.memset_d32_async(buffer.memory, 0, words, self._stream)

    def kernel(self, ptx: str, name: str, arguments: str) -> Callable[..., None]:
        """A function (blocks, threads a block, arguments...) that puts a kernel on the stream.

        Args: arguments: their types as pycuda writes them: P address, I uint32, f float32.

        Raises InputError if the driver does not take the PTX.
        """
        try:
            loaded = self._driver.module_from_buffer(ptx.encode())
            function = loaded.get_function(name)
            function.prepare(arguments)
        except self._driver.Error as e:
            raise InputError("the driver refuses the kernel %s (%s)" % (name, one_line(e))) from e

        def launch(blocks: int, threads: int, *values: Any) -> None:
            function.prepared_async_call((blocks, 1), (threads, 1, 1), self._stream, *values)

        return launch

    def milliseconds(self, work: Callable[[], None]) -> float:
        """GPU time of what `work` puts on the stream; waits for it."""
        start, stop = self._driver.Event(), self._driver.Event()
        start.record(self._stream)
        work()
        stop.record(self._stream)
        stop.synchronize()
        return float(start.time_till(stop))


class _Sized:
    """A pycuda allocation and its size."""

    def __init__(self, memory: "PycudaMemory", size: int):
        self.memory, self.size = memory, size


class CudaGraph:
    """A CUDA graph through the driver's own C functions, which pycuda does not wrap.

    CUDA driver API, "Stream Management" and "Graph Management"; all there since CUDA 11.4, that is
    JetPack 5.1.

    Args: stream: handle of the stream that `work` enqueues on; its context must be current.

    Raises InputError if the work cannot be recorded.
    """

    THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may use CUDA meanwhile

    def __init__(self, stream: int, work: Callable[[], None]):
        self._cuda = cuda_driver()
        self._stream = ctypes.c_void_p(stream)
        graph, self._graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(self.THREAD_LOCAL))
        try:
            work()
        finally:
            code = self._cuda.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        if code or not graph:
            raise InputError("the engine cannot be recorded as a CUDA graph (error %d)" % code)
        flags = ctypes.c_ulonglong(0)
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, flags)
        finally:
            self._cuda.cuGraphDestroy(graph)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise InputError("CUDA graphs: %s failed with error %d" % (name, code))

    def launch(self) -> None:
        """Put the recorded work on the stream."""
        self._call("cuGraphLaunch", self._graph, self._stream)

    def __del__(self) -> None:
        if getattr(self, "_graph", None):
            self._cuda.cuGraphExecDestroy(self._graph)


def cuda_driver() -> ctypes.CDLL:
    """libcuda as ctypes sees it. Raises InputError if it lacks CUDA graphs (before CUDA 11.4)."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        library.cuGraphInstantiateWithFlags  # noqa: B018
    except (OSError, AttributeError) as e:
        raise InputError("CUDA graphs need a driver of CUDA 11.4 or newer (%s)" % e) from e
    return library
