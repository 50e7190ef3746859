import json

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.scripts import run_inside, run_script  # noqa: E402
from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils import reading  # noqa: E402
from utils.errors import InputError  # noqa: E402
from utils.export.int8 import read_recipe  # noqa: E402
from utils.quantization.cache import read_cache  # noqa: E402


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        (folder / ("%d.png" % i)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


def test_calibrate_quantise_report_detect(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx")
    flags = ["--onnx", path, "--calib_path", image_folder, "--calib-num", 5, "--cache_dir",
             tmp_path / "caches"]  # fmt: skip
    done = run_script("models/export_INT8.py", *flags, "--report")
    assert done.returncode == 0, done.stderr
    assert "x-INT8.onnx: 6 convolutions in INT8, 2 in floating point" in done.stdout
    assert "points" in done.stdout and "down/m_out" in done.stdout
    cache = read_cache(tmp_path / "caches" / "x.cache")
    assert cache.algorithm == "MinMaxCalibration" and "residual_out" in cache.scales
    images = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    before, after = (run_onnx(tmp_path / n, images)[0][..., 6:] for n in ("x.onnx", "x-INT8.onnx"))
    assert 0 < np.sqrt(np.mean((before - after) ** 2)) < 0.03 * before.std()
    done = run_script("detect_multi_backend.py", "--weights", tmp_path / "x-INT8.onnx", "--source",
                      image_folder, "--project", tmp_path / "out", "--save-json")  # fmt: skip
    assert done.returncode == 0 and "INT8" in done.stdout
    assert json.loads(next((tmp_path / "out").rglob("predictions.json")).read_text())


def int8(*flags):
    return run_inside("models/export_INT8.py", *flags)


def refused(done, *words):
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture
def calibrated(tmp_path, image_folder):
    """(x.onnx, flags without images, flags) after a calibration on four images."""
    path = make_small_net(tmp_path / "x.onnx")
    bare = ["--onnx", path, "--cache_dir", tmp_path]
    flags = [*bare, "--calib_path", image_folder, "--calib_num", 4]
    done = int8(*flags)
    assert done.returncode == 0, done.stderr
    return path, bare, flags


def test_the_same_command_twice_gives_the_same_file(tmp_path, calibrated, image_folder):
    path, bare, flags = calibrated
    first, cache = (tmp_path / "x-INT8.onnx").read_bytes(), (tmp_path / "x.cache").read_bytes()
    (tmp_path / "x-INT8.onnx").unlink()
    again = int8(*flags)
    assert again.returncode == 0 and "calibration from" in again.stdout, again.stderr
    assert (tmp_path / "x-INT8.onnx").read_bytes() == first
    short = int8(*bare)  # the cache knows where its images are, and how many
    assert short.returncode == 0 and "warning" not in short.stdout
    assert (tmp_path / "x-INT8.onnx").read_bytes() == first
    assert (tmp_path / "x.cache").read_bytes() == cache


def test_what_lies_at_the_target_is_no_model_or_cannot_be_read(tmp_path, calibrated, monkeypatch):
    path = tmp_path / "x-INT8.onnx"
    assert read_recipe(path)["fit"] and read_recipe(tmp_path / "none.onnx") is None
    assert read_recipe(tmp_path / "x.onnx") is None  # made by something else
    path.write_bytes(b"no ONNX" * 9)
    assert read_recipe(path) is None
    monkeypatch.setitem(reading.LIMITS, "ONNX", 9)
    with pytest.raises(InputError, match="x-INT8.onnx: .* more than"):
        read_recipe(path)


def test_report_rewrites_nothing(tmp_path, calibrated):
    path, bare, flags = calibrated
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir() if p.is_file()}
    for words in (bare, flags):
        done = int8(*words, "--report")
        assert done.returncode == 0 and "points" in done.stdout, done.stderr
        assert "x-INT8.onnx stays as it is" in done.stdout
    now = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir() if p.is_file()}
    assert now == files


def test_a_cache_needs_no_images_and_says_what_is_left_out(tmp_path, calibrated, image_folder):
    path, bare, flags = calibrated
    content = (tmp_path / "x.cache").read_bytes()
    image_folder.rename(tmp_path / "elsewhere")
    # a fitted file is not replaced by one that is not
    refused(int8(*bare), "x-INT8.onnx", "not in %s" % image_folder, "--no-bias-correction")
    (tmp_path / "x-INT8.onnx").unlink()
    done = int8(*bare)
    assert done.returncode == 0 and "calibration from" in done.stdout, done.stderr
    assert "warning: weights and biases are not fitted: the calibration images are not in %s" % (
        image_folder
    ) in done.stdout  # fmt: skip
    moved = [*bare, "--calib_path", tmp_path / "elsewhere", "--calib_num", 4]
    done = int8(*moved)  # the same images in another place
    assert "calibration from" in done.stdout and "warning" not in done.stdout
    assert (tmp_path / "x.cache").read_bytes() == content


def test_images_that_are_named_have_to_be_there(tmp_path, calibrated, image_folder):
    path, bare, flags = calibrated
    for words in ([], ["--report"], ["--recalibrate"], ["--no-bias-correction"]):
        done = int8(*bare, "--calib_path", tmp_path / "nope", *words)
        refused(done, "error: --calib_path %s: no such file or folder" % (tmp_path / "nope"))
        assert done.stdout == ""
        (tmp_path / "x-INT8.onnx").unlink(missing_ok=True)
    done = int8(*bare)
    assert "calibration images: %s, as %s says\n" % (
        image_folder, tmp_path / "x.cache.json"
    ) in done.stdout  # fmt: skip
    assert "as %s" % tmp_path not in int8(*flags).stdout  # they are named


def test_too_few_images_are_told_before_anything_is_done(calibrated):
    path, bare, flags = calibrated
    done = int8(*flags[:-1], 256)
    refused(done, "--calib_num 256: only 6 images")
    assert done.stdout == ""


def test_a_cache_belongs_to_one_onnx_and_one_size(tmp_path, calibrated):
    path, bare, flags = calibrated
    first = (tmp_path / "x.cache").read_bytes()
    make_small_net(path, seed=1)  # another training of the same network: the same names
    refused(int8(*bare), "x.cache", "made from another x.onnx", "--calib_path")
    refused(int8(*bare, "--report"), "made from another x.onnx")
    done = int8(*flags)
    assert done.returncode == 0 and "another x.onnx than this one; calibrating again" in done.stdout
    second = (tmp_path / "x.cache").read_bytes()
    assert second != first
    make_small_net(path, hw=None, seed=2)
    assert int8(*flags, "--calib_imgsz", 128).returncode == 0
    refused(int8(*bare, "--calib_imgsz", 64), "made at 128x128, expected 64x64")
    done = int8(*bare)  # names no size
    assert done.returncode == 0 and "calibration from" in done.stdout


def test_what_was_typed_is_not_ignored(tmp_path, calibrated, image_folder):
    path, bare, flags = calibrated
    refused(int8(*bare, "--calib_num", 3), "made with --calib_num 4, not 3")
    refused(int8(*bare, "--calib_method", "mse"), "--calib_method Foreground, not Mse")
    for words, reason in (
        (["--calib_num", 3], "--calib_num"), (["--calib_method", "mse"], "--calib_method"),
        (["--calib_seed", 1], "--calib_seed"), (["--calib_stretch"], "--calib_letterbox"),
    ):  # fmt: skip
        (tmp_path / "x.cache").unlink()
        assert int8(*flags).returncode == 0
        before = (tmp_path / "x.cache").read_bytes()
        done = int8(*flags[:-2], "--calib_num", 4, *words)
        assert done.returncode == 0 and "calibrating again" in done.stdout, done.stderr
        assert reason in done.stdout and (tmp_path / "x.cache").read_bytes() != before
        assert "calibrating" not in int8(*flags[:-2], *words).stdout
    for i in range(6):
        (image_folder / ("%d.png" % i)).rename(image_folder / ("%d-new.png" % i))
    assert "made from other images" in int8(*flags).stdout


def test_a_cache_without_side_file_is_taken_with_a_warning(tmp_path, calibrated):
    path, bare, flags = calibrated
    side = tmp_path / "x.cache.json"
    content = side.read_text()
    side.unlink()
    (tmp_path / "x-INT8.onnx").unlink()
    done = int8(*bare, "--no-bias-correction")
    assert done.returncode == 0 and "no x.cache.json that belongs to it" in done.stdout
    side.write_text(content)
    text = (tmp_path / "x.cache").read_text()
    (tmp_path / "x.cache").write_text(text.replace("TRT-8502", "TRT-8503"))  # as TensorRT rewrites
    assert "no x.cache.json that belongs to it" in int8(*bare, "--no-bias-correction").stdout
    side.write_text("{}")
    refused(int8(*bare), "x.cache.json", "not the side file of a calibration cache")
    side.unlink()
    (tmp_path / "x.cache").write_bytes(b"TRT-8401-MinMaxCalibration\ninput: 3c010204\n")
    refused(int8(*bare), "tensors that x.onnx needs")


def test_int8_of_int8(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx")
    flags = ["--calib_path", image_folder, "--calib_num", 2, "--cache_dir", tmp_path]
    assert run_script("models/export_INT8.py", "--onnx", path, *flags).returncode == 0
    done = run_script("models/export_INT8.py", "--onnx", tmp_path / "x-INT8.onnx", *flags)
    assert done.returncode == 1 and "has Q/DQ pairs already" in done.stderr


def test_a_target_that_is_no_model(tmp_path, calibrated):
    """What lies at X-INT8.onnx is not what --onnx names."""
    path, bare, flags = calibrated
    target = tmp_path / "x-INT8.onnx"
    target.unlink()
    target.write_bytes(b"notes")
    refused(int8(*bare, "--no-bias-correction"), "x-INT8.onnx: is there already", "--overwrite")
    assert target.read_bytes() == b"notes"
    done = int8(*bare, "--no-bias-correction", "--overwrite")
    assert done.returncode == 0 and target.stat().st_size > 1000, done.stderr


def test_a_size_that_is_none(tmp_path, calibrated):
    """Also where a static model has its own."""
    path, bare, flags = calibrated
    refused(int8(*bare, "--calib_imgsz", 0), "--calib_imgsz 0 0: expected 1 to")
    refused(int8(*bare, "--calib_imgsz", 1, 2, 3), "--calib_imgsz: expected one number")


def test_another_size_than_that_of_a_static_onnx(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx")
    flags = ["--onnx", path, "--calib_path", image_folder, "--calib_num", 2]
    flags += ["--cache_dir", tmp_path]
    for size, told in ((128, True), (60, False)):  # 60 is rounded up, as everywhere
        done = int8(*flags, "--calib_imgsz", size, "--no-bias-correction", "--overwrite")
        assert done.returncode == 0 and "at 64x64 px" in done.stdout
        line = "warning: --calib_imgsz 128 128 is ignored: x.onnx is static, 64 64, and calibrates"
        assert (line in done.stdout) == told
        (tmp_path / "x.cache").unlink()


def test_the_size_of_a_calibration_is_told(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx", hw=None, imgsz=[128, 128])
    flags = ["--onnx", path, "--calib_path", image_folder, "--calib_num", 1]
    flags += ["--cache_dir", tmp_path]
    done = int8(*flags, "--no-bias-correction")
    told = "calibrating on 1 image at 832x832 px, the export was at 128x128\n"
    assert done.returncode == 0 and told in done.stdout, done.stderr
    assert "on 1 image at 832x832)" in int8(*flags, "--no-bias-correction").stdout  # of the cache


def test_a_method_that_is_none(tmp_path):
    done = int8("--onnx", tmp_path / "x.onnx", "--calib_method", "best")
    refused(done, "--calib_method best: expected MinMax, Entropy, ")


def test_a_fixed_batch_that_the_images_do_not_fill(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx", batch=4)
    flags = ["--onnx", path, "--calib_path", image_folder, "--cache_dir", tmp_path]
    told = "calibration: %d images in batches of 4 (the model's own); the last is filled up"
    done = int8(*flags, "--calib_num", 6, "--no-bias-correction")
    assert done.returncode == 0 and told % 6 in done.stdout, done.stderr
    done = int8(*flags, "--calib_num", 4, "--no-bias-correction")
    assert done.returncode == 0 and "filled up" not in done.stdout, done.stderr


def test_the_report_is_a_table(calibrated):
    path, bare, flags = calibrated
    lines = int8(*bare, "--report").stdout.splitlines()
    (head,) = [
        i for i, line in enumerate(lines) if line.split()[:3] == ["points", "score", "range"]
    ]
    assert lines[head - 1].startswith("points: mean move of keypoints over the box size; all")
    points = [float(line.split()[0]) for line in lines[head + 1 :]]
    assert len(points) > 3 and points == sorted(points, reverse=True)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda graph: graph.node.append(graph.node.pop(0)), "its nodes are not in order"),
        (
            lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 4),
            "1 inputs, expected one of (B, 3, H, W)",
        ),
        (
            lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 9999),
            "1x3x9999x64",
        ),
    ],
)
def test_models_that_cannot_be(tmp_path, change, words):
    path = make_small_net(tmp_path / "x.onnx")
    model = onnx.load(str(path))
    change(model.graph)
    onnx.save(model, str(path))
    refused(int8("--onnx", path), "error: --onnx %s: " % path, words)
