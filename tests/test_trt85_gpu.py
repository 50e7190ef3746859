"""Every flow on a real TensorRT and GPU: build, detect, test. Skipped where either is missing.

    python -m pytest tests/test_trt85_gpu.py      # about 8 minutes with TensorRT 8.5.3 on an H100

A network of a dozen layers, so that a build takes seconds; what it computes is compared with ONNX
Runtime on the same file. Written for TensorRT 8.5 to 10; engines run through PyTorch or pycuda.
"""

import json
import shutil

import cv2
import numpy as np
import pytest

tensorrt = pytest.importorskip("tensorrt", reason="no TensorRT")
if not hasattr(tensorrt, "Builder") or not hasattr(tensorrt, "IInt8MinMaxCalibrator"):
    pytest.skip("no TensorRT with calibrators", allow_module_level=True)
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.scripts import run_inside  # noqa: E402
from tests.small_net import make_small_net  # noqa: E402
from utils.errors import InputError  # noqa: E402

try:
    from utils.trt.memory import open_memory

    open_memory(0)
except InputError as e:
    pytest.skip("no GPU: %s" % e, allow_module_level=True)

from onnx import numpy_helper  # noqa: E402

from utils.graph.nms import Nms, add_nms  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402
from utils.runtime.predictor import Predictor  # noqa: E402

SIZE = 64
TOPK = 20
GAIN = {"head.weight": 12, "fuse.weight": 2, "depth.weight": 2}
PRECISIONS = ("fp32", "fp16", "implicit", "implicit-cache", "implicit-ours", "explicit")
FORMS = ("raw", "efficientnms", "static")
BATCHES = ("1", "4", "dynamic")
tensorrt.init_libnvinfer_plugins(tensorrt.Logger(tensorrt.Logger.ERROR), "")  # registers them
HAS_PLUGIN = any(
    creator.name == "EfficientNMS_ONNX_TRT"
    for creator in tensorrt.get_plugin_registry().plugin_creator_list
)


def good(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def bad(done, *words):
    """It failed with exit code 1 and one line that holds the words."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [n for n in done.stderr.replace("\r", "\n").split("\n") if n.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a data yaml, and a folder for each network."""
    root = tmp_path_factory.mktemp("trt")
    (root / "data" / "images").mkdir(parents=True)
    (root / "data" / "labels").mkdir()
    names = []
    for i in range(10):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 255, (48, 64, 3), np.uint8)
        (root / "data" / "images" / ("%d.png" % i)).write_bytes(
            cv2.imencode(".png", image)[1].tobytes()
        )
        label = "0 0.5 0.5 0.5 0.5" + " 0.5 0.5 2" * 17
        (root / "data" / "labels" / ("%d.txt" % i)).write_text(label + "\n")
        names.append("images/%d.png" % i)
    (root / "data" / "val.txt").write_text("\n".join(names) + "\n")
    (root / "data.yaml").write_text("val: data/val.txt\nnc: 1\nnames: [person]\n")
    return root


def images_of(place):
    return [cv2.imread(str(p)) for p in sorted((place / "data" / "images").iterdir())]


_built = {}


def network(place, form, batch):
    """An ONNX of a form and batch; made once."""
    folder = place / ("%s-%s" % (form, batch))
    path = folder / "net.onnx"
    if path.is_file():
        return path
    folder.mkdir(exist_ok=True)
    size = {"batch": None, "hw": None} if batch == "dynamic" else {"batch": int(batch)}
    # TensorRT compiles kernels of its own for each SiLU, which takes minutes: one network must do
    make_small_net(path, relu=form != "silu", **{"hw": (SIZE, SIZE), **size})
    model = onnx.load(str(path))
    for constant in model.graph.initializer:  # so that images have a dozen poses, all different
        if constant.name in GAIN:
            value = numpy_helper.to_array(constant) * np.float32(GAIN[constant.name])
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    onnx.save(model, str(path))
    if form in FORMS[1:]:
        if batch == "dynamic":
            rows = model.graph.output[0].type.tensor_type.shape.dim[1]
            rows.dim_param = "predictions"
        used = add_nms(model, 1, Nms(form, 0.3, 0.45, TOPK, candidates=64))
        for key, value in (("conf_thres", used.conf_thres), ("iou_thres", used.iou_thres),
                           ("topk", used.topk), ("nms", used.form)):  # fmt: skip
            entry = model.metadata_props.add()
            entry.key, entry.value = key, json.dumps(value)
        onnx.save(model, str(path))
    return path


def build(place, form, batch, precision):
    """(engine, the ONNX that it computes); built once."""
    key = form, batch, precision
    if key in _built:
        return _built[key]
    source = network(place, form, batch)
    folder = source.parent / precision
    folder.mkdir()
    path = folder / "net.onnx"
    shutil.copy(str(source), str(path))
    caches = folder / "caches"
    flags = ["--onnx", path, "--cache_dir", caches, "--timing-cache", place / "all.timing"]
    calibration = ["--calib_path", place / "data" / "images", "--calib_num", 8, "--calib_batch", 4,
                   "--calib_imgsz", SIZE]  # fmt: skip
    if batch == "dynamic":
        flags += ["--dynamic", "--max-batch", 4, "--opt-size", SIZE]
    reference, suffix = path, "-INT8"
    if precision in ("fp32", "fp16"):
        suffix = "" if precision == "fp32" else "-FP16"
        flags += [] if precision == "fp32" else ["--fp16", "--round", "nearest"]
    elif precision == "implicit":
        flags += ["--int8", *calibration]
    elif precision == "implicit-cache":  # TensorRT's own, of the build before
        build(place, form, batch, "implicit")
        caches.mkdir()
        shutil.copy(str(source.parent / "implicit" / "caches" / "net.cache"), str(caches))
        flags += ["--int8"]
    else:
        good(run_inside("models/export_INT8.py", "--onnx", path, "--cache_dir", caches,
                        *calibration))  # fmt: skip
        if precision == "explicit":
            reference = folder / "net-INT8.onnx"
            flags[1] = reference
        else:
            flags += ["--int8"]
    out = good(run_inside("models/export_TRT.py", "--layers", *flags))
    assert "reformat" in out
    _built[key] = folder / ("net%s.trt" % suffix), reference
    return _built[key]


def matched(found, wanted, px, score):
    """Share of the poses of both that the other has within `px` and `score`."""
    good = total = 0
    for mine, theirs in zip(found, wanted):
        for a, b in ((mine, theirs), (theirs, mine)):
            for box, s, points in zip(a.boxes, a.scores, a.keypoints):
                total += 1
                near = np.abs(b.boxes - box).max(1) < px
                near &= np.abs(b.scores - s) < score
                near &= np.abs(b.keypoints - points)[..., :2].max((1, 2)) < px
                good += bool(near.any())
    return good / total


# (px, score, share of the poses): how near an engine is to ONNX Runtime on the same file
LIMITS = {"fp32": (1e-2, 1e-4, 1.0), "fp16": (0.5, 5e-3, 0.95), "explicit": (3.0, 0.05, 0.8)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("form", FORMS)
def test_builds_and_agrees_with_onnx_runtime(place, form, batch, precision):
    if form == "efficientnms" and not HAS_PLUGIN:
        pytest.skip("this TensorRT has no such plugin")
    check_agreement(place, form, batch, precision)


def test_silu(place):
    """The activation of the real networks, in the precision that does most with it."""
    check_agreement(place, "silu", "1", "explicit")


def check_agreement(place, form, batch, precision):  # noqa: PLR0917
    engine, reference = build(place, form, batch, precision)
    images = images_of(place)
    limits = {"conf_thres": 0.3, "iou_thres": 0.45, "max_det": TOPK}
    backend = load_backend(str(engine), "0")
    assert backend.end2end == (form in FORMS[1:])
    assert backend.precision == {"fp32": "FP32", "fp16": "FP16"}.get(precision, "INT8")
    predictor = Predictor(backend, (SIZE, SIZE), **limits)
    found = predictor(images) + predictor(images)  # plain, then as a CUDA graph
    assert backend.engine.graph_refused is None
    wanted = Predictor(load_backend(str(reference), "cpu"), (SIZE, SIZE), **limits)(images)
    assert sum(len(p.scores) for p in wanted) > 50
    if precision in LIMITS:
        *limits, share = LIMITS[precision]
        assert matched(found, wanted + wanted, *limits) >= share
    else:
        assert all(np.isfinite(p.keypoints).all() for p in found)
        assert sum(len(p.scores) for p in found) > 50


@pytest.mark.parametrize("precision", ("fp32", "fp16", "implicit", "explicit"))
@pytest.mark.parametrize("form", FORMS)
def test_detects_and_tests(place, form, precision):
    if form == "efficientnms" and not HAS_PLUGIN:
        pytest.skip("this TensorRT has no such plugin")
    engine, _ = build(place, form, "1", precision)
    out = good(run_inside("detect_multi_backend.py", "--weights", engine, "--device", "0",
                          "--source", place / "data" / "images", "--project", place / "runs",
                          "--conf-thres", 0.3))  # fmt: skip
    assert "poses" in out
    good(run_inside("test_multi_backend.py", "--weights", engine, "--device", "0", "--data",
                    place / "data.yaml", "--project", place / "runs", "--no-report"))  # fmt: skip
    out = good(
        run_inside(
            "test_multi_backend.py",
            "--weights",
            engine,
            "--device",
            "0",
            "--data",
            place / "data.yaml",
            "--project",
            place / "runs",
            "--task",
            "speed",
        )
    )
    assert "engine" in out


def rename(model, old, new):
    """Another name for the tensors, nodes and constants that begin with `old`."""

    def changed(name):
        return new + name[len(old) :] if name.startswith(old) else name

    for node in model.graph.node:
        node.name = changed(node.name)
        node.input[:] = [changed(n) for n in node.input]
        node.output[:] = [changed(n) for n in node.output]
    for constant in model.graph.initializer:
        constant.name = changed(constant.name).replace("/scale", "_s")
    for node in model.graph.node:
        node.input[:] = [n.replace("/scale", "_s") for n in node.input]


def test_pairs_of_another_tool(place):
    """Q/DQ pairs whose names are not ours."""
    _, reference = build(place, "raw", "1", "explicit")
    model = onnx.load(str(reference))
    rename(model, "int8/", "quantizer_")
    folder = place / "foreign"
    folder.mkdir()
    onnx.save(model, str(folder / "other.onnx"))
    good(run_inside("models/export_TRT.py", "--onnx", folder / "other.onnx"))
    images = images_of(place)
    found, wanted = (
        Predictor(load_backend(str(path), device), (SIZE, SIZE), 0.3, iou_thres=0.45)(images)
        for path, device in ((folder / "other-INT8.trt", "0"), (reference, "cpu"))
    )
    *limits, share = LIMITS["explicit"]
    assert matched(found, wanted, *limits) >= share


def test_what_is_no_engine_of_this_machine(place):
    engine, _ = build(place, "raw", "1", "fp32")
    folder = place / "bad"
    folder.mkdir()
    flags = ["--source", place / "data" / "images", "--device", "0", "--nosave",
             "--project", place / "runs"]  # fmt: skip
    data = engine.read_bytes()
    for name, content in (("cut", data[: len(data) // 2]), ("empty", b""), ("text", b"hello" * 99),
                          ("newer", data[:8] + bytes([data[8] ^ 1]) + data[9:])):  # fmt: skip
        path = folder / (name + ".trt")
        path.write_bytes(content)
        bad(run_inside("detect_multi_backend.py", "--weights", path, *flags), str(path))
    info = json.loads((engine.parent / (engine.name + ".json")).read_text())
    for key, value in (("gpu", "NVIDIA Nowhere"), ("version", "8.4.1.5")):
        path = folder / ("%s.trt" % key)
        path.write_bytes(data)
        (folder / ("%s.trt.json" % key)).write_text(json.dumps({**info, key: value}))
        bad(run_inside("detect_multi_backend.py", "--weights", path, *flags), value, "build it")


def test_what_the_builder_cannot_have(place):
    path = network(place, "raw", "1")
    folder = place / "refused"
    (folder / "caches").mkdir(parents=True)
    shutil.copy(str(path), str(folder / "net.onnx"))
    (folder / "caches" / "net.cache").write_text("TRT-8503-Nothing\ninput: 3c010a14\n")
    bad(run_inside("models/export_TRT.py", "--onnx", folder / "net.onnx", "--int8", "--cache_dir",
                   folder / "caches"), "net.cache")  # fmt: skip
    (folder / "caches" / "net.cache").write_text("no header\n")
    bad(run_inside("models/export_TRT.py", "--onnx", folder / "net.onnx", "--int8", "--cache_dir",
                   folder / "caches"), "net.cache")  # fmt: skip
    assert not list(folder.glob("*.trt"))
