"""The whole way of the README on the tiny dataset; the scripts of escalator/ as processes."""

import json
import shutil

import pytest
import yaml

from tests.conftest import ROOT, tiny_cfg
from tests.scripts import run_inside, run_script
from utils.dataset.data_yaml import read_data

PEOPLE = ROOT / "tests" / "data" / "people"


def runs(script, *flags, start=run_inside):
    done = start(script, *flags)
    assert done.returncode == 0, "%s %s\n%s%s" % (script, flags, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def custom(tmp_path):
    """data/custom_kpts of a user, in a folder with a Chinese name, and its yaml."""
    folder = tmp_path / "数据" / "custom_kpts"
    shutil.copytree(str(PEOPLE), str(folder))
    shutil.copyfile(
        str(ROOT / "data" / "custom_kpts.yaml"), str(folder.parent / "custom_kpts.yaml")
    )
    return folder


def prepare(custom, start=run_inside):
    """Convert, split, COCO JSONs, images, check."""
    runs("escalator/json2yolo.py", "--json_dir", custom / "annotations",
         "--label_dir", custom / "labels", start=start)  # fmt: skip
    runs("escalator/split.py", "--image_dir", custom / "images", "--prefix_path", "./images/",
         "--out_path", custom, "--split", 0.7, 0.2, 0.1, start=start)  # fmt: skip
    for task in ("train", "val"):
        runs("escalator/json2coco.py", "--json_dir", custom / (task + ".txt"), "--save_file",
             custom / "annotations-trainval" / ("person_keypoints_%s.json" % task),
             start=start)  # fmt: skip
    runs("escalator/visual.py", "--data_root", custom, "--data_file", "train.txt",
         "--visual_num", 5, "--save_dir", custom / "visual", start=start)  # fmt: skip
    return runs("escalator/check.py", "--data", custom.parent / "custom_kpts.yaml",
               "--save_dir", custom / "check", start=start)  # fmt: skip


def test_prepare(custom):
    out = prepare(custom, start=run_script)
    data = read_data(custom.parent / "custom_kpts.yaml")
    assert [len(data.images(task)) for task in ("train", "val", "test")] == [8, 3, 1]
    ground_truth = json.loads(
        (custom / "annotations-trainval" / "person_keypoints_val.json").read_text("utf-8")
    )
    assert len(ground_truth["images"]) == 3 and data.annotations("val")
    assert len(list((custom / "visual").iterdir())) == 5
    assert "errors" in out and (custom / "check" / "report.png").is_file()


def test_prepare_train_export_detect_test(custom):
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    prepare(custom)
    (custom / "tiny.yaml").write_text(yaml.safe_dump(tiny_cfg()))
    runs("train.py", "--weights", "", "--cfg", custom / "tiny.yaml", "--data",
         custom.parent / "custom_kpts.yaml", "--hyp", ROOT / "data" / "hyp.scratch.yaml",
         "--epochs", 1, "--batch-size", 4, "--img-size", 128, "--device", "cpu", "--workers", 2,
         "--kpt-label", "--project", custom / "runs", "--name", "train")  # fmt: skip
    trained = custom / "runs" / "train"
    assert (trained / "results.png").is_file() and (trained / "train_batch0.jpg").is_file()
    weights = custom / "model.pt"
    shutil.copyfile(str(trained / "weights" / "best.pt"), str(weights))
    runs("models/export_onnx.py", "--weights", weights, "--img-size", 128)
    runs("detect_multi_backend.py", "--weights", custom / "model.onnx", "--source",
         custom / "val.txt", "--device", "cpu", "--project", custom / "runs", "--save-txt",
         "--kpt-label")  # fmt: skip
    assert len(list((custom / "runs" / "exp").glob("*.jpg"))) == 3
    runs("test_multi_backend.py", "--weights", weights, custom / "model.onnx", "--data",
         custom.parent / "custom_kpts.yaml", "--img-size", 128, "--device", "cpu", "--kpt-label",
         "--compare", "--project", custom / "runs", "--name", "test")  # fmt: skip
    found = json.loads((custom / "runs" / "test" / "results.json").read_text("utf-8"))
    pt, onnx = found["compare"]["files"]
    assert onnx["kpt_ap_vs_first"] == pytest.approx(0, abs=1e-6) and onnx["box_ap"] >= 0
    assert (custom / "runs" / "test" / "report.html").is_file()


@pytest.mark.parametrize("name", ["scratch", "finetune_evolve", "finetune_custom"])
def test_hyper_parameters(name):
    """The same keys everywhere, numbers, and a word on each line."""
    path = ROOT / "data" / ("hyp.%s.yaml" % name)
    values = yaml.safe_load(path.read_text())
    more = ["close_norm"] if name == "finetune_custom" else []
    scratch = yaml.safe_load((ROOT / "data" / "hyp.scratch.yaml").read_text())
    assert list(values) == [*scratch, *more] and len(scratch) == 28
    assert all(type(v) in (int, float) for v in values.values())
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(values) and all("  # " in line for line in lines)


@pytest.mark.parametrize("name", ["coco_kpts", "custom_kpts"])
def test_data_yamls(name):
    data = read_data(ROOT / "data" / (name + ".yaml"))
    assert (data.nc, data.nkpt) == (1, 17) and {"train", "val"} <= set(data.splits)
