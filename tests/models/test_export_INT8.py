import json

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.conftest import SHARED  # noqa: E402
from tests.scripts import run_script  # noqa: E402
from tests.small_net import make_small_net, run_onnx  # noqa: E402
from utils.quantization.cache import read_cache  # noqa: E402


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        (folder / ("%d.png" % i)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


def test_calibrate_quantise_report_detect(tmp_path, pictures):
    path = make_small_net(tmp_path / "x.onnx")
    flags = ["--onnx", path, "--calib_path", pictures, "--calib-num", 5, "--cache_dir",
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
                      pictures, "--project", tmp_path / "out", "--save-json")  # fmt: skip
    assert done.returncode == 0 and "INT8" in done.stdout
    assert json.loads(next((tmp_path / "out").rglob("predictions.json")).read_text())


def test_a_cache_needs_no_images_and_another_one_is_refused(tmp_path, pictures):
    path = make_small_net(tmp_path / "x.onnx")
    flags = ["--onnx", path, "--calib_path", pictures, "--calib_num", 6, "--cache_dir", tmp_path]
    assert run_script("models/export_INT8.py", *flags, "--calib_method", "minmax").returncode == 0
    content = (tmp_path / "x.cache").read_bytes()
    done = run_script("models/export_INT8.py", "--onnx", path, "--cache_dir", tmp_path)
    assert done.returncode == 0 and "calibration from" in done.stdout, done.stderr
    assert (tmp_path / "x.cache").read_bytes() == content
    real = sorted((SHARED / "caches").glob("*.cache"))
    other = real[0].read_bytes() if real else b"TRT-8401-MinMaxCalibration\ninput: 3c010204\n"
    (tmp_path / "x.cache").write_bytes(other)
    done = run_script("models/export_INT8.py", "--onnx", path, "--cache_dir", tmp_path)
    assert done.returncode == 1 and "tensors that x.onnx needs" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_int8_of_int8(tmp_path, pictures):
    path = make_small_net(tmp_path / "x.onnx")
    flags = ["--calib_path", pictures, "--calib_num", 2, "--cache_dir", tmp_path]
    assert run_script("models/export_INT8.py", "--onnx", path, *flags).returncode == 0
    done = run_script("models/export_INT8.py", "--onnx", tmp_path / "x-INT8.onnx", *flags)
    assert done.returncode == 1 and "has Q/DQ pairs already" in done.stderr
