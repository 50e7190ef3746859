"""Metadata of ONNX files and engines: names, keypoints, stride, size, embedded NMS."""

import ast
import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from utils.runtime.backend import BakedNms, Detections

DEFAULT_STRIDE = 64


class ModelInfo(NamedTuple):
    """What a model file says about itself beyond its shapes."""

    names: List[str]
    nkpt: int
    stride: int
    imgsz: Optional[Tuple[int, int]]


def read_metadata(properties: Dict[str, str], width: int) -> ModelInfo:
    """Check and complete the JSON metadata of an exported model.

    Args:
        properties: ONNX `metadata_props`, or the like; every key is optional.
        width: columns of the raw output, 5 + nc + 3K.

    Raises ValueError (reason only) if they contradict each other or make no sense.
    """
    names = read_names(properties)
    nkpt = (width - 5 - len(names)) // 3
    if nkpt < 1 or 5 + len(names) + 3 * nkpt != width:
        raise ValueError(
            "%d output columns are not 5 + %d classes + 3 x keypoints" % (width, len(names))
        )
    if _metadata_value(properties, "nkpt", nkpt) != nkpt:
        raise ValueError("metadata nkpt %s, output %d" % (properties["nkpt"], nkpt))
    stride = _metadata_value(properties, "stride", DEFAULT_STRIDE)
    if type(stride) is not int or not 1 <= stride <= 1024:
        raise ValueError("metadata stride: %s" % str(stride)[:60])
    imgsz = _metadata_value(properties, "imgsz", None)
    if imgsz is not None:
        if not (isinstance(imgsz, list) and len(imgsz) == 2):
            raise ValueError("metadata imgsz: %s is not height, width" % str(imgsz)[:60])
        if any(type(v) is not int or v < 1 or v % stride for v in imgsz):
            raise ValueError("metadata imgsz: %s are no multiples of %d" % (imgsz, stride))
        imgsz = (imgsz[0], imgsz[1])
    return ModelInfo(names, nkpt, stride, imgsz)


def read_names(properties: Dict[str, str]) -> List[str]:
    """Class names, `person` if the metadata has none. Raises ValueError (reason only)."""
    names = _metadata_value(properties, "names", ["person"])
    if isinstance(names, dict):  # {"0": "person"}, as other tools write it
        names = list(names.values())
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise ValueError("metadata names: %s is no list of class names" % str(names)[:60])
    return names


def read_baked_nms(properties: Dict[str, str], shapes: Dict[str, List[Any]]) -> BakedNms:
    """The NMS of a model from its metadata and the shapes of its outputs.

    Raises ValueError (reason only) if something is missing or contradicts.
    """
    missing = [name for name in Detections._fields if name not in shapes]
    if missing:
        raise ValueError("no output %s" % ", ".join(missing))
    topk = shapes["det_boxes"][1]
    widths = [shapes[name][-1] for name in ("det_indices", "det_boxes", "det_scores")]
    if widths != [3, 4, 1] or not all(isinstance(v, int) for v in (topk, shapes["det_pose"][-1])):
        raise ValueError("output shapes %s" % shapes)
    values = [_metadata_value(properties, key, None) for key in ("conf_thres", "iou_thres")]
    for key, value in zip(("conf_thres", "iou_thres"), values):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError("metadata %s: %s" % (key, str(value)[:60]))
    if _metadata_value(properties, "topk", topk) != topk:
        raise ValueError("metadata topk %s, output %d" % (properties["topk"], topk))
    return BakedNms(float(values[0]), float(values[1]), topk)


def _metadata_value(properties: Dict[str, str], key: str, default: Any) -> Any:
    if key not in properties:
        return default
    try:
        return json.loads(properties[key])
    except ValueError:
        try:  # the text of a Python value
            return ast.literal_eval(properties[key])
        except (ValueError, SyntaxError, MemoryError, RecursionError) as e:
            raise ValueError("metadata %s is not JSON" % key) from e
