import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import numpy_helper  # noqa: E402

from tests.small_net import make_small_net  # noqa: E402
from utils.graph.analysis import Graph  # noqa: E402
from utils.quantization import activation_ranges, qdq, refit  # noqa: E402
from utils.quantization.activation_ranges import open_session, with_outputs  # noqa: E402

RNG = np.random.default_rng(0)
IMAGES = list(RNG.random((6, 1, 3, 64, 64), np.float32))
OTHERS = list(RNG.random((4, 1, 3, 64, 64), np.float32))


def load(tmp_path, **settings):
    return onnx.load(str(make_small_net(tmp_path / "x.onnx", **settings)))


def quantised(model, factor=1.0):
    """(copy with pairs, plan); ranges `factor` times what they should be."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    plan = qdq.make_plan(Graph(copy))
    amax = activation_ranges.choose(
        activation_ranges.collect(model, IMAGES, plan.tensors), "MinMax"
    )
    amax = {name: value * factor for name, value in amax.items()}
    qdq.insert(copy, plan, qdq.shared_scales(plan, amax))
    return copy, plan


def values(model, name, images):
    session = open_session(with_outputs(model, [name]))
    return np.concatenate([session.run([name], {"input": image})[0] for image in images])


def test_layers_come_nearer_to_what_they_were(tmp_path):
    original = load(tmp_path)
    plain, plan = quantised(original, 0.5)  # half the range is cut off
    fitted, plan = quantised(original, 0.5)
    refit.refit(fitted, plan, original, images=IMAGES)
    onnx.checker.check_model(fitted)
    assert [n.op_type for n in fitted.graph.node] == [n.op_type for n in plain.graph.node]
    name = plan.graph.head[0].output[0]
    wanted = values(original, name, OTHERS)
    before, after = (values(m, name, OTHERS) - wanted for m in (plain, fitted))
    assert np.square(after).mean() < 0.7 * np.square(before).mean()
    assert abs(after.mean()) < 0.3 * abs(before.mean())
    # scales are those of the weights that are there now
    constants = {c.name: numpy_helper.to_array(c) for c in fitted.graph.initializer}
    for conv in plan.convs:
        weights = constants[qdq.without_pair(conv.input[1])]
        scale = constants[conv.input[1].replace("/dq", "/scale")]
        np.testing.assert_array_equal(scale, qdq.weight_scales(weights))


def test_steps_make_what_the_whole_makes(tmp_path):
    model = load(tmp_path)
    names = ["stem_out", "small_out", "fuse_out"]
    steps = refit.Steps(model, IMAGES[:2], names)
    for name in names:
        found = [found[name] for found in steps.run([name])]
        np.testing.assert_allclose(
            np.concatenate(found), values(model, name, IMAGES[:2]), atol=1e-5
        )
    assert steps.known == [{}, {}]


def moments(x, y):
    half = len(x) // 2
    return [refit.measure(x[:half], y[:half]), refit.measure(x[half:], y[half:])]


def test_fit_undoes_a_gain_and_leaves_noise():
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((2000, 8)) + 1, rng.standard_normal((3, 8))
    found = refit.fitted(weights, moments(0.8 * x, x @ weights.T + 5))
    np.testing.assert_allclose(found, weights / 0.8, rtol=0.02)
    noise = rng.standard_normal((2000, 3))
    np.testing.assert_array_equal(refit.fitted(weights, moments(x, x @ weights.T + noise)), weights)


def test_nothing_to_look_at(tmp_path):
    original = load(tmp_path)
    model, plan = quantised(original)
    before = model.SerializeToString()
    refit.refit(model, plan, original, images=[])
    assert model.SerializeToString() == before
    refit.refit(model, plan, original, images=IMAGES[:1])  # no other half: biases alone
    weights = [qdq.original_weights(plan, conv) for conv in plan.convs]
    again = [qdq.original_weights(plan, conv) for conv in quantised(original)[1].convs]
    assert all((a == b).all() for a, b in zip(weights, again))
