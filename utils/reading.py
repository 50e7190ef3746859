"""Files of the user: opened only if they are regular and not too large; JSON and YAML with limits.

    content = read_json("annotations/a.json", "annotation")
    content = read_yaml("data/custom_kpts.yaml")

A FIFO or device has no end, and a bomb is small until it is opened. What is inside is checked by
who reads the format; `is_number` and `is_integer` help.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, Dict, Union

from utils.errors import InputError, one_line

MiB, GiB = 1 << 20, 1 << 30
LIMITS = {  # bytes of a file of each kind; far above any sensible one
    "annotation": 64 * MiB, "COCO JSON": 2 * GiB, "yaml": MiB // 4, "list": 512 * MiB,
    "label file": 16 * MiB, "image": GiB // 2, "checkpoint": 16 * GiB, "ONNX": 2 * GiB,
    "engine": 16 * GiB, "side file": MiB, "calibration cache": 64 * MiB, "table": 64 * MiB,
    "label cache": 8 * GiB, "video": 1 << 60,
}  # fmt: skip
MAX_NODES = 20_000  # of a yaml, aliases counted as often as they are used
MAX_DEPTH = 50


def check_file(path: Union[str, Path], kind: str) -> os.stat_result:
    """Raise InputError unless `path` is a regular file of a size that a `kind` may have.

    Args: kind: of LIMITS.
    """
    try:
        found = os.stat(str(path))
    except FileNotFoundError as e:
        raise InputError("%s: no such file" % path) from e
    except OSError as e:
        raise InputError("%s: %s" % (path, e.strerror)) from e
    except ValueError as e:  # a NUL in it
        raise InputError("%s: no name of a file" % path) from e
    reason = misfit(found, kind)
    if reason:
        raise InputError("%s: %s" % (path, reason))
    return found


def misfit(found: os.stat_result, kind: str) -> str:
    """Why a file can't be read as a `kind` of LIMITS, empty if it can."""
    if stat.S_ISDIR(found.st_mode):
        return "is a folder, expected a file"
    if not stat.S_ISREG(found.st_mode):
        return "a pipe, socket or device, expected a regular file"
    if found.st_size > LIMITS[kind]:
        sizes = (found.st_size / 1e6, LIMITS[kind] / 1e6)
        return "%.4g MB, more than the %.4g MB a file of this kind may have" % sizes
    return ""


def check_image_file(path: str) -> None:
    """Raise ValueError (reason only) for what is no regular file of the size of an image; OSError
    as os.stat()."""
    reason = misfit(os.stat(path), "image")
    if reason:
        raise ValueError(reason)


def read_bytes(path: Union[str, Path], kind: str) -> bytes:
    """Content of a file. Raises InputError, see check_file."""
    check_file(path, kind)
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise InputError("%s: %s" % (path, e.strerror)) from e


def read_text(path: Union[str, Path], kind: str) -> str:
    """Content of a UTF-8 file, with or without a byte order mark, line breaks as `\\n`.

    Raises InputError, see check_file.
    """
    try:
        text = read_bytes(path, kind).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError("%s: not a text file (UTF-8)" % path) from e
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Union[str, Path], kind: str) -> Any:
    """Content of a JSON file. Raises InputError, see check_file, and for what is no JSON."""
    data = read_bytes(path, kind)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:  # not UTF-8, or not JSON, or too deep
        raise InputError("%s: not JSON (%s)" % (path, " ".join(str(e).split())[:120])) from e


def read_yaml(path: Union[str, Path], name: str = "") -> Any:
    """Content of a YAML file: plain values.

    Args: name: what the message calls the file, empty: its path.

    Raises InputError for what is no YAML, for a key that is there twice, and for one that is large
    or deep once its aliases are followed.
    """
    import yaml

    name = name or str(path)
    check_file(path, "yaml")
    loader = None
    try:
        loader = yaml.SafeLoader(read_bytes(path, "yaml"))
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 0)
        return loader.construct_document(node)
    # besides YAMLError: a date that is none, a key that is a list, an integer of no digits
    except (yaml.YAMLError, ValueError, TypeError, LookupError, OverflowError) as e:
        raise InputError("%s: not YAML (%s)" % (name, one_line(e, 200))) from e
    except RecursionError as e:
        raise InputError("%s: nested too deeply" % name) from e
    finally:
        if loader is not None:
            loader.dispose()


def _measure(node: Any, known: Dict[int, int], depth: int) -> int:
    """How many nodes there are below and with this one. Raises ValueError for too many."""
    import yaml

    if depth > MAX_DEPTH:
        raise ValueError("nested more than %d deep, or an alias of what it is in" % MAX_DEPTH)
    if id(node) in known:
        return known[id(node)]
    count = 1
    if isinstance(node, yaml.MappingNode):
        keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode)]
        twice = {key for key in keys if keys.count(key) > 1} if len(keys) < 500 else set()
        if twice - {"<<"}:
            raise ValueError("the key %s is there twice" % min(twice))
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        count += _measure(child, known, depth + 1)
        if count > MAX_NODES:
            raise ValueError("more than %d values, aliases followed" % MAX_NODES)
    known[id(node)] = count
    return count


def is_number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """An int or float, no bool, finite as a float, from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:  # an integer beyond every float
        return False


def is_integer(value: object, low: int, high: int) -> bool:
    """An int, no bool, from `low` to `high`."""
    return type(value) is int and low <= value <= high


def shown(value: object, length: int = 60) -> str:
    """The beginning of a value for a message; of a list or dict without walking all of it."""
    plain = (str, int, float, type(None))
    if isinstance(value, (list, tuple)) and len(value) < 9 and all(type(v) in plain for v in value):
        return "[%s]" % ", ".join(shown(v, 20) for v in value)
    if isinstance(value, (list, tuple, dict, set)):
        return "%s of %d" % (type(value).__name__, len(value))
    if isinstance(value, int) and not -(10**20) < value < 10**20:
        return "an integer of %d bits" % value.bit_length()
    return str(value)[:length]
