"""The script test_multi_backend.py on models that say what they are told."""

import csv
import json
import os
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from tests.conftest import make_pose_onnx, pose_row
from tests.dataset.test_eval_set import PERSON, coco_content, write_set
from tests.evaluation.test_evaluate import person_row
from tests.scripts import run_inside, run_script
from utils.dataset.labels import read_labels

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


def run(folder, *words, weights=("good.onnx",), size=("--img-size", "64"), start=run_inside):
    flags = ["--data", "data.yaml", "--device", "cpu", "--project", "runs", *size]
    return start("test_multi_backend.py", *flags, "--weights", *weights, *words, cwd=folder)


def inside_onnx(path, rows, names=("person",), conf=0.1, iou=0.5):
    """The model that make_pose_onnx makes, with embedded NMS."""
    import onnx

    from utils.graph.nms import Nms, add_nms

    model = onnx.load(str(make_pose_onnx(path, rows, names=names)))
    add_nms(model, len(names), Nms("static", conf, iou, len(rows)))
    for key, value in {"conf_thres": conf, "iou_thres": iou, "topk": len(rows)}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.save(model, str(path))


def two_classes(folder, **options):
    """The set of two classes; everybody is of the second."""
    write_set(folder, NAMES, "1" + PERSON[1:], **options)
    text = (folder / "data.yaml").read_text().replace("nc: 1", "nc: 2")
    (folder / "data.yaml").write_text(text.replace("[person]", "[cat, person]"))


def results(folder, name="exp"):
    return json.loads((folder / "runs" / name / "results.json").read_text())


def test_table_and_files(folder):
    words = ("--kpt-label", "--task", "val", "--results-file", "out/copy.json")
    done = run(folder, *words, start=run_script)
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
    done = run(folder, "--compare", "--bootstrap", "50", weights=("good.onnx", "bad.onnx"))
    assert done.returncode == 0, done.stderr
    runs = folder / "runs" / "exp"
    with open(runs / "compare.csv", newline="") as file:
        good, bad = csv.DictReader(file)
    assert good["file"] == "good.onnx" and good["kpt AP"] == "1.0000"
    assert bad["kpt AP vs first row"].startswith("-") and bad["precision"] == "FP32"
    assert (runs / "compare.md").read_text() in done.stdout
    assert cv2.imread(str(runs / "compare.png")) is not None
    assert cv2.imread(str(runs / "bad.onnx" / "worst.jpg")) is not None
    assert "95 % intervals, 50 draws of 3 images: keypoint AP 1.0000 (1.0000" in done.stdout
    assert "bad.onnx: keypoint AP against good.onnx: -" in done.stdout
    found = [w["bootstrap"] for w in results(folder)["weights"]]
    assert found[0] == {"draws": 50, "AP": pytest.approx([1, 1]), "AP50": pytest.approx([1, 1])}
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "95 % interval of keypoint AP" in page and "inference in this test, ms" in page
    assert page.count("<img") == 1 + 3 + 4 and "http" not in page.replace("http-equiv", "")


def test_compare_of_files_of_two_sizes_warns(folder):
    make_pose_onnx(folder / "large.onnx", np.stack([person_row(0.9)]), hw=(128, 128))
    done = run(folder, "--compare", "--no-report", weights=("bad.onnx", "large.onnx"), size=())
    assert done.returncode == 0, done.stderr
    assert "warning: the files take different sizes (128x128, 64x64)" in done.stdout


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
    dom = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
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


def test_files_of_one_name(folder):
    for name in ("good", "bad"):
        (folder / name).mkdir()
        (folder / (name + ".onnx")).rename(folder / name / "m.onnx")
    done = run(folder, "--compare", weights=("good/m.onnx", "bad/m.onnx"))
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "exp" / "m.onnx_2" / "worst.jpg").is_file()
    assert (folder / "runs" / "exp" / "m.onnx" / "pr.png").is_file()
    found = results(folder)["compare"]["files"]
    assert [entry["file"] for entry in found] == ["good/m.onnx", "bad/m.onnx"]


@pytest.mark.parametrize("asked, conf", [("0.05", 0.1), ("0.5", 0.5)])
def test_nms_inside_and_outside_at_the_same_thresholds(folder, asked, conf):
    rows = np.stack([person_row(0.9), person_row(0.3), pose_row(9, 50, 8, 8, 0.3)])
    rows[1, :2] += 9, 6  # its IoU with the first is 0.36
    make_pose_onnx(folder / "plain.onnx", rows)
    inside_onnx(folder / "inside.onnx", rows, iou=0.3)
    words = ("--compare", "--no-report", "--conf-thres", asked, "--iou-thres", "0.7")
    done = run(folder, *words, weights=("plain.onnx", "inside.onnx"))
    assert done.returncode == 0, done.stderr
    outside, inside = results(folder)["compare"]["nms"]
    for entry in (outside, inside):
        assert (entry["conf"], entry["iou"], entry["kpt_ap_vs_outside"]) == (conf, 0.3, 0)
    with open(folder / "runs" / "exp" / "compare-nms.csv", newline="") as file:
        assert [row["kpt AP vs outside"] for row in csv.DictReader(file)] == ["+0.0000"] * 2


def test_nms_outside_is_tested_as_the_others_are(folder):
    """Two looks take the ghost down; the data does not know the model's classes."""
    names, options = ("cat", "person"), {"nc": 2, "cls": 1}
    rows = np.stack([person_row(0.6, **options), pose_row(9, 50, 8, 8, 0.8, **options)])
    make_pose_onnx(folder / "plain.onnx", rows, names=names)
    inside_onnx(folder / "inside.onnx", rows, names)
    words = ("--compare", "--no-report", "--flip-test", "--single-cls")
    done = run(folder, *words, weights=("plain.onnx", "inside.onnx"))
    assert done.returncode == 0, done.stderr
    outside, inside = results(folder)["compare"]["nms"]
    assert outside["kpt_ap"] == inside["kpt_ap"] == pytest.approx(1)


def test_one_class_is_suppressed_as_one(folder):
    rows = [person_row(0.9, nc=2), person_row(0.8, nc=2, cls=1)]
    make_pose_onnx(folder / "two.onnx", np.stack(rows), names=("cat", "person"))
    done = run(folder, "--single-cls", "--save-json", "--no-report", weights=("two.onnx",))
    assert done.returncode == 0, done.stderr
    rows = json.loads((folder / "runs" / "exp" / "predictions.json").read_text())
    assert [r["image_id"] for r in rows] == [7, 8, 9]


def test_hybrid_labels_of_images_with_nobody(folder):
    write_set(folder, NAMES, "")
    done = run(folder, "--save-hybrid", "--no-report")
    assert done.returncode == 0, done.stderr
    assert "warning: --save-hybrid: " in done.stdout and "above 0.25" in done.stdout
    make_pose_onnx(folder / "weak.onnx", np.stack([person_row(0.2), pose_row(9, 50, 8, 8, 0.1)]))
    for words, count in (((), 0), (("--conf-thres", "0.15"), 1)):
        name = "weak%d" % count
        done = run(folder, "--save-hybrid", "--no-report", "--name", name, *words,
                   weights=("weak.onnx",))  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert read_labels(folder / "runs" / name / "labels" / "1.txt", 17, 1).count == count


def test_hybrid_labels_hold_only_what_can_be_trained_on(folder):
    content = coco_content(NAMES, (48, 64))
    content["annotations"].append({**content["annotations"][0], "id": 9, "iscrowd": 1})
    (folder / "val.json").write_text(json.dumps(content))
    outside = pose_row(-20, 32, 10, 10, 0.95)  # no width is left on the image
    make_pose_onnx(folder / "edge.onnx", np.stack([person_row(0.9), outside]))
    done = run(folder, "--save-hybrid", "--no-report", weights=("edge.onnx",))
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        path = folder / "runs" / "exp" / "labels" / name.replace("jpg", "txt")
        assert read_labels(path, 17, 1).count == 1


def test_one_class_counts_but_files_keep_theirs(folder):
    two_classes(folder)
    rows = [person_row(0.9, nc=2), pose_row(9, 50, 8, 8, 0.95, nc=2, cls=1)]
    make_pose_onnx(folder / "two.onnx", np.stack(rows), names=("cat", "person"))
    words = ("--single-cls", "--save-hybrid", "--save-json", "--no-report")
    done = run(folder, *words, weights=("two.onnx",))
    assert done.returncode == 0, done.stderr
    assert results(folder)["weights"][0]["pose"]["AP"] == pytest.approx(0.5)
    labels = read_labels(folder / "runs" / "exp" / "labels" / "1.txt", 17, 2)
    assert labels.classes.tolist() == [1, 1]  # the one labelled, and one invented
    rows = json.loads((folder / "runs" / "exp" / "predictions.json").read_text())
    assert [r["category_id"] for r in rows] == [2, 1] * 3


@pytest.mark.parametrize("lacking", ["num_keypoints", "iscrowd", "area", "id", "nothing"])
def test_pycocotools_beside_ours_with_any_json_we_read(folder, lacking):
    pytest.importorskip("pycocotools")
    content = coco_content(NAMES, (48, 64))
    dog = {"id": 9, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4], "keypoints": []}
    content["categories"].append({"id": 4, "name": "dog"})
    content["annotations"][0].update(keypoints=None, num_keypoints=0)
    for annotation in content["annotations"]:
        annotation.pop(lacking, None)
    content["annotations"].append(dog)
    (folder / "val.json").write_text(json.dumps(content), encoding="utf-8-sig")
    done = run(folder, "--save-json-kpt", "--no-report", weights=("bad.onnx",))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"ours within 0e\+00|ours within \de-1\d", done.stdout)) == 2


def test_pycocotools_knows_no_single_class(folder):
    content = coco_content(NAMES, (48, 64))
    content["categories"].insert(0, {"id": 1, "name": "cat"})
    two_classes(folder, with_json=True)
    (folder / "val.json").write_text(json.dumps(content))
    make_pose_onnx(folder / "two.onnx", person_row(0.9, nc=2)[None], names=("cat", "person"))
    words = ("--save-json-kpt", "--no-report", "--single-cls")
    done = run(folder, *words, weights=("two.onnx",))
    assert done.returncode == 0, done.stderr
    assert "pycocotools: not comparable" in done.stdout


def test_image_whose_name_is_not_utf8(folder):
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (folder / "images" / "1.jpg").rename(folder / "images" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (folder / "labels" / "1.txt").rename((folder / "labels" / name).with_suffix(".txt"))
    (folder / "data.yaml").write_text("val: images\nnc: 1\nnames: [person]\n")
    done = run(folder, "--save-txt", weights=("bad.onnx",))
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "exp" / "report.html").is_file()


def test_speed(folder):
    done = run(folder, "--task", "speed", weights=("good.onnx", "bad.onnx"))
    assert done.returncode == 0, done.stderr
    with open(folder / "runs" / "exp" / "speed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["weights"] for r in rows] == ["good.onnx", "bad.onnx"]
    assert all(float(r["inference ms"]) > 0 for r in rows)


@pytest.mark.parametrize("task", ["speed", "study"])
def test_a_late_fault_does_not_take_the_figures_along(folder, task):
    make_pose_onnx(folder / "5.onnx", np.stack([pose_row(9, 9, 9, 9, nkpt=5)]))
    words = ("--task", task, "--study-sizes", "64")
    done = run(folder, *words, weights=("good.onnx", "5.onnx"), size=())
    assert done.returncode == 1
    assert "1 of 2 files failed: 5.onnx: the model has 5 keypoints" in done.stderr
    found = results(folder)
    assert [entry["weights"] for entry in found[task]] == ["good.onnx"] and found["failed"]
    assert len((folder / "runs" / "exp" / (task + ".csv")).read_text().splitlines()) == 2


def test_speed_of_an_image_that_is_none(folder):
    (folder / "images" / "2.jpg").write_bytes(b"no image")
    done = run(folder, "--task", "speed")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "2.jpg: not an image" in done.stderr


def test_study_sizes_are_those_that_were_run(folder):
    done = run(folder, "--task", "study", "--study-sizes", "60", "64", "100", size=())
    assert done.returncode == 0, done.stderr
    assert [r["size"] for r in results(folder)["study"]] == [64, 128]


def test_study(folder):
    words = ("--task", "study", "--study-sizes", "64", "128")
    done = run(folder, *words, size=())
    assert done.returncode == 0, done.stderr
    assert [(r["size"]) for r in results(folder)["study"]] == [64, 128]
    assert cv2.imread(str(folder / "runs" / "exp" / "study.png")) is not None


def test_a_study_of_a_fixed_size_is_refused_before_any_test(folder):
    words = ("--task", "study", "--study-sizes", "64", "128")
    fixed = run(folder, *words, weights=("bad.onnx",), size=())
    told = "bad.onnx: --task study needs a .pt, or a file exported with --dynamic; this one is "
    assert fixed.returncode == 1 and told + "fixed to 64 64" in fixed.stderr
    assert "kpt AP" not in fixed.stdout and not (folder / "runs" / "exp").exists()
    both = run(folder, *words, weights=("good.onnx", "bad.onnx"), size=())
    assert both.returncode == 1 and "1 of 2 files failed: %s" % told in both.stderr
    assert both.stdout.index(told) < both.stdout.index("poses: ")
    assert [r["weights"] for r in results(folder)["study"]] == ["good.onnx"] * 2


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
        (("--batch-size", "0"), "--batch-size 0: expected 1 to 4096"),
        (("--task", "study", "--study-sizes", "64", "0"), "--study-sizes 0: expected 1 to 8192"),
        (("--weights", "good.onnx", "./good.onnx"), "a file is there twice"),
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
