import struct

import numpy as np
import pytest

from tests.conftest import SHARED
from utils.errors import InputError
from utils.quantization.cache import (
    Cache,
    adapted,
    check_match,
    format_cache,
    make_cache,
    parse_cache,
    read_cache,
    version_number,
    write_cache,
)

REAL = sorted((SHARED / "caches").glob("*.cache"))
# As TensorRT 8.4 wrote them: leading zeros are left out, names may hold colons and blanks
SAMPLE = b"""TRT-8401-MinMaxCalibration
input: 3c010204
onnx::Sigmoid_317: 3eeb8bfb
(Unnamed Layer* 475) [Shuffle]_output: 3c810204
a: b: 1
"""


def test_sample():
    cache = parse_cache(SAMPLE)
    assert (cache.version, cache.algorithm) == ("8401", "MinMaxCalibration")
    assert list(cache.scales) == [
        "input", "onnx::Sigmoid_317", "(Unnamed Layer* 475) [Shuffle]_output", "a: b"
    ]  # fmt: skip
    assert cache.amax["input"] == pytest.approx(1.0, rel=1e-7)
    assert format_cache(cache) == SAMPLE


@pytest.mark.skipif(not REAL, reason="no real caches in %s" % SHARED)
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_real_caches_round_trip(path):
    cache = read_cache(path)
    assert len(cache.scales) > 400 and format_cache(cache) == path.read_bytes()
    again = make_cache(cache.amax)
    for name, scale in cache.scales.items():
        assert ulps(again.scales[name], scale) <= 1


def ulps(a, b):
    a, b = (struct.unpack(">i", struct.pack(">f", v))[0] for v in (a, b))
    return abs(a - b)


@pytest.mark.parametrize("seed", range(3))
def test_any_scale_round_trips(tmp_path, seed):
    words = np.random.default_rng(seed).integers(0, 0x7F800000, 500).astype(np.uint32)
    scales = {"t%d" % i: float(v) for i, v in enumerate(words.view(np.float32))}
    cache = Cache("8502", "EntropyCalibration2", scales)
    write_cache(tmp_path / "x.cache", cache)
    assert read_cache(tmp_path / "x.cache") == cache


def test_scale_is_amax_over_127():
    cache = make_cache({"x": 1.0}, "Entropy", "10.7.0")
    assert format_cache(cache) == b"TRT-100700-EntropyCalibration2\nx: 3c010204\n"


@pytest.mark.parametrize(
    "version, number",
    [("8.4.1", "8401"), ("8.5.2.2", "8502"), ("8.6.1", "8601"), ("10.7.0", "100700"),
     ("10.13.3.9", "101303"), ("11.4.1", "110401")],
)  # fmt: skip
def test_version_number(version, number):
    assert version_number(version) == number


def test_header_is_adapted():
    cache = adapted(parse_cache(SAMPLE), "10.3.0", "Entropy")
    lines = format_cache(cache).splitlines()
    assert lines[0] == b"TRT-100300-EntropyCalibration2" and lines[1:] == SAMPLE.splitlines()[1:]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "first line"),
        (b"input: 3c010204\n", "first line"),
        (b"TRT-8401-MinMaxCalibration\n", "no tensors"),
        (b"TRT-8401-MinMaxCalibration\ninput\n", "line 2"),
        (b"TRT-8401-MinMaxCalibration\ninput: 3c01020405\n", "line 2"),
        (b"TRT-8401-MinMaxCalibration\ninput: xyz\n", "line 2"),
        (b"TRT-8401-MinMaxCalibration\ninput: 7fc00000\n", "no scale"),
        (b"TRT-8401-MinMaxCalibration\ninput: bf800000\n", "no scale"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_what_is_no_cache(tmp_path, data, message):
    path = tmp_path / "x.cache"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a calibration cache.*%s" % message):
        read_cache(path)


def test_cache_of_another_model():
    cache = parse_cache(SAMPLE)
    check_match(cache, ["input", "a: b"], "x.cache", onnx="x.onnx")
    with pytest.raises(InputError, match=r"1 of the 3 tensors that x.onnx needs \(4 in the file\)"):
        check_match(cache, ["input", "b", "c"], "x.cache", onnx="x.onnx")
