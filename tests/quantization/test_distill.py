import sys

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
from onnx import numpy_helper  # noqa: E402

from models import export_INT8  # noqa: E402
from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.graph.analysis import Graph  # noqa: E402
from utils.quantization import activation_ranges, qdq  # noqa: E402
from utils.quantization.distill import DistillOptions, distill  # noqa: E402
from utils.quantization.head_loss import pose_loss, read_channels, read_levels  # noqa: E402
from utils.quantization.torch_graph import FakeQuant, TorchGraph  # noqa: E402

IMAGES = np.random.default_rng(0).random((4, 1, 3, 64, 64), np.float32)


@pytest.fixture
def paths(tmp_path):
    paths = []
    for i in range(4):
        image = cv2.resize(np.random.default_rng(i).integers(0, 255, (9, 9, 3), np.uint8), (80, 60))
        paths.append(str(tmp_path / ("%d.png" % i)))
        (tmp_path / ("%d.png" % i)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return paths


def quantised(tmp_path, **settings):
    """(FP32 model, the same with pairs, plan)."""
    teacher = onnx.load(str(make_small_net(tmp_path / "x.onnx", **settings)))
    names = Graph(teacher).float_tensors()
    amax = activation_ranges.choose(
        activation_ranges.collect(teacher, list(IMAGES), names), "MinMax"
    )
    model = onnx.ModelProto()
    model.CopyFrom(teacher)
    plan = qdq.make_plan(Graph(model), (), ["head_out"])
    qdq.insert(model, plan, qdq.shared_scales(plan, amax))
    return teacher, model, plan


def both(model, names, image):
    """The tensors in ONNX Runtime and in PyTorch."""
    session = activation_ranges.open_session(activation_ranges.with_outputs(model, names))
    with torch.no_grad():
        found = TorchGraph(model, names)(torch.from_numpy(image))
    return session.run(names, {"input": image}), [f.numpy() for f in found]


# ONNX Runtime fuses ReLU into the convolution, which sums up in another order: more ties
@pytest.mark.parametrize("relu, ties", [(False, 2e-3), (True, 5e-2)])
def test_the_graph_in_torch_is_that_of_onnx_runtime(tmp_path, relu, ties):
    teacher, model, plan = quantised(tmp_path, relu=relu)
    for expected, found in zip(*both(teacher, ["fuse_out", "head_out"], IMAGES[0])):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    check_pairs(model, plan, ties)


def check_pairs(model, plan, ties=2e-3):
    """Each pair computes the same, but for a rounding tie here and there."""
    names = ["int8/%s/dq" % name for name in plan.tensors]
    scales = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for name, expected, found in zip(names, *both(model, names, IMAGES[1])):
        step = float(scales[name[: -len("dq")] + "scale"])
        assert np.abs(expected - found).max() < 1.01 * step, name
        assert (np.abs(expected - found) > 1e-5).mean() < ties, name
    expected, found = (t[0] for t in both(model, ["head_out"], IMAGES[1]))
    assert np.abs(expected - found).mean() < 0.1 * ties * expected.std()


def test_gradients_of_a_pair():
    x = torch.tensor([0.2, 1.3, -2.6, 300.0, -300.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    y = FakeQuant.apply(x, scale)
    assert y.tolist() == [0, 1, -3, 127, -128]
    y.backward(torch.tensor([1.0, 1.0, 1.0, 1.0, 10.0]))
    assert x.grad.tolist() == [1, 1, 1, 0, 0]
    assert float(scale.grad) == pytest.approx(-0.2 - 0.3 - 0.4 + 127 - 1280, rel=1e-5)


def test_no_steps_change_nothing(tmp_path, paths):
    teacher, model, plan = quantised(tmp_path)
    before = model.SerializeToString()
    assert (
        distill(model, teacher, plan, paths=paths, net_hw=(64, 64), options=DistillOptions(0)) == []
    )
    assert model.SerializeToString() == before


def loss_of(model, teacher):
    channels = read_channels(teacher)
    losses = []
    for image in IMAGES:
        x = torch.from_numpy(image)
        with torch.no_grad():
            found, wanted = (TorchGraph(m, ["head_out"])(x)[0] for m in (model, teacher))
        losses.append(float(pose_loss(found, wanted, channels)))
    return np.mean(losses)


def test_it_comes_nearer_to_the_teacher_and_stays_a_model_of_the_same_kind(tmp_path, paths):
    teacher, model, plan = quantised(tmp_path)
    for constant in model.graph.initializer:  # a network that INT8 has spoilt
        if constant.name in ("fuse.bias", "block2.bias"):
            value = numpy_helper.to_array(constant) + np.float32(0.3)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    nodes = [node.SerializeToString() for node in model.graph.node]
    before = loss_of(model, teacher)
    options = DistillOptions(60, size=64, rate=3e-3, progress=False)
    losses = distill(model, teacher, plan, paths=paths, net_hw=(64, 64), options=options)
    assert len(losses) == 60 and loss_of(model, teacher) < 0.5 * before
    onnx.checker.check_model(model)
    assert [node.SerializeToString() for node in model.graph.node] == nodes
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    shared = {}
    for name in plan.tensors:
        shared.setdefault(plan.group[name], set()).add(float(constants["int8/%s/scale" % name]))
    assert all(len(values) == 1 for values in shared.values())
    for conv in plan.convs:
        w = qdq.original_weights(plan._replace(graph=Graph(model)), conv)
        name = conv.input[1][: -len("/dq")] + "/scale"
        np.testing.assert_array_equal(constants[name], qdq.weight_scales(w))
    check_pairs(model, plan)
    assert run_onnx(model, IMAGES[0])[0].shape == (1, 64, 57)


def test_the_same_seed_gives_the_same_model(tmp_path, paths):
    results = []
    for seed in (1, 1, 2):
        teacher, model, plan = quantised(tmp_path)
        options = DistillOptions(2, size=64, seed=seed, progress=False)
        distill(model, teacher, plan, paths=paths, net_hw=(64, 64), options=options)
        results.append(model.SerializeToString())
    assert results[0] == results[1] != results[2]


def test_levels_are_what_a_concat_joins(tmp_path):
    graph = Graph(quantised(tmp_path)[0])
    assert read_levels(graph) == [["head_out"]]


def test_a_head_of_another_kind(tmp_path):
    maps = torch.zeros(1, 56, 2, 2)
    with pytest.raises(InputError, match="56 channels, not a multiple of 57"):
        pose_loss(maps, maps, read_channels(quantised(tmp_path)[0]))


def test_operations_without_a_rule(tmp_path):
    teacher, _, _ = quantised(tmp_path)
    next(n for n in teacher.graph.node if n.name == "fuse/s").op_type = "Tanh"
    with pytest.raises(InputError, match="`distill`: no rule for fuse/s, a Tanh"):
        TorchGraph(teacher, ["head_out"])


def test_command(tmp_path, paths, monkeypatch, capsys):
    path = make_small_net(tmp_path / "x.onnx")
    words = ["--onnx", str(path), "--calib_path", str(tmp_path), "--calib_num", "4",
             "--cache_dir", str(tmp_path), "--device", "cpu"]  # fmt: skip

    def run(*more):
        export_INT8.main(export_INT8.get_args_parser().parse_args([*words, *more]))
        return (tmp_path / "x-INT8.onnx").read_bytes()

    plain = run("--no-bias-correction")
    assert run("--no-bias-correction", "--distill", "0") == plain  # now from the cache
    assert run("--distill", "2") != plain
    assert "distilled on 4 images, 2 steps" in capsys.readouterr().out
    with pytest.raises(InputError, match="`distill` -1: expected 0 to"):
        run("--distill", "-1")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="`distill` needs PyTorch: pip install torch"):
        run("--distill", "2")


def imported(tmp_path, **case):
    """A model of another exporter, and it with Q/DQ pairs."""
    from tests.foreign_net import make_foreign
    from utils.export.onnx_import import ImportConfig, import_onnx

    path = import_onnx(ImportConfig(str(make_foreign(tmp_path / "f.onnx", **case))))
    teacher = onnx.load(str(path))
    model = onnx.load(str(path))
    plan = qdq.make_plan(Graph(model))
    images = [np.random.default_rng(i).random((1, 3, 128, 128)).astype(np.float32) for i in (0, 1)]
    histograms = activation_ranges.collect(teacher, images, Graph(teacher).float_tensors())
    amax = activation_ranges.choose(histograms, "MinMax", qdq.read_together(plan))
    qdq.insert(model, plan, qdq.shared_scales(plan, amax))
    return teacher, model, plan


@pytest.mark.parametrize(
    "case", [{}, {"hw": None, "batch": None, "opset": 18}, {"nc": 2, "kpt_shape": (5, 2)}], ids=str
)
def test_imported_models(tmp_path, case, paths):
    """The same maps as in ONNX Runtime, also of a larger batch; and they can be learnt."""
    from utils.quantization.head_loss import open_head

    teacher, model, plan = imported(tmp_path, **case)
    head = open_head(teacher, plan.graph)
    assert sorted(head.kinds.values()) == ["box", "box", "points", "points", "score", "score"]
    graph = TorchGraph(teacher, head.outputs)
    assert graph.bound == ("hw" not in case)
    image = np.random.default_rng(7).random((1, 3, 128, 128)).astype(np.float32)
    wider = onnx.load_model_from_string(activation_ranges.with_outputs(teacher, head.outputs))
    wanted = dict(zip([o.name for o in wider.graph.output], run_onnx(wider, image)))
    both = torch.from_numpy(np.concatenate([image, image[..., ::-1].copy()]))
    for name, found in zip(head.outputs, graph(both)):
        assert len(found) == 2
        np.testing.assert_allclose(found[:1].numpy(), wanted[name], atol=2e-4)
    options = DistillOptions(3, size=64, rate=1e-3, progress=False, batch=2)
    losses = distill(model, teacher, plan, paths=paths, net_hw=(128, 128), options=options)
    assert len(losses) == 3 and np.isfinite(losses).all()
    onnx.checker.check_model(model)


def test_a_head_whose_maps_cannot_be_told_apart(tmp_path):
    from utils.quantization.head_loss import open_head

    teacher, _, plan = imported(tmp_path, nc=15, kpt_shape=(5, 3))
    with pytest.raises(InputError, match="15 channels, which may be score or points"):
        open_head(teacher, plan.graph)
