import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from utils.errors import InputError  # noqa: E402
from utils.graph.nms import (  # noqa: E402
    OUTPUTS,
    PLUGIN,
    Nms,
    add_nms,
    has_efficientnms,
    swap_efficientnms,
)
from utils.graph.nms_forms import MAX_TOPK, below  # noqa: E402
from utils.pose.greedy import greedy_nms  # noqa: E402
from utils.pose.nms import raw_to_poses  # noqa: E402

F32 = np.float32


def raw_graph(n, nc=1, nkpt=1, batch=None, turned=True, opset=13):
    """A model that returns its input: (B, N, 5 + nc + 3K), or (B, columns, N) transposed."""
    from onnx import TensorProto, helper

    width = 5 + nc + 3 * nkpt
    b, rows = "batch" if batch is None else batch, "predictions" if n is None else n
    if turned:
        nodes = [helper.make_node("Transpose", ["input"], ["output"], perm=[0, 2, 1])]
    else:
        nodes = [helper.make_node("Identity", ["input"], ["output"])]
    graph = helper.make_graph(
        nodes,
        "raw",
        [
            helper.make_tensor_value_info(
                "input", TensorProto.FLOAT, [b, width, rows] if turned else [b, rows, width]
            )
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [b, rows, width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 7
    return model


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model, raw, turned=True):
    images = np.ascontiguousarray(raw.transpose(0, 2, 1)) if turned else raw
    return dict(zip(OUTPUTS, session(model).run(list(OUTPUTS), {"input": images})))


def plugin(boxes, scores, score_threshold, iou_threshold, topk, seed=0):
    """What TensorRT's plugin documents to write, with the images' rows shuffled together."""
    queues = []
    for b in range(len(boxes)):
        anchor, cls = np.nonzero(scores[b] >= F32(score_threshold))
        order = np.argsort(-scores[b][anchor, cls], kind="stable")[:4096]
        anchor, cls = anchor[order], cls[order]
        # IoU >= threshold is IoU > the float32 before it
        limit = np.nextafter(F32(iou_threshold), F32(-1))
        kept = greedy_nms(boxes[b][anchor], float(limit), cls, max_det=topk)
        queues.append([(b, cls[k], anchor[k]) for k in kept])
    rng = np.random.default_rng(seed)
    rows = []
    while any(queues):
        queue = queues[rng.choice([i for i, q in enumerate(queues) if q])]
        rows.append(queue.pop(0))
    total = len(boxes) * topk
    rows += [rows[-1] if rows else (-1, -1, -1)] * (total - len(rows))
    return np.array(rows, np.int32).reshape(total, 3)


def run_with_plugin(model, raw):
    """Run a model that holds the plugin node: what is before it, `plugin`, what is behind it."""
    from onnx import TensorProto, helper

    node = next(n for n in model.graph.node if n.op_type == PLUGIN)
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    before, behind = onnx.ModelProto(), onnx.ModelProto()
    for part in (before, behind):
        part.CopyFrom(model)
        place = [n.op_type for n in part.graph.node].index(PLUGIN)
        if part is before:
            del part.graph.node[place:]
            del part.graph.output[:]
            for name in node.input:
                part.graph.output.append(helper.make_tensor_value_info(name, 1, None))
        else:
            del part.graph.node[place]
            entry = helper.make_tensor_value_info(node.output[0], TensorProto.INT32, [None, 3])
            part.graph.input.append(entry)
        del part.opset_import[1:]
    feed = {"input": np.ascontiguousarray(raw.transpose(0, 2, 1))}
    boxes, scores = session(before).run(list(node.input), feed)
    topk = values["max_output_boxes_per_class"]
    thresholds = values["score_threshold"], values["iou_threshold"]
    feed[node.output[0]] = plugin(boxes, scores, *thresholds, topk)
    return dict(zip(OUTPUTS, session(behind).run(list(OUTPUTS), feed)))


def random_raw(seed, batch=1, n=None, nc=1, nkpt=1):
    """Crowded raw predictions: clusters, copies, equal scores, empty boxes, chains."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 120)) if n is None else n
    raw = rng.random((batch, n, 5 + nc + 3 * nkpt)).astype(F32)
    for image in raw:
        image[:, :2] = rng.integers(0, 3 + seed % 5, (n, 2)) * 40 + rng.normal(0, 8, (n, 2))
        image[:, 2:4] = rng.uniform(0, 60, (n, 2))
        if n > 8:
            image[: n // 4, :4] = image[n // 4 : n // 4 * 2, :4]  # exact copies
            image[-1, 2:4] = 0
            chain = n // 3  # each overlaps the next by more than half
            image[-chain:-1, :4] = [500, 500, 40, 40]
            image[-chain:-1, 0] += 12 * np.arange(chain - 1)
        if seed % 3 == 0:
            image[:, 4 : 5 + nc] = np.round(image[:, 4 : 5 + nc], 1)  # equal scores
    return raw


def check(result, raw, nc, nms):
    """All five outputs against utils/pose/nms.py; returns the number of poses."""
    k = nms.topk
    expected = raw_to_poses(raw, nc, nms.conf_thres, iou_thres=nms.iou_thres, max_det=k)
    for b, poses in enumerate(expected):
        count = poses.count
        assert result["num_dets"][b].tolist() == [count]
        index = result["det_indices"][b]
        rows = raw[b][index[:count, 2]]
        assert (index[:count, 0] == b).all() and (index[count:] == -1).all()
        np.testing.assert_array_equal(index[:count, 1], poses.classes)
        np.testing.assert_array_equal(result["det_boxes"][b, :count], poses.boxes)
        np.testing.assert_array_equal(result["det_scores"][b, :count, 0], poses.scores)
        np.testing.assert_array_equal(
            rows[:, 5 + nc :], poses.keypoints.reshape(count, raw.shape[2] - 5 - nc)
        )
        np.testing.assert_array_equal(result["det_pose"][b, :count], rows[:, 5 + nc :])
        for name in OUTPUTS[2:]:
            assert not result[name][b, count:].any()
    shapes = [result[name].shape for name in OUTPUTS]
    width = raw.shape[2] - 5 - nc
    assert shapes == [(len(raw), d) if not i else (len(raw), k, d)
                      for i, d in enumerate((1, 3, 4, width, 1))]  # fmt: skip
    assert [result[name].dtype for name in OUTPUTS] == [np.int32] * 2 + [F32] * 3
    return sum(p.count for p in expected)


THRESHOLDS = [(0.25, 0.45), (0.0, 0.0), (0.1, 0.6), (0.5, 0.3), (0.001, 0.9), (0.3, 1.0)]


@pytest.mark.parametrize("form", ["static", "efficientnms", "swapped"])
@pytest.mark.parametrize("nc, nkpt, batch", [(1, 17, 1), (3, 2, 3)])
def test_equals_greedy_nms_on_random_sets(form, nc, nkpt, batch):
    """Random sets in one session a threshold: the number of boxes is dynamic."""
    poses = 0
    for number, (conf, iou) in enumerate(THRESHOLDS):
        nms = Nms("static" if form == "static" else "efficientnms", conf, iou, 20, 128, 63)
        model = raw_graph(None, nc, nkpt)
        add_nms(model, nc, nms)
        if form == "swapped":
            swap_efficientnms(model, 128, 63)
        onnx.checker.check_model(model)
        once = None if form == "efficientnms" else session(model)
        for seed in range(number, 90, len(THRESHOLDS)):
            raw = random_raw(seed, batch, nc=nc, nkpt=nkpt)
            if once is None:
                result = run_with_plugin(model, raw)
            else:
                feed = {"input": np.ascontiguousarray(raw.transpose(0, 2, 1))}
                result = dict(zip(OUTPUTS, once.run(list(OUTPUTS), feed)))
            poses += check(result, raw, nc, nms)
    assert poses > 1000


def chain(length, step=12.0):
    """(1, length, 9) boxes in a row, each overlapping the next one, scores falling."""
    raw = np.ones((1, length, 9), F32)
    raw[0, :, :4] = [0, 0, 40, 40]
    raw[0, :, 0] = step * np.arange(length)
    raw[0, :, 4] = np.linspace(0.9, 0.5, length)
    return raw


@pytest.mark.parametrize("steps", [1, 7, 31])
def test_chains_up_to_the_steps_are_exact(steps):
    nms = Nms("static", 0.25, 0.45, steps + 1, 64, steps)
    model = raw_graph(steps + 1)
    add_nms(model, 1, nms)
    assert check(run(model, chain(steps + 1)), chain(steps + 1), 1, nms) == steps // 2 + 1


@pytest.mark.parametrize("steps", [1, 7])
def test_beyond_the_steps_poses_are_missed_but_none_is_wrong(steps):
    raw = chain(40)
    model = raw_graph(40)
    add_nms(model, 1, Nms("static", 0.25, 0.45, 40, 40, steps))
    result = run(model, raw)
    exact = greedy_nms(raw_to_poses(raw, 1, 0.25, iou_thres=1.0)[0].boxes, 0.45, None, max_det=40)
    kept = result["det_indices"][0, : result["num_dets"][0, 0], 2].tolist()
    assert kept == exact[: len(kept)].tolist() and len(kept) == steps // 2 + 1 < len(exact)


def test_only_the_best_candidates_take_part():
    raw = random_raw(1, n=100)
    raw[0, :, 4] = np.linspace(1, 0.5, 100)
    raw[0, :, 5] = 1
    nms = Nms("static", 0.25, 0.45, 20, 30)
    model = raw_graph(100)
    add_nms(model, 1, nms)
    check(run(model, raw), raw[:, :30], 1, nms)


def test_fewer_boxes_than_candidates_at_run_time():
    nms = Nms("static", 0.25, 0.45, 50)
    model = raw_graph(None)
    add_nms(model, 1, nms)
    for n in (1, 7):
        raw = random_raw(2, n=n)
        assert check(run(model, raw), raw, 1, nms) > 0


def test_thresholds_are_those_of_greedy_nms():
    """A float32 IoU of 0.6 is more than 0.6; a score equal to the threshold is not above it."""
    assert float(below(0.6)) < 0.6 < float(np.nextafter(below(0.6), F32(1)))
    assert below(0.5) == 0.5
    raw = np.ones((1, 3, 9), F32)
    raw[0, :, :4] = [[50, 50, 10, 10], [50, 48, 10, 6], [500, 50, 10, 10]]  # IoU 0.6
    raw[0, :, 4] = [0.9, 0.8, 0.3]
    for form in ("static", "efficientnms"):
        for conf, iou, count in ((0.25, 0.6, 2), (0.25, 0.61, 3), (0.3, 0.61, 2), (0.8, 0.61, 1)):
            nms = Nms(form, conf, iou, 3)
            model = raw_graph(3)
            add_nms(model, 1, nms)
            result = run(model, raw) if form == "static" else run_with_plugin(model, raw)
            assert check(result, raw, 1, nms) == count


@pytest.mark.parametrize("form", ["static", "efficientnms", "swapped"])
@pytest.mark.parametrize("column", range(9 + 2))
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_overflow_hides_nobody(form, column, value):
    """Whatever of a better row is no number, the person below it stays."""
    raw = np.ones((1, 3, 8 + 3), F32)
    raw[0, :, :5] = [[50, 50, 20, 20, 0.9], [51, 50, 20, 20, 0.8], [90, 50, 20, 20, 0.7]]
    raw[0, :, 5:8] = [0.2, 1, 0.1]
    raw[0, 0, column] = value
    nms = Nms("static" if form == "static" else "efficientnms", 0.25, 0.45, 3)
    model = raw_graph(3, nc=3)
    add_nms(model, 3, nms)
    if form == "swapped":
        swap_efficientnms(model)
    result = run_with_plugin(model, raw) if form == "efficientnms" else run(model, raw)
    assert check(result, raw, 3, nms) == 2


def test_overflow_is_nobody():
    raw = random_raw(4, n=20)
    raw[0, 3, 0], raw[0, 4, 4], raw[0, 5, 5], raw[0, 6, 2] = np.inf, np.nan, np.nan, np.inf
    nms = Nms("static", 0.1, 0.45, 20)
    model = raw_graph(20)
    add_nms(model, 1, nms)
    result = run(model, raw)
    kept = set(result["det_indices"][0, : result["num_dets"][0, 0], 2].tolist())
    poses = raw_to_poses(raw, 1, 0.1, iou_thres=0.45)[0]
    assert len(kept) == poses.count and not kept & {3, 4, 5, 6}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("opset", [12, 17])
def test_any_raw_graph_and_opset(turned, opset):
    raw = random_raw(3, 2, n=60)
    for form in ("static", "efficientnms"):
        nms = Nms(form, 0.1, 0.45, 10)
        model = raw_graph(60, batch=2, turned=turned, opset=opset)
        add_nms(model, 1, nms)
        if form == "efficientnms":
            swap_efficientnms(model)
        assert check(run(model, raw, turned), raw, 1, nms) > 4


def test_standard_ops_of_static_shapes_only():
    model = raw_graph(100, batch=2)
    add_nms(model, 1, Nms("static", topk=20))
    kinds = {n.op_type for n in model.graph.node}
    assert not kinds & {"Loop", "Scan", "If", "NonZero", "NonMaxSuppression", "Shape", "Range"}
    assert {n.domain for n in model.graph.node} == {""}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for value in inferred.graph.value_info:
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name


def test_plugin_node_is_as_tensorrt_expects_it():
    from onnx import helper

    model = raw_graph(100)
    add_nms(model, 1, Nms("efficientnms", 0.25, 0.45, 20))
    (node,) = [n for n in model.graph.node if n.op_type == "EfficientNMS_ONNX_TRT"]
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert node.domain == "TRT" and "TRT" in {o.domain for o in model.opset_import}
    assert values.pop("score_threshold") == pytest.approx(0.25)
    assert values.pop("iou_threshold") == pytest.approx(0.45)
    assert values == {
        "max_output_boxes_per_class": 20,
        "background_class": -1,
        "score_activation": 0,
        "box_coding": 0,
        "center_point_box": 0,
        "plugin_version": b"1",
    }
    assert has_efficientnms(model)
    swap_efficientnms(model)
    assert not has_efficientnms(model) and {o.domain for o in model.opset_import} == {""}


def test_swap_without_the_node():
    with pytest.raises(InputError, match="0 EfficientNMS_ONNX_TRT nodes in the model, expected 1"):
        swap_efficientnms(raw_graph(10))


@pytest.mark.parametrize(
    "settings, message",
    [
        (Nms("fast"), "`nms` fast"),
        (Nms(conf_thres=1.5), "`conf_thres` 1.5"),
        (Nms(conf_thres=float("nan")), "`conf_thres` nan"),
        (Nms(iou_thres=-0.1), "`iou_thres` -0.1"),
        (Nms(topk=0), "`topk_all` 0"),
        (Nms(topk=MAX_TOPK + 1), "`topk_all` 3841"),
        (Nms(topk=11), "`topk_all` 11: at this size the model predicts 10 boxes"),
        (Nms("static", topk=8, candidates=7), "`nms_candidates` 7"),
        (Nms("static", candidates=5000), "`nms_candidates` 5000"),
        (Nms("static", topk=5, steps=4), "`nms_steps` 4"),
        (Nms("static", topk=5, steps=-1), "`nms_steps` -1"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        add_nms(raw_graph(10), 1, settings)


def test_a_head_that_is_not_ours():
    for nc in (2, 20):
        with pytest.raises(InputError, match="`end2end`: this is not the raw output"):
            add_nms(raw_graph(10, nc=1), nc, Nms())
    model = raw_graph(10)
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(InputError, match="`end2end`: this is not the raw output"):
        add_nms(model, 1, Nms())
