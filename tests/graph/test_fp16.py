import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto  # noqa: E402

from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils.graph.analysis import Graph  # noqa: E402
from utils.graph.fp16 import has_qdq, is_fp16, to_fp16  # noqa: E402

IMAGES = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)


def load(tmp_path, **settings):
    return onnx.load(str(make_small_net(tmp_path / "x.onnx", **settings)))


@pytest.mark.parametrize("batch, hw", [(1, (64, 64)), (None, None)])
def test_computes_the_same_in_fp16(tmp_path, batch, hw):
    model = load(tmp_path, batch=batch, hw=hw)
    before = run_onnx(model, IMAGES)[0]
    assert not is_fp16(model)
    to_fp16(model)
    onnx.checker.check_model(model)
    after = run_onnx(model, IMAGES)[0]
    assert is_fp16(model) and after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < 5e-3 * np.abs(before).max()


def test_decode_stays_fp32(tmp_path):
    model = load(tmp_path)
    to_fp16(model)
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    }
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type == "Cast":
            continue
        early = node.name == "decode/rows"  # moves numbers about, before any arithmetic
        wide = id(node) in graph.decode and not early
        wanted = TensorProto.FLOAT if wide else TensorProto.FLOAT16
        assert all(types.get(o, wanted) == wanted for o in node.output), node.name
    assert types["input/half"] == TensorProto.FLOAT16
    entry, out = model.graph.input[0], model.graph.output[0]
    assert entry.type.tensor_type.elem_type == out.type.tensor_type.elem_type == TensorProto.FLOAT


def test_fp16_input(tmp_path):
    model, other = load(tmp_path), load(tmp_path)
    to_fp16(model, fp16_input=True)
    to_fp16(other)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    found, wanted = run_onnx(model, IMAGES.astype(np.float16))[0], run_onnx(other, IMAGES)[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=5e-3)


def test_coordinates_keep_their_fraction(tmp_path):
    """A decode in FP16 would have steps of 1 px above 1024."""
    from onnx import numpy_helper

    model = load(tmp_path)
    for constant in model.graph.initializer:
        if constant.name == "sixty":
            constant.CopyFrom(numpy_helper.from_array(np.float32(2560), "sixty"))
    before = run_onnx(model, IMAGES)[0][..., :2]
    to_fp16(model)
    after = run_onnx(model, IMAGES)[0][..., :2]
    assert before.max() > 1024 and np.any(after % 1 > 0)
    assert np.abs(after - before).max() < 3


def test_fp16_and_back_to_back(tmp_path):
    model = load(tmp_path)
    to_fp16(model)
    once = model.SerializeToString()
    to_fp16(model)
    assert model.SerializeToString() == once and not has_qdq(model)


def test_large_values_stay_finite(tmp_path):
    from onnx import numpy_helper

    model = load(tmp_path)
    for constant in model.graph.initializer:
        if constant.name == "head.bias":
            value = numpy_helper.to_array(constant).copy()
            value[0] = 1e6
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    to_fp16(model)
    assert np.isfinite(run_onnx(model, IMAGES)[0]).all()
