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
from tests.foreign_net import make_foreign  # noqa: E402
from utils.errors import InputError, InputWarning  # noqa: E402
from utils.graph.nms import add_nms  # noqa: E402
from utils.graph.nms_forms import Nms  # noqa: E402
from utils.graph.pixels import add_pixels  # noqa: E402
from utils.pose.fixed_nms import FixedNms, NmsSettings  # noqa: E402
from utils.pose.layout import Layout  # noqa: E402
from utils.runtime import onnx_backend, onnx_session  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402
from utils.runtime.onnx_backend import OnnxBackend  # noqa: E402
from utils.runtime.predictor import Predictor  # noqa: E402
from utils.trt.host_pool import HostPool  # noqa: E402
from utils.trt.memory import PycudaMemory, TorchMemory  # noqa: E402

# As long as what ONNX Runtime says: the reason comes last.
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
    "FusedConv node. Name:'/model.33/m_kpt.0/m_kpt.0.9/conv/Conv' Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
    "AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn)"
    " Failed to allocate memory for requested buffer of size 209715200\n"
)


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
            raise RuntimeError(OUT_OF_MEMORY)


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
        made = real(path, -1)._replace(workers=2 if throughput else 1)
        if gpu < 0:
            return made
        opened.append(Session(made.session, memory, fails))
        return made._replace(session=opened[-1], on_cuda=True, memory=memory, graphs=graphs)

    def open_backend(path, fails="", throughput=False):
        patched = functools.partial(open_session, fails=fails)
        monkeypatch.setattr(onnx_backend, "open_session", patched)
        return OnnxBackend(Path(path), 0, throughput)

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


def test_one_crowded_image_of_a_batch_takes_the_raw_output(tmp_path, open_cuda, monkeypatch):
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(), batch=2)
    backend, reference = open_cuda.backend(path), load_backend(str(path), "cpu")
    real = FixedNms.poses
    monkeypatch.setattr(FixedNms, "poses", lambda self, packed: [None, *real(self, packed)[1:]])
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    assert torch.is_tensor(backend.find(pixels, NmsSettings(0.25, 0.45)))
    same(Predictor(backend)(images(2, (64, 64))), Predictor(reference)(images(2, (64, 64))))
    backend.warm_up(pixels, NmsSettings(0.25, 0.45))  # says nothing of the images to come
    assert backend._reader.serves(NmsSettings(0.25, 0.45), 2)


@pytest.mark.parametrize("form", ["values", "rows"])
def test_the_raw_output_of_others_is_converted_in_the_call(tmp_path, open_cuda, monkeypatch, form):
    """On the stream of the engine, that is under its lock: outside of it the next call may have
    taken the memory that the conversion reads. What comes back is a copy."""
    path = make_foreign(tmp_path / "x.onnx", **({"form": form} if form == "rows" else {}))
    backend, reference = open_cuda.backend(path), load_backend(str(path), "cpu")
    inside, real = [], Layout.to_raw

    def to_raw(layout, output):
        if torch.is_tensor(output):
            inside.append(backend._bound._lock.locked())
        return real(layout, output)

    monkeypatch.setattr(Layout, "to_raw", to_raw)
    first, second = np.random.default_rng(0).random((2, 1, 3, 128, 128), np.float32)
    found = backend(first)
    wanted = reference(first)
    backend(second)
    np.testing.assert_array_equal(found.numpy(), wanted)
    assert len(inside) == 2 and all(inside)


@pytest.mark.parametrize("inside, workers", [(False, 2), (True, 1)])
def test_sessions_that_are_not_bound_take_one_call_at_a_time(tmp_path, open_cuda, inside, workers):
    """ONNX Runtime: no Run() of several threads with CUDA graphs."""
    limits = {"conf_thres": 0.3, "iou_thres": 0.5, "topk": 5} if inside else {}
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(20), None, None, **limits)
    if inside:
        model = onnx.load(str(path))
        add_nms(model, 1, Nms("static", 0.3, 0.5, 5, 20))
        onnx.save(model, str(path))
    backend = open_cuda.backend(path, throughput=True)
    assert (backend.runner is None) == inside and backend.workers == workers


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


@pytest.fixture
def runtime(monkeypatch):
    """An ONNX Runtime with CUDA. Its InferenceSession raises what `fails` has for "graph", "cuda"
    and "cpu"; what was asked for is in `asked`."""
    asked, fails = [], {}

    def open_session(model, options, providers, enable_fallback):
        assert not enable_fallback  # no CPU but where we say so
        cuda = providers[0][1] if len(providers) > 1 else None
        kind = "cpu" if cuda is None else "graph" if "enable_cuda_graph" in cuda else "cuda"
        asked.append(cuda)
        if kind in fails and made.__version__ == "1.19.2" and isinstance(fails[kind], RuntimeError):
            print("*** EP Error ***\nEP Error %s when using CUDA\nFalling back" % fails[kind])
            cuda = None
        elif kind in fails:
            raise fails[kind]
        print(made.aside, end="")
        names = ["CUDAExecutionProvider"] * bool(cuda)
        return types.SimpleNamespace(get_providers=lambda: names, disable_fallback=lambda: None)

    made = types.SimpleNamespace(
        __version__="1.31.1",
        SessionOptions=types.SimpleNamespace,
        get_available_providers=lambda: ["CUDAExecutionProvider"],
        preload_dlls=lambda: print("noise"),
        InferenceSession=open_session,
        asked=asked,
        fails=fails,
        memory=types.SimpleNamespace(stream=77),
        aside="",
    )
    monkeypatch.setattr(onnx_session, "import_onnxruntime", lambda path: made)
    monkeypatch.setattr(onnx_session, "find_memory", lambda gpu: (made.memory, []))
    return made


@pytest.fixture
def some_file(tmp_path):
    return make_pose_onnx(tmp_path / "x.onnx", crowd(3))


def test_provider_options_and_what_is_tried(some_file, runtime, capfd):
    """CUDA graphs are asked for first, on our stream, without TF32; then without graphs."""
    runtime.fails["graph"] = ValueError("This session cannot use the graph capture feature")
    opened = onnx_session.open_session(some_file, 1)
    plain = {"device_id": 1, "use_tf32": 0, "user_compute_stream": 77}
    assert runtime.asked == [{**plain, "enable_cuda_graph": 1}, plain]
    assert opened.memory is runtime.memory and opened.on_cuda and not opened.graphs
    runtime.memory = None
    runtime.asked.clear()
    opened = onnx_session.open_session(some_file, None)
    assert runtime.asked == [{"device_id": 0, "use_tf32": 0}] and opened.memory is None
    assert capfd.readouterr() == ("", "")
    runtime.aside = "warning: a stream was lost\n"  # another thread says so meanwhile
    assert onnx_session.open_session(some_file, 0).on_cuda
    assert capfd.readouterr() == (runtime.aside, "")


@pytest.mark.parametrize("version", ["1.19.2", "1.24.4"])
def test_cuda_that_does_not_start_is_told_with_its_reason(some_file, runtime, capfd, version):
    runtime.__version__ = version
    error = RuntimeError("CUDA failure 35: driver version is insufficient")
    runtime.fails.update(graph=error, cuda=error)
    with pytest.raises(InputError, match="`device` 0: .*did not start .*failure 35.*cpu$"):
        onnx_session.open_session(some_file, 0)
    with pytest.warns(InputWarning, match="failure 35.*running on the CPU"):
        opened = onnx_session.open_session(some_file, None)
    assert not opened.on_cuda and not opened.graphs and opened.memory is None
    assert runtime.asked[-1] is None and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("version", ["1.19.2", "1.24.4"])
def test_a_model_that_the_memory_cannot_hold_does_not_go_to_the_cpu(some_file, runtime, version):
    runtime.__version__ = version
    runtime.fails.update(dict.fromkeys(("graph", "cuda"), RuntimeError("CUDA out of memory")))
    for gpu in (0, None):
        with pytest.raises(InputError, match="GPU memory does not suffice for the model"):
            onnx_session.open_session(some_file, gpu)
    assert None not in runtime.asked


def test_a_rewritten_model_that_cannot_be_loaded_is_one_line(some_file, runtime, monkeypatch):
    runtime.fails.update(dict.fromkeys(("graph", "cuda", "cpu"), NotImplementedError("no\nkernel")))
    monkeypatch.setattr(onnx_session, "portable_model", lambda path: b"rewritten")
    with pytest.raises(InputError, match="cannot load it; export or copy it again .*no kernel"):
        onnx_session.open_session(some_file, None)
