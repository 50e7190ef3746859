"""The rows of a raw output that pass the confidence threshold, picked on the GPU through pycuda.

A raw output of s6 at 640 px has 25,500 rows, of which some hundred matter: 5.8 MB against 0.1 MB
to copy to the host. The kernel is PTX, which every driver since CUDA 9 compiles for its GPU when it
loads it: no compiler is needed, and no file for each GPU.
"""

from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.errors import InputError
from utils.trt.device_memory import Buffer
from utils.trt.memory import PycudaMemory

FIRST_CAPACITY = 1024  # rows; more when a call had more
HEADER = 4  # 32-bit words in front of the rows; the first one counts them
THREADS = 128  # a block
OBJECTNESS = 4  # column

# Thread t looks at row t of `raw` (rows, width) float32. If its objectness is above the threshold,
# it takes the next free place of `out`, and writes its number and its values there. The counter
# goes on beyond the capacity, so that the host knows how much room it takes.
PTX = """
.version 6.0
.target sm_53
.address_size 64
.visible .entry rows_above(
    .param .u64 raw, .param .u64 out, .param .u32 rows, .param .u32 width,
    .param .u32 capacity, .param .f32 threshold)
{
    .reg .pred %p<5>;
    .reg .f32 %f<4>;
    .reg .b32 %r<16>;
    .reg .b64 %d<12>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [rows];
    setp.ge.u32 %p1, %r4, %r5;
    @%p1 bra DONE;
    ld.param.u64 %d1, [raw];
    cvta.to.global.u64 %d1, %d1;
    ld.param.u32 %r6, [width];
    mul.wide.u32 %d2, %r4, %r6;
    shl.b64 %d2, %d2, 2;
    add.u64 %d3, %d1, %d2;
    ld.global.f32 %f1, [%d3 + 16];
    ld.param.f32 %f2, [threshold];
    setp.gt.f32 %p2, %f1, %f2;
    @!%p2 bra DONE;
    ld.param.u64 %d4, [out];
    cvta.to.global.u64 %d4, %d4;
    atom.global.add.u32 %r7, [%d4], 1;
    ld.param.u32 %r8, [capacity];
    setp.ge.u32 %p3, %r7, %r8;
    @%p3 bra DONE;
    add.u32 %r9, %r6, 1;
    mul.wide.u32 %d5, %r7, %r9;
    shl.b64 %d5, %d5, 2;
    add.u64 %d6, %d4, %d5;
    st.global.u32 [%d6 + 16], %r4;
    mov.u32 %r10, 0;
NEXT:
    ld.global.f32 %f3, [%d3];
    st.global.f32 [%d6 + 20], %f3;
    add.u64 %d3, %d3, 4;
    add.u64 %d6, %d6, 4;
    add.u32 %r10, %r10, 1;
    setp.lt.u32 %p4, %r10, %r6;
    @%p4 bra NEXT;
DONE:
    ret;
}
"""


class Filtered(NamedTuple):
    """A call of RowFilter: complete once the stream has been synchronized."""

    words: np.ndarray  # float32: header, then rows of number and values
    shape: Tuple[int, int, int]  # of the raw output
    capacity: int  # rows that there was room for


class RowFilter:
    """One call at a time, under the lock of the engine whose output it reads.

    Args: memory: PycudaMemory.

    Attributes: usable, False where the driver refused the kernel; `refused` then says why.
    """

    def __init__(self, memory: PycudaMemory):
        self._memory = memory
        self.refused: Optional[str] = None
        self._launch: Any = None
        with memory.active():
            try:
                self._launch = memory.kernel(PTX, "rows_above", "PPIIIf")
            except InputError as e:
                self.refused = str(e)
        self._out: Any = None
        self._capacity = FIRST_CAPACITY

    @property
    def usable(self) -> bool:
        return self._launch is not None

    def start(self, raw: Buffer, shape: Tuple[int, int, int], threshold: float) -> Filtered:
        """Put the filter and the copy of what it finds on the stream.

        Args: raw: buffer of (B, N, W) float32.
        """
        memory, (batch, count, width) = self._memory, shape
        capacity = min(self._capacity, batch * count)
        words = HEADER + capacity * (width + 1)
        if self._out is None or memory.size(self._out) < 4 * words:
            self._out = memory.allocate(4 * words)
        memory.zero(self._out, HEADER)
        blocks = -(-batch * count // THREADS)
        self._launch(
            blocks, THREADS, memory.address(raw), memory.address(self._out), batch * count,
            width, capacity, threshold,
        )  # fmt: skip
        found = memory.download(self._out, (words,), np.dtype(np.float32))
        return Filtered(found, shape, capacity)

    def rows(self, found: Filtered) -> Optional[List[np.ndarray]]:
        """(n, W) float32 rows of each image in their order; None if they were more than fitted.

        Then there is room for as many from the next call on.
        """
        batch, count, width = found.shape
        number = int(found.words[:1].view(np.int32)[0])
        if number > found.capacity:
            self._capacity = 2 * number
            return None
        table = found.words[HEADER:].reshape(-1, width + 1)[:number]
        places = table[:, 0].view(np.int32) if number else np.zeros(0, np.int32)
        order = np.argsort(places)  # threads finish in any order
        places, table = places[order], table[order, 1:]
        ends = np.searchsorted(places, np.arange(1, batch) * count)
        return np.split(table, ends)
