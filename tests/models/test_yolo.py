import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.cfg import LAYER_NAMES, read_cfg  # noqa: E402
from models.yolo import LAYERS, Model, make_divisible  # noqa: E402
from tests.conftest import ROOT, randomized, tiny_cfg  # noqa: E402

HUB = sorted((ROOT / "models" / "hub").glob("*.yaml"))
# Million parameters before fusing; s6 and l6 are the published networks
PARAMETERS = {"yolov5n6_kpts": 3.87, "yolov5s6_kpts": 15.1, "yolov5l6_kpts": 77.0}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def decode_by_loops(levels, head):
    """The paper's formulas, one row at a time, in float64."""
    rows = []
    for i, t in enumerate(levels):
        b, _, ny, nx = t.shape
        values = t.double().numpy().reshape(b, head.na, head.no, ny, nx)
        s = float(head.stride[i])
        anchors = head.anchor_grid[i].numpy().reshape(head.na, 2)
        for a in range(head.na):
            for y in range(ny):
                for x in range(nx):
                    v = values[0, a, :, y, x]
                    g = np.array([x, y])
                    row = [*((2 * sigmoid(v[:2]) - 0.5 + g) * s)]
                    row += [*((2 * sigmoid(v[2:4])) ** 2 * anchors[a])]
                    row += [*sigmoid(v[4 : 5 + head.nc])]
                    for k in range(head.nkpt):
                        p = v[5 + head.nc + 3 * k :][:3]
                        row += [*((2 * p[:2] - 0.5 + g) * s), sigmoid(p[2])]
                    rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("path", HUB, ids=lambda p: p.stem)
def test_hub_cfgs_build(path):
    cfg = read_cfg(path)
    full = PARAMETERS.get(path.stem)
    if full is None:
        cfg["width_multiple"] = 0.0625
    model = Model(cfg)
    assert model.stride.tolist() == [8, 16, 32, 64]
    assert (model.nc, model.nkpt, model.max_stride) == (1, 17, 64)
    if full is not None:
        assert model.parameter_count() / 1e6 == pytest.approx(full, rel=5e-3)
    names = {type(m).__name__ for m in model.modules()}
    assert ("ConvFocus" in names) == ("ti_lite" in path.stem)


@pytest.mark.parametrize("dw", [False, True])
@pytest.mark.parametrize("nc, nkpt", [(1, 17), (3, 17), (2, 5), (4, 1)])
def test_decode_follows_the_paper(dw, nc, nkpt):
    torch.manual_seed(0)
    model = Model(tiny_cfg(dw_conv_kpt=dw), nc=nc, nkpt=nkpt).eval()
    head = model.head
    levels = [torch.randn(1, head.na * head.no, 4 * 2**i, 2 * 2**i) for i in (3, 2, 1, 0)]
    got = head.decode(levels)[0].numpy()
    np.testing.assert_allclose(got, decode_by_loops(levels, head), rtol=1e-4, atol=1e-3)


def test_dynamic_grids_equal_static_ones():
    torch.manual_seed(0)
    model = randomized(Model(tiny_cfg()))
    x = torch.rand(1, 3, 128, 192)
    static = model(x)
    model.head.dynamic = True
    assert torch.equal(model(x), static)


@pytest.mark.parametrize("dw", [False, True])
def test_a_single_class_can_be_settled(dw):
    torch.manual_seed(0)
    model = randomized(Model(tiny_cfg(dw_conv_kpt=dw)))
    images = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        for value in model.head.parameters():
            value.normal_(0, 0.1)
        before = model(images)
        model.head.settle_class()
        after = model(images)
    assert float(before[..., 5].min()) < 0.9
    assert float((after[..., 5] - 1).abs().max()) < 1e-4
    others = [i for i in range(before.shape[2]) if i != 5]
    assert torch.equal(before[..., others], after[..., others])


@pytest.mark.parametrize("dw", [False, True])
def test_fused_model_computes_the_same(dw):
    torch.manual_seed(0)
    model = randomized(Model(tiny_cfg(dw_conv_kpt=dw)))
    x = torch.rand(2, 3, 128, 64)
    with torch.no_grad():
        expected = model(x)
        fused = copy.deepcopy(model).fuse()
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=2e-3)
        assert fused.head.merged != dw


def test_batch_equals_single_images():
    torch.manual_seed(0)
    model = randomized(Model(tiny_cfg()))
    x = torch.rand(3, 3, 64, 128)
    with torch.no_grad():
        together = model(x)
        for i in range(3):
            torch.testing.assert_close(model(x[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-3)


def test_training_outputs_are_raw_levels():
    model = Model(tiny_cfg(), nc=2, nkpt=4).train()
    out = model(torch.rand(2, 3, 64, 128))
    assert [tuple(o.shape) for o in out] == [
        (2, 3, 8, 16, 19),
        (2, 3, 4, 8, 19),
        (2, 3, 2, 4, 19),
        (2, 3, 1, 2, 19),
    ]


def test_training_and_eval_see_the_same_values():
    torch.manual_seed(0)
    model = randomized(Model(tiny_cfg()))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        decoded = model(x)
        model.head.training = True
        raw = torch.cat([t.reshape(1, -1, model.head.no) for t in model(x)], 1)
    torch.testing.assert_close(raw[..., 4].sigmoid(), decoded[..., 4])
    torch.testing.assert_close(raw[..., 8].sigmoid(), decoded[..., 8])


def test_decode_stays_fp32_in_a_fp16_model():
    model = randomized(Model(tiny_cfg())).fuse().half()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64).half()).dtype == torch.float32


def test_every_anchor_starts_alike():
    model = Model(tiny_cfg(dw_conv_kpt=True))
    head = model.head
    bias = torch.cat([head.m[0].bias, head.m_kpt[0][-1].bias]).view(head.na, head.no)
    assert bias[:, 4].std() < 0.5 and bias[:, 4].max() < -3
    assert bias[:, 5].min() > 5  # nc = 1: the class is certain


DETECT = [[[0, 0, 0, 0], 1, "Detect", []]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"backbone": [[-1, 1, "os.system", ["true"]]]}, "os.system"),
        ({"head": [[-1, 1, "Conv", [8]]]}, "Detect"),
        ({"anchors": [[1, 2], [3]]}, "anchors"),
        ({"act": "Explode"}, "Explode"),
        ({"nkpt": 0}, "nkpt"),
        ({"backbone": [[-1, 1, "Conv", [8]], [-2, 1, "Conv", [8]]]}, "layer 1 Conv: from -2"),
        ({"backbone": [[-2, 1, "Conv", [8]]]}, "layer 0 Conv: from -2"),
        (
            {"backbone": [[-1, 7, "nn.Upsample", [None, 2, "nearest"]]], "head": DETECT},
            "more than 64",
        ),
        (
            {"backbone": [[-1, 1, "Upsample", [None, float("nan"), "nearest"]]], "head": DETECT},
            "more than 64",
        ),
        ({"backbone": [[-1, 1, "Upsample", [None]]]}, "expected None, factor, mode"),
        (
            {"backbone": [[-1, 1, "Conv", [8]], [[0] * 9999, 1, "Concat", [1]]], "head": DETECT},
            "79992 channels",
        ),
    ],
)
def test_bad_cfg_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Model(tiny_cfg(**change))


def test_missing_keys_are_named(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("nc: 1\n")
    with pytest.raises(ValueError, match=r"x\.yaml.*nkpt"):
        read_cfg(path)


def test_make_divisible():
    assert [make_divisible(v) for v in (1, 8, 8.1, 64 * 0.25)] == [8, 8, 16, 16]
    assert "Detect" in LAYERS


def test_each_layer_of_a_cfg_has_a_builder():
    assert set(LAYERS) == set(LAYER_NAMES)


def test_padding_in_a_cfg_is_no_number_of_groups():
    cfg = tiny_cfg()
    row = next(row for row in cfg["backbone"] if row[2] == "Conv")
    row[3] = [row[3][0], 6, 2, 2]  # channels, kernel, stride, padding in other toolkits
    with pytest.raises(ValueError, match="do not fit .*at most channels and k, s"):
        Model(cfg)
