"""A folder for DeepStream: configuration of gst-nvinfer, parser, labels, probe, model."""

import json
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from utils.errors import InputError
from utils.export.deploy_model import DeployEngine, DeployModel, bound
from utils.files import atomic_path
from utils.pose.keypoints import Color
from utils.quantization.cache import HEADERS, format_cache, read_cache
from utils.runtime.backend import format_shape
from utils.runtime.metadata import EmbeddedNms

SOURCES = Path(__file__).resolve().parents[2] / "deploy" / "deepstream"
FILES = ("nvdsinfer_yolo_pose.cpp", "nvdsinfer_yolo_pose.h", "CMakeLists.txt", "pose_probe.py")
CONFIG = "config_infer_primary.txt"
NETWORK_MODE = {"FP32": 0, "INT8": 1, "FP16": 2}

TEMPLATE = """\
# gst-nvinfer for {onnx}, written by models/export_deploy.py. See docs/deploy.md.
# Build the parser first: cmake -S . -B build && cmake --build build
[property]
gpu-id={gpu}
{onnx_file}infer-dims=3;{hw[0]};{hw[1]}
# {engine_note}
model-engine-file={engine}
{calibration}# 0: FP32, 1: INT8, 2: FP16
network-mode={mode}
batch-size={batch}

# RGB 0..1 with the border on both sides, as the letterbox of the toolkit; the border is black
# here and grey (114) there
net-scale-factor=0.00392156862745098
model-color-format=0
maintain-aspect-ratio=1
symmetric-padding=1
# 1: bilinear
scaling-filter=1

# Instance segmentation: the keypoints travel in the mask. NMS is in the model, so none here (4).
process-mode=1
network-type=3
cluster-mode=4
output-instance-mask=1
parse-bbox-instance-mask-func-name=NvDsInferParseEmbeddedPoses
custom-lib-path=./libnvdsinfer_yolo_pose.so
labelfile-path=labels.txt
num-detected-classes={classes}
gie-unique-id=1
interval=0

[class-attrs-all]
# below the threshold of the embedded NMS it changes nothing
pre-cluster-threshold={threshold:g}
topk=-1
"""


def check_for_deepstream(model: DeployModel, engine: Optional[DeployEngine]) -> EmbeddedNms:
    """The NMS inside the model. Raises InputError where gst-nvinfer cannot run it."""
    name = "`onnx` %s: " % model.path
    nms = model.embedded_nms
    if nms is None or model.identity.layout is not None or nms.conf_thres is None:
        raise InputError(
            name + "DeepStream needs NMS inside; export it with models/export_onnx.py `end2end`"
        )
    if None in bound(model, engine).input.dims[1:]:
        raise InputError(
            name + "input %s, but gst-nvinfer needs a fixed size; export it without `dynamic`, or "
            "give an `engine` of one size" % format_shape(model.input.dims)
        )
    if model.input.dtype != "FP32":
        raise InputError(
            name + "input of type %s, but gst-nvinfer delivers FP32; export it without `half` and "
            "build an FP16 engine" % model.input.dtype
        )
    if model.pairs and engine is None:
        raise InputError(
            name + "has Q/DQ pairs, which gst-nvinfer does not build; build the engine with "
            "models/export_TRT.py and give `engine`"
        )
    return nms


def batch_size(model: DeployModel, engine: Optional[DeployEngine]) -> int:
    """Frames at a time: of the engine, of the ONNX, else 1."""
    if engine is not None and engine.profile is not None:
        return engine.profile[2][0]
    return model.input.dims[0] or 1


class DeepStreamSettings(NamedTuple):
    """What the model does not say."""

    frame_hw: Tuple[int, int]  # px, of the stream muxer
    gpu: int
    int8: bool  # without an engine: gst-nvinfer builds an INT8 one
    cache: Optional[Path]  # calibration of the ONNX


def config_text(
    model: DeployModel, engine: Optional[DeployEngine], settings: DeepStreamSettings
) -> str:
    """Content of CONFIG. Raises InputError where gst-nvinfer cannot run the model."""
    nms = check_for_deepstream(model, engine)
    batch = batch_size(model, engine)
    if engine is None:
        precision, plan = "INT8" if settings.int8 else "FP16", ""
        note = "gst-nvinfer builds it at its first start and writes it under this name"
    else:
        precision, plan = engine.precision, engine.path.name
        note = "built by models/export_TRT.py; runs on the GPU and TensorRT that built it"
    own = (model.path.name, batch, settings.gpu, precision.lower())
    cache = settings.cache
    return TEMPLATE.format(
        onnx=model.path.name,
        onnx_file="onnx-file=%s\n" % model.path.name if _is_static(model) else "",
        hw=bound(model, engine).input.dims[2:],
        gpu=settings.gpu,
        engine_note=note,
        engine=plan or "%s_b%d_gpu%d_%s.engine" % own,
        calibration="int8-calib-file=%s\n" % cache.name if cache is not None else "",
        mode=NETWORK_MODE.get(precision, 2),
        batch=batch,
        classes=len(model.identity.info.names),
        threshold=nms.conf_thres,
    )


def pose_text(model: DeployModel, frame_hw: Tuple[int, int]) -> str:
    """Content of pose.json: what the probe draws."""
    skel = model.identity.info.skeleton
    pose = {
        "keypoints": skel.names,
        "limbs": skel.limbs,
        # red, green, blue 0..1
        "point_colors": [_rgb(skel.color(k)) for k in range(skel.count)],
        "limb_colors": [_rgb(skel.limb_color(a, b)) for a, b in skel.limbs],
        "frame_wh": [frame_hw[1], frame_hw[0]],
    }
    return json.dumps(pose, indent=1) + "\n"


def cmake_text(frame_hw: Tuple[int, int]) -> str:
    """CMakeLists.txt of the parser for this size of frames."""
    text = (SOURCES / "CMakeLists.txt").read_text(encoding="utf-8")
    for name, before, value in (("HEIGHT", 1080, frame_hw[0]), ("WIDTH", 1920, frame_hw[1])):
        line = 'set(FRAME_%s %%d CACHE STRING "px")' % name
        assert line % before in text
        text = text.replace(line % before, line % value)
    return text


def cache_text(path: Path) -> str:
    """A calibration cache as the calibrator of gst-nvinfer takes it; the version stays.

    It is an IInt8EntropyCalibrator2, and TensorRT ignores a cache of another kind. Raises
    InputError if the file is none.
    """
    cache = read_cache(path)
    return format_cache(cache._replace(algorithm=HEADERS["Entropy"])).decode("utf-8")


def write_deepstream(
    folder: Path,
    model: DeployModel,
    engine: Optional[DeployEngine],
    *,
    settings: DeepStreamSettings,
) -> List[str]:
    """Write everything gst-nvinfer needs into `folder`; the names of the files.

    Raises InputError where gst-nvinfer cannot run the model.
    """
    labels = [" ".join(name.split()) for name in model.identity.info.names]
    texts: Dict[str, str] = {
        CONFIG: config_text(model, engine, settings),
        "labels.txt": "\n".join(labels) + "\n",
        "pose.json": pose_text(model, settings.frame_hw),
        "CMakeLists.txt": cmake_text(settings.frame_hw),
    }
    copies = [SOURCES / name for name in FILES if name not in texts]
    copies += [model.path] if _is_static(model) else []
    if settings.cache is not None:
        texts[settings.cache.name] = cache_text(settings.cache)
    copies += [engine.path] if engine is not None else []
    for name, text in texts.items():
        with atomic_path(folder / name) as tmp:
            tmp.write_text(text, encoding="utf-8")
    for path in copies:
        copy_file(path, folder / path.name)
    return sorted([*texts, *(p.name for p in copies)])


def _is_static(model: DeployModel) -> bool:
    """Whether the ONNX has one size; else only its engine can run."""
    return None not in model.input.dims[1:]


def _rgb(color: Color) -> List[float]:
    blue, green, red = color
    return [round(value / 255, 3) for value in (red, green, blue)]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file whole or not at all; onto itself: nothing."""
    if target.exists() and source.resolve() == target.resolve():
        return
    with atomic_path(target) as tmp:
        shutil.copyfile(str(source), str(tmp))
