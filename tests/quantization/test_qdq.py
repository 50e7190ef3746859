import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402

from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.graph.analysis import Graph, conv_macs  # noqa: E402
from utils.quantization import activation_ranges, qdq  # noqa: E402

IMAGES = np.random.default_rng(0).random((4, 1, 3, 64, 64), np.float32)


def load(tmp_path, **settings):
    return onnx.load(str(make_small_net(tmp_path / "x.onnx", **settings)))


def ranges_of(model, method="Mse"):
    names = Graph(model).float_tensors()
    return activation_ranges.choose(activation_ranges.collect(model, list(IMAGES), names), method)


def quantised(model, keep=(), method="Mse"):
    amax = ranges_of(model, method)
    plan = qdq.make_plan(Graph(model), keep)
    qdq.insert(model, plan, qdq.shared_scales(plan, amax))
    onnx.checker.check_model(model)
    return plan


def readers(model):
    """Node name -> its inputs."""
    return {n.name: list(n.input) for n in model.graph.node}


def test_where_pairs_stand(tmp_path):
    model = load(tmp_path)
    plan = quantised(model)
    inputs = readers(model)
    kinds = {n.name: n.op_type for n in model.graph.node}
    made = {name: n.op_type for n in model.graph.node for name in n.output}
    for conv in plan.convs:
        data, weight = inputs[conv.name][:2]
        assert made[data] == made[weight] == "DequantizeLinear", conv.name
    # convolution, sigmoid and multiplication are one block
    for name, kind in kinds.items():
        if kind in ("Sigmoid", "Mul"):
            assert all(made.get(i) != "DequantizeLinear" for i in inputs[name]), name
    # the residual branch that a convolution reads, too, is read from the same pair
    assert inputs["residual"] == [inputs["block1"][0], "int8/block2/m_out/dq"]
    for name in ("pool", "up"):
        assert made[inputs[name][0]] == "DequantizeLinear"
    assert all(made[i] == "DequantizeLinear" for i in inputs["cat"])
    # head and decode are as before
    assert inputs["head"][:2] == ["depth/m_out", "head.weight"]
    assert not any("int8" in i for n, part in inputs.items() if "decode" in n for i in part)


def test_what_concat_pool_and_resize_touch_shares_a_scale(tmp_path):
    model = load(tmp_path)
    quantised(model)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    scale = {n.name: float(constants[n.input[1]]) for n in model.graph.node
             if n.op_type == "QuantizeLinear" and constants[n.input[1]].ndim == 0}  # fmt: skip
    moved = ("cat_out", "pool_out", "up_out", "small/m_out", "residual_out")
    shared = {scale["int8/%s/q" % n] for n in moved}
    assert len(shared) == 1
    assert scale["int8/stem/m_out/q"] not in shared and len(set(scale.values())) > 3


def test_what_convolutions_read_decides_the_range_of_all_that_share_it(tmp_path):
    model = load(tmp_path)
    plan = qdq.make_plan(Graph(model))
    together = qdq.read_together(plan)
    assert list(together) == plan.tensors
    assert together["stem/m_out"] == ["stem/m_out"]
    # `small` reads residual_out, and what reads the concat reads the others with it
    assert set(together["pool_out"]) == {"residual_out", "cat_out"}
    assert together["pool_out"] == together["cat_out"] == together["residual_out"]
    histograms = activation_ranges.collect(model, list(IMAGES), plan.tensors)
    histograms["up_out"].amax *= 9  # nobody reads it alone
    amax = activation_ranges.choose(histograms, "MinMax", together)
    assert amax["up_out"] == amax["cat_out"] == max(
        histograms[n].amax for n in together["cat_out"])  # fmt: skip
    scales = qdq.shared_scales(plan, amax)
    assert scales["up_out"] == scales["residual_out"] == amax["cat_out"] / 127


def test_final_convolutions_are_int8_where_the_share_needs_it(tmp_path, monkeypatch):
    model = load(tmp_path)
    graph = Graph(model)
    assert qdq.final_for_share(model, graph, [], hw=(64, 64)) == []
    monkeypatch.setattr(qdq, "MIN_SHARE", 0.99)
    assert qdq.final_for_share(model, graph, [], hw=(64, 64)) == ["head_out"]
    plan = qdq.usual_plan(model, graph, [], hw=(64, 64))
    assert {c.name for c in graph.convs} - {c.name for c in plan.convs} == {"depth"}
    qdq.insert(model, plan, qdq.shared_scales(plan, ranges_of(load(tmp_path))))
    inputs = readers(model)
    made = {name: n.op_type for n in model.graph.node for name in n.output}
    assert [made[i] for i in inputs["head"][:2]] == ["DequantizeLinear"] * 2
    assert inputs["decode/rows"][0] == "head_out"  # float
    kept = qdq.usual_plan(load(tmp_path), Graph(load(tmp_path)), ["head"], hw=(64, 64))
    assert "head" not in {c.name for c in kept.convs}


def test_symmetric_and_per_channel(tmp_path):
    model = load(tmp_path)
    quantised(model)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weights = 0
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any() and (scale > 0).all()
        if node.input[0] in constants:
            w = constants[node.input[0]]
            np.testing.assert_allclose(scale, np.abs(w).max((1, 2, 3)) / 127, rtol=1e-6)
            weights += 1
    assert weights == 7


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("batch, hw", [(1, (64, 64)), (None, None)])
def test_outputs_stay_near(tmp_path, relu, batch, hw):
    model = load(tmp_path, batch=batch, hw=hw, relu=relu)
    before = [run_onnx(model, i)[0] for i in IMAGES]
    quantised(model)
    after = [run_onnx(model, i)[0] for i in IMAGES]
    spread = np.std(np.array(before)[..., 6:])
    before, after = np.array(before)[..., 6:], np.array(after)[..., 6:]  # points and confidences
    error = np.sqrt(np.mean((before - after) ** 2))
    assert 0 < error < 0.02 * spread


def test_bad_ranges_are_noticed_by_the_test_above(tmp_path):
    """The same measure, with scales so small that every activation is clipped to nothing."""
    model, good = load(tmp_path), load(tmp_path)
    before = run_onnx(model, IMAGES[0])[0]
    quantised(good)
    near = np.sqrt(np.mean((run_onnx(good, IMAGES[0])[0] - before) ** 2))
    plan = qdq.make_plan(Graph(model))
    qdq.insert(model, plan, dict.fromkeys(plan.tensors, 1e-6))
    error = np.sqrt(np.mean((run_onnx(model, IMAGES[0])[0] - before) ** 2))
    assert error > 4 * near


def test_bias_correction_brings_the_mean_of_a_convolution_back(tmp_path):
    """Of one that reads exact values rounded once; behind it everything is in float."""
    model = load(tmp_path, seed=3)

    def mean(model):
        wider = onnx.load_model_from_string(activation_ranges.with_outputs(model, ["down_out"]))
        return np.mean([run_onnx(wider, i)[-1] for i in IMAGES], (0, 1, 3, 4))

    reference = mean(model)
    amax = {n: 0.4 * v for n, v in ranges_of(model, "MinMax").items()}  # clips: a biased error
    plan = qdq.make_plan(Graph(model))
    down = [c for c in plan.convs if c.name == "down"]
    plan = plan._replace(convs=down, tensors=["stem/m_out"])
    qdq.insert(model, plan, qdq.shared_scales(plan, amax))
    plain = mean(model)
    qdq.correct_bias(model, plan, IMAGES)
    assert np.abs(mean(model) - reference).sum() < 0.3 * np.abs(plain - reference).sum()


def test_layers_that_are_kept(tmp_path):
    model = load(tmp_path)
    plan = quantised(model, ["depth", "small"])
    assert {c.name for c in plan.convs} == {"stem", "down", "block1", "block2", "fuse"}
    inputs = readers(model)
    assert inputs["depth"][1] == "depth.weight" and inputs["small"][0] == "residual_out"
    with pytest.raises(InputError, match="`keep` nobody"):
        qdq.make_plan(Graph(load(tmp_path)), ["nobody"])
    with pytest.raises(InputError, match="no convolution is left"):
        qdq.make_plan(Graph(load(tmp_path)), [""])


def test_depthwise_are_found(tmp_path):
    assert qdq.depthwise(Graph(load(tmp_path))) == ["depth_out"]


def test_coverage_counts_multiplications(tmp_path):
    model = load(tmp_path)
    plan = qdq.make_plan(Graph(model))
    head = 8 * 8 * 57 * 8
    total = sum(conv_macs(model, (64, 64)).values())
    assert qdq.coverage(model, plan.convs, (64, 64)) == pytest.approx(1 - head / total)


def test_old_opset(tmp_path):
    model = load(tmp_path)
    model.opset_import[0].version = 12
    plan = qdq.make_plan(Graph(model))
    with pytest.raises(InputError, match="`opset` 13"):
        qdq.insert(model, plan, dict.fromkeys(plan.tensors, 1.0))


def test_sensitivity_names_the_worst_tensor(tmp_path):
    from utils.quantization.sensitivity import sensitivity

    model = load(tmp_path)
    amax = ranges_of(model, "MinMax")
    amax["fuse/m_out"] *= 50  # its values get two bits
    plan = qdq.make_plan(Graph(model))
    scales = qdq.shared_scales(plan, amax)
    losses = sensitivity(model, plan, scales, batches=list(IMAGES))
    assert losses[0].tensors == ["fuse/m_out"] and losses[0].points > 5 * losses[1].points > 0
    assert losses[0].convs == ["depth_out"]
    assert not any(n.op_type == "QuantizeLinear" for n in model.graph.node)
