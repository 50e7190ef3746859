"""export -> detect -> test as users run them, on stand-ins of each TensorRT and the real RTX.

One long file: every test runs the one script, with shared fixtures, on each version.
"""

import importlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.conftest import ROOT  # noqa: E402
from tests.scripts import run_inside  # noqa: E402
from tests.small_net import make_small_net  # noqa: E402
from utils.quantization import adaptive_rounding  # noqa: E402

FAKES = ROOT / "tests" / "fakes"
VERSIONS = ["v85", "v86", "v10", "v11"]
MAGIC = b"FAKETRT\0"
STANDS = ("tensorrt", "pycuda", "trt_fake")


def process(version, script, *flags, **environment):
    """A script in a process where `tensorrt` and `pycuda` are stand-ins (version None: as is)."""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    if version is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(FAKES / version), str(FAKES), str(ROOT)])
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, flags)],
        cwd=str(ROOT), capture_output=True, encoding="utf-8", env=env, timeout=120,
    )  # fmt: skip


def run(version, script, *flags, **environment):
    """The same inside this process, which is ten times as fast."""
    stands = [n for n in sys.modules if n.split(".")[0] in STANDS]
    kept = {name: sys.modules.pop(name) for name in stands}
    path, before = list(sys.path), dict(os.environ)
    try:
        if version is not None:
            sys.path[:0] = [str(FAKES / version), str(FAKES)]
            importlib.invalidate_caches()
        os.environ.update(environment)
        return run_inside(script, *flags)
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path
        for name in [n for n in sys.modules if n.split(".")[0] in STANDS]:
            del sys.modules[name]
        sys.modules.update(kept)


def good(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bad(done, *words):
    """It failed with exit code 1 and one line that holds the words."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [n for n in re.split(r"[\r\n]+", done.stderr) if n.strip() and "image/s]" not in n]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def facts(engine):
    data = engine.read_bytes()
    assert data.startswith(MAGIC)
    return pickle.loads(data[len(MAGIC) :])


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(10):
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        (folder / ("%d.png" % i)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return folder


@pytest.fixture
def calib(tmp_path, image_folder):
    """Flags of a calibration."""
    return ["--int8", "--calib_path", image_folder, "--calib_num", 10, "--calib_batch", 4,
            "--cache_dir", tmp_path / "caches"]  # fmt: skip


def dataset(tmp_path):
    """Data yaml of an image with one labelled person."""
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    path = tmp_path / "data" / "images" / "a.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    label = "0 0.5 0.5 0.5 0.5" + " 0.5 0.5 2" * 17
    (tmp_path / "data" / "labels" / "a.txt").write_text(label + "\n")
    (tmp_path / "data" / "val.txt").write_text("images/a.png\n")
    (tmp_path / "data.yaml").write_text("val: data/val.txt\nnc: 1\nnames: [person]\n")
    return tmp_path / "data.yaml"


def predictions(version, weights, source, folder):
    out = good(run(version, "detect_multi_backend.py", "--weights", weights, "--source", source,
                   "--save-json", "--nosave", "--project", folder, "--conf-thres", 0.2,
                   "--square"))  # fmt: skip
    rows = json.loads(next(folder.rglob("predictions.json")).read_text())
    return out, rows


@pytest.mark.parametrize("version", VERSIONS)
def test_fp16_export_detect_test(tmp_path, image_folder, version):
    path = make_small_net(tmp_path / "x.onnx")
    out = good(run(version, "models/export_TRT.py", "--onnx", path, "--batch-size", 1, "--fp16"))
    engine = tmp_path / "x-FP16.trt"
    assert "x-FP16.trt: FP16, TensorRT" in out and not (tmp_path / "x.trt").exists()
    info = json.loads((tmp_path / "x-FP16.trt.json").read_text())
    assert info["precision"] == "FP16" and info["nkpt"] == 17 and info["gpu"] == "Xavier"
    assert info["names"] == ["person"] and info["imgsz"] == [64, 64]
    assert len(info["onnx_sha256"]) == 64 and info["version"].startswith(version[1:2])
    built = facts(engine)
    assert built["workspace"] == 4 << 30
    if version == "v11":
        assert built["flags"] == [] and built["precisions"] == {}
        kinds = {i.data_type for i in onnx.load_model_from_string(built["onnx"]).graph.initializer}
        assert onnx.TensorProto.FLOAT16 in kinds
    else:
        assert built["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
        assert set(built["precisions"].values()) == {"FLOAT"}
        assert {"decode/m1", "decode/s1", "decode/m3"} <= set(built["precisions"])
    text, rows = predictions(version, engine, image_folder, tmp_path / "trt")
    assert "Xavier through pycuda" in text
    _, expected = predictions(None, path, image_folder, tmp_path / "onnx")
    assert len(rows) == len(expected) >= 10
    for a, b in zip(rows, expected):
        assert a["score"] == pytest.approx(b["score"], abs=5e-3)
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=0.1)
    if version in ("v85", "v11"):
        good(run(version, "test_multi_backend.py", "--weights", engine, path, "--data",
                 dataset(tmp_path), "--compare", "--no-report", "--project",
                 tmp_path / "test"))  # fmt: skip
        content = json.loads(next((tmp_path / "test").rglob("results.json")).read_text())
        files = content["compare"]["files"]
        assert [f["precision"] for f in files] == ["FP16", "FP32"]


@pytest.mark.parametrize("version", VERSIONS)
def test_int8_from_images_and_from_the_cache_alone(tmp_path, calib, version):
    path = make_small_net(tmp_path / "x.onnx")
    out = good(run(version, "models/export_TRT.py", "--onnx", path, *calib))
    engine, cache = tmp_path / "x-INT8.trt", tmp_path / "caches" / "x.cache"
    info = json.loads((tmp_path / "x-INT8.trt.json").read_text())
    first = facts(engine)
    header = cache.read_text().splitlines()[0]
    if version == "v11":
        assert info["quantization"] == "explicit" and "x-INT8.onnx" in out
        assert info["calibration"]["method"] == "Foreground" and first["scales"] is None
    else:
        assert info["quantization"] == "implicit" and info["calibration"]["by"] == "TensorRT"
        assert first["calibrated_images"] == 10  # with a static batch of 1, all of them
        assert "FP16" in first["flags"] and "INT8" in first["flags"]
        assert first["precisions"]["head"] == "HALF" and first["precisions"]["depth"] == "HALF"
        assert first["precisions"]["decode/m1"] == "FLOAT" and "fuse" not in first["precisions"]
        number = {"v85": "8502", "v86": "8601", "v10": "100700"}[version]
        assert header == "TRT-%s-MinMaxCalibration" % number
    engine.unlink()
    folder = calib[calib.index("--calib_path") + 1]
    folder.rename(tmp_path / "elsewhere")
    wrong = ["--onnx", path, "--int8", "--calib_path", "nowhere", "--cache_dir", cache.parent]
    bad(run(version, "models/export_TRT.py", *wrong), "--calib_path nowhere: no such", "x.cache")
    assert not engine.exists()
    text = good(run(version, "models/export_TRT.py", "--onnx", path, *calib))  # the same command
    assert "calibration from" in text and "--calib_path %s: not here" % folder in text
    (tmp_path / "elsewhere").rename(folder)
    second = facts(engine)
    assert second["calibrated_images"] == 0
    if version != "v11":
        assert second["scales"] == pytest.approx(first["scales"], rel=1e-6)
    _, rows = predictions(version, engine, tmp_path / "images", tmp_path / "out")
    assert len(rows) >= 10


@pytest.mark.parametrize("version", ["v85", "v11"])
def test_a_cache_of_another_training_is_refused_or_made_anew(tmp_path, calib, version):
    """Two trainings write the same file name and tensors of the same names."""
    path = make_small_net(tmp_path / "best.onnx")
    export = ["models/export_TRT.py", "--onnx", path]
    bare = ["--int8", "--cache_dir", tmp_path / "caches"]
    good(run(version, *export, *calib))
    cache = tmp_path / "caches" / "best.cache"
    first = cache.read_bytes()
    make_small_net(path, seed=1)
    bad(run(version, *export, *bare), "best.cache", "made from another best.onnx", "--calib_path")
    assert cache.read_bytes() == first
    assert "calibrating again" in good(run(version, *export, *calib))
    assert cache.read_bytes() != first
    assert "calibration from" in good(run(version, *export, *bare))


@pytest.mark.parametrize("here, there", [("v11", "v85"), ("v85", "v11"), ("v10", "v86")])
def test_a_cache_travels(tmp_path, calib, here, there):
    """Calibrated with one version, built with another from the .onnx and the .cache."""
    path = make_small_net(tmp_path / "x.onnx")
    good(run(here, "models/export_TRT.py", "--onnx", path, *calib))
    good(run(there, "models/export_TRT.py", "--onnx", path, "--int8", "--cache_dir",
             tmp_path / "caches"))  # fmt: skip
    built = facts(tmp_path / "x-INT8.trt")
    assert built["calibrated_images"] == 0
    if there == "v11":
        nodes = onnx.load_model_from_string(built["onnx"]).graph.node
        assert sum(n.op_type == "QuantizeLinear" for n in nodes) >= 10
    else:
        assert len(built["scales"]) >= 10


def test_explicit_on_an_old_version_and_ranges_of_onnx_runtime(tmp_path, calib):
    path = make_small_net(tmp_path / "x.onnx")
    export = ["models/export_TRT.py", "--onnx", path, *calib]
    good(run("v85", *export, "--quant", "explicit", "--calib_method", "Entropy"))
    built = facts(tmp_path / "x-INT8.trt")
    assert built["scales"] is None and "INT8" in built["flags"]
    assert set(built["precisions"].values()) == {"FLOAT"}  # Q/DQ says itself what is no INT8
    good(run("v85", *export, "--recalibrate", "--calib_by", "onnxruntime"))
    built = facts(tmp_path / "x-INT8.trt")
    assert built["calibrated_images"] == 0 and "head_out" in built["scales"]
    bad(run("v11", *export, "--quant", "implicit"), "--quant implicit", "no calibrators")


def test_qdq_and_fp16_models_are_named_after_what_they_are(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx")
    good(run(None, "models/export_INT8.py", "--onnx", path, "--calib_path", image_folder,
             "--calib_num", 4, "--cache_dir", tmp_path))  # fmt: skip
    for version in ("v85", "v11"):
        more = ["--int8", "--calib_path", "nowhere"] if version == "v11" else []  # not needed
        good(run(version, "models/export_TRT.py", "--onnx", tmp_path / "x-INT8.onnx", *more))
        assert json.loads((tmp_path / "x-INT8.trt.json").read_text())["precision"] == "INT8"
        (tmp_path / "x-INT8.trt").unlink()
    bad(run("v85", "models/export_TRT.py", "--onnx", tmp_path / "x-INT8.onnx", "--int8", "--quant",
            "implicit"), "--quant implicit", "has Q/DQ pairs")  # fmt: skip
    from utils.graph.fp16 import to_fp16

    model = onnx.load(str(path))
    to_fp16(model)
    onnx.save(model, str(tmp_path / "h.onnx"))
    out = good(run("v85", "models/export_TRT.py", "--onnx", tmp_path / "h.onnx"))
    assert "FP16 weights" in out and (tmp_path / "h-FP16.trt").is_file()
    assert facts(tmp_path / "h-FP16.trt")["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    bad(run("v85", "models/export_TRT.py", "--onnx", tmp_path / "h.onnx", "--int8", "--calib_path",
            image_folder), "FP16 weights", "without --half")  # fmt: skip


@pytest.mark.parametrize("version", ["v85", "v11"])
def test_fp16_weights_are_rounded_here(tmp_path, version, monkeypatch):
    """Typed or not: every weight TensorRT gets is an FP16 number already."""
    path = make_small_net(tmp_path / "x.onnx")
    export = ["models/export_TRT.py", "--onnx", path, "--fp16"]

    def convs():
        model = onnx.load_model_from_string(facts(tmp_path / "x-FP16.trt")["onnx"])
        arrays = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
        kinds = [n.op_type for n in model.graph.node]
        return kinds, [arrays[n.input[1]] for n in model.graph.node if n.op_type == "Conv"]

    good(run(version, *export))
    kinds, fine = convs()
    assert "Round" in kinds  # pixels, too
    assert all(np.array_equal(w.astype(np.float16), w) for w in fine)
    good(run(version, *export, "--round", "nearest"))
    kinds, plain = convs()
    assert "Round" not in kinds
    assert any((a != b.astype(np.float16)).any() for a, b in zip(fine, plain))
    bad(run(version, *export[:-1], "--round", "cancel"), "--round goes with --fp16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as on a Jetson
    text = good(run(version, *export))
    assert "rounded to the nearest FP16: fine rounding needs onnxruntime" in text
    bad(run(version, *export, "--round", "cancel"), "--round cancel", "pip install onnxruntime")


def test_code_copied_without_data_images_rounds_to_the_nearest_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptive_rounding, "SAMPLE_IMAGES", tmp_path / "images")
    export = ["models/export_TRT.py", "--onnx", make_small_net(tmp_path / "x.onnx"), "--fp16"]
    text = good(run("v85", *export))
    assert "rounded to the nearest FP16: no images in %s" % (tmp_path / "images") in text
    bad(run("v85", *export, "--round", "cancel"), "--round cancel", "no images in")


@pytest.mark.parametrize("version", ["v85", "v11"])
def test_dynamic(tmp_path, calib, image_folder, version):
    path = make_small_net(tmp_path / "x-dynamic.onnx", None, None, imgsz=[128, 128])
    export = ["models/export_TRT.py", "--onnx", path]
    good(run(version, *export, "--dynamic", "--max-batch", 3, "--opt-size", 128))
    engine = tmp_path / "x-dynamic.trt"
    wanted = ((1, 3, 64, 64), (1, 3, 128, 128), (3, 3, 128, 128))
    assert facts(engine)["profile"] == {"input": wanted}
    text = good(run(version, "detect_multi_backend.py", "--weights", engine, "--source",
                    image_folder, "--nosave", "--project", tmp_path / "out"))  # fmt: skip
    assert "?x3x?x?" in text
    good(run(version, *export, "--batch-size", 2))  # static, of a dynamic ONNX
    assert facts(engine)["profile"] == {"input": ((2, 3, 128, 128),) * 3}
    good(run(version, *export, "--dynamic", "--max-batch", 4, *calib, "--calib_imgsz", 192))
    if version == "v85":  # at the size asked for, which is none of the engine's
        built = facts(tmp_path / "x-dynamic-INT8.trt")
        assert built["calibrated_images"] >= 10 and built["calibrated_shape"] == (1, 3, 192, 192)
    fixed = ["--onnx", make_small_net(tmp_path / "x.onnx"), *calib, "--calib_imgsz", 128]
    done = run(version, "models/export_TRT.py", *fixed)
    assert "warning: --calib_imgsz 128 128 is ignored: x.onnx is static, 64 64" in good(done)
    bad(run(version, *export, "--dynamic", "--min-size", 128, "--max-size", 64), "must not shrink")
    bad(run(version, *export, "--max-batch", 2), "--max-batch goes with --dynamic")
    bad(run(version, *export, "--opt-size", 100), "multiples of 64")
    many = ["--dynamic", "--batch-size", 8, "--max-batch", 4]
    bad(run(version, *export, *many), "--batch-size 8: above --max-batch 4")


@pytest.mark.parametrize("version", ["v85", "v11"])
def test_uint8_input(tmp_path, calib, image_folder, version):
    from utils.graph.pixels import add_pixels

    make_small_net(tmp_path / "x.onnx")
    make_small_net(tmp_path / "d.onnx", None, None, imgsz=[128, 128])
    for name in ("x", "d"):
        model = onnx.load(str(tmp_path / (name + ".onnx")))
        add_pixels(model)
        onnx.save(model, str(tmp_path / (name + "-uint8.onnx")))
    export = ["models/export_TRT.py", "--onnx", tmp_path / "x-uint8.onnx"]
    good(run(version, *export))
    text, rows = predictions(version, tmp_path / "x-uint8.trt", image_folder, tmp_path / "trt")
    assert "x3x" in text  # the size is told as ever
    _, expected = predictions(None, tmp_path / "x.onnx", image_folder, tmp_path / "onnx")
    assert len(rows) == len(expected) >= 10
    for mine, theirs in zip(rows, expected):
        np.testing.assert_allclose(mine["keypoints"], theirs["keypoints"], atol=1e-2)
    good(run(version, "models/export_TRT.py", "--onnx", tmp_path / "d-uint8.onnx", "--dynamic",
             "--max-batch", 3, "--opt-size", 128))  # fmt: skip
    wanted = ((1, 64, 64, 3), (1, 128, 128, 3), (3, 128, 128, 3))
    assert facts(tmp_path / "d-uint8.trt")["profile"] == {"pixels": wanted}
    predictions(version, tmp_path / "d-uint8.trt", image_folder, tmp_path / "dynamic")
    good(run(version, *export, *calib))  # explicit
    assert (tmp_path / "x-uint8-INT8.onnx").is_file()
    predictions(version, tmp_path / "x-uint8-INT8.trt", image_folder, tmp_path / "int8")
    if version == "v85":
        bad(run(version, *export, *calib, "--quant", "implicit"), "--quant implicit",
            "uint8 input", "--quant explicit")  # fmt: skip


@pytest.mark.parametrize("form", ["static", "efficientnms"])
@pytest.mark.parametrize("version", ["v85", "v11"])
def test_nms_inside(tmp_path, image_folder, version, form):
    from utils.graph.nms import Nms, add_nms

    model = onnx.load(str(make_small_net(tmp_path / "x.onnx", conf_thres=0.2, iou_thres=0.45,
                                         topk=8)))  # fmt: skip
    add_nms(model, 1, Nms(form, 0.2, 0.45, 8))
    onnx.save(model, str(tmp_path / "x-NMS.onnx"))
    out = good(run(version, "models/export_TRT.py", "--onnx", tmp_path / "x-NMS.onnx", "--fp16"))
    assert ("replaced by standard ops" in out) == (version == "v11" and form == "efficientnms")
    engine = tmp_path / "x-NMS-FP16.trt"
    if version == "v85" and form == "efficientnms":
        plugins = [k for k in facts(engine)["precisions"] if k.startswith("nms/")]
        assert plugins  # NMS stays FP32
    text, rows = predictions(version, engine, image_folder, tmp_path / "trt")
    assert "embedded NMS (conf 0.2, iou 0.45, at most 8 poses)" in text
    _, expected = predictions(None, tmp_path / "x-NMS.onnx", image_folder, tmp_path / "onnx")
    assert len(rows) == len(expected) >= 10


@pytest.mark.parametrize("version", ["v85", "v11"])
def test_nms_inside_in_int8(tmp_path, image_folder, calib, version):
    from utils.graph.nms import Nms, add_nms

    model = onnx.load(str(make_small_net(tmp_path / "x.onnx", conf_thres=0.2, iou_thres=0.45,
                                         topk=8)))  # fmt: skip
    add_nms(model, 1, Nms("efficientnms", 0.2, 0.45, 8))
    onnx.save(model, str(tmp_path / "x-NMS.onnx"))
    flags = ["--onnx", tmp_path / "x-NMS.onnx", *calib, "--quant", "explicit"]
    good(run(version, "models/export_TRT.py", *flags))
    for weights in ("x-NMS-INT8.trt", "x-NMS-INT8.onnx"):
        _, rows = predictions(version, tmp_path / weights, image_folder, tmp_path / weights[-4:])
        assert len(rows) >= 10
    done = run(version, "models/export_INT8.py", "--onnx", tmp_path / "x-NMS.onnx", "--report",
               "--cache_dir", tmp_path / "caches")  # fmt: skip
    bad(done, "--report", "without embedded NMS")


def test_builder_settings(tmp_path):
    path = make_small_net(tmp_path / "x.onnx")
    export = ["models/export_TRT.py", "--onnx", path, "--workspace", 2]
    timing = tmp_path / "timing.cache"
    good(run("v86", *export, "--fp16", "--opt-level", 5, "--timing-cache", timing, "--dla", 1))
    built = facts(tmp_path / "x-FP16.trt")
    assert (built["opt_level"], built["dla"], built["workspace"]) == (5, 1, 2 << 30)
    assert "GPU_FALLBACK" in built["flags"] and timing.read_bytes() == b"timing"
    timing.write_bytes(b"of another GPU")
    bad(run("v86", *export, "--timing-cache", timing), "--timing-cache", "no timing cache")
    assert timing.read_bytes() == b"of another GPU" and not (tmp_path / "x.trt").exists()
    before = path.read_bytes()
    out = good(run("v86", *export, "--timing-cache", timing, "--verbose", "--overwrite"))
    told = "timing.cache: no timing cache of this TensorRT and GPU; a new one is made"
    assert told in out and timing.read_bytes() == b"timing"
    timing.write_bytes(before)
    out = good(run("v86", *export, "--timing-cache", timing, "--overwrite"))
    assert told in out and "Magic tag" not in out
    assert timing.read_bytes() == b"timing"
    bad(run("v85", *export, "--opt-level", 5), "--opt-level", "8.6 and newer")
    bad(run("v86", *export, "--fp16", "--dla", 2), "--dla 2", "2 DLA cores")
    bad(run("v86", *export, "--dla", 0), "--dla", "--fp16 or --int8")
    bad(run("v86", *export, "--fp16", "--dla", -1), "--dla -1")
    bad(run("v86", *export, "--timing-cache", tmp_path), "is a folder")


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
@pytest.mark.parametrize("name", ["x.onnx", "linked.onnx", "x.trt", "x.trt.json", "caches/x.cache"])
def test_a_timing_cache_overwrites_no_file_of_the_build(tmp_path, name, more):
    path = make_small_net(tmp_path / "x.onnx")
    before = path.read_bytes()
    (tmp_path / "linked.onnx").symlink_to(path)
    flags = ["--onnx", path, "--cache_dir", tmp_path / "caches", *more]
    done = run("v86", "models/export_TRT.py", *flags, "--timing-cache", tmp_path / name)
    what = "--onnx" if "onnx" in name else "another file of this build"
    bad(done, "--timing-cache %s: would overwrite %s" % (tmp_path / name, what))
    assert path.read_bytes() == before and not (tmp_path / "x.trt").exists()


@pytest.mark.parametrize("work", [["--calib-by", "onnxruntime"], ["--fp16", "--round", "cancel"]])
def test_a_timing_cache_of_another_kind_is_told_before_the_work(
    tmp_path, image_folder, calib, work, monkeypatch
):
    def refuse(*args, **options):
        raise AssertionError("weights are rounded first")

    monkeypatch.setattr(adaptive_rounding, "prepare", refuse)
    path, timing = make_small_net(tmp_path / "x.onnx"), tmp_path / "timing.cache"
    timing.write_bytes(b"of another GPU")
    flags = ["--onnx", path, "--timing-cache", timing, *work]
    flags += calib if "--calib-by" in work else []
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    done = run("v86", "models/export_TRT.py", *flags)
    bad(done, "--timing-cache", "no timing cache", "delete this one if it is an old timing cache")
    assert "--overwrite" not in done.stderr  # it may be anything
    assert "calib" not in done.stdout and timing.read_bytes() == b"of another GPU"
    assert [p for p in sorted(str(p) for p in tmp_path.rglob("*")) if p not in before] == []


def test_the_error_of_a_timing_cache_names_no_flag_in_python(tmp_path):
    timing = tmp_path / "timing.cache"
    timing.write_bytes(b"of another GPU")
    make_small_net(tmp_path / "x.onnx")
    program = tmp_path / "program.py"
    program.write_text(
        "from utils.errors import InputError\n"
        "from utils.export.engine import build_engine\n"
        "from utils.export.engine_config import EngineConfig\n"
        "try:\n"
        "    build_engine(EngineConfig(%r, timing_cache=%r))\n"
        "except InputError as e:\n"
        "    print(e)\n" % (str(tmp_path / "x.onnx"), str(timing))
    )
    done = process("v86", program)
    assert done.returncode == 0, done.stderr
    assert "`timing_cache` %s: no timing cache of this TensorRT" % timing in done.stdout
    assert "name another file, or delete this one" in done.stdout
    assert "overwrite" not in done.stdout and timing.read_bytes() == b"of another GPU"


def test_timings_are_kept_by_default_and_for_each_version_and_gpu(tmp_path):
    path = make_small_net(tmp_path / "x.onnx")
    export = ["models/export_TRT.py", "--onnx", path, "--cache_dir", tmp_path / "caches"]
    kept = tmp_path / "caches" / "TensorRT-8.6.1.6-Xavier.timing"
    good(run("v86", *export, "--no-timing-cache"))
    assert not kept.exists()
    assert "the first build on a GPU takes minutes" in good(run("v86", *export))
    assert kept.read_bytes() == b"timing"
    assert "kernel timings from %s" % kept in good(run("v86", *export))
    good(run("v10", *export))
    good(run("v86", *export, FAKE_GPU="NVIDIA H200 / 2"))
    assert (tmp_path / "caches" / "TensorRT-8.6.1.6-NVIDIA-H200-2.timing").exists()
    assert len(list((tmp_path / "caches").iterdir())) == 3
    bad(run("v86", *export, "--no-timing-cache", "--timing-cache", kept), "one of them")


def test_the_layers_of_an_engine(tmp_path):
    path = make_small_net(tmp_path / "x.onnx")
    out = good(run("v85", "models/export_TRT.py", "--onnx", path, "--layers", "--no-timing-cache"))
    lines = (tmp_path / "x.trt.layers.csv").read_text().splitlines()
    assert lines[0] == "layer,kind,inputs,outputs,ms" and len(lines) > 20
    assert lines[1].endswith(",CaskConvolution,FP16,FP32,0.2500")
    count = len(lines) - 1
    assert "| CaskConvolution | FP16 | FP32 | %d | %.3f |" % (count, count / 4) in out


def test_pairs_are_not_built_under_binding_precisions(tmp_path, calib):
    """The stand-in of 8.5 refuses what the real one refused: see NO_CANDIDATES, NO_FORMATS."""
    path = make_small_net(tmp_path / "x.onnx")
    good(run("v85", "models/export_TRT.py", "--onnx", path, *calib, "--quant", "explicit"))
    flags = facts(tmp_path / "x-INT8.trt")["flags"]
    assert "PREFER_PRECISION_CONSTRAINTS" in flags and "OBEY_PRECISION_CONSTRAINTS" not in flags
    good(run("v85", "models/export_TRT.py", "--onnx", path, "--fp16", "--round", "nearest"))
    flags = facts(tmp_path / "x-FP16.trt")["flags"]
    assert "OBEY_PRECISION_CONSTRAINTS" in flags


def test_what_cannot_work_is_one_line_and_the_old_engine_stays(tmp_path, image_folder, calib):
    path = make_small_net(tmp_path / "x.onnx")
    dynamic = make_small_net(tmp_path / "d.onnx", None, None)
    for name in ("x.trt", "x-INT8.trt", "x-FP16.trt"):
        (tmp_path / name).write_bytes(b"old")
    export = ["models/export_TRT.py", "--onnx", path, "--overwrite"]
    bad(run("v85", *export[:-1]), "x.trt: is there already", "--overwrite")
    bad(run("v85", *export, "--batch-size", 4), "--batch-size 4", "x.onnx is static, batch 1")
    bad(run("v85", *export, "--dynamic"), "--dynamic: x.onnx is static")
    bad(run("v85", *export, "--workspace", 64), "--workspace 64", "8.0 GB")
    bad(run("v85", *export, "--device", "cpu"), "--device cpu")
    bad(run("v85", *export, "--device", 3), "--device 3", "sees 1 CUDA GPUs")
    bad(run("v85", *export, FAKE_NO_CUDA="1"), "needs a CUDA GPU")
    failing = run("v85", *export, FAKE_BUILD_FAILS="1")
    bad(failing, "could not build", "Could not find any impl")
    assert "free" not in failing.stderr
    little = run("v85", *export, FAKE_BUILD_FAILS="1", FAKE_FREE_MEMORY=str(3 << 28))
    bad(little, "Could not find any impl", "; only 0.8 GB of the memory of Xavier are free, ")
    broken = run("v85", *export, FAKE_BUILD_FAILS="1", FAKE_FREE_MEMORY="unknown")
    bad(broken, "Could not find any impl")  # the GPU may say nothing any more
    bad(run("v85", *export, *calib, FAKE_NO_INT8="1"), "no fast INT8")
    bad(run("v85", *export, "--fp16", FAKE_NO_FP16="1"), "--fp16: this GPU has no fast FP16")
    empty = tmp_path / "empty"
    empty.mkdir()
    flags = ["--int8", "--cache_dir", tmp_path / "none", "--calib_path"]
    bad(run("v85", *export, *flags, empty), "--calib_path", "no images")
    bad(run("v85", *export, *flags, tmp_path / "nowhere"), "--calib_path", "no such file or folder")
    bad(run("v11", *export, *flags, image_folder), "--calib_num 1024: only 10 images")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "x.cache").write_text("TRT-8401-MinMaxCalibration\ninput: 3c010204\n")
    for version in ("v85", "v11"):
        bad(run(version, *export, "--int8", "--cache_dir", foreign), "x.cache", "1 of the")
    for content in ("nonsense", "TRT-8531-MinMaxCalibration\n"):
        (foreign / "x.cache").write_text(content)
        done = run("v85", *export, "--int8", "--cache_dir", foreign)
        bad(done, "not a calibration cache")
        assert "warning: " not in done.stdout  # where warnings go; the error alone is shown
    (image_folder / "3.png").write_bytes(b"broken")
    bad(run("v85", *export, *calib), "calibration", "3.png")
    bad(run("v85", *export, *calib, "--keep", "nothing"), "--keep nothing: no convolution")
    bad(run("v85", "models/export_TRT.py", "--onnx", dynamic, "--opt-size", 0), "--opt-size 0")
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    bad(run("v85", "models/export_TRT.py", "--onnx", tmp_path / "bad.onnx"), "not a valid ONNX")
    bad(run("v85", "models/export_TRT.py", "--onnx", tmp_path / "no.onnx"), "no such file")
    for name in ("x.trt", "x-INT8.trt", "x-FP16.trt"):
        assert (tmp_path / name).read_bytes() == b"old"
    assert not list(tmp_path.rglob(".tmp*"))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--workspace", 0], "--workspace 0: expected GB, above 0"),
        (["--opt-level", 6], "--opt-level 6: expected 0 to 5"),
        (["--fp16", "--dla", -1], "--dla -1: expected the number of an accelerator"),
        (["--quant", "explicit"], "--quant and --calib_by go with --int8"),
        (["--calib_by", "onnxruntime"], "--quant and --calib_by go with --int8"),
        (["--opt-size", 128], "--opt-size: x.onnx is static, 64 64"),
    ],
)
def test_flags_that_cannot_be(tmp_path, flags, words):
    path = make_small_net(tmp_path / "x.onnx")
    bad(run("v86", "models/export_TRT.py", "--onnx", path, *flags), words)
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


def test_a_dynamic_model_that_does_not_say_its_size(tmp_path):
    path = make_small_net(tmp_path / "x.onnx", None, None)
    model = onnx.load(str(path))
    for entry in [e for e in model.metadata_props if e.key == "imgsz"]:
        model.metadata_props.remove(entry)
    onnx.save(model, str(path))
    export = ["models/export_TRT.py", "--onnx", path, "--dynamic"]
    bad(run("v86", *export), "--opt-size: x.onnx does not say for which size; name one")
    good(run("v86", *export, "--opt-size", 128))


def stopped_at(error, image_file, monkeypatch):
    """A image that cannot be read for a reason of its own."""
    from utils.dataset import images

    read = images.read_image

    def read_image(path):
        if path.endswith(image_file):
            raise error
        return read(path)

    monkeypatch.setattr(images, "read_image", read_image)


def test_a_calibration_that_stops_leaves_no_cache_and_no_engine(tmp_path, image_folder, calib):
    """The bindings swallow what a calibrator raises, and TensorRT goes on with half the images."""
    path = make_small_net(tmp_path / "x.onnx")
    engine, cache = tmp_path / "x-INT8.trt", tmp_path / "caches" / "x.cache"
    engine.write_bytes(b"old")
    whole = (image_folder / "3.png").read_bytes()
    (image_folder / "3.png").write_bytes(b"broken")
    bad(
        run("v85", "models/export_TRT.py", "--onnx", path, *calib, "--overwrite"),
        "calibration",
        "3.png",
    )
    assert engine.read_bytes() == b"old" and not cache.exists()
    for image_file in image_folder.iterdir():  # then there is nothing to build from either
        image_file.write_bytes(b"broken")
    bad(
        run("v85", "models/export_TRT.py", "--onnx", path, *calib, "--overwrite"),
        "calibration",
        ".png",
    )
    assert engine.read_bytes() == b"old" and not cache.exists()
    for image_file in image_folder.iterdir():
        image_file.write_bytes(whole)
    good(run("v85", "models/export_TRT.py", "--onnx", path, *calib, "--overwrite"))
    assert facts(engine)["calibrated_images"] == 10


def test_a_cache_needs_no_images(tmp_path, image_folder, calib):
    """The command that made it can be given where the images are not."""
    path = make_small_net(tmp_path / "x.onnx")
    build = ["models/export_TRT.py", "--onnx", path, *calib, "--overwrite"]
    assert "warning" not in good(run("v85", *build))
    image_folder.rename(tmp_path / "elsewhere")
    cache = tmp_path / "caches" / "x.cache"
    told = "warning: --calib_path %s: not here; the ranges of %s need no images\n"
    assert told % (image_folder, cache) in good(run("v85", *build))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build(tmp_path, number):
    path = make_small_net(tmp_path / "x.onnx")
    done = subprocess.run(
        [sys.executable, str(ROOT / "models" / "export_TRT.py"), "--onnx", str(path)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FAKES / "v85"), str(FAKES)]),
            "FAKE_SIGNAL": str(int(number)),
        },
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n"), done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (MemoryError(), 1)])
def test_calibration_interrupted(tmp_path, calib, monkeypatch, error, code):
    path = make_small_net(tmp_path / "x.onnx")
    stopped_at(error, "3.png", monkeypatch)
    done = run("v85", "models/export_TRT.py", "--onnx", path, *calib)
    assert done.returncode == code, done.stderr
    assert code == 130 or "memory" in done.stderr


def test_a_cache_that_cannot_be_written(tmp_path, calib, monkeypatch):
    path = make_small_net(tmp_path / "x.onnx")
    (tmp_path / "caches").write_bytes(b"a file where the folder should be")
    with monkeypatch.context() as patch:
        stopped_at(MemoryError(), ".png", patch)  # before any image is read
        done = run("v85", "models/export_TRT.py", "--onnx", path, *calib)
    bad(done, "caches: cannot write into this folder")
    (tmp_path / "x.trt").mkdir()
    done = run("v85", "models/export_TRT.py", "--onnx", path)
    bad(done, "x.trt: is a folder")
    assert "building" not in done.stdout


def test_builds_on_the_gpu_asked_for(tmp_path):
    path = make_small_net(tmp_path / "x.onnx")
    for version in ("v85", "v11"):
        good(run(version, "models/export_TRT.py", "--onnx", path, "--device", 1, FAKE_GPUS="2"))
        assert facts(tmp_path / "x.trt")["gpu_index"] == 1
        good(run(version, "models/export_TRT.py", "--onnx", path))
        assert facts(tmp_path / "x.trt")["gpu_index"] == 0


def test_fp16_static(tmp_path, image_folder):
    """A dynamic batch of one size, or any size of one batch, as other exporters make."""
    for name, batch, hw in (("b.onnx", None, (64, 64)), ("s.onnx", 2, None)):
        dims = onnx.load(str(make_small_net(tmp_path / name, batch, None)))
        for dim, value in zip(dims.graph.input[0].type.tensor_type.shape.dim[2:], hw or ()):
            dim.dim_value = value
        onnx.save(dims, str(tmp_path / name))
    export = ["models/export_TRT.py", "--onnx", tmp_path / "b.onnx"]
    good(run("v85", *export, "--dynamic", "--max-batch", 3))
    wanted = ((1, 3, 64, 64), (1, 3, 64, 64), (3, 3, 64, 64))
    assert facts(tmp_path / "b.trt")["profile"] == {"input": wanted}
    bad(run("v85", *export, "--dynamic", "--max-size", 128), "--max-size", "static, 64 64")
    bad(run("v85", *export, "--opt-size", 128), "--opt-size", "static, 64 64")
    export = ["models/export_TRT.py", "--onnx", tmp_path / "s.onnx", "--opt-size", 128]
    good(run("v85", *export))
    assert facts(tmp_path / "s.trt")["profile"] == {"input": ((2, 3, 128, 128),) * 3}
    bad(run("v85", *export, "--batch-size", 4), "--batch-size 4", "static, 2")


def test_engines_that_cannot_run(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx")
    good(run("v85", "models/export_TRT.py", "--onnx", path))
    engine = tmp_path / "x.trt"
    detect = ["detect_multi_backend.py", "--weights", engine, "--source", image_folder, "--nosave",
              "--project", tmp_path / "out"]  # fmt: skip
    bad(run("v86", *detect), "built by TensorRT 8.5.2.2, here is TensorRT 8.6.1.6", "export_TRT.py")
    bad(run("v85", *detect, FAKE_GPU="Orin"), "built for Xavier, here is Orin")
    bad(run("v85", *detect, "--device", "cpu"), "needs a GPU")
    bad(run("v85", *detect, FAKE_NO_CUDA="1"), "needs a CUDA GPU")
    side = tmp_path / "x.trt.json"
    content = side.read_text()
    engine.write_bytes(engine.read_bytes()[:500])
    bad(run("v85", *detect), "500 bytes", "damaged")
    side.unlink()  # as trtexec leaves it
    bad(run("v85", *detect), "not an engine that TensorRT 8.5.2.2 on Xavier can run")
    side.write_text(content[:20])
    bad(run("v85", *detect), "x.trt.json: not JSON")


def test_an_engine_without_side_file_runs(tmp_path, image_folder):
    path = make_small_net(tmp_path / "x.onnx")
    good(run("v10", "models/export_TRT.py", "--onnx", path))
    (tmp_path / "x.trt.json").unlink()
    (tmp_path / "x.trt").rename(tmp_path / "x.engine")
    text, rows = predictions("v10", tmp_path / "x.engine", image_folder, tmp_path / "out")
    assert "unknown precision" in text and len(rows) >= 10


def test_as_processes(tmp_path, image_folder):
    """Two of the above as users run them."""
    path = make_small_net(tmp_path / "x.onnx")
    good(process("v85", "models/export_TRT.py", "--onnx", path, "--fp16"))
    out = good(process("v85", "detect_multi_backend.py", "--weights", tmp_path / "x-FP16.trt",
                       "--source", image_folder, "--project", tmp_path / "out"))  # fmt: skip
    assert "TensorRT 8.5.2.2, Xavier through pycuda, FP16" in out
    bad(process("v11", "models/export_TRT.py", "--onnx", path, "--dynamic"), "--dynamic")


def test_real_tensorrt_rtx(tmp_path, calib):
    """Builds without a GPU; says that it cannot run the result here."""
    pytest.importorskip("tensorrt_rtx", reason="no tensorrt_rtx for this Python")
    path = make_small_net(tmp_path / "x.onnx")
    for flags, name in (([], "x.trt"), (["--fp16"], "x-FP16.trt"), (calib, "x-INT8.trt")):
        out = good(run(None, "models/export_TRT.py", "--onnx", path, *flags))
        assert "TensorRT-RTX" in out and (tmp_path / name).stat().st_size > 1000
    done = run(None, "detect_multi_backend.py", "--weights", tmp_path / "x.trt", "--source",
               tmp_path / "images", "--project", tmp_path / "out")  # fmt: skip
    if "CUDA GPU" in done.stderr:
        bad(done, "needs a CUDA GPU")


def test_int8_where_fp16_is_slow(tmp_path, image_folder):
    """A GPU before Volta: nobody asked for FP16, so it is left out."""
    path = make_small_net(tmp_path / "x.onnx")
    flags = [
        "--int8",
        "--calib_path",
        image_folder,
        "--calib_num",
        4,
        "--cache_dir",
        tmp_path / "c",
    ]
    for quant in ("implicit", "explicit"):
        command = ["models/export_TRT.py", "--onnx", path, *flags, "--quant", quant]
        done = run("v85", *command, FAKE_NO_FP16="1")
        assert done.returncode == 0, done.stderr
        assert "no fast FP16" in done.stdout and (tmp_path / "x-INT8.trt").is_file()
