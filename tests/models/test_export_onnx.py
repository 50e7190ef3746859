import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx  # noqa: E402

from models import export_onnx  # noqa: E402
from models.cfg import read_cfg  # noqa: E402
from models.checkpoint import save_checkpoint  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT, randomized, small_cfg, tiny_cfg  # noqa: E402
from utils import cli  # noqa: E402
from utils.errors import InputError, InputWarning  # noqa: E402
from utils.export import checkpoint, onnx_check, onnx_export  # noqa: E402
from utils.graph.nms import OUTPUTS, swap_efficientnms  # noqa: E402
from utils.pose.nms import detections_to_poses, raw_to_poses  # noqa: E402
from utils.runtime.load import load_backend  # noqa: E402


def made(path, cfg):
    torch.manual_seed(0)
    model = randomized(Model(cfg, nc=2, nkpt=5))
    model.names = ["cat", "狗"]
    save_checkpoint(path, model)
    return path


@pytest.fixture
def weights(tmp_path):
    return made(tmp_path / "tiny.pt", tiny_cfg())


@pytest.fixture
def small(tmp_path):
    """A few layers only."""
    return made(tmp_path / "small.pt", small_cfg())


def run(weights, *flags):
    parser = export_onnx.get_args_parser()
    command = ["--weights", str(weights), "--img-size", "128", "--device", "cpu", *flags]
    try:
        export_onnx.main(parser.parse_args(command))
    except InputError as e:  # as a user reads it
        raise InputError(cli.with_flags(str(e), parser)) from e


def expected(weights, images):
    from models.checkpoint import load_checkpoint

    with torch.no_grad():
        return load_checkpoint(weights).model(torch.from_numpy(images)).numpy()


def images(b, h, w):
    return np.random.default_rng(0).random((b, 3, h, w), np.float32)


@pytest.mark.parametrize("flags", [[], ["--simplify"], ["--opset", "12"], ["--opset", "17"]])
def test_static_export_equals_pytorch(weights, flags, capsys):
    run(weights, "--batch-size", "2", *flags)
    backend = load_backend(str(weights.with_suffix(".onnx")), "cpu")
    assert backend.input_shape == (2, 3, 128, 128)
    assert (backend.names, backend.nkpt, backend.stride) == (["cat", "狗"], 5, 64)
    assert backend.imgsz == (128, 128)
    x = images(2, 128, 128)
    np.testing.assert_allclose(backend(x), expected(weights, x), rtol=1e-3, atol=5e-3)
    assert "ONNX Runtime against PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--simplify"]])
def test_dynamic_export_takes_any_batch_and_size(weights, flags):
    run(weights, "--dynamic", *flags)
    backend = load_backend(str(weights.with_name("tiny-dynamic.onnx")), "cpu")
    assert backend.input_shape == (None, 3, None, None) and backend.imgsz == (128, 128)
    for shape in ((1, 128, 128), (3, 64, 192), (2, 256, 64)):
        x = images(*shape)
        np.testing.assert_allclose(backend(x), expected(weights, x), rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("flags", [["--simplify"], ["--dynamic"]])
def test_fp16_export_on_a_cpu(weights, flags):
    run(weights, "--half", *flags, "--round", "nearest")
    name = "tiny-dynamic.onnx" if "--dynamic" in flags else "tiny.onnx"
    graph = onnx.load(str(weights.with_name(name)))
    kinds = {t.data_type for t in graph.graph.initializer if len(t.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    backend = load_backend(str(weights.with_name(name)), "cpu")
    assert backend.dtype == np.float16
    x = images(1, 128, 128)
    got, want = backend(x), expected(weights, x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[..., 4:7], want[..., 4:7], atol=0.02)
    assert np.abs(got - want)[..., :4].max() < 3
    assert np.abs(got - want)[..., 7::3].max() < 3 and np.abs(got - want)[..., 8::3].max() < 3


def test_fp16_rounds_so_that_errors_cancel(weights):
    x = images(1, 128, 128)
    x = np.round(x * 255) / np.float32(255)
    want = expected(weights, x)
    errors = []
    for flags in ([], ["--round", "nearest"]):
        run(weights, "--half", *flags)
        found = load_backend(str(weights.with_suffix(".onnx")), "cpu")(x)
        errors.append(float(((found - want)[..., 7:] ** 2).mean()))
    assert errors[0] < errors[1] / 2
    with pytest.raises(InputError, match="--round goes with --half"):
        run(weights, "--round", "cancel")


def test_interface_of_the_file(weights):
    run(weights, "--simplify")
    graph = onnx.load(str(weights.with_suffix(".onnx")))
    assert [i.name for i in graph.graph.input] == ["input"]
    assert [o.name for o in graph.graph.output] == ["output"]
    assert graph.opset_import[0].version == 13 and graph.ir_version <= 8
    meta = {p.key: json.loads(p.value) for p in graph.metadata_props}
    assert meta == {
        "task": "pose",
        "names": ["cat", "狗"],
        "nc": 2,
        "nkpt": 5,
        "stride": 64,
        "imgsz": [128, 128],
        "kpt_shape": [5, 3],
        "kpt_names": ["0", "1", "2", "3", "4"],
        "kpt_sigmas": [0.07] * 5,
        "flip_idx": [],
        "skeleton": [],
    }
    assert not {"ScatterND", "If", "Loop", "NonZero"} & {n.op_type for n in graph.graph.node}


def test_s6_has_at_most_440_nodes(tmp_path):
    """Width and size do not change their number."""
    pytest.importorskip("onnxslim")
    cfg = {**read_cfg(ROOT / "models" / "hub" / "yolov5s6_kpts.yaml"), "width_multiple": 0.0625}
    model = Model(cfg).eval().fuse()
    graph = onnx_export.export(model, tmp_path / "s6.onnx", (128, 128), simplify=True)
    assert len(graph.graph.node) <= 440


def test_size_is_rounded_up_with_a_warning(weights):
    with pytest.warns(InputWarning, match="`img_size` 100 150 rounded up to 128 192"):
        run(weights, "--img-size", "100", "150")
    assert load_backend(str(weights.with_suffix(".onnx")), "cpu").static_hw == (128, 192)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_differs_is_not_kept(small, monkeypatch, old):
    target = small.with_suffix(".onnx")
    if old:
        target.write_bytes(b"old")
    reference = checkpoint.reference_output

    def other(model, batch):
        return reference(model, batch) * 1.01

    monkeypatch.setattr(checkpoint, "reference_output", other)
    with pytest.raises(InputError, match="differs from PyTorch.*not kept"):
        run(small)
    assert (target.read_bytes() == b"old") if old else not target.exists()
    assert not list(small.parent.glob(".*"))


def test_an_error_of_fuse_is_found(small, monkeypatch):
    from models import common

    fuse = common.fuse_conv_bn

    def wrong(conv, bn):
        fused = fuse(conv, bn)
        fused.bias.data += 0.3
        return fused

    monkeypatch.setattr(common, "fuse_conv_bn", wrong)
    with pytest.raises(InputError, match="differs from PyTorch"):
        run(small)


def test_compare_sees_every_kind_of_error():
    rng = np.random.default_rng(0)
    a = rng.random((1, 9, 6 + 15)).astype(np.float32)
    assert onnx_check.compare(a, a, 1) == (0, 0, 0, 9)
    for column in range(a.shape[2]):
        b = copy.deepcopy(a)
        b[0, 3, column] += 0.5
        difference = onnx_check.compare(b, a, 1)
        assert max(difference.conf, difference.px) == pytest.approx(0.5)
    b = copy.deepcopy(a)
    b[0, 0, 0] = np.nan
    assert onnx_check.compare(b, a, 1).px == np.inf
    assert onnx_check.compare(a[:, :5], a, 1).px == np.inf


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--end2end", "--nms", "fast"], "--nms fast"),
        (["--end2end", "--topk-all", "0"], "--topk-all 0"),
        (["--end2end", "--topk-all", "3000"], "--topk-all 3000: at this size .* 1020 boxes"),
        (["--end2end", "--conf-thres", "2"], "--conf-thres 2"),
        (["--end2end", "--iou-thres", "-1"], "--iou-thres -1"),
        (["--end2end", "--nms-steps", "3"], "--nms-steps go with --nms static"),
        (["--end2end", "--nms", "static", "--nms-candidates", "5"], "--nms-candidates 5"),
        (["--topk-all", "100"], "--topk-all goes with --end2end"),
        (["--nms-steps", "31"], "--nms-steps goes with --end2end"),
        (["--conf-thres", "2"], "--conf-thres 2: expected 0 to 1"),
        (["--opset", "18"], "--opset 18"),
        (["--opset", "9"], "--opset 9"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--img-size", "0"], "--img-size"),
        (["--img-size", "1", "2", "3"], "--img-size"),
        (["--dynamic", "--batch-size", "4"], "--batch-size"),
        (["--check-image", "none.jpg"], "--check-image none.jpg"),
        (["--device", "99"], "--device 99"),
    ],
)
def test_bad_flags(weights, flags, message):
    with pytest.raises(InputError, match=message):
        run(weights, *flags)
    assert [p.name for p in weights.parent.iterdir()] == ["tiny.pt"]


@pytest.mark.parametrize("form", ["efficientnms", "static"])
@pytest.mark.parametrize("flags", [["--batch-size", "2", "--simplify"], ["--dynamic"]])
def test_end2end_finds_what_nms_outside_finds(small, form, flags, capsys):
    run(small, *flags)
    nms = ["--nms", form, "--topk-all", "60", "--conf-thres", "0.1", "--iou-thres", "0.6"]
    run(small, *flags, "--end2end", *nms)
    stem = "small-dynamic" if "--dynamic" in flags else "small"
    outside = load_backend(str(small.with_name(stem + ".onnx")), "cpu")
    inside = load_backend(str(small.with_name(stem + "-NMS.onnx")), "cpu")
    assert inside.end2end and inside.embedded_nms == (0.1, 0.6, 60)
    assert (inside.names, inside.nkpt, inside.stride) == (["cat", "狗"], 5, 8)
    assert inside.imgsz == (128, 128) and inside.input_shape == outside.input_shape
    assert ("replaced by standard ops" in inside.description) == (form == "efficientnms")
    image_file = onnx_check.check_image("")
    batch = onnx_check.check_batch(image_file, (128, 128), 2)
    found = detections_to_poses(inside(batch))
    wanted = raw_to_poses(outside(batch), 2, 0.1, iou_thres=0.6, max_det=60)
    assert sum(p.count for p in wanted) > 20
    for poses, others in zip(found, wanted):
        for value, other in zip(poses, others):
            np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-3)
    assert "embedded NMS (%s): conf 0.1, iou 0.6" % form in capsys.readouterr().out


def test_the_plugin_is_proved_with_all_boxes_it_takes(tmp_path, capsys):
    """More than the static form takes by default: it must not look as if the plugin failed."""
    torch.manual_seed(0)
    model = randomized(Model(tiny_cfg(), nc=2, nkpt=5))
    for convolution in model.head.m:
        convolution.bias.data[4] = convolution.bias.data[5] = 6.0  # anchor 0 is sure everywhere
    save_checkpoint(tmp_path / "sure.pt", model)
    run(tmp_path / "sure.pt", "--img-size", "256", "--end2end", "--topk-all", "300")
    assert "finds what NMS outside finds" in capsys.readouterr().out


def test_an_nms_that_differs_is_not_kept(small, monkeypatch):
    from utils.pose import nms

    greedy = nms.greedy_nms
    monkeypatch.setattr(nms, "greedy_nms", lambda *args, **more: greedy(*args, **more)[1:])
    with pytest.raises(InputError, match="other poses than NMS outside.*not kept"):
        run(small, "--end2end", "--conf-thres", "0.1")
    assert [p.name for p in small.parent.iterdir()] == ["small.pt"]


def test_thresholds_the_plugin_handles_badly(small):
    with pytest.warns(InputWarning, match="`conf_thres` 0.005: below 0.01 TensorRT"):
        run(small, "--end2end", "--conf-thres", "0.005")


def test_wrong_suffix(tmp_path):
    with pytest.raises(InputError, match="expected a .pt"):
        run(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "flags",
    [[], ["--half"], ["--dynamic"], ["--dynamic", "--half"], ["--batch-size", "4", "--simplify"]]
    + [
        [*shape, *half, "--end2end", "--nms", form]
        for shape in ([], ["--dynamic"], ["--batch-size", "4"])
        for half in ([], ["--half"])
        for form in ("efficientnms", "static")
    ],
    ids=" ".join,
)
def test_tensorrt_parses_and_builds(weights, small, flags):
    """With TensorRT-RTX: the parser of TensorRT 11, and a builder that needs no GPU.

    NMS is behind a few layers only.
    """
    trt = pytest.importorskip("tensorrt_rtx")
    if "--end2end" in flags:
        weights = small
    quick = ["--round", "nearest"] if "--half" in flags else []
    run(weights, *flags, *quick)
    path = next(weights.parent.glob("*.onnx"))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network()
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    model = onnx.load(str(path))
    if "efficientnms" in flags:  # this TensorRT has no plugin
        swap_efficientnms(model)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    entry = network.get_input(0)
    if "--dynamic" in flags:
        profile = builder.create_optimization_profile()
        profile.set_shape(entry.name, (1, 3, 64, 64), (1, 3, 128, 128), (4, 3, 256, 256))
        config.add_optimization_profile(profile)
    assert entry.dtype == (trt.DataType.HALF if "--half" in flags else trt.DataType.FLOAT)
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    if "--end2end" in flags:
        assert [o.name for o in outputs] == list(OUTPUTS)
        assert [o.dtype for o in outputs] == [trt.DataType.INT32] * 2 + [trt.DataType.FLOAT] * 3
        assert {o.shape[1] for o in outputs[1:]} == {100}
    else:
        assert outputs[0].dtype == trt.DataType.FLOAT
    assert builder.build_serialized_network(network, config) is not None
