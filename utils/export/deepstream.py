"""A folder for DeepStream: configuration of gst-nvinfer, parser, labels, probe, model."""

import json
import shutil
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from utils.errors import InputError
from utils.export.deploy_model import DeployModel, Engine, bound
from utils.files import atomic_path
from utils.pose.keypoints import Color
from utils.runtime.backend import EmbeddedNms, format_shape

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


def check_for_deepstream(model: DeployModel, engine: Optional[Engine]) -> EmbeddedNms:
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


def batch_size(model: DeployModel, engine: Optional[Engine]) -> int:
    """Frames at a time: of the engine, of the ONNX, else 1."""
    if engine is not None and engine.profile is not None:
        return engine.profile[2][0]
    return model.input.dims[0] or 1


def write_deepstream(
    folder: Path,
    model: DeployModel,
    engine: Optional[Engine],
    *,
    frame_hw: Tuple[int, int],
    gpu: int,
    int8: bool,
    cache: Optional[Path],
) -> List[str]:
    """Write everything gst-nvinfer needs into `folder`; the names of the files.

    Args: cache: calibration of this ONNX. int8: let nvinfer build an INT8 engine with it.

    Raises InputError where gst-nvinfer cannot run the model.
    """
    nms = check_for_deepstream(model, engine)
    batch = batch_size(model, engine)
    precision = engine.precision if engine is not None else "INT8" if int8 else "FP16"
    mode = NETWORK_MODE.get(precision, 2)
    net_hw = bound(model, engine).input.dims[2:]
    static = None not in model.input.dims[1:]  # else only the engine runs
    own = "%s_b%d_gpu%d_%s.engine" % (model.path.name, batch, gpu, precision.lower())
    config = TEMPLATE.format(
        onnx=model.path.name,
        onnx_file="onnx-file=%s\n" % model.path.name if static else "",
        hw=net_hw,
        gpu=gpu,
        engine_note="built by models/export_TRT.py; runs on the GPU and TensorRT that built it"
        if engine is not None
        else "gst-nvinfer builds it at its first start and writes it under this name",
        engine=own if engine is None else engine.path.name,
        calibration="int8-calib-file=%s\n" % cache.name if cache is not None else "",
        mode=mode,
        batch=batch,
        classes=len(model.identity.info.names),
        threshold=nms.conf_thres,
    )
    skel = model.identity.info.skeleton
    pose = {
        "keypoints": skel.names,
        "limbs": skel.limbs,
        # red, green, blue 0..1
        "point_colors": [_rgb(skel.color(k)) for k in range(skel.count)],
        "limb_colors": [_rgb(skel.limb_color(a, b)) for a, b in skel.limbs],
        "frame_wh": [frame_hw[1], frame_hw[0]],
    }
    cmake = (SOURCES / "CMakeLists.txt").read_text(encoding="utf-8")
    for name, before, value in (("HEIGHT", 1080, frame_hw[0]), ("WIDTH", 1920, frame_hw[1])):
        line = 'set(FRAME_%s %%d CACHE STRING "px")' % name
        assert line % before in cmake
        cmake = cmake.replace(line % before, line % value)
    texts: Dict[str, str] = {
        CONFIG: config,
        "labels.txt": "\n".join(" ".join(n.split()) for n in model.identity.info.names) + "\n",
        "pose.json": json.dumps(pose, indent=1) + "\n",
        "CMakeLists.txt": cmake,
    }
    copies = [SOURCES / name for name in FILES if name not in texts]
    copies += [model.path] if static else []
    copies += [p for p in (cache, engine.path if engine is not None else None) if p is not None]
    for name, text in texts.items():
        with atomic_path(folder / name) as tmp:
            tmp.write_text(text, encoding="utf-8")
    for path in copies:
        copy_file(path, folder / path.name)
    return sorted([*texts, *(p.name for p in copies)])


def _rgb(color: Color) -> List[float]:
    blue, green, red = color
    return [round(value / 255, 3) for value in (red, green, blue)]


def copy_file(source: Path, target: Path) -> None:
    """Copy a file whole or not at all; onto itself: nothing."""
    if target.exists() and source.resolve() == target.resolve():
        return
    with atomic_path(target) as tmp:
        shutil.copyfile(str(source), str(tmp))
