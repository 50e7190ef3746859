"""Poses of DeepStream beside those of detect: the C++ parser behind an emulated gst-nvinfer.

    python benchmarks/deepstream.py --onnx weights/yolov5s6_pose-NMS.onnx --images data/images

The frame size is that of each image. Needs g++, but no DeepStream: tests/deploy/nvinfer.py has its
scaling. Three comparisons: the way back alone (one input, two mappings of the same outputs), the
whole way (nvinfer's scaling and black border against our letterbox), and how many persons nvinfer
would drop if the parser did not keep boxes inside the frame.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.machine import describe
from tests.deploy.nvinfer import (
    HW,
    SOURCES,
    Object,
    Parser,
    attach,
    network_input,
    object_meta,
    scaling,
)
from utils.dataset.images import read_image
from utils.dataset.labels import list_images
from utils.pose.letterbox import PAD_VALUE, fit, to_batch
from utils.pose.nms import detections_to_poses
from utils.pose.poses import Poses
from utils.runtime.load import load_backend
from utils.runtime.predictor import Predictor
from utils.tracking.assignment import assign
from utils.tracking.similarity import pairwise_iou


def load_probe() -> Any:
    """deploy/deepstream/pose_probe.py as a module."""
    spec = importlib.util.spec_from_file_location("pose_probe", str(SOURCES / "pose_probe.py"))
    module = importlib.util.module_from_spec(spec)  # type: ignore
    spec.loader.exec_module(module)  # type: ignore
    return module


def plain_objects(found: Any) -> List[Object]:
    """What a parser without clipping returns."""
    count = int(found.num_dets[0, 0])
    boxes = found.det_boxes[0, :count]
    return [
        Object(*map(float, (b[0], b[1], b[2] - b[0], b[3] - b[1])), 1.0, 0, np.zeros(0))
        for b in boxes
    ]


def shifts(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances of the points of two (n, K, 3) that are sure in both, px."""
    sure = np.minimum(one[..., 2], other[..., 2]) > 0.5
    return np.linalg.norm(one[..., :2] - other[..., :2], axis=-1)[sure]


def show(title: str, values: List[np.ndarray]) -> None:
    all_of = np.concatenate(values)
    print(
        "%-44s median %.2f, 95 %% below %.2f, most %.2f (%d points)"
        % (title, np.median(all_of), np.percentile(all_of, 95), all_of.max(), len(all_of))
    )


def way_back(found: Any, image_hw: HW, net_hw: HW) -> Tuple[np.ndarray, np.ndarray]:
    """The same network poses in pixels of the image, by our letterbox and by nvinfer."""
    box, s = fit(image_hw, net_hw), scaling(image_hw, net_hw)
    (poses,) = detections_to_poses(found)
    theirs = poses.keypoints.astype(np.float64)
    theirs[..., 0] = (theirs[..., 0] - s.offset[1]) / s.ratio[1]
    theirs[..., 1] = (theirs[..., 1] - s.offset[0]) / s.ratio[0]
    return box.to_original(poses).keypoints, theirs


def grey_border(
    backend: Any, image: np.ndarray, parse: Parser, *, probe: Any, wanted: Poses
) -> List[np.ndarray]:
    """Shifts of the persons, % of the body, if nvinfer had the border of our letterbox."""
    hw, net_hw = (image.shape[0], image.shape[1]), backend.static_hw
    found = backend(network_input(image, net_hw, PAD_VALUE))
    kept, _ = attach(parse(found, net_hw, hw, classes=backend.nc), hw, net_hw)
    boxes = np.array([[o.left, o.top, o.left + o.width, o.top + o.height] for o in kept])
    shifted = []
    for i, j in zip(*assign(pairwise_iou(wanted.boxes, boxes.reshape(-1, 4)), 0.5)):
        points = probe.keypoints(object_meta(kept[j]))[None]
        size = (wanted.boxes[i, 2:] - wanted.boxes[i, :2]).max()
        shifted.append(100 * shifts(wanted.keypoints[i][None], points) / size)
    return shifted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--onnx", required=True, help="static, with embedded NMS")
    parser.add_argument("--images", required=True, help="folder")
    args = parser.parse_args()
    backend, probe = load_backend(args.onnx, "cpu"), load_probe()
    net_hw, predictor = backend.static_hw, Predictor(backend)
    mapping, whole, relative, grey = [], [], [], []
    persons = matched = extra = lost = plain = 0
    with tempfile.TemporaryDirectory() as folder:
        parse = Parser(Path(folder))
        for path in list_images(args.images):
            image = read_image(path)
            hw = (image.shape[0], image.shape[1])
            ours_raw = backend(to_batch([image], [fit(hw, net_hw)], net_hw))
            mapping.append(shifts(*way_back(ours_raw, hw, net_hw)))
            (wanted,) = predictor([image])
            found = backend(network_input(image, net_hw))
            kept, dropped = attach(parse(found, net_hw, hw, classes=backend.nc), hw, net_hw)
            lost += dropped
            plain += attach(plain_objects(found), hw, net_hw)[1]
            points = [probe.keypoints(object_meta(o)) for o in kept]
            boxes = np.array([[o.left, o.top, o.left + o.width, o.top + o.height] for o in kept])
            a, b = assign(pairwise_iou(wanted.boxes, boxes.reshape(-1, 4)), 0.5)
            grey += grey_border(backend, image, parse, probe=probe, wanted=wanted)
            persons, matched, extra = persons + wanted.count, matched + len(a), extra + len(kept)
            for i, j in zip(a, b):
                moved = shifts(wanted.keypoints[i][None], points[j][None])
                size = (wanted.boxes[i, 2:] - wanted.boxes[i, :2]).max()
                whole.append(moved)
                relative.append(100 * moved / size)
    print(describe())
    show("the way back alone, px:", mapping)
    show("the whole way, px:", whole)
    show("the whole way, % of the body:", relative)
    show("the same with a grey border, % of the body:", grey)
    print(
        "detect finds %d persons, DeepStream %d, the same %d; nvinfer drops %d, without clipping %d"
        % (persons, extra, matched, lost, plain)
    )


if __name__ == "__main__":
    main()
