"""Which network, size and images a calibration cache was made from: the side file `X.cache.json`.

    write_origin("caches/x.cache", origin)       # after the cache itself
    origin = read_origin("caches/x.cache")       # None: nothing is known of this cache

TensorRT's format has no place for it, and tensors of two trainings of one network have the same
names, so without it ranges of one would serve the other.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

from utils.errors import InputError
from utils.files import atomic_path
from utils.reading import read_bytes, read_json


class Origin(NamedTuple):
    """What ranges depend on."""

    onnx_sha256: str  # of the file
    imgsz: Tuple[int, int]  # (height, width) px of the calibration images as the network saw them
    calib_method: str
    calib_by: str  # onnxruntime or tensorrt
    calib_path: str  # folder or list file of the images
    calib_num: int
    calib_letterbox: bool
    calib_seed: int
    images_sha256: str  # see images_digest


def origin_path(cache: Union[str, Path]) -> Path:
    """`x.cache` -> `x.cache.json`."""
    return Path(str(cache) + ".json")


def images_digest(paths: Sequence[str], root: Union[str, Path]) -> str:
    """Hash of the names, relative to the folder or list file `root`, and sizes of image files.

    The same on another machine with the same images in another place.
    """
    base = Path(root) if Path(root).is_dir() else Path(root).parent
    digest = hashlib.sha256()
    for path in paths:
        name = Path(os.path.relpath(str(path), str(base))).as_posix()
        digest.update(("%s %d\n" % (name, os.path.getsize(str(path)))).encode("utf-8", "replace"))
    return digest.hexdigest()


def write_origin(cache: Union[str, Path], origin: Origin) -> None:
    """Write the side file of a cache that is written already."""
    content: Dict[str, Any] = {"cache_sha256": _content_hash(cache), **origin._asdict()}
    with atomic_path(origin_path(cache), replace=True) as tmp:
        tmp.write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
            errors="backslashreplace",
        )


def read_origin(cache: Union[str, Path]) -> Optional[Origin]:
    """Content of the side file; None without one, or where it is that of an earlier cache.

    Raises InputError for a file that is not such a side file.
    """
    path = origin_path(cache)
    if not path.is_file():
        return None
    try:
        content = read_json(path, "side file")
        values = {name: content[name] for name in Origin._fields}
        digest = content["cache_sha256"]
        values["imgsz"] = tuple(values["imgsz"])
        if len(values["imgsz"]) != 2:
            raise ValueError("imgsz %s: expected height and width" % (values["imgsz"],))
        for name, value in values.items():
            kind = Origin.__annotations__[name]
            if kind in (str, int, bool) and type(value) is not kind:
                raise ValueError("%s %r: expected %s" % (name, value, kind.__name__))
        if not all(type(side) is int and side > 0 for side in values["imgsz"]):
            raise ValueError("imgsz %s: expected pixels" % (values["imgsz"],))
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            "%s: not the side file of a calibration cache (%s); delete it and calibrate again"
            % (path, e)
        ) from e
    return Origin(**values) if digest == _content_hash(cache) else None


def _content_hash(cache: Union[str, Path]) -> str:
    return hashlib.sha256(read_bytes(cache, "calibration cache")).hexdigest()
