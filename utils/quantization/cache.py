"""Calibration caches in TensorRT's own text format.

    cache = read_cache("caches/x.cache")
    write_cache("caches/x.cache", make_cache({"input": 1.0}, "MinMax"))

The first line is `TRT-<version>-<algorithm>`, every other one `tensor: hex`, the scale as a
big-endian float32 in hexadecimal; scale = largest magnitude / 127. Tensors are those of the ONNX by
name, so a cache belongs to one ONNX, and to every TensorRT that reads it once the header fits.
"""

import re
import struct
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Union

import numpy as np

from utils.errors import InputError
from utils.files import atomic_path
from utils.quantization.activation_ranges import LEVELS
from utils.reading import read_bytes

HEADERS = {"MinMax": "MinMaxCalibration", "Entropy": "EntropyCalibration2"}
OLDEST_VERSION = 8502  # what is written where no TensorRT is at hand: JetPack 5.1's
_header = re.compile(r"TRT-(\d+)-(\w+)$")
_word = re.compile(r"[0-9a-fA-F]{1,8}$")


class Cache(NamedTuple):
    """Scales of tensors, in the order of the file."""

    version: str  # as TensorRT writes it: 8401 is 8.4.1, 100700 is 10.7.0
    algorithm: str  # MinMaxCalibration, EntropyCalibration2, ...
    scales: Dict[str, float]  # float32 values

    @property
    def amax(self) -> Dict[str, float]:
        """Largest magnitude of each tensor."""
        return {name: scale * LEVELS for name, scale in self.scales.items()}


def version_number(version: str) -> str:
    """`8.5.2.2` -> `8502`; `10.7.0` -> `100700`, as in the header of a cache."""
    words = [int(w) for w in re.findall(r"\d+", version)[:3]]
    major, minor, patch = (words + [0, 0, 0])[:3]
    if major < 10:
        return str(major * 1000 + minor * 100 + patch)
    return str(major * 10000 + minor * 100 + patch)


def make_cache(amax: Dict[str, float], algorithm: str = "MinMax", version: str = "") -> Cache:
    """A cache of the largest magnitudes; `algorithm` MinMax or Entropy."""
    # in float32, as TensorRT divides
    scales = {n: float(np.float32(v) / np.float32(LEVELS)) for n, v in amax.items()}
    number = version_number(version) if version else str(OLDEST_VERSION)
    return Cache(number, HEADERS[algorithm], scales)


def parse_cache(data: bytes) -> Cache:
    """Content of a cache file. Raises ValueError (reason only)."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise ValueError("not a text file") from e
    match = _header.match(lines[0].strip()) if lines else None
    if match is None:
        raise ValueError("the first line is not TRT-<version>-<algorithm>")
    scales: Dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, word = line.rpartition(": ")
        if not colon or not _word.match(word.strip()):
            raise ValueError("line %d is not `tensor: hex`" % number)
        (scale,) = struct.unpack(">f", bytes.fromhex(word.strip().zfill(8)))
        if not np.isfinite(scale) or scale < 0:
            raise ValueError("line %d: %s is no scale" % (number, word.strip()))
        scales[name] = scale
    if not scales:
        raise ValueError("no tensors in it")
    return Cache(match.group(1), match.group(2), scales)


def format_cache(cache: Cache) -> bytes:
    """A Cache as TensorRT writes it."""
    lines = ["TRT-%s-%s" % (cache.version, cache.algorithm)]
    for name, scale in cache.scales.items():
        lines.append("%s: %x" % (name, struct.unpack(">I", struct.pack(">f", scale))[0]))
    return ("\n".join(lines) + "\n").encode("utf-8")


def read_cache(path: Union[str, Path]) -> Cache:
    """Read a cache file. Raises InputError if it is none."""
    try:
        return parse_cache(read_bytes(path, "calibration cache"))
    except ValueError as e:
        raise InputError(
            "%s: not a calibration cache (%s); delete it and calibrate again" % (path, e)
        ) from e


def write_cache(path: Union[str, Path], cache: Cache) -> None:
    """Write a cache file, whole or not at all."""
    with atomic_path(path, replace=True) as tmp:  # asked for, or there is none
        tmp.write_bytes(format_cache(cache))


def adapted(cache: Cache, version: str, algorithm: str) -> Cache:
    """The same scales under the header of a running TensorRT and calibrator (MinMax, Entropy).

    TensorRT ignores, without an error, a cache whose first line is not its own.
    """
    return cache._replace(version=version_number(version), algorithm=HEADERS[algorithm])


def check_match(cache: Cache, wanted: Iterable[str], path: Union[str, Path], *, onnx: str) -> None:
    """Raise InputError if a cache has no scale for tensors that the model needs."""
    names: List[str] = list(wanted)
    missing = [name for name in names if name not in cache.scales]
    if missing:
        raise InputError(
            "%s: has a scale for %d of the %d tensors that %s needs (%d in the file), none for %s; "
            "it belongs to another model or export: calibrate again, or name its `cache_dir`"
            % (path, len(names) - len(missing), len(names), onnx, len(cache.scales), missing[0])
        )
