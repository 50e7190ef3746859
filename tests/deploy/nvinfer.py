"""gst-nvinfer as far as geometry goes: its scaling and the filter of its objects, and our parser.

The arithmetic is that of DeepStream's published gst-nvinfer: both sides of the frame rounded down
to even numbers, the scaled frame to whole pixels, black on both sides. Objects that reach beyond
the frame are dropped ("only objects within the ROI are output", and the ROI is the frame).
"""

import ctypes
import subprocess
from pathlib import Path
from typing import Any, List, NamedTuple, Tuple

import cv2
import numpy as np

from tests.conftest import ROOT
from utils.runtime.backend import Detections

HW = Tuple[int, int]
SOURCES = ROOT / "deploy" / "deepstream"
HERE = Path(__file__).resolve().parent


class Scaling(NamedTuple):
    """Where nvinfer puts a frame on the network input."""

    crop_hw: HW  # of the frame that is used
    scaled_hw: HW
    offset: Tuple[int, int]  # (top, left) px

    @property
    def ratio(self) -> Tuple[float, float]:
        """(y, x) network pixels for each pixel of the frame."""
        return self.scaled_hw[0] / self.crop_hw[0], self.scaled_hw[1] / self.crop_hw[1]


def scaling(frame_hw: HW, net_hw: HW) -> Scaling:
    h, w = frame_hw[0] & ~1, frame_hw[1] & ~1
    if net_hw[1] * h / w <= net_hw[0]:
        scaled = (int(net_hw[1] * h / w), net_hw[1])
    else:
        scaled = (net_hw[0], int(net_hw[0] * w / h))
    offset = ((net_hw[0] - scaled[0]) // 2, (net_hw[1] - scaled[1]) // 2)
    return Scaling((h, w), scaled, offset)


def network_input(image: np.ndarray, net_hw: HW, border: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> (1, 3, h, w) float32 RGB 0..1, bilinear; the border is black."""
    s = scaling((image.shape[0], image.shape[1]), net_hw)
    canvas = np.full((*net_hw, 3), border, np.uint8)
    (top, left), (h, w) = s.offset, s.scaled_hw
    crop = np.ascontiguousarray(image[: s.crop_hw[0], : s.crop_hw[1]])
    canvas[top : top + h, left : left + w] = cv2.resize(
        crop, (w, h), interpolation=cv2.INTER_LINEAR
    )
    return np.ascontiguousarray(canvas[..., ::-1].transpose(2, 0, 1)[None]) * np.float32(1 / 255)


class Object(NamedTuple):
    """What nvinfer hands on, as pyds shows it."""

    left: float
    top: float
    width: float
    height: float
    score: float
    cls: int
    mask: np.ndarray  # (3 K,) float32


def attach(rows: List[Object], frame_hw: HW, net_hw: HW) -> Tuple[List[Object], int]:
    """Objects in pixels of the frame, in nvinfer's float arithmetic, and how many it drops."""
    s = scaling(frame_hw, net_hw)
    kept = []
    for row in rows:
        left = np.float32((row.left - s.offset[1]) / s.ratio[1])
        top = np.float32((row.top - s.offset[0]) / s.ratio[0])
        width, height = np.float32(row.width / s.ratio[1]), np.float32(row.height / s.ratio[0])
        if top >= 0 and top + height <= np.float32(frame_hw[0]):
            kept.append(row._replace(left=left, top=top, width=width, height=height))
    return kept, len(rows) - len(kept)


class MetaParams(NamedTuple):
    """`mask_params` of pyds."""

    size: int
    array: Any

    def get_mask_array(self) -> np.ndarray:
        return self.array


class Box(NamedTuple):
    left: float
    top: float
    width: float
    height: float


class BoxInfo(NamedTuple):
    org_bbox_coords: Box


class ObjectMeta(NamedTuple):
    """NvDsObjectMeta of pyds, what the probe reads of it."""

    mask_params: MetaParams
    detector_bbox_info: BoxInfo


def object_meta(row: Object) -> ObjectMeta:
    box = Box(float(row.left), float(row.top), float(row.width), float(row.height))
    return ObjectMeta(MetaParams(row.mask.nbytes, row.mask), BoxInfo(box))


class Parser:
    """The C++ parser, compiled against declarations of our own (sources/includes)."""

    def __init__(self, folder: Path):
        target = folder / "parser.so"
        command = ["g++", "-std=c++14", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command += ["-I", str(HERE / "sources" / "includes"), "-I", str(SOURCES)]
        command += [str(SOURCES / "nvdsinfer_yolo_pose.cpp"), str(HERE / "driver.cpp")]
        subprocess.run([*command, "-o", str(target)], check=True)
        self._run = ctypes.CDLL(str(target)).run_parser

    def __call__(
        self,
        found: Detections,
        net_hw: HW,
        frame_hw: HW = (0, 0),
        *,
        image: int = 0,
        classes: int = 1,
        threshold: float = 0.0,
        broken: str = "",
    ) -> Any:
        """Objects of one image in network pixels; None where the parser refuses."""
        topk, values = found.det_pose.shape[1:]
        arrays = [np.ascontiguousarray(field[image]) for field in found]
        count, indices, boxes, poses, scores = arrays
        assert count.dtype == indices.dtype == np.int32 and boxes.dtype == np.float32
        out = np.zeros((topk, 6 + values), np.float32)
        number = self._run(
            *(ctypes.c_void_p(a.ctypes.data) for a in (count, indices, boxes, poses, scores)),
            topk,
            values // 3,
            net_hw[1],
            net_hw[0],
            frame_hw[1],
            frame_hw[0],
            classes,
            ctypes.c_float(threshold),
            broken.encode(),
            ctypes.c_void_p(out.ctypes.data),
        )
        if number == -1:
            return None
        assert number >= 0, "sizes of the mask"
        return [Object(*row[:5].tolist(), int(row[5]), row[6:].copy()) for row in out[:number]]
