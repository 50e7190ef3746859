"""Metadata of ONNX files and engines: names, keypoints, stride, size, embedded NMS, layout."""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from utils.pose import skeleton
from utils.pose.detections import Detections
from utils.pose.keypoints import COCO_NAMES, Skeleton
from utils.pose.layout import SUPPRESSED_ROWS, WAY_OUT, Dims, Layout, decode_text, find_layout
from utils.pose.letterbox import MAX_SIZE
from utils.reading import is_integer, shown

DEFAULT_STRIDE = 64


class ModelInfo(NamedTuple):
    """What a model file says about itself beyond its shapes."""

    names: List[str]
    nkpt: int
    stride: int
    imgsz: Optional[Tuple[int, int]]
    skeleton: Skeleton


class EmbeddedNms(NamedTuple):
    """NMS that is inside a model; nothing at run time changes it.

    Other exporters do not record the thresholds: None.
    """

    conf_thres: Optional[float]
    iou_thres: Optional[float]
    topk: int  # poses an image at most

    def __str__(self) -> str:
        if self.conf_thres is None:
            return "embedded NMS (thresholds not recorded, at most %d poses)" % self.topk
        return "embedded NMS (conf %g, iou %g, at most %d poses)" % (
            self.conf_thres,
            self.iou_thres or 0.0,
            self.topk,
        )


class Identity(NamedTuple):
    """What a file is: its metadata, and how its outputs are to be read."""

    info: ModelInfo
    layout: Optional[Layout]  # of the only output; None: the five of embedded NMS, or ours raw
    embedded_nms: Optional[EmbeddedNms]
    outputs: List[str]  # that are read, in order


def identify(properties: Dict[str, str], outputs: Mapping[str, Dims]) -> Identity:
    """Recognise a file by its metadata and the shapes of its outputs, whoever exported it.

    Raises ValueError (reason only) for what is no pose network, or in no layout known here.
    """
    task = _metadata_value(properties, "task", "pose")
    if task != "pose":
        raise ValueError(
            "a model of the task %s, which has no keypoints; take the pose model" % shown(task)
        )
    if "det_boxes" in outputs:
        return _embedded(properties, outputs)
    if len(outputs) != 1:
        raise ValueError(
            "%d outputs (%s), expected one, or those of our own embedded NMS"
            % (len(outputs), ", ".join(list(outputs)[:4]))
        )
    ((name, dims),) = outputs.items()
    if len(dims) == 3 and ("nkpt" in properties or _is_plain(properties, dims)):
        if dims[2] is None:
            raise ValueError("output %s of unknown width" % name)
        info = read_metadata(properties, dims[2])
        if not {"nkpt", "names"} & set(properties) and info.nkpt != len(COCO_NAMES):
            raise ValueError(
                "%d values a prediction and no metadata, several readings; %s" % (dims[2], WAY_OUT)
            )
        return Identity(info, None, None, [name])
    names = read_names(properties)
    suppressed = _is_suppressed(properties)
    layout = find_layout(dims, len(names), _kpt_shape(properties), suppressed=suppressed)
    info = read_metadata(properties, 5 + len(names) + 3 * layout.nkpt)
    embedded_nms = None
    if layout.suppressed:  # the thresholds are not recorded
        embedded_nms = EmbeddedNms(None, None, dims[1] or SUPPRESSED_ROWS)
    return Identity(info, layout, embedded_nms, [name])


def _embedded(properties: Dict[str, str], outputs: Mapping[str, Dims]) -> Identity:
    """The five outputs of our own embedded NMS."""
    try:
        shapes = {name: list(dims) for name, dims in outputs.items()}
        embedded_nms = read_embedded_nms(properties, shapes)
        points = shapes["det_pose"][2]
        if points is None:
            raise ValueError("det_pose of unknown width")
        width = 5 + len(read_names(properties)) + points
        info = read_metadata(properties, width)
    except ValueError as e:
        raise ValueError(
            "embedded NMS, but not as this version writes it (%s); export it again" % e
        ) from e
    return Identity(info, None, embedded_nms, list(Detections._fields))


def _is_plain(properties: Dict[str, str], dims: Dims) -> bool:
    """(B, N, 5 + nc + 3K) without a word of other exporters: of older files and bare engines."""
    foreign = "kpt_shape" in properties or _is_suppressed(properties)
    rows, width = dims[1], dims[2]
    turned = isinstance(rows, int) and (width is None or rows < width)
    return not foreign and not turned and width is not None and rows != SUPPRESSED_ROWS


def _is_suppressed(properties: Dict[str, str]) -> bool:
    """The metadata of another exporter says that NMS is inside, or that none is needed."""
    settings = _metadata_value(properties, "args", {})
    inside = isinstance(settings, dict) and settings.get("nms")
    return _metadata_value(properties, "end2end", None) is True or inside is True


def is_fp16(properties: Dict[str, str]) -> bool:
    """The metadata of another exporter says that weights are FP16, whatever the input is."""
    settings = _metadata_value(properties, "args", {})
    if not isinstance(settings, dict):
        return False
    return settings.get("half") is True or settings.get("quantize") in (16, "fp16")


def _kpt_shape(properties: Dict[str, str]) -> Optional[Tuple[int, int]]:
    """(keypoints, values of each), None: not said. Raises ValueError (reason only)."""
    value = _metadata_value(properties, "kpt_shape", None)
    if value is None:
        return None
    right = isinstance(value, (list, tuple)) and len(value) == 2
    if (
        not right
        or any(type(v) is not int for v in value)
        or value[0] < 1
        or value[1] not in (2, 3)
    ):
        raise ValueError("metadata kpt_shape: %s is not [keypoints, 2 or 3]" % shown(value))
    return value[0], value[1]


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
        raise ValueError("metadata nkpt %s, output %d" % (shown(properties["nkpt"]), nkpt))
    stride = _metadata_value(properties, "stride", DEFAULT_STRIDE)
    if type(stride) is not int or not 1 <= stride <= 1024:
        raise ValueError("metadata stride: %s" % shown(stride))
    imgsz = _metadata_value(properties, "imgsz", None)
    if imgsz is not None:
        if not (isinstance(imgsz, list) and len(imgsz) == 2):
            raise ValueError("metadata imgsz: %s is not height, width" % shown(imgsz))
        if not all(is_integer(v, 1, MAX_SIZE) and v % stride == 0 for v in imgsz):
            raise ValueError(
                "metadata imgsz: %s are no multiples of %d up to %d"
                % (" ".join(map(shown, imgsz)), stride, MAX_SIZE)
            )
        imgsz = (imgsz[0], imgsz[1])
    declared = {key: _metadata_value(properties, key, None) for key in skeleton.KEYS}
    try:
        skel = skeleton.of_model(declared, nkpt)
    except ValueError as e:
        raise ValueError("metadata %s" % e) from e
    return ModelInfo(names, nkpt, stride, imgsz, skel)


def read_names(properties: Dict[str, str]) -> List[str]:
    """Class names, `person` if the metadata has none. Raises ValueError (reason only)."""
    names = _metadata_value(properties, "names", ["person"])
    if isinstance(names, dict):  # {"0": "person"}, as other tools write it
        numbered = {str(key): name for key, name in names.items()}
        keys = [str(i) for i in range(len(numbered))]
        names = [numbered[k] for k in keys] if set(keys) == set(numbered) else names
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise ValueError("metadata names: %s is no list of class names" % shown(names))
    return [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names]


def read_embedded_nms(properties: Dict[str, str], shapes: Mapping[str, Dims]) -> EmbeddedNms:
    """The NMS of a model from its metadata and the shapes of its outputs.

    Raises ValueError (reason only) if something is missing or contradicts.
    """
    missing = [name for name in Detections._fields if name not in shapes]
    if missing:
        raise ValueError("no output %s" % ", ".join(missing))
    topk = shapes["det_boxes"][1]
    widths = [shapes[name][-1] for name in ("det_indices", "det_boxes", "det_scores")]
    if widths != [3, 4, 1] or topk is None or shapes["det_pose"][-1] is None:
        raise ValueError("output shapes %s" % shapes)
    values = [_metadata_value(properties, key, None) for key in ("conf_thres", "iou_thres")]
    for key, value in zip(("conf_thres", "iou_thres"), values):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError("metadata %s: %s" % (key, shown(value)))
    if _metadata_value(properties, "topk", topk) != topk:
        raise ValueError("metadata topk %s, output %d" % (properties["topk"], topk))
    return EmbeddedNms(float(values[0]), float(values[1]), topk)


def _metadata_value(properties: Dict[str, str], key: str, default: Any) -> Any:
    if key not in properties:
        return default
    value = decode_text(properties[key])
    # text inside the JSON of a side file
    return decode_text(value) if isinstance(value, str) and value[:1] in ("[", "{", "(") else value
