"""DeviceMemory: what an engine needs of a GPU, whether PyTorch or pycuda provides it."""

from typing import TYPE_CHECKING, Any, Callable, ContextManager, Optional, Protocol, Tuple

import numpy as np

if TYPE_CHECKING:
    from utils.arrays import Array
    from utils.trt.host_pool import HostPool

Buffer = Any  # a torch.Tensor or a pycuda allocation; only its memory looks inside
Mark = Any  # an event of PyTorch or pycuda


class DeviceMemory(Protocol):
    """TorchMemory and PycudaMemory of memory.py. What they start runs on one CUDA stream."""

    kind: str  # PyTorch or pycuda
    device_name: str
    stream: int  # pointer of the CUDA stream
    host: "HostPool"  # page-locked arrays

    def total_bytes(self) -> int:
        """Memory of the GPU."""

    def free_bytes(self) -> Optional[int]:
        """What of it nobody uses now; None after a fault of the GPU."""

    def active(self) -> ContextManager[None]:
        """The device and the stream are current in this thread."""

    def allocate(self, size: int) -> Buffer:
        """A buffer of `size` bytes."""

    def address(self, buffer: Buffer) -> int:
        """Device pointer of a buffer."""

    def size(self, buffer: Buffer) -> int:
        """Bytes of a buffer."""

    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        """Copy a host array to the front of a buffer, in stream order."""

    def download(self, buffer: Buffer, shape: Tuple[int, ...], dtype: np.dtype) -> "Array":
        """A copy of the front of a buffer: a tensor on the GPU, or an array of the host."""

    def synchronize(self) -> None:
        """Wait for the stream."""

    def mark(self) -> Mark:
        """A place on the stream, behind what was put there so far."""

    def wait(self, mark: Mark) -> None:
        """Wait until the stream has passed a place, whatever was put behind it since."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream as a CUDA graph; returns what replays it."""

    def milliseconds(self, work: Callable[[], None]) -> float:
        """GPU time of what `work` puts on the stream; waits for it."""
