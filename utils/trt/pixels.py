"""Pixels of the host -> the float input of a network in GPU memory.

pixels = open_pixels(memory)
if pixels.usable:
    pixels.upload(buffer, images, np.dtype(np.float32))  # (B, H, W, 3) uint8 BGR -> (B, 3, H, W)

A quarter of the bytes to copy, and no float image on the CPU. The bits are those of
letterbox.to_batch: k * (1 / 255) in float32, rounded to the type of the input.
"""

from typing import Any, Dict, Optional, Protocol, Tuple

import numpy as np

from utils.errors import InputError
from utils.trt.device_memory import Buffer, DeviceMemory
from utils.trt.memory import PycudaMemory, TorchMemory

UNIT = 1 / 255.0
THREADS = 128  # a block

# Thread t takes pixel t of `pixels` (B * area, 3) and puts its three bytes into the planes of its
# image in `planes` (B, 3, area): k * (1 / 255) in float32 (0x3B808081).
PTX = """
.version 6.0
.target sm_53
.address_size 64
.visible .entry planes_%(name)s(
    .param .u64 pixels, .param .u64 planes, .param .u32 count, .param .u32 area)
{
    .reg .pred %%p<2>;
    .reg .f32 %%f<4>;
    .reg .b16 %%h<4>;
    .reg .b32 %%r<16>;
    .reg .b64 %%d<8>;
    mov.u32 %%r1, %%ctaid.x;
    mov.u32 %%r2, %%ntid.x;
    mov.u32 %%r3, %%tid.x;
    mad.lo.u32 %%r4, %%r1, %%r2, %%r3;
    ld.param.u32 %%r5, [count];
    setp.ge.u32 %%p1, %%r4, %%r5;
    @%%p1 bra DONE;
    ld.param.u32 %%r6, [area];
    ld.param.u64 %%d1, [pixels];
    cvta.to.global.u64 %%d1, %%d1;
    mul.wide.u32 %%d2, %%r4, 3;
    add.u64 %%d1, %%d1, %%d2;
    ld.global.u8 %%r7, [%%d1];
    ld.global.u8 %%r8, [%%d1 + 1];
    ld.global.u8 %%r9, [%%d1 + 2];
    div.u32 %%r10, %%r4, %%r6;
    mul.lo.u32 %%r11, %%r10, %%r6;
    sub.u32 %%r12, %%r4, %%r11;
    mad.lo.u32 %%r12, %%r11, 3, %%r12;
    ld.param.u64 %%d3, [planes];
    cvta.to.global.u64 %%d3, %%d3;
    mul.wide.u32 %%d4, %%r12, %(size)d;
    add.u64 %%d3, %%d3, %%d4;
    mul.wide.u32 %%d5, %%r6, %(size)d;
    add.u64 %%d6, %%d3, %%d5;
    add.u64 %%d7, %%d6, %%d5;
    cvt.rn.f32.u32 %%f1, %%r9;
    cvt.rn.f32.u32 %%f2, %%r8;
    cvt.rn.f32.u32 %%f3, %%r7;
    mul.rn.f32 %%f1, %%f1, 0f3B808081;
    mul.rn.f32 %%f2, %%f2, 0f3B808081;
    mul.rn.f32 %%f3, %%f3, 0f3B808081;
%(store)s
DONE:
    ret;
}
"""
STORE_F32 = """    st.global.f32 [%d3], %f1;
    st.global.f32 [%d6], %f2;
    st.global.f32 [%d7], %f3;"""
STORE_F16 = """    cvt.rn.f16.f32 %h1, %f1;
    cvt.rn.f16.f32 %h2, %f2;
    cvt.rn.f16.f32 %h3, %f3;
    st.global.b16 [%d3], %h1;
    st.global.b16 [%d6], %h2;
    st.global.b16 [%d7], %h3;"""
KERNELS: Dict[np.dtype, Tuple[str, str]] = {  # name, what stores three values
    np.dtype(np.float32): ("f32", STORE_F32),
    np.dtype(np.float16): ("f16", STORE_F16),
}


class Pixels(Protocol):
    """TorchPixels or PycudaPixels."""

    @property
    def usable(self) -> bool:
        """Whether there is a way to do it here."""

    def upload(self, buffer: Buffer, images: np.ndarray, dtype: np.dtype) -> None:
        """(B, H, W, 3) uint8 BGR -> (B, 3, H, W) RGB 0..1 in a buffer, in stream order.

        Images in page-locked memory must live until the stream has been synchronized.
        """


def open_pixels(memory: DeviceMemory) -> Pixels:
    """As the memory is."""
    if isinstance(memory, TorchMemory):
        return TorchPixels(memory)
    assert isinstance(memory, PycudaMemory)
    return PycudaPixels(memory)


def planes_shape(images: np.ndarray) -> Tuple[int, ...]:
    """(B, H, W, 3) pixels -> (B, 3, H, W)."""
    batch, height, width, channels = images.shape
    return batch, channels, height, width


class _Staging:
    """A buffer on the GPU that grows."""

    def __init__(self, memory: DeviceMemory):
        self._memory, self._buffer = memory, None

    def upload(self, images: np.ndarray) -> Any:
        if self._buffer is None or self._memory.size(self._buffer) < images.nbytes:
            self._buffer = self._memory.allocate(images.nbytes)
        self._memory.upload(self._buffer, images)
        return self._buffer


class TorchPixels:
    """Through PyTorch."""

    usable = True

    def __init__(self, memory: TorchMemory):
        self._memory, self._staging = memory, _Staging(memory)

    def upload(self, buffer: Buffer, images: np.ndarray, dtype: np.dtype) -> None:
        """See Pixels.upload."""
        import torch

        memory = self._memory
        pixels = memory.view(self._staging.upload(images), images.shape, np.dtype(np.uint8))
        planes = memory.view(buffer, planes_shape(images), dtype)
        torch.mul(pixels.permute(0, 3, 1, 2).flip(1), UNIT, out=planes)


class PycudaPixels:
    """By a kernel in PTX, see row_filter.py. `refused` says why it is not usable."""

    def __init__(self, memory: PycudaMemory):
        self._memory, self._staging = memory, _Staging(memory)
        self.refused: Optional[str] = None
        self._launch: Dict[np.dtype, Any] = {}
        with memory.active():
            try:
                for dtype, (name, store) in KERNELS.items():
                    ptx = PTX % {"name": name, "size": dtype.itemsize, "store": store}
                    self._launch[dtype] = memory.kernel(ptx, "planes_" + name, "PPII")
            except InputError as e:
                self.refused = str(e)

    @property
    def usable(self) -> bool:
        return self.refused is None

    def upload(self, buffer: Buffer, images: np.ndarray, dtype: np.dtype) -> None:
        """See Pixels.upload."""
        memory, staged = self._memory, self._staging.upload(images)
        batch, height, width, _ = images.shape
        count = batch * height * width
        self._launch[np.dtype(dtype)](
            -(-count // THREADS), THREADS, memory.address(staged), memory.address(buffer), count,
            height * width,
        )  # fmt: skip
