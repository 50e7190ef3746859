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
from typing import Any, Callable, Iterator, Optional, Tuple

import numpy as np

from utils.errors import InputError, one_line

NO_CUDA = (
    "running TensorRT needs a CUDA GPU and either PyTorch with CUDA or pycuda (%s); on a PC: pip "
    "install pycuda; on a Jetson: sudo apt install python3-pycuda, or pip install pycuda"
)


def open_memory(gpu: int = 0) -> Any:
    """TorchMemory or PycudaMemory of a GPU. Raises InputError if neither works."""
    reasons = []
    for kind in (TorchMemory, PycudaMemory):
        try:
            return kind(gpu)
        except ImportError as e:
            reasons.append("no %s" % (e.name or e))
        except _NoCuda as e:
            reasons.append(str(e))
    raise InputError(NO_CUDA % ", ".join(reasons))


class _NoCuda(Exception):
    """This way to the GPU is closed; the reason in a few words."""


def _check_index(gpu: int, count: int, who: str) -> None:
    if gpu >= count:
        raise InputError("--device %d: %s sees %d CUDA GPUs" % (gpu, who, count))


class TorchMemory:
    """GPU memory as uint8 tensors of PyTorch.

    Attributes: stream, int, the CUDA stream everything here runs on; device_name; kind.
    """

    kind = "PyTorch"

    def __init__(self, gpu: int):
        import torch

        if not torch.cuda.is_available():
            raise _NoCuda("PyTorch %s without CUDA" % torch.__version__)
        _check_index(gpu, torch.cuda.device_count(), "PyTorch")
        self._torch, self._device = torch, torch.device("cuda:%d" % gpu)
        self._stream = torch.cuda.Stream(self._device)
        self.stream = int(self._stream.cuda_stream)
        self.device_name = torch.cuda.get_device_name(gpu)

    def total_bytes(self) -> int:
        """Memory of the GPU."""
        return int(self._torch.cuda.get_device_properties(self._device).total_memory)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The device and the stream are current in this thread."""
        with self._torch.cuda.device(self._device), self._torch.cuda.stream(self._stream):
            yield

    def allocate(self, size: int) -> Any:
        """A buffer of `size` bytes."""
        return self._torch.empty(max(size, 1), dtype=self._torch.uint8, device=self._device)

    def address(self, buffer: Any) -> int:
        """Device pointer of a buffer."""
        return int(buffer.data_ptr())

    def size(self, buffer: Any) -> int:
        """Bytes of a buffer."""
        return int(buffer.numel())

    def upload(self, buffer: Any, array: np.ndarray) -> None:
        """Copy a host array to the front of a buffer, in stream order."""
        host = self._torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        buffer[: host.numel()].copy_(host)

    def download(self, buffer: Any, shape: Tuple[int, ...], dtype: np.dtype) -> Any:
        """A copy of the front of a buffer: a tensor that stays on the GPU."""
        count = int(np.prod(shape, dtype=np.int64))
        kind = getattr(self._torch, np.dtype(dtype).name)
        part = buffer[: count * np.dtype(dtype).itemsize]
        return part.view(kind).reshape(shape).clone()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream as a CUDA graph; returns what replays it."""
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


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
        _check_index(gpu, count, "pycuda")
        self._driver = driver
        self._device = driver.Device(gpu)
        self._context = self._device.retain_primary_context()
        self.device_name = self._device.name()
        with self.active(stream=False):
            self._stream = driver.Stream()
        self.stream = int(self._stream.handle)
        self._staging: Optional[np.ndarray] = None

    def total_bytes(self) -> int:
        """Memory of the GPU."""
        return int(self._device.total_memory())

    @contextlib.contextmanager
    def active(self, stream: bool = True) -> Iterator[None]:
        """The primary context is current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def allocate(self, size: int) -> Any:
        """A buffer of `size` bytes."""
        buffer = self._driver.mem_alloc(max(size, 1))
        return _Sized(buffer, max(size, 1))

    def address(self, buffer: Any) -> int:
        """Device pointer of a buffer."""
        return int(buffer.memory)

    def size(self, buffer: Any) -> int:
        """Bytes of a buffer."""
        return int(buffer.size)

    def upload(self, buffer: Any, array: np.ndarray) -> None:
        """Copy a host array to the front of a buffer, in stream order."""
        array = np.ascontiguousarray(array)
        if self._staging is None or self._staging.nbytes < array.nbytes:
            self._staging = self._driver.pagelocked_empty(array.nbytes, np.uint8)
        part = self._staging[: array.nbytes]
        part[:] = array.reshape(-1).view(np.uint8)
        self._driver.memcpy_htod_async(buffer.memory, part, self._stream)

    def download(self, buffer: Any, shape: Tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A host copy of the front of a buffer; complete after `synchronize`."""
        host = self._driver.pagelocked_empty(shape, np.dtype(dtype))
        if host.nbytes:
            self._driver.memcpy_dtoh_async(host, buffer.memory, self._stream)
        return host

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream as a CUDA graph; returns what replays it."""
        if not hasattr(self._stream, "begin_capture"):
            raise InputError("CUDA graphs need pycuda 2022.1 or newer, or PyTorch with CUDA")
        self._stream.begin_capture()
        try:
            work()
        finally:
            graph = self._stream.end_capture()
        instance = graph.instantiate() if hasattr(graph, "instantiate") else graph.instance()
        return lambda: instance.launch(self._stream)


class _Sized:
    """A pycuda allocation and its size."""

    def __init__(self, memory: Any, size: int):
        self.memory, self.size = memory, size
