"""Page-locked host memory that is used again, without a GPU."""

import gc

import numpy as np

from utils.trt.host_pool import SPARE_BLOCKS, HostPool


def pool():
    made = []

    def allocate(size):
        made.append(size)
        return np.zeros(size, np.uint8)

    return HostPool(allocate), made


def test_a_block_is_used_again_once_nobody_needs_it():
    host, made = pool()
    first = host.array((2, 3, 4), np.float32)
    assert first.shape == (2, 3, 4) and first.dtype == np.float32 and first.flags.writeable
    address = first.ctypes.data
    del first
    gc.collect()
    assert host.array((24,), np.float32).ctypes.data == address and made == [96]


def test_a_view_keeps_its_block():
    host, made = pool()
    array = host.array((8, 8), np.float32)
    array[...] = 7
    part = array[2:4].T.reshape(-1)[:3]  # the array itself is gone after the next line
    rows = array[2:4]
    del array
    gc.collect()
    for _ in range(3):
        host.array((8, 8), np.float32)[...] = 9
    assert (rows == 7).all() and (part == 7).all() and len(made) == 2


def test_what_it_holds():
    host, _ = pool()
    array = host.array((4, 4), np.int32)
    assert host.holds(array) and host.holds(array[1:3]) and not host.holds(np.zeros(4))


def test_sizes_far_apart_do_not_share_and_spare_blocks_are_few():
    host, made = pool()
    large = host.array((10000,), np.uint8)
    del large
    gc.collect()
    small = host.array((10,), np.uint8)
    assert made == [10000, 10] and small.nbytes == 10
    arrays = [host.array((100 + i,), np.uint8) for i in range(SPARE_BLOCKS + 5)]
    blocks = len(host._blocks)
    del arrays, small
    gc.collect()
    assert len(host._spare) == SPARE_BLOCKS and len(host._blocks) < blocks


def test_an_empty_array():
    host, _ = pool()
    assert host.array((0, 4), np.float32).shape == (0, 4)
