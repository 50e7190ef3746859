import json

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tests.scripts import run_inside  # noqa: E402
from tests.small_net import make_small_net  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.export.onnx_file import read_onnx  # noqa: E402
from utils.graph.fp16 import to_fp16  # noqa: E402
from utils.graph.nms import Nms, add_nms  # noqa: E402
from utils.graph.pixels import add_pixels, reads_pixels, remove_pixels  # noqa: E402
from utils.pose import letterbox  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402
from utils.runtime.predictor import Predictor  # noqa: E402


def run(model, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


def images(count, hw):
    return np.random.default_rng(0).integers(0, 256, (count, *hw, 3), np.uint8)


def as_floats(pixels, dtype):
    boxes = [letterbox.fit(p.shape[:2], p.shape[:2]) for p in pixels]
    return letterbox.to_batch(list(pixels), boxes, pixels.shape[1:3]).astype(dtype)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("batch, hw", [(1, (64, 64)), (2, (64, 96)), (None, None)])
def test_bits_are_those_of_the_float_input(tmp_path, batch, hw, half):
    make_small_net(tmp_path / "x.onnx", batch=batch, hw=hw)
    model = onnx.load(str(tmp_path / "x.onnx"))
    if half:
        to_fp16(model, fp16_input=True)
    before = onnx.ModelProto()
    before.CopyFrom(model)
    pixels = images(batch or 3, hw or (64, 128))
    wanted = run(model, {"input": as_floats(pixels, np.float16 if half else np.float32)})
    add_pixels(model)
    onnx.checker.check_model(model)
    assert reads_pixels(model) and not reads_pixels(before)
    found = run(model, {"pixels": pixels})
    for a, b in zip(found, wanted):
        # FP16: k * fp16(1 / 255) and fp16(k / 255) may differ in the last bit
        np.testing.assert_allclose(a, b, **({"rtol": 0.02, "atol": 0.05} if half else {"rtol": 0}))
    remove_pixels(model)
    assert model == before


def test_a_uint8_input_of_others_is_refused(tmp_path):
    make_small_net(tmp_path / "x.onnx", batch=1, hw=(64, 64))
    model = onnx.load(str(tmp_path / "x.onnx"))
    add_pixels(model)
    for node in model.graph.node:
        node.name = "n" + node.name
    with pytest.raises(ValueError, match="a uint8 input that was not made by"):
        remove_pixels(model)


@pytest.fixture
def folder(tmp_path):
    """The small network with floats and with pixels, with and without NMS, and images."""
    make_small_net(tmp_path / "x.onnx", batch=1, hw=(64, 64))
    for name, nms in (("x", False), ("x-NMS", True)):
        model = onnx.load(str(tmp_path / "x.onnx"))
        if nms:
            used = add_nms(model, 1, Nms("static", 0.05, 0.45, 20, candidates=64))
            for key, value in (("conf_thres", used.conf_thres), ("iou_thres", used.iou_thres),
                               ("topk", used.topk), ("nms", used.form)):  # fmt: skip
                entry = model.metadata_props.add()
                entry.key, entry.value = key, json.dumps(value)
            onnx.save(model, str(tmp_path / (name + ".onnx")))
        add_pixels(model)
        onnx.save(model, str(tmp_path / name.replace("x", "x-uint8", 1)) + ".onnx")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images(8, (48, 64))):
        cv2.imwrite(str(tmp_path / "images" / ("%d.png" % i)), image)
    return tmp_path


def poses_of(path, conf):
    backend = load_backend(str(path), "cpu")
    found = Predictor(backend, conf_thres=conf)(list(images(3, (40, 64))))
    return backend, found


@pytest.mark.parametrize("suffix", ["", "-NMS"])
def test_detect_finds_the_same(folder, suffix):
    plain, wanted = poses_of(folder / ("x%s.onnx" % suffix), 0.05)
    backend, found = poses_of(folder / ("x-uint8%s.onnx" % suffix), 0.05)
    assert backend.takes_pixels and backend.input_shape == plain.input_shape
    assert sum(p.count for p in wanted) > 0
    for a, b in zip(found, wanted):
        for mine, theirs in zip(a, b):
            np.testing.assert_array_equal(mine, theirs)


def test_floats_for_pixels_and_pixels_for_floats(folder):
    floats = np.zeros((1, 3, 64, 64), np.float32)
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"takes \(B, H, W, 3\) uint8 BGR, got float32"):
        load_backend(str(folder / "x-uint8.onnx"), "cpu")(floats)
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\) RGB 0..1, got uint8"):
        load_backend(str(folder / "x.onnx"), "cpu")(pixels)


def test_pixels_in_planes_are_refused(tmp_path):
    """A uint8 input of another exporter, (B, 3, H, W)."""
    make_small_net(tmp_path / "x.onnx", batch=1, hw=(64, 64))
    model = onnx.load(str(tmp_path / "x.onnx"))
    cast = onnx.helper.make_node("Cast", ["planes"], ["input"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    model.graph.input[0].name = "planes"
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(InputError, match=r"\[1, 3, 64, 64\], expected \(B, H, W, 3\) of uint8"):
        load_backend(str(tmp_path / "x.onnx"), "cpu")


def test_int8_of_a_uint8_file_is_that_of_the_float_file(folder):
    for name in ("x", "x-uint8"):
        done = run_inside("models/export_INT8.py", "--onnx", folder / (name + ".onnx"),
                          "--calib_path", folder / "images", "--calib_num", 8, "--cache_dir",
                          folder / name)  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, other = (onnx.load(str(folder / (n + "-INT8.onnx"))) for n in ("x", "x-uint8"))
    assert reads_pixels(other)
    remove_pixels(other)
    assert one.graph == other.graph
    source = read_onnx(str(folder / "x-uint8-INT8.onnx"))
    assert source.pixels and source.hw == (64, 64) and source.batch == 1
