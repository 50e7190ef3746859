"""The script test_multi_backend.py, run as users run it, on models that say what they are told."""

import csv
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT, make_pose_onnx, pose_row
from tests.test_eval_set import write_set
from tests.test_evaluate import person_row
from utils.labels import read_labels

NAMES = ("1.jpg", "2.jpg", "3.jpg")


@pytest.fixture
def folder(tmp_path):
    """A data set, a model that is right, and a worse one."""
    write_set(tmp_path, NAMES, with_json=True)
    ghost = pose_row(9, 50, 8, 8, 0.3)
    good = np.stack([person_row(0.9), ghost])
    make_pose_onnx(tmp_path / "good.onnx", good, batch=None, hw=None)
    bad = np.stack([person_row(0.4), pose_row(9, 50, 8, 8, 0.8)])
    make_pose_onnx(tmp_path / "bad.onnx", bad)
    return tmp_path


def run(folder, *words, weights=("good.onnx",), size=("--img-size", "64")):
    command = [sys.executable, str(ROOT / "test_multi_backend.py"), "--data", "data.yaml"]
    command += ["--device", "cpu", "--project", "runs", *size, "--weights", *weights, *words]
    return subprocess.run(command, cwd=str(folder), capture_output=True, text=True)


def results(folder, name="exp"):
    return json.loads((folder / "runs" / name / "results.json").read_text())


def test_table_and_files(folder):
    done = run(folder, "--kpt-label", "--task", "val", "--results-file", "out/copy.json")
    assert done.returncode == 0, done.stderr
    header, det, kpt = [line.split() for line in done.stdout.splitlines()[2:5]]
    assert header == "Class Images Labels P R mAP@.5 mAP@.5:.95".split()
    assert det == "all(det) 3 3 1 1 1 1".split() and kpt == "all(kpt) 3 3 1 1 1 1".split()
    (found,) = results(folder)["weights"]
    assert found["pose"]["AP"] == pytest.approx(1) and found["images"] == 3
    assert json.loads((folder / "out" / "copy.json").read_text()) == results(folder)
    names = {p.name for p in (folder / "runs" / "exp").iterdir()}
    assert names >= {"pr.png", "confidence.png", "keypoints.png", "report.html", "results.json"}
    for name in ("pr.png", "confidence.png", "keypoints.png"):
        image = cv2.imread(str(folder / "runs" / "exp" / name))
        assert image is not None and image.std() > 5


def test_labels_and_json_agree(folder):
    assert run(folder, "--no-report").returncode == 0
    assert run(folder, "--no-report", "--from-labels").returncode == 0
    one, other = results(folder)["weights"][0], results(folder, "exp2")["weights"][0]
    assert one["pose"]["AP"] == other["pose"]["AP"] == pytest.approx(1)
    assert "runs/exp2" in run(folder, "--no-report", "--name", "exp2", "--exist-ok").stdout


def test_pycocotools_beside_ours(folder):
    pytest.importorskip("pycocotools")
    done = run(folder, "--save-json-kpt", "--no-report", weights=("bad.onnx",))
    assert done.returncode == 0, done.stderr
    assert re.search(r"pycocotools, keypoints: AP 0\.5.*ours within 0e\+00", done.stdout)
    rows = json.loads((folder / "runs" / "exp" / "predictions.json").read_text())
    assert {r["image_id"] for r in rows} == {7, 8, 9} and rows[0]["category_id"] == 3


def test_compare_and_report(folder):
    done = run(folder, "--compare", weights=("good.onnx", "bad.onnx"))
    assert done.returncode == 0, done.stderr
    runs = folder / "runs" / "exp"
    with open(runs / "compare.csv", newline="") as file:
        good, bad = csv.DictReader(file)
    assert good["file"] == "good.onnx" and good["kpt AP"] == "1.0000"
    assert bad["change"].startswith("-") and bad["precision"] == "FP32"
    assert (runs / "compare.md").read_text() in done.stdout
    assert cv2.imread(str(runs / "compare.png")) is not None
    assert cv2.imread(str(runs / "bad.onnx" / "worst.jpg")) is not None
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1 + 3 + 4 and "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")
def test_report_opens_in_a_browser(folder):
    assert run(folder, weights=("bad.onnx",)).returncode == 0
    page = (folder / "runs" / "exp" / "report.html").read_text(encoding="utf-8")
    count = (
        "<script>addEventListener('load', () => { const all = [...document.images];"
        "document.title = all.length + ' images, ' + all.filter(i => i.naturalWidth > 300).length"
        " + ' shown, ' + document.querySelectorAll('td').length + ' cells'; });</script>"
    )
    (folder / "page.html").write_text(page.replace("</body>", count + "</body>"), encoding="utf-8")
    command = "chromium --headless --no-sandbox --disable-gpu --dump-dom".split()
    command += ["--user-data-dir=%s" % (folder / "chromium"), "file://%s/page.html" % folder]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "<title>4 images, 4 shown, 40 cells</title>" in dom, dom[:300]
    assert "all (kpt)" in dom


def test_labels_to_look_at_and_to_train_on(folder):
    done = run(folder, "--save-txt", "--save-conf", "--no-report")
    assert done.returncode == 0, done.stderr
    lines = (folder / "runs" / "exp" / "labels" / "1.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [57, 57]
    assert float(lines[0].split()[-1]) == pytest.approx(0.9)
    # the best F1 of bad.onnx takes in its false predictions, too
    done = run(folder, "--save-hybrid", "--no-report", weights=("bad.onnx",))
    assert done.returncode == 0, done.stderr
    labels = read_labels(folder / "runs" / "exp2" / "labels" / "1.txt", 17, 1)
    assert labels.count == 2 and np.allclose(labels.boxes[0], 0.5)


def test_speed(folder):
    done = run(folder, "--task", "speed", weights=("good.onnx", "bad.onnx"))
    assert done.returncode == 0, done.stderr
    with open(folder / "runs" / "exp" / "speed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["weights"] for r in rows] == ["good.onnx", "bad.onnx"]
    assert all(float(r["inference ms"]) > 0 for r in rows)


def test_study(folder):
    words = ("--task", "study", "--study-sizes", "64", "128")
    done = run(folder, *words, size=())
    assert done.returncode == 0, done.stderr
    assert [(r["size"]) for r in results(folder)["study"]] == [64, 128]
    assert cv2.imread(str(folder / "runs" / "exp" / "study.png")) is not None
    fixed = run(folder, *words, weights=("bad.onnx",), size=())
    assert fixed.returncode == 1 and "the model is fixed to 64 64" in fixed.stderr


@pytest.mark.parametrize("flag", ["--augment", "--flip-test"])
def test_several_views(folder, flag):
    done = run(folder, flag, "--no-report")
    assert done.returncode == 0, done.stderr


def test_one_bad_file_does_not_take_the_others_along(folder):
    make_pose_onnx(folder / "5.onnx", np.stack([pose_row(9, 9, 9, 9, nkpt=5)]))
    done = run(folder, "--no-report", weights=("5.onnx", "good.onnx"))
    assert done.returncode == 1
    assert "1 of 2 files failed: 5.onnx: the model has 5 keypoints" in done.stderr
    assert results(folder)["weights"][0]["weights"] == "good.onnx"


@pytest.mark.parametrize(
    "words, reason",
    [
        (("--conf-thres", "2"), "--conf-thres 2: expected 0 to 1"),
        (("--augment", "--flip-test"), "one of them"),
        (("--save-conf",), "goes with --save-txt"),
        (("--task", "speed", "--save-json"), "--save-json: not with --task speed"),
        (("--task", "test"), "no key test; it has val"),
        (("--compare",), "two or more"),
        (("--batch-size", "0"), "--batch-size 0: expected at least 1"),
        (("--weights", "none.onnx"), "none.onnx: no such file"),
        (("--data", "none.yaml"), "none.yaml: no such file"),
        (("--task", "everything"), "invalid choice"),
    ],
)
def test_errors_are_one_line(folder, words, reason):
    done = run(folder, *words)
    assert done.returncode == 1
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (folder / "runs").exists() or not any((folder / "runs").iterdir())
