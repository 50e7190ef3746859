"""With the real TensorRT-RTX (parser and builder), and with stand-ins where an engine must run."""

import importlib
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.conftest import ROOT  # noqa: E402
from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.trt import api, precision  # noqa: E402
from utils.trt.api import Profile  # noqa: E402
from utils.trt.builder import BuildSettings, build, read_network  # noqa: E402
from utils.trt.engine import Engine  # noqa: E402

FAKES = ROOT / "tests" / "fakes"
VERSIONS = ["v85", "v86", "v10", "v11"]
IMAGES = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)


def rtx():
    pytest.importorskip("tensorrt_rtx", reason="no tensorrt_rtx for this Python")
    return api.import_tensorrt()


def same(found, wanted):
    """The stand-ins run the graph unfused: another order of summation."""
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def make(trt, model, **settings):
    network = read_network(trt, "x.onnx", model.SerializeToString())
    return build(trt, network, BuildSettings(**settings))


def quantise(model):
    from utils.graph.analysis import Graph
    from utils.quantization import qdq

    plan = qdq.make_plan(Graph(model))
    qdq.insert(model, plan, dict.fromkeys(plan.tensors, 0.03))


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8", "int8 fp16", "static nms", "nms fp16"])
@pytest.mark.parametrize("batch, hw", [(2, (64, 64)), (None, None)], ids=["static", "dynamic"])
def test_tensorrt_rtx_parses_and_builds(tmp_path, form, batch, hw):
    from utils.graph.fp16 import to_fp16
    from utils.graph.nms import Nms, add_nms

    trt = rtx()
    assert trt.typed and not trt.calibrates and "RTX" in str(trt)
    model = onnx.load(str(make_small_net(tmp_path / "x.onnx", batch, hw)))
    if "int8" in form:
        quantise(model)
    if "nms" in form:
        add_nms(model, 1, Nms("static", topk=8, candidates=16, steps=3))
    if "fp16" in form:
        to_fp16(model)
    profile = None if hw else Profile((1, 3, 64, 64), (2, 3, 64, 128), (4, 3, 128, 128))
    built = make(trt, model, workspace_gb=1, profile=profile)
    assert len(built.plan) > 1000


def test_every_error_of_the_parser_is_printed(tmp_path, capsys):
    trt = rtx()
    with pytest.raises(InputError, match="`onnx` bad.onnx: TensorRT-RTX .* cannot parse it"):
        read_network(trt, "bad.onnx", b"garbage")
    assert "[TensorRT-RTX parser]" in capsys.readouterr().out


def test_plugin_of_the_past(tmp_path):
    assert not rtx().has_plugin("EfficientNMS_ONNX_TRT")


@pytest.fixture
def fake(monkeypatch):
    """fake("v85") -> a Tensorrt, with pycuda's stand-in as the GPU."""

    def load(version):
        for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "pycuda")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(FAKES))
        monkeypatch.syspath_prepend(str(FAKES / version))
        importlib.invalidate_caches()
        return api.import_tensorrt()

    yield load
    for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "pycuda")]:
        sys.modules.pop(name)


def open_gpu():
    from utils.trt.memory import PycudaMemory

    return PycudaMemory(0)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_version_can(fake, version):
    trt = fake(version)
    assert trt.typed == (version == "v11") and trt.calibrates == (version != "v11")
    assert trt.has_plugin("EfficientNMS_ONNX_TRT") == (version != "v11")
    assert trt.name == "TensorRT"


def test_too_old(fake, monkeypatch):
    trt = fake("v85")
    monkeypatch.setattr(trt.module, "__version__", "8.4.1.5")
    with pytest.raises(InputError, match="TensorRT 8.4.1.5 is too old: 8.5"):
        api.Tensorrt(trt.module)


def test_not_installed(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install -r requirements-tensorrt.txt.* JetPack"):
        api.import_tensorrt()


@pytest.mark.parametrize("version", VERSIONS)
def test_engine_computes_what_the_onnx_does(fake, tmp_path, version):
    trt = fake(version)
    path = make_small_net(tmp_path / "x.onnx")
    engine = Engine(trt, make(trt, onnx.load(str(path))).plan, open_gpu())
    for images in (IMAGES, IMAGES[:, ::-1].astype(np.float64)):  # casts to the engine's type
        same(engine({"input": images})["output"], run_onnx(path, images.astype(np.float32))[0])
    assert [t.name for t in engine.inputs] == ["input"]
    assert engine.outputs[0].shape == (1, 64, 57) and engine.outputs[0].dtype == np.float32
    with pytest.raises(ValueError, match="takes 1x3x64x64, got 2x3x64x64"):
        engine({"input": np.concatenate([IMAGES, IMAGES])})


def test_buffers_grow_and_are_reused(fake, tmp_path):
    trt = fake("v10")
    path = make_small_net(tmp_path / "x.onnx", None, None)
    profile = Profile((1, 3, 64, 64), (1, 3, 64, 64), (3, 3, 128, 128))
    plan = make(trt, onnx.load(str(path)), profile=profile).plan
    memory = open_gpu()
    sizes = []
    allocate = memory.allocate
    memory.allocate = lambda size: sizes.append(size) or allocate(size)
    engine = Engine(trt, plan, memory)
    assert engine.profile == profile
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 64, 64), (3, 3, 128, 64), (2, 3, 64, 128), (3, 3, 128, 64)):
        images = rng.random(shape, np.float32)
        same(engine({"input": images})["output"], run_onnx(path, images)[0])
    assert len(sizes) == 4  # input and output, twice
    with pytest.raises(ValueError, match="1x3x64x64 to 3x3x128x128, got 1x3x192x64"):
        engine({"input": rng.random((1, 3, 192, 64), np.float32)})
    engine({"input": images})  # and goes on


def test_each_thread_has_the_context(fake, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    trt = fake("v85")
    path = make_small_net(tmp_path / "x.onnx")
    engine = Engine(trt, make(trt, onnx.load(str(path))).plan, open_gpu())
    batches = np.random.default_rng(0).random((8, 1, 3, 64, 64), np.float32)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda b: engine({"input": b})["output"], batches))
    for batch, output in zip(batches, found):
        same(output, run_onnx(path, batch)[0])


def test_graphs_are_recorded_at_the_third_call_and_dropped_with_the_shape(fake, tmp_path):
    trt = fake("v10")
    path = make_small_net(tmp_path / "x.onnx", None, None)
    profile = Profile((1, 3, 64, 64), (1, 3, 64, 64), (2, 3, 64, 64))
    memory = open_gpu()
    captured = []

    def capture(work):
        captured.append(1)
        return work

    memory.capture = capture
    engine = Engine(
        trt, make(trt, onnx.load(str(path)), profile=profile).plan, memory, cuda_graph=True
    )
    one, two = IMAGES, np.concatenate([IMAGES, IMAGES])
    counts = []
    for images in (one, one, one, one, two, one, one, one):
        same(engine({"input": images})["output"], run_onnx(path, images)[0])
        counts.append(len(captured))
    assert counts == [0, 0, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_that_do_not_fit(fake, tmp_path, version):
    trt = fake(version)
    plan = make(trt, onnx.load(str(make_small_net(tmp_path / "x.onnx")))).plan
    other = plan.replace(trt.version.encode(), trt.version[::-1].encode())
    for bad in (b"", b"garbage" * 9, plan[: len(plan) // 2], other):
        with pytest.raises(InputError, match="not an engine that TensorRT .* on Xavier can run"):
            Engine(trt, bad, open_gpu())


def test_precision_flags_and_what_stays_fp32(fake, tmp_path):
    trt = fake("v85")
    from trt_fake import engine_facts

    model = onnx.load(str(make_small_net(tmp_path / "x.onnx")))
    facts = engine_facts(make(trt, model).plan)
    assert facts["flags"] == [] and facts["precisions"] == {}
    names = ["decode/rows", "decode/m1", "head_out"]
    facts = engine_facts(make(trt, model, fp16=True, float32=names, workspace_gb=2).plan)
    assert facts["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    bound = sorted(facts["precisions"])  # with the shuffle of the constant that decode/m1 reads
    assert bound[1:] == ["decode/m1", "decode/rows", "head"] and "Broadcast" in bound[0]
    assert set(facts["precisions"].values()) == {"FLOAT"}
    assert facts["workspace"] == 2 << 30


def test_every_float_of_the_decode_is_bound(tmp_path):
    """Of the layers a real parser makes: what no name leads to is a constant or a cast."""
    from utils.export.engine import precise_names
    from utils.graph.nms import Nms, add_nms

    trt = rtx()
    model = onnx.load(str(make_small_net(tmp_path / "x.onnx")))
    add_nms(model, 1, Nms("static", topk=8, candidates=16, steps=3))
    network = read_network(trt, "x.onnx", model.SerializeToString())
    layers = [network.definition.get_layer(i) for i in range(network.definition.num_layers)]
    named = precision.named_layers(layers, precise_names(model, [])[0])
    bound = {n.name for n in named + precision.broadcasts(layers, named)}
    assert len(bound) > len(named)  # there are shuffles that no name leads to
    first = min(i for i, n in enumerate(layers) if n.name in bound)
    rest = [n for n in layers[first:] if n.name not in bound]
    kinds = {n.type.name for n in rest if n.get_output(0).dtype.name in precision.FLOATS}
    assert kinds <= {"CONSTANT", "CAST"}, [(n.name, n.type.name) for n in rest]


def test_no_gpu(fake, tmp_path, monkeypatch):
    from utils.trt.memory import open_memory

    trt = fake("v85")
    monkeypatch.setenv("FAKE_NO_CUDA", "1")
    model = onnx.load(str(make_small_net(tmp_path / "x.onnx")))
    with pytest.raises(InputError, match="is there a CUDA GPU and a driver"):
        make(trt, model)
    with pytest.raises(InputError, match="needs a CUDA GPU .* pip install pycuda"):
        open_memory(0)
