"""The script as users run it: folders for DeepStream, and models it refuses."""

import configparser
import json
import shutil

import numpy as np
import pytest

from tests.conftest import make_pose_onnx, pose_row
from tests.deploy.test_deepstream import PEOPLE, nms_onnx
from tests.scripts import run_inside

SCRIPT = "models/export_deploy.py"


def good(*flags):
    done = run_inside(SCRIPT, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bad(*flags):
    """The one line of a refusal."""
    done = run_inside(SCRIPT, *flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    return done.stderr


def config_of(folder):
    config = configparser.ConfigParser()
    config.read(str(folder / "config_infer_primary.txt"))
    return config["property"], config["class-attrs-all"]


def engine_of(path, **info):
    path.write_bytes(b"plan")
    side = {"names": ["person"], "nkpt": 17, "topk": 4, "conf_thres": 0.5, "precision": "FP16"}
    path.with_name(path.name + ".json").write_text(json.dumps({**side, **info}))
    return path


@pytest.fixture
def model(tmp_path):
    return nms_onnx(tmp_path / "x-NMS.onnx", PEOPLE)


def test_deepstream_folder(model, tmp_path):
    folder = tmp_path / "ds"
    said = good("--onnx", model, "--deepstream", folder, "--frame-size", 720, 1280)
    assert "better build it with models/export_TRT.py and give --engine" in said
    properties, classes = config_of(folder)
    assert properties["onnx-file"] == "x-NMS.onnx" and (folder / "x-NMS.onnx").is_file()
    assert float(properties["net-scale-factor"]) == pytest.approx(1 / 255)
    expected = {
        "network-type": "3", "cluster-mode": "4", "output-instance-mask": "1", "batch-size": "1",
        "maintain-aspect-ratio": "1", "symmetric-padding": "1", "num-detected-classes": "1",
        "network-mode": "2", "model-engine-file": "x-NMS.onnx_b1_gpu0_fp16.engine",
        "parse-bbox-instance-mask-func-name": "NvDsInferParseEmbeddedPoses",
    }  # fmt: skip
    assert {key: properties[key] for key in expected} == expected
    assert properties["infer-dims"] == "3;96;160"
    assert "int8-calib-file" not in properties and classes["pre-cluster-threshold"] == "0.5"
    for key in ("labelfile-path", "onnx-file"):
        assert (folder / properties[key]).is_file()
    assert (folder / "labels.txt").read_text() == "person\n"
    pose = json.loads((folder / "pose.json").read_text())
    assert pose["frame_wh"] == [1280, 720] and len(pose["point_colors"]) == 17
    assert len(pose["limb_colors"]) == len(pose["limbs"]) == 19
    assert pose["point_colors"][5] == [0, 0.784, 0] and pose["keypoints"][5] == "left_shoulder"
    cmake = (folder / "CMakeLists.txt").read_text()
    assert "set(FRAME_WIDTH 1280" in cmake and "set(FRAME_HEIGHT 720" in cmake
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    good("--onnx", model, "--deepstream", folder, "--frame-size", 720, 1280)  # once more
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_engine_and_a_cache_that_are_there(model, tmp_path):
    engine = engine_of(tmp_path / "x-NMS-FP16.trt", profile=None)
    caches = tmp_path / "caches"
    caches.mkdir()
    (caches / "x-NMS.cache").write_text("TRT-8503-MinMaxCalibration\ninput: 3c010a14\n")
    common = ["--onnx", model, "--cache_dir", caches]
    said = good(*common, "--deepstream", tmp_path / "a", "--engine", engine)
    properties, _ = config_of(tmp_path / "a")
    assert "warning" not in said and properties["model-engine-file"] == engine.name
    assert properties["network-mode"] == "2" and properties["int8-calib-file"] == "x-NMS.cache"
    assert (tmp_path / "a" / engine.name).is_file()
    # the calibrator of gst-nvinfer takes no other kind
    cache = (tmp_path / "a" / "x-NMS.cache").read_text()
    assert cache == "TRT-8503-EntropyCalibration2\ninput: 3c010a14\n"
    good(*common, "--deepstream", tmp_path / "b", "--int8", "--device", 1)
    properties, _ = config_of(tmp_path / "b")
    assert properties["network-mode"] == "1" and properties["gpu-id"] == "1"
    assert properties["model-engine-file"] == "x-NMS.onnx_b1_gpu1_int8.engine"


def test_batch_of_the_model_and_of_the_engine(tmp_path):
    model = nms_onnx(tmp_path / "four.onnx", PEOPLE, batch=4)
    good("--onnx", model, "--deepstream", tmp_path / "a")
    assert config_of(tmp_path / "a")[0]["batch-size"] == "4"
    model = nms_onnx(tmp_path / "any.onnx", PEOPLE, batch=None)
    engine = engine_of(tmp_path / "any.trt", profile=[[b, 3, 96, 160] for b in (1, 4, 8)])
    good("--onnx", model, "--deepstream", tmp_path / "b", "--engine", engine)
    assert config_of(tmp_path / "b")[0]["batch-size"] == "8"


def test_engine_of_one_size_and_several_batches(tmp_path):
    """For several cameras: the ONNX is dynamic, the engine takes 1 to 4 frames of one size."""
    import onnx

    path = nms_onnx(tmp_path / "x-dynamic-NMS.onnx", PEOPLE, batch=None)
    model = onnx.load(str(path))
    for d, word in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[d].dim_param = word
    onnx.save(model, str(path))
    flags = ["--onnx", path, "--deepstream", tmp_path / "ds"]
    assert "give an --engine of one size" in bad(*flags)
    sizes = engine_of(tmp_path / "sizes.trt", profile=[[1, 3, s, s] for s in (64, 96, 128)])
    assert "needs a fixed size" in bad(*flags, "--engine", sizes)
    engine = engine_of(tmp_path / "x.trt", profile=[[b, 3, 96, 160] for b in (1, 2, 4)])
    good(*flags, "--engine", engine)
    properties, _ = config_of(tmp_path / "ds")
    assert properties["batch-size"] == "4" and properties["infer-dims"] == "3;96;160"
    assert "onnx-file" not in properties and not (tmp_path / "ds" / path.name).exists()


def test_models_that_deepstream_cannot_run(model, tmp_path):
    def refused(path, *flags):
        line = bad("--onnx", path, "--deepstream", tmp_path / "ds", *flags)
        assert not (tmp_path / "ds").exists()
        return line

    raw = make_pose_onnx(tmp_path / "raw.onnx", PEOPLE)
    assert "DeepStream needs NMS inside" in refused(raw) and "--end2end" in refused(raw)
    dynamic = make_pose_onnx(tmp_path / "dynamic.onnx", PEOPLE, hw=None)
    assert "needs NMS inside" in refused(dynamic)
    half = nms_onnx(tmp_path / "half.onnx", PEOPLE, half=True)
    assert "input of type FP16" in refused(half) and "without --half" in refused(half)
    assert "no such file" in refused(tmp_path / "none.onnx")
    assert "expected an .onnx file" in refused(tmp_path / "x.trt")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    assert "not a valid ONNX" in refused(tmp_path / "junk.onnx")
    assert "no %s" % (tmp_path / "x-NMS.cache") in refused(model, "--int8", "--cache_dir", tmp_path)


def test_sizes_and_types_of_the_input(tmp_path):
    """A model with NMS inside whose input was changed: dynamic size, bytes."""
    import onnx

    def changed(name, change):
        model = onnx.load(str(nms_onnx(tmp_path / name, PEOPLE)))
        change(model.graph.input[0].type.tensor_type)
        onnx.save(model, str(tmp_path / name))
        return bad("--onnx", tmp_path / name, "--deepstream", tmp_path / "ds")

    def dynamic(kind):
        for d, word in ((2, "height"), (3, "width")):
            kind.shape.dim[d].dim_param = word

    def bytes_(kind):
        kind.elem_type = onnx.TensorProto.UINT8

    line = changed("dynamic.onnx", dynamic)
    assert "input 1x3x?x?" in line and "without --dynamic" in line
    assert "input of type UINT8" in changed("bytes.onnx", bytes_)
    line = bad("--onnx", tmp_path / "bytes.onnx", "--triton", tmp_path / "ds")
    assert "input of type UINT8; expected FP32 or FP16" in line


def test_files_that_are_no_pose_models(tmp_path):
    import onnx

    def changed(change):
        model = onnx.load(str(make_pose_onnx(tmp_path / "x.onnx", PEOPLE)))
        change(model)
        onnx.save(model, str(tmp_path / "x.onnx"))
        return bad("--onnx", tmp_path / "x.onnx", "--triton", tmp_path / "models")

    def grey(model):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1

    def narrow(model):
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 3

    assert "inputs input 1x1x64x64 FP32; expected one of (B, 3, H, W)" in changed(grey)
    assert "not a YOLO-Pose model" in changed(narrow)
    assert not (tmp_path / "models").exists()


def test_what_comes_next_is_told(model, tmp_path):
    said = good("--onnx", model, "--deepstream", tmp_path / "ds", "--frame-size", 720, 1280)
    files = sorted(p.name for p in (tmp_path / "ds").iterdir())
    assert "%s: %s\n" % (tmp_path / "ds", ", ".join(files)) in said
    assert "frames of 720x1280; next" in said and "cd %s && cmake" % (tmp_path / "ds") in said
    said = good("--onnx", model, "--triton", tmp_path / "models", "--name", "pose")
    target = tmp_path / "models" / "pose"
    assert "%s: onnxruntime, batch of the model, no batching\n" % target in said
    assert "tritonserver --model-repository=%s\n" % target.parent in said
    assert "client.py --model pose " in said


def test_pairs_need_an_engine(model, tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    graph = onnx.load(str(model))
    for name, value in (("scale", np.float32(1)), ("zero", np.int8(0))):
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
    ]
    graph.graph.node.extend(nodes)
    path = tmp_path / "pairs.onnx"
    onnx.save(graph, str(path))
    flags = ["--onnx", path, "--deepstream", tmp_path / "ds"]
    assert "has Q/DQ pairs" in bad(*flags)
    good(*flags, "--engine", engine_of(tmp_path / "pairs.trt", precision="INT8"))
    assert config_of(tmp_path / "ds")[0]["network-mode"] == "1"


def test_engines_that_do_not_fit(model, tmp_path):
    flags = ["--onnx", model, "--deepstream", tmp_path / "ds"]
    engine = engine_of(tmp_path / "x.trt")
    assert "no such file" in bad(*flags, "--engine", tmp_path / "none.trt")
    shutil.move(str(tmp_path / "x.trt.json"), str(tmp_path / "kept.json"))
    line = bad(*flags, "--engine", engine)
    assert "no x.trt.json beside it" in line and "export_TRT.py" in line
    engine_of(engine, topk=100)
    assert "topk 100, but x-NMS.onnx has 4" in bad(*flags, "--engine", engine)
    for profile in ([1, 2], "x", [[1, 3, 96, 160]] * 2, [[1, 3, 96]] * 3, [[0, 3, 96, 160]] * 3):
        engine_of(engine, profile=profile)
        assert "x.trt.json: expected three shapes" in bad(*flags, "--engine", engine)
    engine_of(engine)
    assert "drop one of them" in bad(*flags, "--engine", engine, "--int8")
    assert not (tmp_path / "ds").exists()


def test_flags(model, tmp_path):
    assert "nothing to write" in bad("--onnx", model)
    flags = ["--onnx", model, "--deepstream", tmp_path / "ds"]
    assert "--frame-size: expected height width" in bad(*flags, "--frame-size", 0, 10)
    assert "--frame-size: expected at most" in bad(*flags, "--frame-size", 720, 20000)
    assert "--device -1" in bad(*flags, "--device", -1)
    for flag in ("--max-batch", "--instances"):
        for value in (0, 10**10):
            line = bad("--onnx", model, "--triton", tmp_path / "ds", flag, value)
            assert "%s %g: expected 1 to" % (flag, value) in line
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot write" in bad("--onnx", model, "--deepstream", file)


def test_many_keypoints_and_classes(tmp_path):
    rows = np.stack([pose_row(62, 50, 20, 40, 0.9, nc=2, nkpt=5)])
    model = nms_onnx(tmp_path / "five.onnx", rows, names=("left hand", "dog"), topk=1)
    good("--onnx", model, "--deepstream", tmp_path / "ds")
    assert config_of(tmp_path / "ds")[0]["num-detected-classes"] == "2"
    assert (tmp_path / "ds" / "labels.txt").read_text() == "left hand\ndog\n"
    assert json.loads((tmp_path / "ds" / "pose.json").read_text())["limbs"] == []
