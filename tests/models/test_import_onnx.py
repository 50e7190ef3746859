"""Files of other exporters through import_onnx.py, and from there on as our own."""

import json

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.foreign_net import make_foreign  # noqa: E402
from tests.models.test_export_TRT import bad, good, predictions, run  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.export.onnx_import import ImportConfig, import_onnx  # noqa: E402
from utils.graph.analysis import Graph  # noqa: E402
from utils.pose.nms import detections_to_poses, raw_to_poses  # noqa: E402
from utils.quantization import adaptive_rounding  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402

SCRIPT = "models/import_onnx.py"


@pytest.fixture
def folder(tmp_path):
    """Images of gradients and noise."""
    target = tmp_path / "images"
    target.mkdir()
    for i in range(4):
        rng = np.random.default_rng(i)
        small = rng.integers(0, 255, (12, 16, 3), np.uint8)
        image = cv2.resize(small, (128, 96), interpolation=cv2.INTER_CUBIC)
        (target / ("%d.png" % i)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return target


def pixels(batch=1, hw=(128, 128)):
    return np.random.default_rng(5).random((batch, 3, *hw)).astype(np.float32)


CASES = [
    {},
    {"nc": 3, "kpt_shape": (21, 2)},
    {"hw": None, "batch": None},
    {"hw": None, "batch": None, "kpt_shape": (4, 2), "opset": 20},
    {"half": True, "keep_order": False},
    {"batch": 2},
    {"form": "rows", "nc": 2},
    {"opset": 17},
    {"opset": 18},
    {"opset": 20},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_are_those_of_the_original(tmp_path, case):
    path = make_foreign(tmp_path / "x.onnx", **case)
    out = good(run(None, SCRIPT, "--onnx", path))
    assert "the original's, bit for bit" in out
    target = tmp_path / "x-imported.onnx"
    ours, original = load_backend(str(target), "cpu"), load_backend(str(path), "cpu")
    assert ours.layout is None and ours.embedded_nms is None
    assert (ours.names, ours.nkpt, ours.stride) == (original.names, original.nkpt, 16)
    assert ours.input_shape == original.input_shape
    for batch, hw in ((case.get("batch", 1) or 2, case.get("hw", (128, 128)) or (96, 128)),):
        images = pixels(batch, hw)
        np.testing.assert_array_equal(ours(images), original(images))
    model = onnx.load(str(target))
    assert [o.name for o in model.graph.output] == ["output"]
    assert [i.name for i in model.graph.input] == ["input"]
    kinds = [n.op_type for n in model.graph.node]
    assert "Constant" not in kinds and kinds.count("Identity") == 1  # the one that was the output
    graph = Graph(model)  # each convolution has a bias of its own
    assert all(len(graph.readers[conv.input[2]]) == 1 for conv in graph.convs)
    assert len(graph.head) == 6  # two levels of box, class, points; the integral is no head


@pytest.mark.parametrize("form", ["static", "efficientnms"])
@pytest.mark.parametrize("case", [{"nc": 2, "opset": 20}, {"hw": None, "batch": None}], ids=str)
def test_nms_inside_equals_nms_outside(tmp_path, form, case):
    path = make_foreign(tmp_path / "x.onnx", **case)
    out = good(run(None, SCRIPT, "--onnx", path, "--end2end", "--nms", form, "--topk-all", 50,
                   "--conf-thres", 0.3))  # fmt: skip
    assert "finds what NMS outside finds" in out
    inside = load_backend(str(tmp_path / "x-imported-NMS.onnx"), "cpu")
    outside = load_backend(str(path), "cpu")
    images = pixels()
    found = detections_to_poses(inside(images), max_det=50)[0]
    wanted = raw_to_poses(outside(images), outside.nc, 0.3, iou_thres=0.45, max_det=50)[0]
    assert wanted.count > 3
    for a, b in zip(found, wanted):
        np.testing.assert_array_equal(a, b)


def test_half_and_simplify(tmp_path):
    pytest.importorskip("onnxslim")
    path = make_foreign(tmp_path / "x.onnx", seed=1)
    out = good(run(None, SCRIPT, "--onnx", path, "--half", "--simplify"))
    assert "FP16 weights" in out and "confidences within" in out
    ours, original = (load_backend(str(tmp_path / n), "cpu") for n in ("x-imported.onnx", "x.onnx"))
    assert ours.precision == "FP16" and ours.dtype == np.float16
    images = pixels()
    np.testing.assert_allclose(ours(images), original(images), atol=0.3)


def test_weights_are_rounded_on_the_image_that_is_named(tmp_path, folder, monkeypatch, capsys):
    """Also where data/images was not copied along."""
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(adaptive_rounding, "SAMPLE_IMAGES", tmp_path / "none")
    path = make_foreign(tmp_path / "x.onnx", seed=1)
    import_onnx(ImportConfig(str(path), half=True, check_image=str(folder / "0.png")))
    assert "so that errors cancel" in capsys.readouterr().out
    with pytest.raises(InputError, match="no images in .*none"):
        import_onnx(ImportConfig(str(path), half=True))


def test_weights_for_a_fixed_batch_are_rounded_to_the_nearest_and_a_line_says_so(tmp_path, capsys):
    path = make_foreign(tmp_path / "x.onnx", seed=1, batch=2)
    import_onnx(ImportConfig(str(path), half=True))
    out = capsys.readouterr().out
    assert "to the nearest FP16" in out and "cancel" not in out


def test_int8(tmp_path, folder):
    """Head and integral stay in floating point, 95 % of the work is INT8, scores move little."""
    path = make_foreign(tmp_path / "x.onnx")
    good(run(None, SCRIPT, "--onnx", path))
    flags = ["--calib_path", folder, "--calib_num", 4, "--cache_dir", tmp_path / "caches"]
    out = good(run(None, "models/export_INT8.py", "--onnx", tmp_path / "x-imported.onnx", *flags))
    share = float(out.split(" % of the multiplications")[0].split()[-1])
    assert share >= 95
    target = tmp_path / "x-imported-INT8.onnx"
    model = onnx.load(str(target))
    mean = next(n for n in model.graph.node if n.op_type == "Softmax" and "axis" in str(n.attribute)
                and n.attribute[0].i == 1)  # fmt: skip
    readers = [n for n in model.graph.node if mean.output[0] in n.input]
    assert [n.op_type for n in readers] == ["Conv"]  # the integral over the bins, no pair between
    int8, exact = load_backend(str(target), "cpu"), load_backend(str(path), "cpu")
    assert int8.precision == "INT8"
    a, b = int8(pixels()), exact(pixels())
    assert np.corrcoef(a[0, :, 5], b[0, :, 5])[0, 1] > 0.98
    points = np.abs(a - b)[0, :, 6:].reshape(-1, 17, 3)[..., :2]
    assert np.median(points) < 1.0


@pytest.mark.parametrize("version", ["v85", "v11"])
def test_engines(tmp_path, folder, version):
    path = make_foreign(tmp_path / "x.onnx", kpt_shape=(21, 2))
    good(run(None, SCRIPT, "--onnx", path, "--end2end", "--nms", "static", "--conf-thres", 0.2))
    good(run(version, "models/export_TRT.py", "--onnx", tmp_path / "x-imported-NMS.onnx"))
    engine = tmp_path / "x-imported-NMS.trt"
    info = json.loads((tmp_path / "x-imported-NMS.trt.json").read_text())
    assert info["nkpt"] == 21 and info["stride"] == 16 and info["names"] == ["person"]
    _, wanted = predictions(None, tmp_path / "x.onnx", folder, tmp_path / "onnx")
    _, found = predictions(version, engine, folder, tmp_path / "out")
    assert 0 < len(found) == len(wanted)


def test_real_tensorrt_rtx(tmp_path, folder):
    pytest.importorskip("tensorrt_rtx")
    path = make_foreign(tmp_path / "x.onnx", nc=2, opset=18)
    good(run(None, SCRIPT, "--onnx", path, "--end2end", "--nms", "static"))
    source = tmp_path / "x-imported-NMS.onnx"
    good(run(None, "models/export_INT8.py", "--onnx", source, "--calib_path", folder,
             "--calib_num", 4, "--cache_dir", tmp_path, "--no-bias-correction"))  # fmt: skip
    good(run(None, "models/export_TRT.py", "--onnx", tmp_path / "x-imported-NMS-INT8.onnx"))


@pytest.mark.parametrize(
    "case, words",
    [
        ({"metadata": {"task": "detect"}}, ["task detect", "take the pose model"]),
        ({"metadata": {"task": "segment"}, "extra_output": True}, ["task segment"]),
        ({"metadata": {"task": "classify"}}, ["task classify"]),
        ({"extra_output": True}, ["2 outputs (output0, output1)"]),
        ({"metadata": {"kpt_shape": "[5, 3]"}}, ["kpt_shape [5, 3]", "20 values"]),
        ({"metadata": {"names": "{0: 'a', 1: 'b'}"}}, ["2 classes", "57 values"]),
        ({"form": "nms"}, ["has NMS inside", "nms=False"]),
        ({"opset": 21}, ["opset 21, expected 13 to 20"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_imported_is_one_line(tmp_path, case, words):
    path = make_foreign(tmp_path / "x.onnx", **case)
    bad(run(None, SCRIPT, "--onnx", path), *words)
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


def test_files_that_are_none(tmp_path):
    path = tmp_path / "x.onnx"
    bad(run(None, SCRIPT, "--onnx", path), "no such file")
    path.write_bytes(b"garbage")
    bad(run(None, SCRIPT, "--onnx", path), "--onnx", "cannot load it")
    bad(run(None, SCRIPT, "--onnx", tmp_path / "x.pt"), "expected an .onnx")
    make_foreign(path)
    bad(run(None, SCRIPT, "--onnx", path, "--nms", "static"), "--nms goes with --end2end")
    good(run(None, SCRIPT, "--onnx", path))
    bad(run(None, SCRIPT, "--onnx", tmp_path / "x-imported.onnx"), "our own layout already")


def test_a_cycle_is_one_line(tmp_path):
    path = make_foreign(tmp_path / "x.onnx")
    model = onnx.load(str(path))
    first = next(n for n in model.graph.node if n.op_type == "Sigmoid")
    first.input[0] = model.graph.node[-2].output[0]
    onnx.save(model, str(path))
    bad(run(None, SCRIPT, "--onnx", path), "cannot load it")


@pytest.mark.parametrize("name", ["input", "output"])
def test_a_tensor_inside_has_the_name_of_an_end(tmp_path, name):
    path = make_foreign(tmp_path / "x.onnx")
    model = onnx.load(str(path))
    old = next(n for n in model.graph.node if n.op_type == "Softmax").output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, one in enumerate(names):
                names[i] = name if one == old else one
    onnx.save(model, str(path))
    assert "bit for bit" in good(run(None, SCRIPT, "--onnx", path))
