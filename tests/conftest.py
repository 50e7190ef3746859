"""Small models and images that the tests share. Nothing here needs a GPU or the network."""

import json
import os
from pathlib import Path
from typing import Any, Optional, Tuple

# pytest runs as many processes as there are cores, and networks this small gain nothing from
# threads: they would wait for each other. Read when PyTorch is imported, also by the scripts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("POSE_SHARED", str(ROOT.parent / "shared")))
IMAGES = ROOT / "data" / "images"

needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(), reason="no %s with original checkpoints" % SHARED
)
not_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)


def pose_row(
    cx: float, cy: float, w: float, h: float, score: float = 0.9, nc: int = 1, cls: int = 0,
    nkpt: int = 17,
) -> np.ndarray:  # fmt: skip
    """A raw prediction row: keypoint k lies k px right of the box's left edge, on its middle."""
    classes = np.zeros(nc, np.float32)
    classes[cls] = 1.0
    points = np.stack([cx - w / 2 + np.arange(nkpt), np.full(nkpt, cy), np.full(nkpt, 0.8)], 1)
    return np.concatenate([[cx, cy, w, h, score], classes, points.ravel()]).astype(np.float32)


def make_pose_onnx(
    path: Path,
    rows: np.ndarray,
    hw: Optional[Tuple[int, int]] = (64, 64),
    batch: Optional[int] = 1,
    half: bool = False,
    names: Tuple[str, ...] = ("person",),
    **metadata: Any,
) -> Path:
    """An ONNX with the interface of an exported model that always predicts `rows` (N, C).

    Every image of a batch gets the rows plus its mean brightness on cx, so that images can be
    told apart.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    b: Any = batch if batch is not None else "batch"
    h, w = hw if hw is not None else ("height", "width")
    n, c = rows.shape
    on_cx = np.zeros((1, 1, c), np.float32)
    on_cx[..., 0] = 1.0
    nodes = [
        helper.make_node("Cast", ["input"], ["image"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["image"], ["mean4"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean4", "axis3"], ["mean"]),
        helper.make_node("Mul", ["mean", "on_cx"], ["shift"]),
        helper.make_node("Add", ["shift", "rows"], ["output"]),
    ]
    constants = {"axis3": np.array([3], np.int64), "on_cx": on_cx, "rows": rows[None]}
    graph = helper.make_graph(
        nodes,
        "pose",
        [helper.make_tensor_value_info("input", kind, [b, 3, h, w])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [b, n, c])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    nkpt = (c - 5 - len(names)) // 3
    metadata = {"names": list(names), "stride": 64, "task": "pose", "nkpt": nkpt, **metadata}
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def two_people_onnx(tmp_path: Path) -> Path:
    """Static 64 x 64; two people apart, and a worse copy of the first that NMS must remove."""
    rows = np.stack(
        [pose_row(16, 32, 20, 40, 0.7), pose_row(17, 32, 20, 40, 0.6), pose_row(48, 32, 20, 40)]
    )
    return make_pose_onnx(tmp_path / "two.onnx", rows)


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """A 48 x 64 JPEG."""
    path = tmp_path / "image.jpg"
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return path


def tiny_cfg(**changes: Any) -> dict:
    """The n6 cfg at a quarter of its width: 0.3 M parameters, builds and runs in no time."""
    from models.cfg import read_cfg

    cfg = read_cfg(ROOT / "models" / "hub" / "yolov5n6_kpts.yaml")
    cfg["width_multiple"] = 0.0625
    cfg.update(changes)
    return cfg


def small_cfg(**changes: Any) -> dict:
    """Three convolutions and a head of two levels, strides 4 and 8: for what the depth is nothing
    to."""
    cfg = {
        "nc": 1, "nkpt": 17, "depth_multiple": 1.0, "width_multiple": 0.125,
        "anchors": [[8, 8, 16, 24, 30, 30], [20, 30, 50, 40, 60, 90]],
        "backbone": [[-1, 1, "Focus", [64, 3]], [-1, 1, "Conv", [64, 3, 2]],
                     [-1, 1, "Conv", [64, 3, 2]]],
        "head": [[[1, 2], 1, "Detect", ["nc", "anchors", "nkpt"]]],
    }  # fmt: skip
    return {**cfg, **changes}


def randomized(model: Any, seed: int = 0) -> Any:
    """Give a fresh Model weights and BatchNorm statistics as uneven as trained ones."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    for convolution in list(model.head.m):
        convolution.bias.data[4] = 0.0  # objectness of anchor 0 near 0.5: something is found
    return model.eval()
