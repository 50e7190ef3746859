"""The script as users run it: its output, its exit code, its files; some as a process."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from tests.conftest import IMAGES, ROOT, make_pose_onnx, not_root, pose_row
from tests.runtime.test_sources import encode, gradient, video
from tests.scripts import run_inside, run_script
from utils.dataset.images import read_image

SCRIPT = "detect_multi_backend.py"


def detect(*flags):
    return run_inside(SCRIPT, *flags)


def fails(done, *words):
    """One error line with these words, exit code 1, no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs"


def test_folder_of_images(two_people_onnx, out):
    flags = ["--weights", two_people_onnx, "--source", IMAGES, "--project", out, "--kpt-label"]
    more = ["--device", "cpu", "--save-txt", "--save-conf", "--save-json", "--save-crop"]
    done = run_script(SCRIPT, *flags, *more)
    assert done.returncode == 0, done.stderr
    folder = out / "exp"
    names = {"astronaut.jpg", "camera.jpg", "grace_hopper.jpg"}
    assert {p.name for p in folder.glob("*.jpg")} == names
    for name in names:
        before, after = read_image(str(IMAGES / name)), read_image(str(folder / name))
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).max() > 100  # something was drawn
        assert "%s" % name in done.stdout
    assert "2 person" in done.stdout and "frames/s overall" in done.stdout
    for stage in ("decode", "preprocess", "inference", "nms", "draw", "write"):
        assert stage in done.stdout
    for label in (folder / "labels").iterdir():
        lines = label.read_text().splitlines()
        assert len(lines) == 2 and all(len(line.split()) == 57 for line in lines)
    assert len(json.loads((folder / "predictions.json").read_text())) == 6
    assert len(list((folder / "crops" / "person").iterdir())) == 6
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["frames"], summary["poses"], summary["skipped"]) == (3, 6, [])
    again = detect(*flags)
    assert again.returncode == 0 and (out / "exp2").is_dir()


def test_poses_are_in_original_pixels(two_people_onnx, tmp_path, out):
    image_file = encode(tmp_path / "wide.png", np.zeros((100, 200, 3), np.uint8))
    detect("--weights", two_people_onnx, "--source", image_file, "--project", out, "--save-json")
    rows = json.loads((out / "exp" / "predictions.json").read_text())
    # 64 x 64 canvas, image 64 x 32 on it from y = 16, scale 0.32
    best = rows[0]
    shift = 2 * 16 * 114 / 255 / 64 * 64 / 64  # mean brightness of the border moves cx
    np.testing.assert_allclose(best["bbox"], [(38 + shift) / 0.32, 0, 20 / 0.32, 100], atol=1.5)
    np.testing.assert_allclose(best["keypoints"][1], (32 - 16) / 0.32, atol=0.1)


def test_video(two_people_onnx, tmp_path, out):
    clip = video(tmp_path / "clip.avi", 12)
    done = detect("--weights", two_people_onnx, "--source", clip, "--project", out, "--save-txt")
    assert done.returncode == 0, done.stderr
    assert "12 frames, 24 poses" in done.stdout
    capture = cv2.VideoCapture(str(out / "exp" / "clip.mp4"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 12
    assert len(list((out / "exp" / "labels").iterdir())) == 12


@pytest.mark.parametrize("images, told", [(2, 2), (21, 0)])
def test_images_beside_a_video_are_lines(two_people_onnx, tmp_path, out, images, told):
    folder = tmp_path / "mixed"
    folder.mkdir()
    video(folder / "clip.avi", 3)
    paths = [folder / ("%02d.png" % i) for i in range(images)]
    for path in paths:
        encode(path, gradient())
    done = detect("--weights", two_people_onnx, "--source", folder, "--project", out, "--nosave")
    assert done.returncode == 0 and "%d frames, " % (images + 3) in done.stdout
    h, w = gradient().shape[:2]
    lines = ["%s %dx%d: 2 persons" % (path, h, w) for path in paths]
    assert [n for n in done.stdout.splitlines() if n.startswith(str(folder))] == lines[:told]


def test_video_that_breaks_off_is_kept_and_playable(two_people_onnx, tmp_path, out):
    clip = video(tmp_path / "clip.avi", 60)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    done = detect("--weights", two_people_onnx, "--source", clip, "--project", out)
    assert done.returncode == 0, done.stderr
    capture = cv2.VideoCapture(str(out / "exp" / "clip.mp4"))
    assert capture.read()[0]


def test_unreadable_images_among_good_ones(two_people_onnx, tmp_path, out):
    folder = tmp_path / "mixed"
    folder.mkdir()
    encode(folder / "good.jpg", gradient())
    (folder / "bad.jpg").write_bytes(b"bad")
    done = detect("--weights", two_people_onnx, "--source", folder, "--project", out)
    assert done.returncode == 0
    assert "1 frame, " in done.stdout and "1 file skipped" in done.stdout
    assert "skipped: %s" % (folder / "bad.jpg") in done.stdout
    (folder / "good.jpg").write_bytes(b"")
    done = detect("--weights", two_people_onnx, "--source", folder, "--project", out)
    fails(done, "nothing could be read", "good.jpg", "bad.jpg")
    assert [p.name for p in out.iterdir()] == ["exp"]  # the empty run folder is gone


@pytest.mark.parametrize(
    "name, image",
    [
        ("dot.png", np.full((1, 1, 3), 9, np.uint8)),
        ("tall.png", np.full((20000, 100), 9, np.uint8)),
        ("deep.png", np.full((30, 40), 9000, np.uint16)),
        ("rgba.png", np.full((30, 40, 4), 9, np.uint8)),
    ],
)
def test_odd_images(two_people_onnx, tmp_path, out, name, image):
    encode(tmp_path / name, image)
    done = detect("--weights", two_people_onnx, "--source", tmp_path / name, "--project", out)
    assert done.returncode == 0, done.stderr
    assert read_image(str(out / "exp" / name)).shape[:2] == image.shape[:2]


def test_fixed_batch_model(tmp_path, out):
    rows = pose_row(32, 32, 20, 40)[None]
    weights = make_pose_onnx(tmp_path / "four.onnx", rows, batch=4)
    done = detect("--weights", weights, "--source", IMAGES, "--project", out, "--save-json")
    assert done.returncode == 0, done.stderr
    assert [r["file_name"] for r in json.loads((out / "exp" / "predictions.json").read_text())] == [
        "astronaut.jpg",
        "camera.jpg",
        "grace_hopper.jpg",
    ]


def test_dynamic_fp16_model_with_augment_and_classes(tmp_path, out):
    rows = np.stack([pose_row(20, 32, 20, 40, nc=2), pose_row(48, 32, 20, 40, nc=2, cls=1)])
    weights = make_pose_onnx(
        tmp_path / "x.onnx", rows, hw=None, batch=None, half=True, names=("person", "dog"),
        imgsz=[64, 64],
    )  # fmt: skip
    flags = ["--weights", weights, "--source", IMAGES, "--project", out, "--nosave", "--save-json"]
    done = detect(*flags, "--augment", "--classes", "1", "--img-size", "128")
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "exp" / "predictions.json").read_text())
    assert rows and {r["category_id"] for r in rows} == {2}
    assert not list((out / "exp").glob("*.jpg"))
    fails(detect(*flags, "--classes", "2"), "--classes 2", "0 to 1")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--img-size", "128"], ["--img-size 128 128", "64 64"]),
        (["--img-size", "1", "2", "3"], ["--img-size"]),
        (["--classes", "5"], ["--classes 5"]),
        (["--classes", "-1"], ["--classes -1"]),
        (["--conf-thres", "1.5"], ["--conf-thres"]),
        (["--iou-thres", "-0.1"], ["--iou-thres"]),
        (["--device", "x"], ["--device x"]),
        (["--max-det", "0"], ["--max-det"]),
        (["--img-size", "0"], ["--img-size 0 0"]),
        (["--img-size", "99999"], ["--img-size 99999"]),
        (["--conf-thres", "abc"], ["--conf-thres"]),
        (["--name", ""], ["--name"]),
        (["--line-thickness", "-2"], ["--line-thickness"]),
        (["--save-conf"], ["--save-txt"]),
        (["--source", "nowhere.jpg"], ["nowhere.jpg", "no such file"]),
        (["--weights", "nowhere.onnx"], ["nowhere.onnx", "no such file"]),
        (["--weights", "README.md"], ["README.md", ".onnx"]),
        (["--half"], ["--half"]),
    ],
)
def test_bad_flags_are_one_line(two_people_onnx, image_file, out, flags, words):
    given = ["--weights", two_people_onnx, "--source", image_file, "--project", out]
    fails(detect(*given, *flags), *words)
    assert not out.exists() or not list(out.iterdir())


def test_gpu_that_is_not_there(two_people_onnx, image_file, out):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    done = detect(
        "--weights", two_people_onnx, "--source", image_file, "--project", out, "--device", 0
    )
    fails(done, "--device 0", "no CUDA")


@not_root
def test_folder_without_write_permission(two_people_onnx, image_file, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    done = detect("--weights", two_people_onnx, "--source", image_file, "--project", locked)
    fails(done, "--project")


def test_project_on_a_file_system_that_takes_no_folders(two_people_onnx, image_file):
    if not os.path.isdir("/proc/self"):
        pytest.skip("no /proc")
    done = detect("--weights", two_people_onnx, "--source", image_file, "--project", "/proc/x")
    fails(done, "--project /proc/x")


def test_project_that_is_a_file(two_people_onnx, image_file):
    done = run_script(
        SCRIPT, "--weights", two_people_onnx, "--source", image_file, "--project", image_file
    )
    fails(done, "--project")


def test_checkpoint_as_weights(image_file, tmp_path, out):
    torch = pytest.importorskip("torch")
    from models.checkpoint import save_checkpoint
    from models.yolo import Model
    from tests.conftest import randomized, tiny_cfg

    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny.pt", randomized(Model(tiny_cfg())))
    flags = ["--weights", tmp_path / "tiny.pt", "--source", image_file, "--project", out]
    done = detect(*flags, "--img-size", "64", "--device", "cpu", "--conf-thres", "0.3")
    assert done.returncode == 0, done.stderr
    assert "PyTorch" in done.stdout and (out / "exp" / "image.jpg").exists()


def test_nosave_still_leaves_the_summary(two_people_onnx, image_file, out):
    done = detect(
        "--weights", two_people_onnx, "--source", image_file, "--project", out, "--nosave"
    )
    assert done.returncode == 0
    assert [p.name for p in (out / "exp").iterdir()] == ["summary.json"]


def test_interrupted_video_is_kept_and_playable(two_people_onnx, tmp_path, out):
    clip = video(tmp_path / "long.avi", 2500, (480, 640))
    command = [sys.executable, str(ROOT / "detect_multi_backend.py"), "--weights"]
    command += [str(two_people_onnx), "--source", str(clip), "--project", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # where the tests run in the background of a shell, SIGINT is ignored, by what they start, too
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, **pipes, **heard) as process:
        end = time.monotonic() + 120
        while not list(out.glob("exp/.tmp*")) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr and b"frames/s overall" in stdout
    assert sorted(p.name for p in (out / "exp").iterdir()) == ["long.mp4", "summary.json"]
    assert cv2.VideoCapture(str(out / "exp" / "long.mp4")).read()[0]
    summary = json.loads((out / "exp" / "summary.json").read_text())
    assert summary["interrupted"] and 0 < summary["frames"] < 2500


def test_long_file_names(two_people_onnx, tmp_path, out):
    image_file = encode(tmp_path / ("人" * 80 + ".png"), gradient())
    done = detect("--weights", two_people_onnx, "--source", image_file, "--project", out)
    assert done.returncode == 0, done.stderr
    assert (out / "exp" / image_file.name).exists()


def test_own_input_is_never_overwritten(two_people_onnx, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    image_file = encode(folder / "x.png", gradient())
    before = image_file.read_bytes()
    flags = ["--weights", two_people_onnx, "--source", folder]
    fails(
        detect(*flags, "--project", tmp_path, "--name", "own", "--exist-ok"), "overwrite", "x.png"
    )
    assert image_file.read_bytes() == before and len(list(folder.iterdir())) == 1


def test_square_and_rectangular_input(tmp_path, out):
    rows = pose_row(32, 32, 20, 40)[None]
    weights = make_pose_onnx(tmp_path / "x.onnx", rows, hw=None, imgsz=[64, 64], stride=32)
    image_file = encode(tmp_path / "wide.png", np.zeros((100, 400, 3), np.uint8))
    flags = ["--weights", weights, "--source", image_file, "--project", out, "--save-json"]
    assert detect(*flags).returncode == 0 and detect(*flags, "--square").returncode == 0
    y = [
        json.loads((out / name / "predictions.json").read_text())[0]["keypoints"][1]
        for name in ("exp", "exp2")
    ]
    # the image is 64 x 16 on the canvas, 8 px from the top of 64 x 32 and 24 px of 64 x 64
    np.testing.assert_allclose(y, [(32 - 8) * 6.25, (32 - 24) * 6.25], atol=0.1)


@pytest.mark.parametrize("form", ["static", "efficientnms"])
def test_a_model_with_nms_inside(two_people_onnx, image_file, tmp_path, form):
    import onnx

    from utils.graph.nms import Nms, add_nms

    model = onnx.load(str(two_people_onnx))
    add_nms(model, 1, Nms(form, 0.5, 0.45, 3))
    for key, value in {"conf_thres": 0.5, "iou_thres": 0.45, "topk": 3}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    path = tmp_path / "inner.onnx"
    onnx.save(model, str(path))

    def run(weights, *flags):
        common = ["--source", image_file, "--device", "cpu", "--nosave", "--save-txt"]
        return detect("--weights", weights, *common, "--project", tmp_path / "out", *flags)

    inside, outside = run(path), run(two_people_onnx)
    assert inside.returncode == outside.returncode == 0, inside.stderr
    assert "2 person" in inside.stdout and "2 person" in outside.stdout
    assert "embedded NMS (conf 0.5, iou 0.45, at most 3 poses)" in inside.stdout
    assert ("replaced by standard ops" in inside.stdout) == (form == "efficientnms")
    assert "warning" not in inside.stdout
    texts = [(tmp_path / "out" / n / "labels" / "image.txt").read_text() for n in ("exp", "exp2")]
    assert texts[0] == texts[1] and texts[0].count("\n") == 2
    assert "1 person" in run(path, "--conf-thres", "0.8").stdout
    assert "warning: --conf-thres 0.1" in run(path, "--conf-thres", "0.1").stdout
    refused = run(path, "--augment")
    assert refused.returncode == 1 and refused.stderr.startswith("error: --augment merges")
