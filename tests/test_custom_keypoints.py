"""docs/custom-keypoints.md as it stands, on a few drawn hands; and that a wrong flip_idx shows."""

import json
import shutil

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks import custom_keypoints  # noqa: E402
from models.checkpoint import load_checkpoint  # noqa: E402
from tests.conftest import ROOT, tiny_cfg  # noqa: E402
from tests.models.test_export_TRT import run  # noqa: E402
from tests.test_docs import blocks_of, commands_of  # noqa: E402
from utils.dataset.data_yaml import read_data  # noqa: E402
from utils.trt.sidecar import read_info  # noqa: E402

PAGE = ROOT / "docs" / "custom-keypoints.md"
FINGERS = ("thumb", "index", "middle", "ring", "little")
POINTS = ["wrist"] + ["%s_%d" % (f, j) for f in FINGERS for j in (1, 2, 3, 4)]


def draw_hand(folder, i, rng):
    """An image and labelme's file of a hand."""
    image = np.full((96, 96, 3), 120, np.uint8)
    wrist = rng.uniform(40, 56, 2) + [0, 20]
    points = [wrist]
    for f in range(5):
        angle = np.radians(150 - 30 * f)
        for j in (1, 2, 3, 4):
            points.append(wrist + 10 * j * np.array([np.cos(angle), -np.sin(angle)]))
            ends = [tuple(int(v) for v in p) for p in points[-2:]]
            cv2.line(image, ends[0] if j > 1 else tuple(int(v) for v in wrist), ends[1],
                     (60, 60, 220 - 30 * f), 3)  # fmt: skip
    shapes = [
        {"label": name, "points": [p.tolist()], "group_id": 1, "shape_type": "point"}
        for name, p in zip(POINTS, points)
    ]
    low, high = np.min(points, 0) - 3, np.max(points, 0) + 3
    shapes.append({"label": "hand", "points": [low.tolist(), high.tolist()], "group_id": 1,
                   "shape_type": "rectangle"})  # fmt: skip
    (folder / "images" / ("%02d.png" % i)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    content = {"shapes": shapes, "imagePath": "%02d.png" % i, "imageHeight": 96, "imageWidth": 96}
    (folder / "annotations" / ("%02d.json" % i)).write_text(json.dumps(content))


def changed(words, folder):
    """A command of the page, on our hands and small enough for a test."""
    small = {"--epochs": "1", "--batch-size": "4", "--img-size": "64", "--device": "cpu",
             "--calib_num": "4"}  # fmt: skip
    if words[0] == "train.py":
        words = [*words, "--cfg", str(folder / "tiny.yaml"), "--workers", "0"]
        small["--weights"] = ""
    elif words[0] in ("detect_multi_backend.py", "test_multi_backend.py"):
        words = [*words, "--device", "cpu", "--project", str(folder / "runs")]
    elif words[0] in ("models/export_INT8.py", "models/export_TRT.py"):
        words = [*words, "--cache_dir", str(folder / "caches")]
    elif words[0] == "escalator/check.py":
        words = [*words, "--save_dir", str(folder / "check")]
    for k, word in enumerate(words):
        if word in small:
            words[k + 1] = small[word]
    return [w.replace("data/hands", str(folder / "hands")).replace("runs/", "%s/runs/" % folder)
            if not w.startswith(str(folder)) else w for w in words]  # fmt: skip


def test_the_page_from_labelme_to_an_engine(tmp_path):
    for name in ("images", "annotations"):
        (tmp_path / "hands" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(10):
        draw_hand(tmp_path / "hands", i, rng)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_cfg()))
    blocks = blocks_of(PAGE)
    (declaration,) = [b.text for b in blocks if b.language == "yaml"]
    (tmp_path / "hands.yaml").write_text(declaration)
    commands = [c for b in blocks if b.language == "bash" for c in commands_of(b)]
    assert len(commands) == 10
    for words in commands:
        script, *flags = changed(words[1:], tmp_path)
        done = run("v85" if script.endswith("TRT.py") else None, script, *flags)
        assert done.returncode == 0, "%s\n%s%s" % (words, done.stdout, done.stderr)
        if words[1].endswith("json2yolo.py"):
            assert "21 keypoints, not COCO's" in done.stdout and "classes: hand" in done.stdout
    weights = tmp_path / "runs" / "hands" / "exp" / "weights"
    declared = read_data(tmp_path / "hands.yaml").skeleton
    assert list(declared.names) == POINTS and declared.flip_index == tuple(range(21))
    assert load_checkpoint(weights / "best.pt").model.skeleton == declared
    info = read_info(weights / "best-INT8.trt")
    assert info["kpt_names"] == POINTS and info["imgsz"] == [64, 64]
    (categories,) = (tmp_path / "runs").glob("*/categories.json")
    found = json.loads(categories.read_text())
    assert found[0]["keypoints"] == POINTS and len(found[0]["skeleton"]) == 20
    shutil.rmtree(str(tmp_path / "hands"))


@pytest.fixture
def one_thread():
    """Networks this small gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_wrong_flip_idx_is_worse(tmp_path, one_thread):
    """Cards whose left and right look alike; a small part of the benchmark."""
    drawn = custom_keypoints.corners()
    custom_keypoints.make_set(tmp_path, drawn, 48, val=16)
    custom_keypoints.tiny_cfg(tmp_path / "tiny.yaml")
    hyp = custom_keypoints.write_hyp(tmp_path / "flips.yaml", fliplr=0.5, lr0=0.01)
    found = {}
    for name, keys in (("right", {}), ("wrong", {"flip_idx": [0, 1, 2, 3]})):
        data = custom_keypoints.write_yaml(tmp_path, drawn, name, **keys)
        found[name] = custom_keypoints.train(tmp_path, data, hyp, epochs=20, size=64)
    assert min(row["box_ap50"] for row in found.values()) > 0.9
    assert found["right"]["kpt_ap50"] > found["wrong"]["kpt_ap50"] + 0.5, found
