"""Files of other exporters: recognised, read in place, or refused in one line."""

import json
import struct

import numpy as np
import pytest

from tests.conftest import make_pose_onnx, pose_row
from tests.foreign_net import make_foreign
from tests.models.test_export_TRT import bad, good, predictions, run
from utils.errors import InputError
from utils.pose.layout import Layout
from utils.runtime.load import load_backend
from utils.runtime.metadata import identify
from utils.runtime.predictor import Predictor

pytest.importorskip("onnx")
CASES = [
    {},
    {"nc": 3, "kpt_shape": (21, 2)},
    {"hw": None, "batch": None},
    {"half": True},
    {"half": True, "keep_order": False},
    {"form": "rows"},
    {"form": "rows", "nc": 2, "kpt_shape": (5, 3)},
    {"opset": 18},
    {"metadata": dict.fromkeys(("names", "kpt_shape", "args", "end2end", "task"))},
]


def make(tmp_path, **case):
    return make_foreign(tmp_path / "x.onnx", **case)


def image(hw=(90, 128)):
    return np.random.default_rng(1).integers(0, 255, (*hw, 3), np.uint8)


def by_hand(path, pixels, nc, kpt_shape, form):
    """(N, 5 + nc + 3K) off the session's own output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rows = session.run(None, {"images": pixels})[0][0]
    if form == "rows":
        return rows
    rows = rows.T
    points = rows[:, 4 + nc :].reshape(len(rows), *kpt_shape)
    full = np.ones((len(rows), kpt_shape[0], 3), np.float32)
    full[..., : kpt_shape[1]] = points
    one = np.ones((len(rows), 1), np.float32)
    return np.concatenate([rows[:, :4], one, rows[:, 4 : 4 + nc], full.reshape(len(rows), -1)], 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_raw_layouts_are_read_in_place(tmp_path, case):
    path = make(tmp_path, **case)
    backend = load_backend(str(path), "cpu")
    nc, kpt_shape = case.get("nc", 1), case.get("kpt_shape", (17, 3))
    assert (backend.nc, backend.nkpt, backend.stride) == (nc, kpt_shape[0], 16)
    assert backend.imgsz == (128, 128) and backend.embedded_nms is None
    assert backend.precision == ("FP16" if case.get("half") else "FP32")
    pixels = np.random.default_rng(0).random((1, 3, 128, 128)).astype(np.float32)
    raw = backend(pixels)
    wanted = by_hand(path, pixels, nc, kpt_shape, case.get("form"))
    np.testing.assert_array_equal(raw[0], wanted)
    poses = Predictor(backend, conf_thres=0.1)([image()])[0]
    assert 0 < poses.count < 320 and poses.keypoints.shape[1:] == (kpt_shape[0], 3)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"nc": 2, "kpt_shape": (9, 2)},
        {"metadata": {"end2end": None}},
        {"metadata": dict.fromkeys(("kpt_shape", "end2end", "names"))},
    ],
    ids=str,
)
def test_nms_inside_is_never_read_as_raw_rows(tmp_path, case):
    path = make(tmp_path, form="nms", **case)
    backend = load_backend(str(path), "cpu")
    assert backend.end2end and backend.embedded_nms == (None, None, 300)
    assert "embedded NMS (thresholds not recorded, at most 300 poses)" in backend.description
    low = Predictor(backend, conf_thres=0.0)([image()])[0]
    assert low.count == 300 and (np.diff(low.scores) <= 0).all()
    middle = float(low.scores[150])
    high = Predictor(backend, conf_thres=middle)([image()])[0]
    assert 0 < high.count <= 150 and high.scores.min() > middle
    assert Predictor(backend).conf_thres == 0.25  # what the file filters is not recorded
    assert (low.boxes[:, 2:] >= low.boxes[:, :2]).all()
    with pytest.warns(match="`iou_thres` 0.3 is ignored"):
        Predictor(backend, iou_thres=0.3)


def test_detections_are_those_of_the_raw_file(tmp_path):
    """The same network with and without its last nodes."""
    raw = load_backend(str(make_foreign(tmp_path / "raw.onnx", nc=2)), "cpu")
    after = load_backend(str(make_foreign(tmp_path / "nms.onnx", "nms", nc=2)), "cpu")
    wanted = Predictor(raw, conf_thres=0.3, iou_thres=1.0)([image()])[0]
    found = Predictor(after, conf_thres=0.3)([image()])[0]
    assert wanted.count == found.count > 5
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
    np.testing.assert_array_equal(found.classes, wanted.classes)
    np.testing.assert_array_equal(found.keypoints, wanted.keypoints)


@pytest.mark.parametrize(
    "case, words",
    [
        ({"metadata": {"task": "detect", "kpt_shape": None}}, "of the task detect.*no keypoints"),
        ({"metadata": {"task": "segment"}, "extra_output": True}, "of the task segment"),
        ({"metadata": {"task": "classify"}}, "of the task classify"),
        ({"extra_output": True}, "2 outputs .output0, output1., expected one"),
        ({"metadata": {"kpt_shape": "[5, 3]"}}, "kpt_shape .5, 3. of the metadata make 20 values"),
        ({"metadata": {"kpt_shape": "[17]"}}, "metadata kpt_shape: .17. is not"),
        ({"metadata": {"kpt_shape": "[17, 4]"}}, "metadata kpt_shape: .17, 4. is not"),
        ({"metadata": {"kpt_shape": "pose"}}, "metadata kpt_shape: pose is not"),
        ({"metadata": {"names": "{0: 'a', 1: 'b'}"}}, "2 classes and kpt_shape .17, 3."),
        ({"metadata": {"names": "{0: 'a', 2: 'b'}"}}, "metadata names"),
        ({"metadata": {"end2end": "True"}}, "300x57 with NMS inside"),
        ({"form": "nms", "metadata": {"kpt_shape": "[21, 3]"}}, "output of shape 1x300x57"),
        ({"hw": None, "batch": None, "metadata": {"kpt_shape": "[5, 3]"}}, "make 20 values"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_known_is_refused_in_one_line(tmp_path, case, words):
    with pytest.raises(InputError, match="not a YOLO-Pose model .*" + words) as error:
        load_backend(str(make(tmp_path, **case)), "cpu")
    assert "\n" not in str(error.value)


def test_rows_without_metadata_are_read_only_where_there_is_one_reading():
    assert identify({}, {"output": (1, 25500, 57)}).info.nkpt == 17
    assert identify({}, {"output": (1, 25500, 57)}).layout is None
    with pytest.raises(ValueError, match="24 values a prediction and no metadata"):
        identify({}, {"output": (1, 25500, 24)})  # six keypoints, or a detector of 19 classes
    assert identify({"names": '["person"]'}, {"output": (1, 25500, 24)}).info.nkpt == 6


def test_our_own_files_stay_what_they_are(tmp_path):
    """Three hundred rows of ours are raw; kpt_shape beside nkpt changes nothing."""
    rows = np.repeat(pose_row(16, 32, 20, 40)[None], 300, 0)
    path = make_pose_onnx(tmp_path / "x.onnx", rows, kpt_shape=[17, 3])
    backend = load_backend(str(path), "cpu")
    assert backend.layout is None and backend.embedded_nms is None
    assert Predictor(backend)([image()])[0].count == 1


def test_json_before_a_plan():
    from utils.trt.sidecar import split_engine

    text = json.dumps({"task": "pose", "kpt_shape": [21, 2], "names": {"0": "hand"}, "batch": 1})
    content = struct.pack("<i", len(text)) + text.encode() + b"plan"
    found, plan = split_engine(content)
    assert plan == b"plan" and "batch" not in found
    properties = {key: json.dumps(value) for key, value in found.items()}
    identity = identify(properties, {"output0": (1, 47, 2100)})
    assert identity.layout == Layout(1, 21, 2, objectness=False, turned=True)
    assert identity.info.names == ["hand"]
    for whole in (
        b"",
        b"plan",
        b"ftrt" + bytes(100),
        content[:30],
        struct.pack("<i", 4) + b"{abcd",
    ):
        assert split_engine(whole) == ({}, whole)


@pytest.fixture
def images(tmp_path):
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(cv2.imencode(".png", image())[1].tobytes())
    return folder


def with_json(engine, target, **values):
    """The engine as other exporters write it: a JSON before the plan, no side file."""
    text = json.dumps(values).encode()
    target.write_bytes(struct.pack("<i", len(text)) + text + engine.read_bytes())


@pytest.mark.parametrize(
    "form, kpt_shape", [("turned", (17, 3)), ("turned", (21, 2)), ("nms", (17, 3))]
)
def test_engines(tmp_path, images, form, kpt_shape):
    """With our side file, with a JSON inside, and bare: the same poses, or one line."""
    path = make(tmp_path, form=form, kpt_shape=kpt_shape)
    good(run("v10", "models/export_TRT.py", "--onnx", path))
    engine, other, bare = (tmp_path / n for n in ("x.trt", "other.engine", "bare.engine"))
    shape = list(kpt_shape)
    with_json(engine, other, task="pose", names={"0": "person"}, stride=16, kpt_shape=shape)
    bare.write_bytes(engine.read_bytes())
    wanted = predictions(None, path, images, tmp_path / "onnx")[1]
    assert len(wanted) > 1
    for file in (engine, other):
        text, rows = predictions("v10", file, images, tmp_path / file.name[:-4])
        assert "17 x (x y conf)" in text or "21 x (x y)" in text
        assert len(rows) == len(wanted)
        for a, b in zip(rows, wanted):
            np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=0.02)
    if kpt_shape == (17, 3):
        assert len(predictions("v10", bare, images, tmp_path / "bare")[1]) == len(wanted)
    else:
        flags = ["--weights", bare, "--source", images, "--project", tmp_path / "bare"]
        bad(run("v10", "detect_multi_backend.py", *flags), "without kpt_shape", "<engine>.json")


def test_int8_asks_for_the_import(tmp_path):
    path = make(tmp_path)
    bad(run(None, "models/export_INT8.py", "--onnx", path), "first python models/import_onnx.py")
    bad(run("v10", "models/export_TRT.py", "--onnx", path, "--int8"), "import_onnx.py --onnx")
    path = make(tmp_path, hw=None, batch=None)
    bad(run("v10", "models/export_TRT.py", "--onnx", path), "how wide its output is", "import_onnx")
    path = make(tmp_path, half=True, keep_order=False)
    bad(run("v10", "models/export_TRT.py", "--onnx", path), "not in order", "import_onnx.py")
    path = make(tmp_path, metadata={"task": "detect"})
    bad(run("v10", "models/export_TRT.py", "--onnx", path), "not a YOLO-Pose model", "task detect")
