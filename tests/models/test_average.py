"""models/average.py."""

import pytest

torch = pytest.importorskip("torch")

from models.average import average, get_args_parser, main  # noqa: E402
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from models.yolo import Model  # noqa: E402
from tests.conftest import tiny_cfg  # noqa: E402
from utils.errors import InputError  # noqa: E402


def run(*argv):
    main(get_args_parser().parse_args([str(a) for a in argv]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two checkpoints of one network, their states."""
    folder = tmp_path_factory.mktemp("average")
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = Model(tiny_cfg())
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.fill_(10 * seed)
        save_checkpoint(folder / ("%d.pt" % seed), model, {"epoch": seed, "imgsz": [64, 64]})
        found.append(model.state_dict())
    return folder, found


@pytest.mark.parametrize("shares", [(), (1, 3), (0.7, 0.3)])
def test_each_tensor_is_the_mean(files, shares):
    folder, (a, b) = files
    extra = ("--shares", *shares) if shares else ()
    run("--weights", folder / "0.pt", folder / "1.pt", *extra, "--out", folder / "m.pt")
    found = load_checkpoint(folder / "m.pt")
    t = shares[1] / sum(shares) if shares else 0.5
    for name, value in found.model.state_dict().items():
        wanted = torch.lerp(a[name], b[name], t) if value.is_floating_point() else a[name]
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)
    assert found.meta["imgsz"] == [64, 64]
    assert [p["epoch"] for p in found.meta["average"]] == [0, 1]
    assert found.meta["average"][1]["share"] == pytest.approx(t)


def test_another_network_is_an_error(files):
    first, other, moved, named = (Model(tiny_cfg(), nc=nc) for nc in (1, 2, 1, 1))
    moved.head.anchors.mul_(2)
    named.names = ["cat"]
    for model in (other, moved, named, Model(tiny_cfg(act="ReLU"))):
        both = [Checkpoint(first, {}), Checkpoint(model, {})]
        with pytest.raises(InputError, match="b.pt: not of the network of a.pt"):
            average(both, [1, 1], ["a.pt", "b.pt"])


@pytest.mark.parametrize(
    "argv, message",
    [
        (("0.pt",), "two or more"),
        (("0.pt", "1.pt", "--shares", "1"), "`shares`: 1 for 2"),
        (("0.pt", "1.pt", "--shares", "1", "0"), "above 0"),
        (("0.pt", "1.pt", "--shares", "1", "nan"), "above 0"),
        (("0.pt", "1.pt", "--shares", "1e308", "1e308"), "at most"),
        (("0.pt", "1.pt", "--out", "x.onnx"), "ending in .pt"),
        (("0.pt", "1.pt", "--out", "1.pt"), "overwrite"),
        (("0.pt", "none.pt"), "none.pt"),
    ],
)
def test_bad_command_lines(files, monkeypatch, argv, message):
    monkeypatch.chdir(files[0])
    with pytest.raises(InputError, match=message):
        run(*(() if "--out" in argv else ("--out", "new.pt")), "--weights", *argv)
    assert not (files[0] / "new.pt").exists()


def test_what_looks_like_another_run_is_told(files, tmp_path, capsys):
    save_checkpoint(tmp_path / "other.pt", Model(tiny_cfg()), {"epoch": 9, "imgsz": [128, 128]})
    run("--weights", files[0] / "0.pt", tmp_path / "other.pt", "--out", tmp_path / "m.pt")
    run("--weights", files[0] / "0.pt", tmp_path / "other.pt", "--out", tmp_path / "m.pt")
    out, err = capsys.readouterr()
    assert "imgsz differ ([64, 64], [128, 128])" in err and "m.pt was replaced" in out
    assert "m.pt: 0.50 x epoch 0 + 0.50 x epoch 9" in out


def test_weights_that_are_no_numbers_are_an_error(files, tmp_path):
    model = Model(tiny_cfg())
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    save_checkpoint(tmp_path / "nan.pt", model)
    with pytest.raises(InputError, match="nan.pt: model.0.* is not finite"):
        run("--weights", files[0] / "0.pt", tmp_path / "nan.pt", "--out", tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()
