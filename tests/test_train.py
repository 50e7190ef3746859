"""train.py as users run it, on twelve small images."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import yaml  # noqa: E402

import train  # noqa: E402
from models.checkpoint import (  # noqa: E402
    load_checkpoint,
    load_training_state,
    save_checkpoint,
)
from models.yolo import Model  # noqa: E402
from tests.conftest import ROOT, tiny_cfg  # noqa: E402
from tests.people import make_people  # noqa: E402
from tests.scripts import run_inside, run_script  # noqa: E402
from utils import cli  # noqa: E402
from utils.dataset.data_yaml import read_data  # noqa: E402
from utils.dataset.labels import Labels  # noqa: E402
from utils.errors import InputError, InputWarning  # noqa: E402
from utils.training import progress, run, validation  # noqa: E402
from utils.training.config import TrainConfig  # noqa: E402
from utils.training.hyper_parameters import read_hyp  # noqa: E402
from utils.training.loss import PARTS  # noqa: E402
from utils.training.network import build_model, fit_anchors  # noqa: E402
from utils.training.progress import epoch_line  # noqa: E402
from utils.training.trainer import Trainer  # noqa: E402


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """The tiny dataset with labels, its data yaml, and a cfg of 0.3 M parameters."""
    return make_people(tmp_path_factory.mktemp("数据"))


def flags(people, project, *more):
    return [
        "--cfg", people / "tiny.yaml", "--data", people / "data.yaml", "--epochs", 3,
        "--batch-size", 4, "--img-size", 128, "--device", "cpu", "--workers", 1,
        "--project", project, *more,
    ]  # fmt: skip


def parse(*words):
    return train.get_args_parser().parse_args([str(w) for w in words])


def rows(folder):
    with (folder / "results.csv").open(newline="") as f:
        return list(csv.DictReader(f))


def losses(folder):
    return [[float(r[k]) for k in ("loss", "box", "kpt", "obj")] for r in rows(folder)]


@pytest.fixture(scope="module")
def finished(people, tmp_path_factory):
    """A run of three epochs."""
    project = tmp_path_factory.mktemp("runs")
    done = run_script("train.py", *flags(people, project))
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "exp", done.stdout


def test_a_run_leaves_what_it_promises(finished):
    folder, out = finished
    for name in ("results.csv", "results.png", "labels.png", "train_batch0.jpg", "train_batch1.jpg",
                 "opt.yaml", "hyp.yaml", "weights/best.pt", "weights/last.pt"):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    table = rows(folder)
    assert [int(r["epoch"]) for r in table] == [1, 2, 3]
    assert all(0 <= float(r["kpt_ap"]) <= 1 for r in table)
    assert all(0 <= float(r["plain_score"]) <= 1 for r in table)
    assert "images/s" in out and "best keypoint AP" in out and "0.3 M parameters" in out
    assert yaml.safe_load((folder / "opt.yaml").read_text())["epochs"] == 3
    checkpoint = load_checkpoint(folder / "weights" / "best.pt")
    assert checkpoint.meta["imgsz"] == [128, 128] and checkpoint.model.names == ["person"]
    assert not list(folder.glob("**/.tmp*"))


@pytest.mark.parametrize("score, told", [(0.1, False), (0.9, True)])
def test_false_detections_in_plain_grey_are_told(score, told):
    class Predictor:
        net_hw = (64, 128)

        def __call__(self, images):
            (image,) = images
            assert image.shape == (64, 128, 3) and np.ptp(image) == 0
            seen = [0.05, score] if image[0, 0, 0] == 114 else []
            return [types.SimpleNamespace(scores=np.array(seen))]

    found = validation.plain_score(Predictor())
    assert found == score
    row = dict.fromkeys(("epoch", "loss", *PARTS, "images_per_s", "memory_gb", "reserved_gb"), 1)
    text = epoch_line({**row, "plain_score": found}, 3)
    assert text.endswith("  false detections in plain grey (score 0.90)") == told


def test_the_parts_of_an_epoch_line_add_up():
    row = {"epoch": 1, "loss": 0.75, "box": 0.125, "kpt": 0.25, "kpt_conf": 0.125, "obj": 0.25,
           "cls": 0.0, "images_per_s": 40.0, "memory_gb": 0.0}  # fmt: skip
    told = "loss 0.7500 (box 0.1250 kpt 0.2500 kpt_conf 0.1250 obj 0.2500)  40 images/s"
    assert epoch_line(row, 3) == "epoch 1/3  " + told
    assert "obj 0.2500 cls 0.0010)" in epoch_line({**row, "cls": 1e-3}, 3)


def test_the_weights_are_tested_and_exported(finished, people):
    folder, _ = finished
    done = run_inside("models/export_onnx.py", "--weights", folder / "weights" / "best.pt",
                      "--img-size", 128)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_resume_after_kill_9_is_exact(people, finished, tmp_path):
    """Killed without warning after some epoch; the rest of the losses is as if it had not been."""
    command = [sys.executable, str(ROOT / "train.py"), *map(str, flags(people, tmp_path))]
    process = subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    last = tmp_path / "exp" / "weights" / "last.pt"
    deadline = time.time() + 120
    while not last.is_file() and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, state = load_training_state(last)
    assert 1 <= state.plain["epoch"] < 3
    done = run_script("train.py", "--resume", "--project", tmp_path, "--device", "cpu",
                      "--workers", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "goes on after epoch" in done.stdout
    for a, b in zip(losses(tmp_path / "exp"), losses(finished[0])):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    mine = load_checkpoint(last).model.state_dict()
    theirs = load_checkpoint(finished[0] / "weights" / "last.pt").model.state_dict()
    assert all(torch.allclose(mine[k].float(), theirs[k].float(), atol=1e-3) for k in mine)
    again = run_inside("train.py", "--resume", last)
    assert again.returncode == 1 and "no state of an unfinished run" in again.stderr


def run_here(people, tmp_path, *more):
    """In this process, one epoch, without validation by default."""
    args = parse(*flags(people, tmp_path, "--epochs", 1, "--workers", 0, *more))
    train.main(args)
    return tmp_path / "exp"


def test_freeze_and_transfer(people, finished, tmp_path, capsys):
    weights = finished[0] / "weights" / "last.pt"
    folder = run_here(people, tmp_path, "--weights", weights, "--freeze", 12, "--adam",
                      "--linear-lr", "--noautoanchor")  # fmt: skip
    before = load_checkpoint(weights).model.state_dict()
    after = load_checkpoint(folder / "weights" / "last.pt").model.state_dict()
    frozen = [k for k in before if int(k.split(".")[1]) < 12 and "tracked" not in k]
    assert frozen and all(torch.equal(before[k], after[k]) for k in frozen)
    assert not torch.equal(before["model.33.m.0.weight"], after["model.33.m.0.weight"])
    said = capsys.readouterr().out
    assert "tensors taken over" in said
    assert "one class, so a class probability tells nothing: it is set to 1, and the score" in said
    assert "scores can be higher than with %s" % weights in said


def test_other_classes_and_keypoints(people, tmp_path, capsys):
    """Three classes, two keypoints; the head is fresh, and says so; rectangles, several sizes."""
    folder = tmp_path / "two"
    shutil.copytree(str(people / "people" / "images"), str(folder / "images"))
    (folder / "labels").mkdir()
    for i, image in enumerate(sorted((folder / "images").iterdir())):
        row = "%d 0.5 0.5 0.4 0.6 0.5 0.4 2 0.5 0.6 1\n" % (i % 3)
        (folder / "labels" / (image.stem + ".txt")).write_text(row)
    (folder / "data.yaml").write_text(
        "train: images\nval: images\nnames: [a, b, c]\nnkpt: 2\nsigmas: [0.05, 0.1]\n"
    )
    weights = tmp_path / "start.pt"
    save_checkpoint(weights, Model(tiny_cfg()))
    args = parse("--weights", weights, "--data", folder / "data.yaml", "--epochs", 1,
                 "--batch-size", 4, "--img-size", 128, "--device", "cpu", "--workers", 0,
                 "--project", tmp_path / "runs", "--label-smoothing", 0.1, "--image-weights",
                 "--multi-scale", "--rect")  # fmt: skip
    train.main(args)
    out = capsys.readouterr().out
    assert "value by value 16 in model.33" in out and "no class (fresh: a, b, c)" in out
    model = load_checkpoint(tmp_path / "runs" / "exp" / "weights" / "last.pt").model
    assert (model.nc, model.nkpt, model.names) == (3, 2, ["a", "b", "c"])


def test_loss_not_finite(people, tmp_path, monkeypatch):
    """The run stops, and what was good stays."""
    step = Trainer._step
    calls = []

    def poisoned(self, *arguments, **named):
        calls.append(1)
        found = step(self, *arguments, **named)
        return found * float("nan") if len(calls) > 2 else found

    monkeypatch.setattr(Trainer, "_step", poisoned)
    with pytest.raises(InputError, match="not finite any more in epoch 2, step 2; .*Lower lr0"):
        train.main(parse(*flags(people, tmp_path, "--workers", 0, "--notest")))
    _, state = load_training_state(tmp_path / "exp" / "weights" / "last.pt")
    assert state.plain["epoch"] == 1


def broken_in(monkeypatch, calls):
    """The network of these validations, counted from 1, predicts what is no pose."""
    of_model = validation.TorchBackend.of_model
    seen = []

    def backend(model, *arguments, **named):
        seen.append(1)
        if len(seen) in calls:
            with torch.no_grad():
                for name, parameter in model.head.named_parameters():
                    parameter.fill_(1e9 if name.endswith("bias") else 0.0)
        return of_model(model, *arguments, **named)

    monkeypatch.setattr(validation.TorchBackend, "of_model", backend)


@pytest.mark.parametrize("calls, best", [([2], "1|3"), ([1, 2, 3], "3")])
def test_predictions_that_are_no_poses_are_a_bad_epoch(
    people, tmp_path, monkeypatch, capsys, *, calls, best
):
    """The run goes on; best.pt is another epoch if there is one."""
    broken_in(monkeypatch, calls)
    words = r"epoch [12]: with the running .* counts as AP 0, .*What helps: a lower lr0, close_norm"
    with pytest.warns(InputWarning, match=words) as told:
        train.main(parse(*flags(people, tmp_path, "--workers", 0)))
    assert len([w for w in told if "counts as AP 0" in str(w.message)]) == 1
    assert any("last.pt" in str(w.message) for w in told) == (3 in calls)
    stays = "best.pt of epoch 1 stays" if len(calls) == 1 else "no best.pt yet"
    assert any(stays in str(w.message) for w in told)
    table = rows(tmp_path / "exp")
    assert len(table) == 3 and (table[1]["kpt_ap"], table[1].get("plain_score", "")) == ("0", "")
    out = capsys.readouterr().out
    assert out.count("  no poses: coordinates beyond 1e+07 px") == len(calls)
    assert re.search(r"in epoch (%s): .*best\.pt" % best, out)
    load_checkpoint(tmp_path / "exp" / "weights" / "best.pt")


@pytest.mark.parametrize("more", [[], ["--nosave"], ["--notest"]])
def test_an_error_of_a_validation_says_what_last_pt_holds(
    people, tmp_path, monkeypatch, capsys, *, more
):
    """Although it was written lately, or was not to be written before the end; the run goes on with
    that validation."""
    real, calls = run.validate, []

    def validate(*arguments, **named):
        calls.append(1)
        if len(calls) == 2 or "--notest" in more:
            raise InputError("x.jpg: no image")
        return real(*arguments, **named)

    monkeypatch.setattr(run, "validate", validate)
    monkeypatch.setattr(progress, "SAVE_SHARE", 0.0)  # last.pt of epoch 1 is the last one in time
    with pytest.raises(
        InputError, match=r"x\.jpg: no image; epoch \d is in .*last\.pt, `resume`"
    ) as e:
        train.main(parse(*flags(people, tmp_path, "--workers", 0, *more)))
    last = tmp_path / "exp" / "weights" / "last.pt"
    _, state = load_training_state(last)
    assert "epoch %d is in %s" % (state.plain["epoch"], last) in str(e.value)
    with pytest.raises(InputError, match=r"x\.jpg: no image; epoch \d is in .*last\.pt, `resume`"):
        calls[1:] = []  # the image is as it was
        train.main(parse("--resume", last))
    monkeypatch.setattr(run, "validate", real)
    train.main(parse("--resume", last))
    assert "epoch %d has not been validated: that" % state.plain["epoch"] in capsys.readouterr().out
    table = rows(tmp_path / "exp")
    assert (last.parent / "best.pt").is_file() and [row["epoch"] for row in table] == list("123")
    assert table[state.plain["epoch"] - 1]["kpt_ap"] != "" and table[2]["kpt_ap"] != ""


@pytest.mark.parametrize(
    "change, words",
    [
        (["--data", "none.yaml"], "`data` none.yaml: no such file"),
        (["--hyp", "none.yaml"], "`hyp` none.yaml: no such file"),
        (["--cfg", "none.yaml"], "`cfg` none.yaml: no such file"),
        (["--weights", "none.pt"], "`weights` none.pt: no such file; expected a .pt"),
        (["--device", "7"], "`device` 7: PyTorch .* sees"),
        (["--device", "gpu"], "expected cpu, a GPU index"),
        (["--epochs", "0"], "`epochs` 0: expected 1"),
        (["--freeze", "34"], "`freeze` 34: the network has 34 layers"),
        (["--img-size", "128", "256", "128"], "expected one number or height width"),
        (["--evolve"], "`evolve` is not available"),
        (["--resume", "runs/best.onnx"], "`resume` runs/best.onnx: expected the last.pt of a run$"),
        (["--resume", "none.pt"], "`resume` none.pt: no such file; expected .*last.pt$"),
        (["--label-smoothing", "2"], "`label_smoothing` 2"),
        (["--cfg", ""], "`cfg`: expected a network"),
    ],
)
def test_bad_flags(people, tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        train.main(parse(*flags(people, tmp_path, *change)))
    assert not list(tmp_path.iterdir())


def test_running_statistics_from_scratch_are_told(people, tmp_path):
    hyp = ROOT / "data" / "hyp.finetune_custom.yaml"
    with pytest.warns(InputWarning, match="close_norm 1 in `hyp` .*: from scratch there are no"):
        run_here(people, tmp_path, "--hyp", hyp, "--notest", "--epochs", 1)


def test_resume_without_a_run(tmp_path):
    with pytest.raises(InputError, match="`resume`: no .*/weights/last.pt"):
        train.main(parse("--resume", "--project", tmp_path))


def test_cfg_of_other_weights(people, finished, tmp_path):
    cfg = dict(tiny_cfg(), width_multiple=0.3)
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(cfg))
    words = parse(*flags(people, tmp_path / "runs", "--cfg", path, "--weights",
                         finished[0] / "weights" / "last.pt"))  # fmt: skip
    config = cli.config_of(TrainConfig, words)
    with pytest.warns(InputWarning, match=r"^only \d+ of the \d+ tensors of `cfg`"):
        model, lines = build_model(config, read_data(config.data))
    assert "fresh are" in lines[1]


def test_validation_images_are_decoded_before_the_first_epoch(people, tmp_path):
    shutil.copytree(str(people / "people"), str(tmp_path / "people"))
    data = shutil.copy(str(people / "data.yaml"), str(tmp_path))
    for name in ("people08.jpg", "people10.jpg"):
        image = tmp_path / "people" / "images" / name
        image.write_bytes(image.read_bytes()[:900])
    words = r"people08\.jpg: a JPEG that ends too early: copy it again; and 1 more, escalator/check"
    with pytest.raises(InputError, match=words):
        run_here(people, tmp_path / "runs", "--data", data)
    assert not (tmp_path / "runs").exists()


def test_validation_list_missing(people, tmp_path):
    data = tmp_path / "data.yaml"
    data.write_text("train: %s\nnames: [person]\n" % (people / "people" / "train.txt"), "utf-8")
    with pytest.raises(InputError, match="no key val"):
        train.main(parse(*flags(people, tmp_path / "runs", "--data", data)))
    assert not (tmp_path / "runs").exists()


def test_anchors_of_weights_are_kept():
    """The head has learnt with them; from scratch they are replaced."""
    model = Model(str(ROOT / "models" / "hub" / "yolov5n6_kpts.yaml"), nc=1, nkpt=17)
    labels = Labels(
        np.zeros(20, np.int64),
        np.tile([0.5, 0.5, 0.9, 0.01], (20, 1)) * np.linspace(0.5, 1, 20)[:, None],
        np.zeros((20, 17, 3)),
    )
    data = types.SimpleNamespace(
        count=1, labels=[labels], sizes=np.array([[640, 640]]), repeats=np.ones(1)
    )
    hyp = read_hyp(ROOT / "data" / "hyp.scratch.yaml")
    before = model.head.anchors.clone()
    text = fit_anchors(model, data, hyp, size=(640, 640), replace=False)
    assert "they are kept" in text and np.array_equal(model.head.anchors, before)
    text = fit_anchors(model, data, hyp, size=(640, 640))
    assert "new ones" in text and not np.array_equal(model.head.anchors, before)
