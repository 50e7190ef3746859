"""Memory through which worker processes hand over pixels, used again and again.

    ring = PixelRing(slots=19, size=50_000_000)
    slot = ring.take()                    # the process that trains
    ring.view(slot, count)[:] = ...       # a worker
    pixels = ring.view(slot, count)       # the process that trains
    ring.give_back(slot)

New shared memory for each batch costs more than its bytes: every page has to be found, cleared and
mapped in both processes. Pages of a ring are there already, and can be page-locked, so that the GPU
fetches them itself.
"""

import contextlib
import os
from typing import TYPE_CHECKING, List, Optional

if TYPE_CHECKING:
    import torch

FOLDER = "/dev/shm"  # where Linux keeps shared memory


class PixelRing:
    """Slots of one size in shared memory; processes that are started with it see the same bytes.

    Args: slots: how many. size: bytes of each.

    Raises RuntimeError if the system has not that much shared memory.
    """

    def __init__(self, slots: int, size: int):
        self.size = size
        self._bytes = shared_bytes(slots * size)
        self._free: List[int] = list(range(slots))
        self._pinned = False

    def take(self) -> Optional[int]:
        """A slot that nobody uses; None if there is none."""
        return self._free.pop() if self._free else None

    def give_back(self, slot: int) -> None:
        """The bytes of a slot are not needed any more."""
        self._free.append(slot)

    def view(self, slot: int, count: int) -> "torch.Tensor":
        """The first bytes of a slot: uint8 tensor (count,). Raises ValueError if they are more."""
        if count > self.size:
            raise ValueError("%d bytes in a slot of %d" % (count, self.size))
        return self._bytes[slot * self.size : slot * self.size + count]

    def pin(self) -> bool:
        """Lock the pages, so that a GPU copies from them without help. Whether that was possible:
        elsewhere copies are slower, nothing else."""
        import torch

        if not self._pinned:
            runtime = torch.cuda.cudart()
            code = runtime.cudaHostRegister(self._bytes.data_ptr(), self._bytes.numel(), 0)
            self._pinned = int(code) == 0
            if not self._pinned:  # the error waits for the next kernel, which is not to blame
                with contextlib.suppress(RuntimeError):
                    torch.zeros(1, device="cuda").add_(1)
        return self._pinned

    def close(self) -> None:
        """Unlock the pages. Views of the slots stay valid."""
        import torch

        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._bytes.data_ptr())
            self._pinned = False


def shared_bytes(count: int) -> "torch.Tensor":
    """An uninitialised uint8 tensor (count,) that other processes may be handed without a copy.

    Raises RuntimeError if the system has not that much shared memory.
    """
    import torch

    storage = torch.UntypedStorage._new_shared(count, device="cpu")  # as default_collate does
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def free_memory() -> Optional[int]:
    """Bytes of shared memory that are free; None where the system does not say.

    More can be asked for, but writing to it then ends the process without a word.
    """
    try:
        state = os.statvfs(FOLDER)
    except (OSError, AttributeError):  # another system
        return None
    return state.f_bavail * state.f_frsize
