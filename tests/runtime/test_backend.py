import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, make_pose_onnx, pose_row
from utils.device import available_cores, parse_device
from utils.errors import InputError
from utils.pose.keypoints import COCO
from utils.runtime.load import load_backend
from utils.runtime.metadata import read_metadata

ROWS = pose_row(16, 32, 20, 40)[None]


def has_cuda():
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.parametrize(
    "text, gpu", [("cpu", -1), ("", None), ("0", 0), ("cuda:1", 1), ("CUDA", 0), (" 3 ", 3)]
)
def test_parse_device(text, gpu):
    assert parse_device(text) == gpu


@pytest.mark.parametrize("text", ["gpu", "0,1", "cuda:x", "-1", "²", "99999"])
def test_parse_device_refuses(text):
    with pytest.raises(InputError, match="`device`"):
        parse_device(text)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("hw, batch", [((64, 128), 2), (None, None)])
def test_shape_and_type_are_read_off_the_model(tmp_path, hw, batch, half):
    path = make_pose_onnx(tmp_path / "x.onnx", ROWS, hw, batch, half, imgsz=[64, 128])
    backend = load_backend(str(path), "cpu")
    assert backend.input_shape == (batch, 3, *(hw or (None, None)))
    assert backend.static_hw == hw and backend.batch == batch
    assert backend.dtype == (np.float16 if half else np.float32)
    assert (backend.nc, backend.nkpt, backend.stride, backend.imgsz) == (1, 17, 64, (64, 128))
    assert not backend.end2end
    out = backend(np.zeros((2, 3, 64, 128), np.float32))
    assert out.shape == (2, 1, 57) and out.dtype == np.float32
    np.testing.assert_allclose(out[0], ROWS, rtol=1e-3)


def test_names_give_the_number_of_keypoints(tmp_path):
    rows = pose_row(1, 1, 1, 1, nc=2, nkpt=5)[None]
    backend = load_backend(str(make_pose_onnx(tmp_path / "x.onnx", rows, names=("a", "b"))), "cpu")
    assert (backend.nc, backend.nkpt, backend.names) == (2, 5, ["a", "b"])


def test_wrong_shape_is_named(tmp_path):
    backend = load_backend(str(make_pose_onnx(tmp_path / "x.onnx", ROWS)), "cpu")
    with pytest.raises(ValueError, match="1x3x64x64, got 1x3x32x64"):
        backend(np.zeros((1, 3, 32, 64), np.float32))


def test_throughput_splits_the_cores(tmp_path):
    path = str(make_pose_onnx(tmp_path / "x.onnx", ROWS))
    assert load_backend(path, "cpu").workers == 1
    assert load_backend(path, "cpu", throughput=True).workers == min(available_cores(), 8)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("none.onnx", None, "no such file"),
        ("x.pth", b"", "expected a .pt, .onnx"),
        ("x.onnx", b"", "cannot load"),
        ("x.onnx", b"garbage" * 100, "cannot load"),
        ("x.trt", b"engine", "`device` cpu: x.trt needs a GPU"),
    ],
)
def test_files_that_cannot_run(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_backend(str(tmp_path / name), "cpu")
    assert "\n" not in str(error.value)


def test_truncated_onnx(tmp_path):
    path = make_pose_onnx(tmp_path / "x.onnx", np.repeat(ROWS, 100, 0))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot load"):
        load_backend(str(path), "cpu")


def test_another_network(tmp_path):
    path = make_pose_onnx(tmp_path / "x.onnx", np.zeros((10, 85), np.float32), names=("a",) * 3)
    with pytest.raises(InputError, match="not a YOLO-Pose model.*85"):
        load_backend(str(path), "cpu")


def test_cuda_is_never_replaced_silently(tmp_path):
    if has_cuda():
        pytest.skip("this ONNX Runtime has CUDA")
    path = make_pose_onnx(tmp_path / "x.onnx", ROWS)
    with pytest.raises(InputError, match="`device` 0: .*no CUDA"):
        load_backend(str(path), "0")
    assert "CPU" in load_backend(str(path), "").description


def test_fp16_is_for_checkpoints(tmp_path):
    with pytest.raises(InputError, match="`half`"):
        load_backend(str(make_pose_onnx(tmp_path / "x.onnx", ROWS)), "cpu", half=True)


def test_onnx_runs_with_torch_not_installed(two_people_onnx, image_file, tmp_path):
    """A finder that refuses torch stands in for an environment without it."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "tensorrt", "pycuda"):
            raise ImportError(name + " is not installed")
sys.meta_path.insert(0, Refuse())
sys.argv = ["detect"] + sys.argv[1:]
import runpy
runpy.run_path("detect_multi_backend.py", run_name="__main__")
"""
    command = [sys.executable, "-c", code, "--weights", str(two_people_onnx), "--source"]
    command += [str(image_file), "--project", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 person" in done.stdout
    checkpoint = tmp_path / "x.pt"
    checkpoint.write_bytes(b"PK")
    command[4] = str(checkpoint)
    done = subprocess.run(command, cwd=str(ROOT), capture_output=True, text=True)
    assert done.returncode == 1 and "needs PyTorch" in done.stderr


def test_checkpoint_in_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from models.checkpoint import save_checkpoint
    from models.yolo import Model
    from tests.conftest import randomized, tiny_cfg

    model = randomized(Model(tiny_cfg(), nc=2, nkpt=5))
    save_checkpoint(tmp_path / "x.pt", model)
    backend = load_backend(str(tmp_path / "x.pt"), "cpu")
    assert (backend.nc, backend.nkpt, backend.input_shape) == (2, 5, (None, 3, None, None))
    images = np.random.default_rng(0).random((2, 3, 64, 128), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images))
    torch.testing.assert_close(backend(images), expected, rtol=1e-4, atol=2e-3)
    with pytest.raises(InputError, match="`half`"):
        load_backend(str(tmp_path / "x.pt"), "cpu", half=True)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="`device` 0: PyTorch .* sees 0 CUDA GPUs"):
            load_backend(str(tmp_path / "x.pt"), "0")


@pytest.mark.parametrize(
    "metadata",
    [
        {"stride": 0},
        {"stride": None},
        {"stride": "x"},
        {"imgsz": 640},
        {"imgsz": [64]},
        {"imgsz": "64"},
        {"imgsz": [100, 100]},
        {"names": "abcd"},
        {"names": [1]},
        {"names": []},
        {"names": ["a", "b"]},
        {"nkpt": 5},
    ],
    ids=str,
)
def test_metadata_that_makes_no_sense_is_refused(tmp_path, metadata):
    path = make_pose_onnx(tmp_path / "x.onnx", ROWS, hw=None, **{"nkpt": 17, **metadata})
    with pytest.raises(InputError, match="not a YOLO-Pose model") as error:
        load_backend(str(path), "cpu")
    assert "\n" not in str(error.value)


def test_foreign_metadata():
    assert read_metadata({}, 57) == (["person"], 17, 64, None, COCO)
    assert read_metadata({"names": "{0: 'man', 1: 'dog'}"}, 58).names == ["man", "dog"]
    with pytest.raises(ValueError, match="metadata names: person"):
        read_metadata({"names": "person"}, 57)
    with pytest.raises(ValueError, match="columns"):
        read_metadata({}, 6)  # a detector without keypoints


def inner_onnx(path, form, **metadata):
    import json

    import onnx

    from utils.graph.nms import Nms, add_nms

    model = onnx.load(str(make_pose_onnx(path, np.repeat(ROWS, 3, 0), batch=2)))
    add_nms(model, 1, Nms(form, 0.3, 0.5, 2))
    for key, value in {"conf_thres": 0.3, "iou_thres": 0.5, "topk": 2, **metadata}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("form", ["static", "efficientnms"])
def test_nms_inside(tmp_path, form):
    pytest.importorskip("onnx")
    backend = load_backend(str(inner_onnx(tmp_path / "x.onnx", form)), "cpu")
    assert backend.end2end and backend.embedded_nms == (0.3, 0.5, 2)
    assert (backend.nc, backend.nkpt, backend.batch) == (1, 17, 2)
    assert "embedded NMS (conf 0.3, iou 0.5, at most 2 poses)" in backend.description
    out = backend(np.zeros((2, 3, 64, 64), np.float32))
    assert out.num_dets.tolist() == [[1], [1]] and out.det_pose.shape == (2, 2, 51)
    np.testing.assert_allclose(out.det_boxes[1], [[6, 12, 26, 52], [0, 0, 0, 0]])
    np.testing.assert_array_equal(out.det_indices[1], [[1, 0, 0], [-1, -1, -1]])


def test_swap_needs_onnx(tmp_path, monkeypatch):
    path = inner_onnx(tmp_path / "x.onnx", "efficientnms")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx, or export it with `nms` static"):
        load_backend(str(path), "cpu")


@pytest.mark.parametrize(
    "metadata", [{"conf_thres": "x"}, {"iou_thres": 2}, {"topk": 3}, {"conf_thres": None}], ids=str
)
def test_nms_inside_that_contradicts_itself(tmp_path, metadata):
    path = inner_onnx(tmp_path / "x.onnx", "static", **metadata)
    with pytest.raises(InputError, match="embedded NMS, but not as this version writes it"):
        load_backend(str(path), "cpu")


def test_nms_inside_without_num_dets(tmp_path):
    import onnx

    path = inner_onnx(tmp_path / "x.onnx", "static")
    model = onnx.load(str(path))
    del model.graph.output[0]
    onnx.save(model, str(path))
    with pytest.raises(InputError, match="no output num_dets"):
        load_backend(str(path), "cpu")
