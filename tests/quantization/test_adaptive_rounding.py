import io

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import numpy_helper  # noqa: E402

from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.export import onnx_export  # noqa: E402
from utils.graph.analysis import Graph  # noqa: E402
from utils.graph.fp16 import to_fp16  # noqa: E402
from utils.quantization import adaptive_rounding  # noqa: E402


def pixels(seed, hw=(64, 64)):
    """A smooth image with 8 bits a colour."""
    import cv2

    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    image = cv2.resize(small, hw[::-1], interpolation=cv2.INTER_CUBIC)
    return image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)


def load(tmp_path, **settings):
    return onnx.load(str(make_small_net(tmp_path / "x.onnx", **settings)))


def constants(model):
    return {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}


def nearest(model):
    for constant in model.graph.initializer:
        if constant.name.endswith((".weight", ".bias")):
            value = numpy_helper.to_array(constant).astype(np.float16).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))


def test_pixels_become_fp16_numbers_and_nothing_else_changes(tmp_path):
    model = load(tmp_path)
    images = pixels(0)
    assert (images.astype(np.float16) != images).mean() > 0.9
    before = run_onnx(model, images)[0]
    assert adaptive_rounding.exact_pixels(model)
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run_onnx(model, images)[0], before, rtol=1e-4, atol=1e-4)
    # the same from an input that was rounded to FP16
    rounded = images.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(run_onnx(model, rounded)[0], before, rtol=1e-4, atol=1e-4)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("half/pixels"))
    found = run_onnx(model, images)[1]
    assert np.array_equal(found, np.round(images * 255) / 256)
    assert np.array_equal(found.astype(np.float16).astype(np.float32), found)
    assert not adaptive_rounding.exact_pixels(model)  # once is enough


def test_pixels_are_left_alone_where_something_else_reads_them(tmp_path):
    model = load(tmp_path)
    model.graph.node.append(onnx.helper.make_node("Relu", ["input"], ["again"]))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("again"))
    before = model.SerializeToString()
    assert not adaptive_rounding.exact_pixels(model) and model.SerializeToString() == before


@pytest.mark.parametrize("batch, hw", [(1, (64, 64)), (2, (64, 64)), (None, None)])
def test_weights_are_fp16_numbers_and_lose_less(tmp_path, batch, hw):
    exact, fine, plain = (load(tmp_path, batch=batch, hw=hw) for _ in range(3))
    adaptive_rounding.round_weights(fine, [pixels(i) for i in range(3)])
    nearest(plain)
    moved = 0
    wanted = constants(exact)
    for name, value in constants(fine).items():
        if name.endswith((".weight", ".bias")):
            assert np.array_equal(value.astype(np.float16).astype(np.float32), value)
            assert np.abs(value - wanted[name]).max() < 2.0**-9 * np.abs(wanted[name]).max()
            moved += int((value != wanted[name].astype(np.float16)).sum())
    assert moved > 50
    errors = []
    for model in (fine, plain):
        total = 0.0
        for seed in range(10, 16):  # images that were not seen
            images = np.repeat(pixels(seed), batch or 1, 0)
            difference = run_onnx(model, images)[0] - run_onnx(exact, images)[0]
            total += float((difference[..., 6:] ** 2).mean())
        errors.append(total)
    assert errors[0] < errors[1] / 3


def test_columns_in_parts(tmp_path, monkeypatch):
    """The mean error goes from part to part, so that it cancels over all of them."""
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((4, 32, 3, 3)), 3 * rng.standard_normal(4)
    seen = (rng.random((2000, 32, 3, 3)) + 0.5).astype(np.float32)
    mean = seen.reshape(2000, -1).mean(0)
    for columns in (1152, 72):
        monkeypatch.setattr(adaptive_rounding, "COLUMNS", columns)
        q, b = adaptive_rounding._round_conv(weights, bias, seen, groups=1)
        assert np.array_equal(b, bias.astype(np.float16))
        error = (q - weights).reshape(4, -1) @ mean + (b - bias)
        plain = (weights.astype(np.float16) - weights).reshape(4, -1) @ mean
        plain += bias.astype(np.float16) - bias
        assert np.abs(error).max() < 1e-3 and np.abs(plain).max() > 3e-3


def test_a_shared_constant_is_left_alone(tmp_path):
    model = load(tmp_path)
    for node in model.graph.node:
        if node.name == "block1":
            shared = node.input[2]
    for node in model.graph.node:
        if node.name == "block2":
            node.input[2] = shared
    before = constants(model)
    adaptive_rounding.round_weights(model, [pixels(0)])
    after = constants(model)
    assert np.array_equal(before[shared], after[shared])
    assert not np.array_equal(before["block1.weight"], after["block1.weight"])


def test_without_images_nothing_is_done(tmp_path):
    model = load(tmp_path)
    before = model.SerializeToString()
    adaptive_rounding.round_weights(model, [])
    assert model.SerializeToString() == before


@pytest.mark.parametrize("terminal", [True, False])
def test_export_shows_a_bar_on_a_terminal_only(tmp_path, monkeypatch, terminal):
    model = load(tmp_path)
    count = len(Graph(model).convs)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", stream)
    onnx_export.to_fp16(model, [pixels(0)])
    shown = stream.getvalue()
    assert ("%d/%d" % (count, count) in shown) == terminal and bool(shown) == terminal


def test_a_model_that_cannot_run(tmp_path):
    model = load(tmp_path)
    model.graph.node[0].op_type = "NoSuchOp"
    model.graph.node[1].domain = "nowhere"
    with pytest.raises(InputError, match="ONNX Runtime cannot run the model"):
        adaptive_rounding.round_weights(model, [pixels(0)])


def test_prepare_and_fp16(tmp_path):
    model = load(tmp_path)
    before = run_onnx(model, pixels(5))[0]
    adaptive_rounding.prepare(model, adaptive_rounding.sample_images((64, 64)))
    weights = {c.input[1]: constants(model)[c.input[1]] for c in Graph(model).convs}
    to_fp16(model, fp16_input=True)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    typed = constants(model)
    for name, value in weights.items():  # typing them rounds nothing more
        assert np.array_equal(typed[name + "/half"].astype(np.float32), value)
    after = run_onnx(model, pixels(5).astype(np.float16))[0]
    assert np.abs(after - before).max() < 3e-3 * np.abs(before).max()


def test_sample_images(tmp_path):
    found = adaptive_rounding.sample_images((64, 128))
    assert len(found) >= 3 and {p.shape for p in found} == {(1, 3, 64, 128)}
    one = next(adaptive_rounding.SAMPLE_IMAGES.glob("*.jpg"))
    assert len(adaptive_rounding.sample_images((64, 128), [str(one)])) == len(found)
