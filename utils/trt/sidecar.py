"""What an engine file cannot say of itself: the side file `X.trt.json` beside `X.trt`.

Names, keypoints and stride come from the ONNX; precision, version and GPU from the build. An engine
without a side file (built by trtexec) still runs, as one class `person`.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

from utils.errors import InputError
from utils.files import atomic_path
from utils.pose import skeleton
from utils.pose.layout import decode_text
from utils.reading import read_json

if TYPE_CHECKING:
    from onnx import ModelProto

# metadata of an exported ONNX that goes along
KEYS = ("task", "names", "nc", "stride", "imgsz", "conf_thres", "iou_thres", "topk", "nms",
        *skeleton.KEYS)  # fmt: skip
FOREIGN_KEYS = ("task", "names", "stride", "imgsz", "end2end", "args", *skeleton.KEYS)


def info_path(engine: Union[str, Path]) -> Path:
    """`x.trt` -> `x.trt.json`."""
    return Path(str(engine) + ".json")


def onnx_metadata(model: "ModelProto") -> Dict[str, Any]:
    """The KEYS of an onnx.ModelProto's metadata_props, and those of other exporters."""
    keys = {*KEYS, *FOREIGN_KEYS}
    return {e.key: decode_text(e.value) for e in model.metadata_props if e.key in keys}


def split_engine(content: bytes) -> Tuple[Dict[str, Any], bytes]:
    """(metadata, plan) of an engine file.

    Some exporters put a JSON before the plan: its length, 4 bytes little-endian, and its text.
    Files without one have no metadata. Keys that this toolkit does not read are left out.
    """
    size = int.from_bytes(content[:4], "little")
    text = content[4 : 4 + size]
    if text[:1] != b"{" or len(text) < size:
        return {}, content
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}, content
    return {key: found[key] for key in FOREIGN_KEYS if key in found}, content[4 + size :]


def sha256(data: bytes) -> str:
    """Hash of a file's content, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_info(engine: Union[str, Path], info: Dict[str, Any]) -> None:
    """Write the side file of an engine."""
    with atomic_path(info_path(engine)) as tmp:
        tmp.write_text(
            json.dumps(info, indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
            errors="backslashreplace",
        )


def read_info(engine: Union[str, Path]) -> Optional[Dict[str, Any]]:
    """Content of the side file, None if there is none. Raises InputError for a broken one."""
    path = info_path(engine)
    if not path.is_file():
        return None
    try:
        info = read_json(path, "side file")
    except InputError as e:
        raise InputError("%s; build the engine again, or delete it" % e) from e
    if not isinstance(info, dict):
        raise InputError("%s: expected a JSON object; build the engine again" % path)
    return info
