"""Stand-in for pycuda.driver on a machine without a GPU.

Faithful in what goes wrong in practice: every call needs a current context in its own thread, and
what is put on a stream happens when the stream is synchronized, not before.
"""

import ctypes
import os
import threading
import time

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001
    pass


_current = threading.local()
streams = {}


def _stack():
    if not hasattr(_current, "stack"):
        _current.stack = []
    return _current.stack


def require_context():
    if not _stack():
        raise LogicError("invalid device context")


def init():
    if os.environ.get("FAKE_NO_CUDA"):
        raise Error("cuInit failed: no CUDA-capable device is detected")


def current_device():
    """Index of the device whose context is current; the CUDA runtime's default without one."""
    return _stack()[-1].index if _stack() else 0


class Context:
    def __init__(self, index):
        self.index = index

    def push(self):
        _stack().append(self)

    @staticmethod
    def pop():
        require_context()
        _stack().pop()


_primary = {}  # device -> context


class Device:
    def __init__(self, index):
        self.index = index

    @staticmethod
    def count():
        return int(os.environ.get("FAKE_GPUS", "1"))

    def name(self):
        return os.environ.get("FAKE_GPU", "Xavier")

    def total_memory(self):
        return 8 << 30

    def retain_primary_context(self):
        return _primary.setdefault(self.index, Context(self.index))


class DeviceAllocation:
    def __init__(self, size):
        self._memory = ctypes.create_string_buffer(size)

    def __int__(self):
        return ctypes.addressof(self._memory)


def mem_get_info():
    require_context()
    free = os.environ.get("FAKE_FREE_MEMORY", str(6 << 30))
    if free == "unknown":
        raise LogicError("cuMemGetInfo failed: an illegal memory access was encountered")
    return int(free), 8 << 30


def mem_alloc(size):
    require_context()
    if size > int(os.environ.get("FAKE_MEMORY", 1 << 40)):
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(size)


class Stream:
    def __init__(self):
        require_context()
        self.handle = 1000 + len(streams)
        self.work, self.lock = [], threading.Lock()
        streams[self.handle] = self

    def synchronize(self):
        require_context()
        with self.lock:
            work, self.work = self.work, []
            for step in work:
                step()


leaked = []


class event_flags:  # noqa: N801
    DISABLE_TIMING = 2


class Event:
    """Its time is that of the host when the stream gets to it."""

    def __init__(self, flags=0):
        require_context()
        self.time, self.stream, self.timed = None, None, flags != event_flags.DISABLE_TIMING

    def __del__(self):
        """Out of its context pycuda says nothing and leaks it."""
        if not _stack():
            leaked.append("event")

    def record(self, stream):
        require_context()
        self.stream = stream
        stream.work.append(lambda: setattr(self, "time", time.perf_counter()))

    def synchronize(self):
        self.stream.synchronize()

    def time_till(self, other):
        assert self.timed and other.timed
        return 1000 * (other.time - self.time)


def pagelocked_empty(shape, dtype):
    require_context()
    return np.full(shape, 77, dtype)


def memcpy_htod_async(target, array, stream):
    require_context()
    stream.work.append(lambda: ctypes.memmove(int(target), array.ctypes.data, array.nbytes))


def memcpy_dtoh_async(array, source, stream):
    require_context()
    stream.work.append(lambda: ctypes.memmove(array.ctypes.data, int(source), array.nbytes))


def memset_d32_async(target, value, count, stream):
    require_context()
    stream.work.append(lambda: np.ctypeslib.as_array(_words(target, count)).fill(value))


def _words(address, count):
    return (ctypes.c_uint32 * count).from_address(int(address))


def _rows_above(raw, out, rows, width, capacity, threshold):
    """What the kernel of utils/trt/row_filter.py does; threads finish in another order."""
    values = np.ctypeslib.as_array(_words(raw, rows * width)).view(np.float32).reshape(rows, width)
    table = np.ctypeslib.as_array(_words(out, 4 + capacity * (width + 1)))
    passed = np.flatnonzero(values[:, 4] > np.float32(threshold))[::-1]
    for place, row in enumerate(passed[:capacity] if len(passed) > capacity else passed):
        start = 4 + place * (width + 1)
        table[start] = row
        table[start + 1 : start + 1 + width] = values[row].view(np.uint32)
    table[0] += len(passed)


def _planes(dtype):
    def run(pixels, planes, count, area):
        """What the kernels of utils/trt/pixels.py do."""
        source = (ctypes.c_uint8 * (3 * count)).from_address(int(pixels))
        images = np.ctypeslib.as_array(source).reshape(-1, area, 3)
        size = 3 * count * np.dtype(dtype).itemsize
        target = (ctypes.c_uint8 * size).from_address(int(planes))
        values = images[..., ::-1].transpose(0, 2, 1) * np.float32(1 / 255.0)
        np.ctypeslib.as_array(target)[:] = values.astype(dtype).reshape(-1).view(np.uint8)

    return run


KERNELS = {
    "rows_above": ("PPIIIf", _rows_above),
    "planes_f32": ("PPII", _planes(np.float32)),
    "planes_f16": ("PPII", _planes(np.float16)),
}


class Function:
    def __init__(self, name):
        if name not in KERNELS:
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        self.arguments, self.run = KERNELS[name]

    def prepare(self, arguments):
        assert arguments == self.arguments

    def prepared_async_call(self, grid, block, stream, *values):
        require_context()
        assert grid[0] * block[0] >= values[2], "fewer threads than rows"
        stream.work.append(lambda: self.run(*values))


class Module:
    def __init__(self, code):
        self.code = code

    def get_function(self, name):
        assert b".visible .entry %s(" % name.encode() in self.code
        return Function(name)


def module_from_buffer(code):
    require_context()
    if os.environ.get("FAKE_NO_PTX"):
        raise Error("cuModuleLoadDataEx failed: the provided PTX was compiled with an unsupported")
    return Module(code)
