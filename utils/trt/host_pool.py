"""Page-locked host memory that is used again: `HostPool(allocate).array((4, 3), np.float32)`."""

import threading
import weakref
from typing import TYPE_CHECKING, Callable, List, Tuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

SPARE_BLOCKS = 16  # that wait to be used again


class HostPool:
    """Page-locked host memory as NumPy arrays; a block is used again once no array needs it.

    Copies between such memory and the GPU are asynchronous and about twice as fast, but making it
    takes longer than a copy.

    Args: allocate: size in bytes -> (size,) uint8 array of page-locked memory.
    """

    def __init__(self, allocate: Callable[[int], np.ndarray]):
        self._allocate = allocate
        self._spare: List[np.ndarray] = []
        self._blocks: List[Tuple[int, int]] = []  # addresses: first, behind the last
        # Reentrant: giving a block back may be what the garbage collector does inside of `_take`.
        self._lock = threading.RLock()

    def array(self, shape: Tuple[int, ...], dtype: "DTypeLike") -> np.ndarray:
        """An array of undefined content, page-locked for as long as it or a view of it lives."""
        kind = np.dtype(dtype)
        size = max(int(np.prod(shape, dtype=np.int64)) * kind.itemsize, 1)
        block = self._take(size)
        # Over a memoryview: views of an array over an array would not keep that array alive.
        owner = np.frombuffer(memoryview(block)[:size], np.uint8)  # type: ignore[arg-type, unused-ignore]  # NumPy of 3.11
        weakref.finalize(owner, self._give_back, block).atexit = False
        count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return owner[:count].view(kind).reshape(shape)

    def holds(self, array: np.ndarray) -> bool:
        """Whether an array lies in page-locked memory of this pool."""
        start = array.ctypes.data
        return any(low <= start and start + array.nbytes <= high for low, high in self._blocks)

    def _take(self, size: int) -> np.ndarray:
        with self._lock:
            fitting = [i for i, b in enumerate(self._spare) if size <= b.nbytes <= 4 * size]
            if fitting:
                return self._spare.pop(min(fitting, key=lambda i: self._spare[i].nbytes))
        block = self._allocate(size)
        with self._lock:
            self._blocks.append((block.ctypes.data, block.ctypes.data + block.nbytes))
        return block

    def _give_back(self, block: np.ndarray) -> None:
        with self._lock:
            if len(self._spare) < SPARE_BLOCKS:
                self._spare.append(block)
            else:
                self._blocks.remove((block.ctypes.data, block.ctypes.data + block.nbytes))
