"""ONNX Runtime with CUDA on a stand-in: GPU memory is that of the host, I/O binding is real."""

import contextlib
import functools
import inspect
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from tests.conftest import make_pose_onnx, pose_row  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.graph.pixels import add_pixels  # noqa: E402
from utils.pose.fixed_nms import NmsSettings  # noqa: E402
from utils.runtime import onnx_backend, onnx_session  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402
from utils.runtime.onnx_backend import OnnxBackend  # noqa: E402
from utils.runtime.predictor import Predictor  # noqa: E402
from utils.trt.host_pool import HostPool  # noqa: E402
from utils.trt.memory import PycudaMemory, TorchMemory  # noqa: E402


class HostMemory(TorchMemory):
    """TorchMemory whose GPU is the CPU."""

    def __init__(self):
        self._torch, self.device = torch, torch.device("cpu")
        self.stream, self.device_name = 0, "stand-in"
        self.host = HostPool(lambda size: np.empty(size, np.uint8))
        self.recorded = 0

    def active(self):
        return contextlib.nullcontext()

    def synchronize(self):
        pass

    def mark(self):
        return None

    def wait(self, mark):
        pass

    def capture(self, work):
        """Replays compute anew, into the same place."""
        work()
        self.recorded += 1
        made = inspect.getclosurevars(work).nonlocals["made"]

        def replay():
            work()
            made[0].copy_(made.pop())

        return replay

    def milliseconds(self, work):
        work()
        return 1.0


class Session:
    """A session on the CPU that says it has CUDA; what ran on which thread is noted."""

    def __init__(self, session, memory, fails=""):
        self.session, self.memory, self.fails = session, memory, fails
        self.runs, self.threads = [], set()

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding, options):
        import threading

        with self.memory.active():
            self.memory.synchronize()  # pycuda's stand-in does what is on the stream then
        try:
            self.runs.append(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            self.runs.append(None)
        if self.runs[-1] == "1":
            self.threads.add(threading.current_thread().name)
            if self.fails == "graph":
                raise RuntimeError("CUDA failure 900: operation not permitted when capturing")
        self.session.run_with_iobinding(binding, options)
        if self.fails.isdecimal() and binding.get_outputs()[0].shape()[0] > int(self.fails):
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of 9")


@pytest.fixture
def memory(request, monkeypatch):
    """Of PyTorch, or of pycuda's stand-in."""
    if getattr(request, "param", "torch") == "torch":
        return HostMemory()
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fakes"))
    for name in [n for n in sys.modules if n.split(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    return PycudaMemory(0)


@pytest.fixture
def open_cuda(monkeypatch, memory):
    """OnnxBackend on the stand-in; its sessions in `opened`."""
    opened = []
    real = onnx_session.open_session

    def open_session(path, gpu, *, throughput=False, graphs=True, fails=""):
        made = real(path, -1)
        if gpu < 0:
            return made
        opened.append(Session(made.session, memory, fails))
        return made._replace(session=opened[-1], on_cuda=True, memory=memory, graphs=graphs)

    def open_backend(path, fails=""):
        patched = functools.partial(open_session, fails=fails)
        monkeypatch.setattr(onnx_backend, "open_session", patched)
        return OnnxBackend(Path(path), 0)

    monkeypatch.setattr(onnx_backend, "DEVICE", "cpu")
    return types.SimpleNamespace(backend=open_backend, opened=opened)


def crowd(count=300, seed=0):
    """(count, 57) rows of boxes that overlap, a third of them above 0.25."""
    rng = np.random.default_rng(seed)
    rows = np.stack([pose_row(*rng.uniform(10, 50, 2), 16, 24) for _ in range(count)])
    rows[:, 4] = rng.uniform(0, 0.4, count)
    return rows.astype(np.float32)


def images(count, hw, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*hw, 3), np.uint8) for _ in range(count)]


def same(found, wanted):
    assert len(found) == len(wanted) and sum(p.count for p in wanted) > 0
    for a, b in zip(found, wanted):
        for mine, theirs in zip(a, b):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("memory", ["torch", "pycuda"], indirect=True)
@pytest.mark.parametrize("kind", ["float", "half", "uint8"])
@pytest.mark.parametrize("batch, hw", [(1, (64, 64)), (2, (64, 96)), (None, None)])
def test_poses_are_those_of_the_cpu(tmp_path, open_cuda, batch, hw, kind):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(), hw, batch, kind == "half")
    if kind == "uint8":
        model = onnx.load(str(path))
        add_pixels(model)
        onnx.save(model, str(path))
    backend, reference = open_cuda.backend(path), load_backend(str(path), "cpu")
    assert backend.takes_pixels and backend.input_shape == reference.input_shape
    ours, theirs = (Predictor(b, hw or (64, 128)) for b in (backend, reference))
    for seed in range(2 if hw else 5):
        some = images(3, (48, 64 + 16 * (seed % 2)), seed)
        same(ours(some), theirs(some))
    backend.warm_up(ours.preprocess(images(batch or 1, (48, 64)))[0].batch, ours.settings)
    assert backend.engine_ms().shape == (100,)
    if hw is not None:  # recorded before anything ran, by one thread
        (session,) = open_cuda.opened
        assert session.runs[0] == "-1" and set(session.runs[1:]) == {"1"}
        assert len(session.threads) == 1 and "onnxruntime" in session.threads.pop()
    else:
        assert set(open_cuda.opened[0].runs) == {"-1"}


def test_nms_is_recorded_and_nothing_else_is_copied(tmp_path, open_cuda, memory, monkeypatch):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd())
    predictor = Predictor(open_cuda.backend(path))
    predictor.warm_up(predictor.preprocess(images(1, (64, 64))))
    assert memory.recorded == 1
    monkeypatch.setattr(memory, "download", None)  # of the raw output
    (poses,) = predictor(images(1, (64, 64)))
    assert poses.count > 0


def test_low_thresholds_take_the_raw_output_from_the_gpu(tmp_path, open_cuda):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd())
    backend = open_cuda.backend(path)
    raw = backend.find(np.zeros((1, 64, 64, 3), np.uint8), NmsSettings(0.001, 0.6))
    assert torch.is_tensor(raw) and raw.shape == (1, 300, 57)
    wanted = Predictor(load_backend(str(path), "cpu"), conf_thres=0.001)(images(1, (64, 64)))
    same(Predictor(backend, conf_thres=0.001)(images(1, (64, 64))), wanted)


@pytest.mark.parametrize("memory", ["torch", "pycuda"], indirect=True)
def test_calls_of_several_threads(tmp_path, open_cuda):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(40))
    predictor = Predictor(open_cuda.backend(path))
    reference = Predictor(load_backend(str(path), "cpu"))
    some = [images(1, (64, 64), seed) for seed in range(40)]
    with ThreadPoolExecutor(3) as pool:
        for found, image in zip(pool.map(predictor, some), some):
            same(found, reference(image))
    driver = sys.modules.get("pycuda.driver")
    assert not getattr(driver, "leaked", [])


def test_floats_are_taken_as_well(tmp_path, open_cuda):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(), batch=2)
    backend = open_cuda.backend(path)
    floats = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    np.testing.assert_array_equal(backend(floats), load_backend(str(path), "cpu")(floats))
    with pytest.raises(ValueError, match="takes 2x3x64x64, got 1x3x64x64"):
        backend(floats[:1])
    with pytest.raises(ValueError, match="takes 2x64x64x3, got 2x64x96x3"):
        backend(np.zeros((2, 64, 96, 3), np.uint8))


def test_a_model_that_cannot_be_recorded_runs_without(tmp_path, open_cuda):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd())
    backend = open_cuda.backend(path, fails="graph")
    assert "CUDA failure 900" in backend.graph_refused and len(open_cuda.opened) == 2
    wanted = Predictor(load_backend(str(path), "cpu"))(images(2, (64, 64)))
    open_cuda.opened[1].fails = ""
    same(Predictor(backend)(images(2, (64, 64))), wanted)
    assert set(open_cuda.opened[1].runs) == {None}


@pytest.mark.parametrize(
    "fits, size", [("5", "choose `batch_size` 4"), ("0", "not suffice for one")]
)
def test_a_batch_that_is_too_large_names_one_that_fits(tmp_path, open_cuda, fits, size):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(), None, None)
    backend = open_cuda.backend(path)
    backend.find(backend.new_batch((1, 64, 64)), NmsSettings(0.25, 0.45))
    open_cuda.opened[0].fails = fits
    with pytest.raises(InputError, match=size) as error:
        backend.find(np.zeros((16, 64, 64, 3), np.uint8), NmsSettings(0.25, 0.45))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("memory", ["pycuda"], indirect=True)
def test_buffers_that_are_too_large(tmp_path, open_cuda, monkeypatch):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(10), None, None)
    backend = open_cuda.backend(path)
    monkeypatch.setenv("FAKE_MEMORY", str(5 * 4 * 3 * 64 * 64))
    with pytest.raises(InputError, match="`batch_size` 16: .* choose `batch_size` 4, which fits"):
        backend.find(np.zeros((16, 64, 64, 3), np.uint8), NmsSettings(0.25, 0.45))
    assert len(backend.find(np.zeros((4, 64, 64, 3), np.uint8), NmsSettings(0.25, 0.45))) == 4


def test_a_fixed_batch_that_is_too_large(tmp_path, open_cuda):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(), batch=4)
    with pytest.raises(InputError, match="fixed batch of 4; export it for fewer"):
        open_cuda.backend(path, fails="2")


def test_provider_options_and_what_is_tried(tmp_path, monkeypatch):
    """CUDA graphs are asked for first, on our stream, without TF32; then without graphs."""
    asked = []

    class Runtime:
        __version__ = "1.31.1"
        SessionOptions = staticmethod(lambda: types.SimpleNamespace())
        get_available_providers = staticmethod(lambda: ["CUDAExecutionProvider"])
        preload_dlls = staticmethod(lambda: print("noise"))

        @staticmethod
        def InferenceSession(model, options, providers, **more):
            asked.append((providers[0][1], more))
            if "enable_cuda_graph" in providers[0][1]:
                raise ValueError("This session cannot use the graph capture feature")
            return types.SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])

    memory = types.SimpleNamespace(stream=77)
    monkeypatch.setattr(onnx_session, "import_onnxruntime", lambda path: Runtime)
    monkeypatch.setattr(onnx_session, "find_memory", lambda gpu: (memory, []))
    opened = onnx_session.open_session(tmp_path / "x.onnx", 1)
    plain = {"device_id": 1, "use_tf32": 0, "user_compute_stream": 77}
    assert asked == [
        ({**plain, "enable_cuda_graph": 1}, {"enable_fallback": 0}),
        (plain, {}),
    ]
    assert opened.memory is memory and opened.on_cuda and not opened.graphs
    monkeypatch.setattr(onnx_session, "find_memory", lambda gpu: (None, ["no torch"]))
    asked.clear()
    opened = onnx_session.open_session(tmp_path / "x.onnx", None)
    assert asked == [({"device_id": 0, "use_tf32": 0}, {})] and opened.memory is None
