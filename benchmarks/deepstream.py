"""Poses of DeepStream beside those of detect: the C++ parser behind an emulated gst-nvinfer.

    python benchmarks/deepstream.py --onnx weights/yolov5s6_pose-NMS.onnx --images data/images

The frame size is that of each image. Needs g++, but no DeepStream: tests/deploy/nvinfer.py has its
scaling. Compared with detect: the way back alone (parser, nvinfer and probe on the outputs for our
letterbox), the whole way (nvinfer's scaling and black border), the same with a grey border, and how
many persons nvinfer would drop if the parser did not keep boxes inside the frame.
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
)
from utils.dataset.images import read_image
from utils.dataset.labels import list_images
from utils.pose.letterbox import PAD_VALUE, fit, to_batch
from utils.pose.nms import detections_to_poses
from utils.pose.poses import Poses
from utils.runtime.backend import Detections
from utils.runtime.load import load_backend
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
    """Distances of the points of two (K, 3) that are sure in both, px."""
    sure = np.minimum(one[:, 2], other[:, 2]) > 0.5
    return np.linalg.norm(one[:, :2] - other[:, :2], axis=1)[sure]


class DeepStream:
    """Parser, gst-nvinfer's geometry and probe."""

    def __init__(self, folder: Path, net_hw: HW, nc: int):
        self.parse, self.probe = Parser(folder), load_probe()
        self.net_hw, self.nc, self.dropped = net_hw, nc, 0

    def __call__(self, found: Detections, hw: HW) -> Tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) xyxy and keypoints (n, K, 3) in pixels of the frame."""
        objects = self.parse(found, self.net_hw, hw, classes=self.nc)
        kept, dropped = attach(objects, hw, self.net_hw)
        self.dropped += dropped
        boxes = np.array([[o.left, o.top, o.left + o.width, o.top + o.height] for o in kept])
        points = np.array([self.probe.keypoints(object_meta(o)) for o in kept])
        values = found.det_pose.shape[2]
        return boxes.reshape(-1, 4), points.reshape(-1, values // 3, 3)


class Comparison:
    """Shifts of the keypoints of persons that both found, px and % of the body."""

    def __init__(self) -> None:
        self.px: List[np.ndarray] = []
        self.percent: List[np.ndarray] = []
        self.wanted = self.found = self.same = 0

    def add(self, wanted: Poses, boxes: np.ndarray, points: np.ndarray) -> None:
        a, b = assign(pairwise_iou(wanted.boxes, boxes), 0.5)
        self.wanted, self.found = self.wanted + wanted.count, self.found + len(boxes)
        self.same += len(a)
        for i, j in zip(a, b):
            moved = shifts(wanted.keypoints[i], points[j])
            self.px.append(moved)
            self.percent.append(100 * moved / (wanted.boxes[i, 2:] - wanted.boxes[i, :2]).max())

    def show(self, title: str) -> None:
        print(
            "%s: detect finds %d persons, DeepStream %d, the same %d"
            % (title, self.wanted, self.found, self.same)
        )
        for unit, values in (("px", self.px), ("% of the body", self.percent)):
            all_of = np.concatenate(values)
            print(
                "  shift, %s: median %.2f, 95 %% below %.2f, most %.2f (%d points)"
                % (unit, np.median(all_of), np.percentile(all_of, 95), all_of.max(), len(all_of))
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--onnx", required=True, help="static, with embedded NMS")
    parser.add_argument("--images", required=True, help="folder")
    args = parser.parse_args()
    backend = load_backend(args.onnx, "cpu")
    net_hw, plain = backend.static_hw, 0
    way_back, whole, grey = Comparison(), Comparison(), Comparison()
    with tempfile.TemporaryDirectory() as folder:
        deepstream = DeepStream(Path(folder), net_hw, backend.nc)
        for path in list_images(args.images):
            image = read_image(path)
            hw = (image.shape[0], image.shape[1])
            letterbox = fit(hw, net_hw)
            ours = backend(to_batch([image], [letterbox], net_hw))
            wanted = letterbox.to_original(detections_to_poses(ours)[0])
            way_back.add(wanted, *deepstream(ours, hw))
            black = backend(network_input(image, net_hw))
            whole.add(wanted, *deepstream(black, hw))
            plain += attach(plain_objects(black), hw, net_hw)[1]
            grey.add(wanted, *deepstream(backend(network_input(image, net_hw, PAD_VALUE)), hw))
    print(describe())
    way_back.show("the way back alone")
    whole.show("the whole way")
    grey.show("the whole way, with a grey border")
    print(
        "gst-nvinfer drops %d persons; it would drop %d of the whole way without our clipping"
        % (deepstream.dropped, plain)
    )


if __name__ == "__main__":
    main()
