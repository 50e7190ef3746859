"""Weights, ONNX files, caches, side files and labels of earlier versions are read the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from utils.dataset.labels import read_labels
from utils.quantization.cache import read_cache
from utils.runtime.load import load_backend
from utils.runtime.metadata import EmbeddedNms, identify
from utils.trt.sidecar import read_info

EARLIER = Path(__file__).parent / "data" / "earlier"
IMAGE = np.random.default_rng(0).random((1, 3, 32, 32)).astype(np.float32)


def files(name):
    found = sorted(EARLIER.glob("*/" + name))
    assert len(found) >= (1 if name == "x.onnx" else 2)
    return [pytest.param(path, id=path.parent.name) for path in found]


def expected(path):
    return np.load(path.with_name("outputs.npz"))


def of_the_network(backend):
    assert backend.names == ["person", "dog"] and backend.nkpt == 17
    assert backend.imgsz in (None, (32, 32))


@pytest.mark.parametrize("path", files("x.pt"))
def test_weights(path):
    pytest.importorskip("torch")
    from models.checkpoint import load_checkpoint

    meta = load_checkpoint(path).meta
    assert (meta["epoch"], meta["best"]) == (3, 0.25)
    backend = load_backend(str(path), "cpu")
    of_the_network(backend)
    raw = np.asarray(backend(IMAGE))
    np.testing.assert_allclose(raw[:, ::8], expected(path)["pt"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("path", files("x.onnx"))
def test_raw_onnx(path):
    backend = load_backend(str(path), "cpu")
    of_the_network(backend)
    assert backend.stride == 4 and backend.embedded_nms is None and backend.layout is None
    raw = np.asarray(backend(IMAGE))
    np.testing.assert_allclose(raw[:, ::8], expected(path)["onnx"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("path", files("x-NMS.onnx"))
def test_onnx_with_embedded_nms(path):
    backend = load_backend(str(path), "cpu")
    of_the_network(backend)
    assert backend.embedded_nms == EmbeddedNms(0.25, 0.45, 3)
    found, want = backend(IMAGE)._asdict(), expected(path)
    for name, values in found.items():
        np.testing.assert_allclose(values, want["nms_" + name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["x.cache", "tensorrt.cache"])
@pytest.mark.parametrize("facts", files("caches.json"))
def test_calibration_caches(facts, name):
    assert read_cache(facts.with_name(name))._asdict() == json.loads(facts.read_text())[name]


@pytest.mark.parametrize("path", files("x-INT8.trt.json"))
def test_side_files(tmp_path, path):
    shutil.copy(str(path), str(tmp_path / "x-INT8.trt.json"))
    info = read_info(tmp_path / "x-INT8.trt")
    assert info == json.loads(path.read_text())
    properties = {key: json.dumps(value) for key, value in info.items()}
    of_the_network(identify(properties, {"output": (1, 192, 58)}).info)


@pytest.mark.parametrize("path", files("people03.txt"))
def test_labels(path):
    rows = np.loadtxt(str(path), ndmin=2)
    labels = read_labels(path)
    assert rows.shape == (3, 56)
    assert np.array_equal(labels.classes, rows[:, 0].astype(np.int64))
    assert np.array_equal(labels.boxes, rows[:, 1:5])
    assert np.array_equal(labels.keypoints, rows[:, 5:].reshape(3, 17, 3))
