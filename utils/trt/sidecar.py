"""What an engine file cannot say of itself: the side file `X.trt.json` beside `X.trt`.

Names, keypoints and stride come from the ONNX; precision, version and GPU from the build. An engine
without a side file (built by trtexec) still runs, as one class `person`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Optional, Union

from utils.errors import InputError
from utils.files import atomic_path

# metadata of an exported ONNX that goes along
KEYS = ("task", "names", "nc", "nkpt", "stride", "imgsz", "conf_thres", "iou_thres", "topk", "nms")


def info_path(engine: Union[str, Path]) -> Path:
    """`x.trt` -> `x.trt.json`."""
    return Path(str(engine) + ".json")


def onnx_metadata(model: Any) -> Dict[str, Any]:
    """The KEYS of an onnx.ModelProto's metadata_props; values that are no JSON are left out."""
    found = {}
    for entry in model.metadata_props:
        if entry.key in KEYS:
            try:
                found[entry.key] = json.loads(entry.value)
            except ValueError:
                continue
    return found


def sha256(data: bytes) -> str:
    """Hash of a file's content, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_info(engine: Union[str, Path], info: Dict[str, Any]) -> None:
    """Write the side file of an engine."""
    with atomic_path(info_path(engine)) as tmp:
        tmp.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_info(engine: Union[str, Path]) -> Optional[Dict[str, Any]]:
    """Content of the side file, None if there is none. Raises InputError for a broken one."""
    path = info_path(engine)
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise InputError("%s: not JSON; build the engine again, or delete it" % path) from e
    if not isinstance(info, dict):
        raise InputError("%s: expected a JSON object; build the engine again" % path)
    return info
