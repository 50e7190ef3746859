import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from tests.small_net import make_small_net  # noqa: E402
from utils.graph.analysis import Graph, conv_macs, find, union  # noqa: E402


@pytest.fixture
def graph(tmp_path):
    return Graph(onnx.load(str(make_small_net(tmp_path / "x.onnx"))))


def test_head_and_decode_are_found_by_structure(graph):
    assert [n.name for n in graph.head] == ["head"]
    behind = {n.name for n in graph.nodes if id(n) in graph.decode}
    assert behind == {n.name for n in graph.nodes if n.name.startswith("decode/")}


def test_tensors_before_the_decode(graph):
    names = graph.float_tensors()
    assert names[0] == "input" and "head_out" in names and "cat_out" in names
    assert not any(name.startswith("decode/") for name in names)


def test_constants_of_the_decode_belong_to_it(tmp_path):
    model = onnx.load(str(make_small_net(tmp_path / "x.onnx")))
    grid = onnx.helper.make_node("Sqrt", ["sixty"], ["grid"], name="grid")
    model.graph.node.insert(0, grid)
    for node in model.graph.node:
        if node.name == "decode/m1":
            node.input[1] = "grid"
    graph = Graph(model)
    assert "grid" in {n.name for n in graph.nodes if id(n) in graph.decode}


def test_multiplications(graph):
    """Counted by hand for 64 x 64: output pixels x weights."""
    macs = conv_macs(graph.model, (64, 64))
    assert macs["stem_out"] == 32 * 32 * 8 * 3 * 9
    assert macs["block1_out"] == 16 * 16 * 8 * 8
    assert macs["depth_out"] == 8 * 8 * 8 * 9
    assert macs["head_out"] == 8 * 8 * 57 * 8


def test_multiplications_of_a_dynamic_model(tmp_path):
    model = onnx.load(str(make_small_net(tmp_path / "x.onnx", None, None)))
    assert conv_macs(model, (128, 64))["stem_out"] == 64 * 32 * 8 * 3 * 9


def test_sets():
    groups = {}
    for names in ("ab", "cd", "bd", "ef"):
        union(groups, list(names))
    assert len({find(groups, n) for n in "abcd"}) == 1
    assert find(groups, "e") == find(groups, "f") != find(groups, "a")
    assert find(groups, "z") == "z"


def test_weights(graph):
    conv = graph.convs[0]
    assert graph.weights(conv).shape == (8, 3, 3, 3) and graph.weights(conv).dtype == np.float32


def test_work_of_a_graph_whose_shapes_are_computed(tmp_path):
    """Attention of a dynamic model: shape inference stops at its reshapes."""
    from tests.foreign_net import make_foreign
    from utils.graph.layout import tidy

    models = []
    for case in ({}, {"hw": None, "batch": None}):
        model = onnx.load(str(make_foreign(tmp_path / "x.onnx", **case)))
        tidy(model)
        models.append(model)
    static, dynamic = (sorted(conv_macs(m, (128, 128)).values()) for m in models)
    assert static == dynamic and len(static) > 10


def test_the_integral_over_bins_is_decode(tmp_path):
    from tests.foreign_net import BINS, make_foreign
    from utils.graph.layout import tidy

    for case in ({}, {"half": True}, {"hw": None, "batch": None}):
        model = onnx.load(str(make_foreign(tmp_path / "x.onnx", **case)))
        tidy(model)
        graph = Graph(model)
        assert graph.bins == BINS and len(graph.head) == 6
        assert len(graph.convs) == sum(n.op_type == "Conv" for n in graph.nodes) - 1
        softmax = [n for n in graph.nodes if n.op_type == "Softmax"]
        assert [id(n) in graph.decode for n in softmax] == [False, True]  # attention, bins
        for name in graph.sizes:
            assert name not in graph.float_tensors()
