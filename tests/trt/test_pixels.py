"""Pixels become the input of a network, with the bits of letterbox.to_batch."""

import numpy as np
import pytest

from tests.trt import ptx
from utils.pose.letterbox import fit, to_batch
from utils.trt import pixels as trt_pixels
from utils.trt import row_filter
from utils.trt.memory import GpuMemoryError
from utils.trt.pixels import KERNELS, PTX, THREADS, PycudaPixels, TorchPixels, planes_shape

DTYPES = [np.float32, np.float16]


def all_levels(batch, hw):
    """Images in which every level of every channel occurs."""
    count = batch * hw[0] * hw[1] * 3
    return (np.arange(count) * 7 % 256).astype(np.uint8).reshape(batch, *hw, 3)


def wanted(images, dtype):
    hw = images.shape[1:3]
    return to_batch(list(images), [fit(hw, hw)] * len(images), hw).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_through_pytorch(dtype):
    pytest.importorskip("torch")
    from tests.runtime.test_onnx_cuda import HostMemory

    memory = HostMemory()
    upload = TorchPixels(memory)
    for batch, hw in ((1, (16, 32)), (3, (24, 40)), (2, (8, 8))):
        images, kind = all_levels(batch, hw), np.dtype(dtype)
        buffer = memory.allocate(images.size * kind.itemsize + 64)
        upload.upload(buffer, images, kind)
        found = memory.view(buffer, planes_shape(images), kind).numpy()
        np.testing.assert_array_equal(found, wanted(images, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_through_pycuda(memory, dtype):
    upload = PycudaPixels(memory)
    assert trt_pixels.open_pixels(memory).usable
    images = all_levels(2, (24, 40))
    with memory.active():
        buffer = memory.allocate(images.size * np.dtype(dtype).itemsize)
        upload.upload(buffer, images, np.dtype(dtype))
        found = memory.download(buffer, planes_shape(images), np.dtype(dtype))
        memory.synchronize()
    np.testing.assert_array_equal(found, wanted(images, dtype))


def test_arrays_on_their_way_are_kept_and_then_used_again(memory):
    """Copies are made when the stream gets to them: the stand-in waits for synchronize."""
    with memory.active():
        buffers = [memory.allocate(400) for _ in range(6)]
        for i, buffer in enumerate(buffers):
            memory.upload(buffer, np.full(100, i, np.float32))
        found = [memory.download(buffer, (100,), np.dtype(np.float32)) for buffer in buffers]
        memory.synchronize()
        assert [set(values) for values in found] == [{float(i)} for i in range(6)]
        made = len(memory.host._blocks)
        for i in range(40):  # the batches of a calibration
            memory.upload(buffers[0], np.full(100, i, np.float32))
            memory.synchronize()
    assert len(memory.host._blocks) == made == 12


def test_memory_that_does_not_suffice(memory, monkeypatch):
    monkeypatch.setenv("FAKE_MEMORY", "1000000")
    with memory.active(), pytest.raises(GpuMemoryError, match="does not suffice for 2 MB more"):
        memory.allocate(2000000)


def test_a_driver_that_refuses_the_kernels(memory, monkeypatch):
    monkeypatch.setenv("FAKE_NO_PTX", "1")
    upload = PycudaPixels(memory)
    assert not upload.usable and "unsupported" in upload.refused


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_itself(dtype):
    """Instruction by instruction."""
    kind = np.dtype(dtype)
    name, store = KERNELS[kind]
    code = PTX % {"name": name, "size": kind.itemsize, "store": store}
    images = all_levels(2, (11, 13))
    planes = np.full(planes_shape(images), 9, kind)
    count, area = 2 * 11 * 13, 11 * 13
    blocks = -(-count // THREADS)
    arguments = images.ctypes.data, planes.ctypes.data, count, area
    ptx.run(code, arguments, blocks=blocks, threads=THREADS)
    np.testing.assert_array_equal(planes, wanted(images, dtype))


def test_the_kernel_of_the_row_filter():
    raw = np.random.default_rng(0).random((1, 150, 9)).astype(np.float32)
    raw[0, 3, 4] = np.nan
    capacity = 100
    out = np.zeros(4 + capacity * 10, np.uint32)
    arguments = raw.ctypes.data, out.ctypes.data, 150, 9, capacity, np.float32(0.6)
    ptx.run(row_filter.PTX, arguments, blocks=2, threads=128)
    found = row_filter.Filtered(out.view(np.float32), raw.shape, capacity)
    (rows,) = row_filter.RowFilter.rows(object(), found)
    np.testing.assert_array_equal(rows, raw[0][raw[0, :, 4] > 0.6])
    assert len(rows) > 20
