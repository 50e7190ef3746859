"""On a machine with a CUDA GPU and onnxruntime-gpu: I/O binding, graphs and NMS as they really are.

`python -m pytest tests/runtime/test_onnx_gpu.py`; skipped elsewhere.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    pytest.skip("this ONNX Runtime has no CUDA", allow_module_level=True)
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)

from models.yolo import Model  # noqa: E402
from tests.conftest import make_pose_onnx, randomized, tiny_cfg  # noqa: E402
from tests.runtime.test_onnx_cuda import crowd, images, same  # noqa: E402
from utils.graph.pixels import add_pixels  # noqa: E402
from utils.pose.fixed_nms import NmsSettings  # noqa: E402
from utils.pose.nms import raw_to_poses  # noqa: E402
from utils.runtime import onnx_session  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402
from utils.runtime.predictor import Predictor  # noqa: E402
from utils.trt.memory import PycudaMemory  # noqa: E402


@pytest.fixture(params=["PyTorch", "pycuda", "neither"])
def way(request, monkeypatch):
    if request.param == "pycuda":
        pytest.importorskip("pycuda", reason="pycuda is not installed")
        monkeypatch.setattr(onnx_session, "find_memory", lambda gpu: (PycudaMemory(gpu), []))
    if request.param == "neither":
        monkeypatch.setattr(onnx_session, "find_memory", lambda gpu: (None, []))
    return request.param


@pytest.mark.parametrize("kind", ["float", "half", "uint8"])
@pytest.mark.parametrize("batch, hw", [(1, (64, 64)), (2, (64, 128)), (None, None)])
def test_poses_are_those_of_the_cpu(tmp_path, way, batch, hw, kind):
    """The network adds the brightness of the image to rows that are constant: almost exact."""
    path = make_pose_onnx(tmp_path / "x.onnx", crowd(), hw, batch, kind == "half")
    if kind == "uint8":
        model = onnx.load(str(path))
        add_pixels(model)
        onnx.save(model, str(path))
    backend, reference = load_backend(str(path), "0"), load_backend(str(path), "cpu")
    assert backend.on_gpu and "CUDA:0" in backend.description
    assert backend.graph_refused is None, backend.graph_refused
    if hw is not None and way != "neither":
        assert backend._bound._thread is not None  # it runs as a graph
    ours, theirs = (Predictor(b, hw or (64, 128)) for b in (backend, reference))
    for seed in range(8):
        some = images(3, (48, 64 + 16 * (seed % 2)), seed)
        for a, b in zip(ours(some), theirs(some)):
            assert a.count == b.count > 0
            np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
            np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-3)
    if way != "neither":
        assert 0 < float(np.median(backend.engine_ms())) < 50


@pytest.fixture
def exported(tmp_path):
    """A small network of fixed shape."""
    path = tmp_path / "x.onnx"
    network = randomized(Model(tiny_cfg()), 3).eval()
    torch.onnx.export(network, torch.zeros(1, 3, 128, 128), str(path), opset_version=13,
                      input_names=["input"], output_names=["output"], dynamo=False)  # fmt: skip
    return str(path)


def on_host(raw):
    return raw.cpu().numpy() if torch.is_tensor(raw) else raw


def test_nms_on_the_gpu_is_that_of_the_host_bit_for_bit(exported, way):
    """In several threads, of which each gets the poses of its own images."""
    backend = load_backend(exported, "0", throughput=True)
    settings = NmsSettings(0.3, 0.9, max_det=20)  # no long chains in random boxes
    backend.warm_up(np.zeros((1, 128, 128, 3), np.uint8) if backend.takes_pixels else
                    np.zeros((1, 3, 128, 128), np.float32), settings)  # fmt: skip

    def both(seed):
        (pixels,) = images(1, (128, 128), seed)
        batch = Predictor(backend).preprocess([pixels])[0].batch
        wanted = raw_to_poses(on_host(backend(batch)), backend.nc, **settings._asdict())
        found = backend.find(batch, settings)
        if way == "PyTorch":
            return found, wanted
        return raw_to_poses(found, backend.nc, **settings._asdict()), wanted

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in pool.map(both, range(40)):
            same(found, wanted)


def test_fp32_is_not_tf32(exported, way):
    floats = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    found = on_host(load_backend(exported, "0")(floats))
    wanted = load_backend(exported, "cpu")(floats)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
