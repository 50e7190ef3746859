"""On a machine with a CUDA GPU, with or without TensorRT: the Engine's memory, streams and graphs.

A stand-in engine runs PyTorch on the device addresses it is given, on the stream it is given, as
TensorRT would. Run it with `python -m pytest tests/trt/test_engine_gpu.py`; skipped elsewhere.
"""

import subprocess
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)

from tests.conftest import ROOT  # noqa: E402
from tests.trt.test_pixels import all_levels, wanted  # noqa: E402
from utils.trt.engine import Engine  # noqa: E402
from utils.trt.memory import PycudaMemory, TorchMemory, open_memory  # noqa: E402
from utils.trt.pixels import open_pixels, planes_shape  # noqa: E402

KINDS = [TorchMemory, PycudaMemory]


def open_kind(kind):
    if kind is PycudaMemory:
        pytest.importorskip("pycuda", reason="pycuda is not installed")
    return kind(0)


class View:
    """A device address as something PyTorch can look at without a copy."""

    def __init__(self, address, shape):
        self.__cuda_array_interface__ = {
            "data": (address, False), "shape": tuple(shape), "typestr": "<f4", "version": 3
        }  # fmt: skip


class Named:
    def __init__(self, name):
        self.name = name


class Context:
    """y = 2 x + 1, computed by PyTorch on the addresses and the stream it is given."""

    def __init__(self):
        self.shape, self.addresses, self.runs = None, {}, 0

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self.runs += 1
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            x = torch.as_tensor(View(self.addresses["input"], self.shape), device="cuda:0")
            y = torch.as_tensor(View(self.addresses["output"], self.shape), device="cuda:0")
            torch.mul(x, 2.0, out=y)
            y.add_(1.0)
        return True


class PlainEngine:
    num_io_tensors = 2

    def get_tensor_name(self, index):
        return ("input", "output")[index]

    def get_tensor_dtype(self, name):
        return Named("FLOAT")

    def get_tensor_mode(self, name):
        return name

    def get_tensor_shape(self, name):
        return (-1, 3, -1, -1)

    def get_tensor_profile_shape(self, name, profile):
        return [(1, 3, 8, 8), (1, 3, 64, 64), (8, 3, 512, 512)]

    def create_execution_context(self):
        return Context()


def engine(memory, cuda_graph=False):
    module = types.SimpleNamespace(
        Runtime=lambda log: types.SimpleNamespace(
            deserialize_cuda_engine=lambda plan: PlainEngine()
        ),
        TensorIOMode=types.SimpleNamespace(INPUT="input"),
    )
    log = types.SimpleNamespace(clear=lambda: None, reason=lambda: "")
    return Engine(
        types.SimpleNamespace(module=module, log=log), b"plan", memory, cuda_graph=cuda_graph
    )


def host(value):
    return value.cpu().numpy() if hasattr(value, "cpu") else value


SHAPES = [(1, 3, 8, 8), (4, 3, 256, 256), (2, 3, 64, 96), (4, 3, 256, 256), (8, 3, 512, 512)]


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["plain", "graph"])
@pytest.mark.parametrize("kind", KINDS)
def test_pointers_streams_and_graphs(kind, cuda_graph):
    memory = open_kind(kind)
    if cuda_graph and kind is PycudaMemory:
        pytest.skip("a PyTorch stand-in cannot be captured on a foreign stream by pycuda")
    run = engine(memory, cuda_graph)
    rng = np.random.default_rng(0)
    for _ in range(3):
        for shape in SHAPES:
            for _ in range(5):
                x = rng.random(shape, np.float32)
                np.testing.assert_array_equal(
                    host(run({"input": x})["output"]), x * np.float32(2) + np.float32(1)
                )
    if cuda_graph:
        assert run._context.runs < 3 * len(SHAPES) * 5  # the rest were replays
        assert run._graph is not None and run.graph_refused is None


def test_outputs_stay_on_the_gpu_and_are_copies():
    run = engine(TorchMemory(0))
    a = run({"input": np.zeros((1, 3, 8, 8), np.float32)})["output"]
    b = run({"input": np.ones((1, 3, 8, 8), np.float32)})["output"]
    assert a.is_cuda and float(a.max()) == 1 and float(b.min()) == 3


def test_pytorch_and_pycuda_in_one_process():
    """Pointers of one are valid in the other: both are in the primary context."""
    pytest.importorskip("pycuda", reason="pycuda is not installed")
    before = torch.arange(1000, device="cuda:0")
    memory = PycudaMemory(0)
    run = engine(memory)
    x = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    for _ in range(5):
        np.testing.assert_array_equal(host(run({"input": x})["output"]), x * np.float32(2) + 1)
        assert int((before * before).sum()) == int((np.arange(1000) ** 2).sum())
        torch.nn.functional.conv2d(torch.rand(1, 3, 32, 32, device="cuda"),
                                   torch.rand(4, 3, 3, 3, device="cuda"))  # fmt: skip
    with memory.active():
        buffer = memory.allocate(4096)
        values = np.arange(1024, dtype=np.float32)
        memory.upload(buffer, values)
        memory.synchronize()
        seen = torch.as_tensor(View(memory.address(buffer), (1024,)), device="cuda:0")
        np.testing.assert_array_equal(seen.cpu().numpy(), values)


def test_pycuda_alone():
    """In a process where PyTorch cannot be imported."""
    pytest.importorskip("pycuda", reason="pycuda is not installed")
    code = """
import sys
sys.modules["torch"] = None
import numpy as np
from utils.trt.memory import open_memory
memory = open_memory(0)
assert memory.kind == "pycuda", memory.kind
with memory.active():
    buffer = memory.allocate(64)
    memory.upload(buffer, np.arange(16, dtype=np.float32))
    found = memory.download(buffer, (16,), np.dtype(np.float32))
    memory.synchronize()
assert found.tolist() == list(range(16))
assert memory.total_bytes() > 1 << 30 and memory.device_name
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_open_memory_prefers_pytorch():
    assert open_memory(0).kind == "PyTorch"


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_several_threads(kind):
    """A call is put on the stream while another one runs; each gets its own result."""
    from concurrent.futures import ThreadPoolExecutor

    memory = open_kind(kind)
    run = engine(memory)

    def mean(number):
        x = memory.host.array((1, 3, 64, 64), np.float32)  # page-locked: copied asynchronously
        x[...] = number
        found = host(run({"input": x})["output"])
        assert found.min() == found.max()
        return float(found[0, 0, 0, 0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(mean, range(200))) == [2.0 * i + 1 for i in range(200)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels(kind, dtype):
    """The bits of the CPU, through PyTorch and by the kernel in PTX."""
    memory = open_kind(kind)
    pixels = open_pixels(memory)
    assert pixels.usable, getattr(pixels, "refused", "")
    for batch, hw in ((1, (384, 640)), (3, (64, 96)), (2, (11, 13))):
        images, tensor = all_levels(batch, hw), np.dtype(dtype)
        with memory.active():
            buffer = memory.allocate(images.size * tensor.itemsize)
            pixels.upload(buffer, images, tensor)
            found = memory.download(buffer, planes_shape(images), tensor)
            memory.synchronize()
        np.testing.assert_array_equal(host(found), wanted(images, dtype))
