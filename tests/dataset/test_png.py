import io
import itertools
import struct
import zlib

import cv2
import numpy as np
import pytest

from utils.dataset.images import read_image
from utils.dataset.png import SIGNATURE, plain_png

PIL = pytest.importorskip("PIL.Image")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# with what libpng warns of: a broken colour profile, sizes that are too short, unknown intents
ODD = {b"iCCP": b"x\0\0" + zlib.compress(b"no profile"), b"gAMA": bytes(4), b"sRGB": b"\x09",
       b"cHRM": bytes(32), b"pHYs": b"1", b"zTXt": b"a\0\0xx", b"sBIT": b"\x99", b"tIME": b"",
       b"abCd": b"of somebody"}  # fmt: skip


def png(mode="RGB", **options):
    """A small PNG of a mode of Pillow."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), np.uint8)
    if mode == "I;16":
        image = PIL.fromarray(pixels.view(np.uint16)[..., 0])
    else:
        image = PIL.fromarray(pixels, "RGBA").convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def with_chunks(data, chunks):
    """Chunks behind the IHDR, which has 13 bytes."""
    at = len(SIGNATURE) + 25
    return data[:at] + b"".join(chunk(*item) for item in chunks.items()) + data[at:]


def read(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    return read_image(str(tmp_path / "a.png"))


@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_those_of_opencv_and_nothing_is_printed(tmp_path, mode, capfd):
    data = png(mode)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(read(tmp_path, data), expected)
    assert np.array_equal(read(tmp_path, with_chunks(data, ODD) + b"more"), expected)
    assert capfd.readouterr().err == ""
    cv2.imdecode(np.frombuffer(with_chunks(data, ODD), np.uint8), cv2.IMREAD_COLOR)
    assert "libpng" in capfd.readouterr().err  # else there is nothing to do for this file


def test_transparent_palette_and_orientation(tmp_path):
    exif = PIL.Exif()
    exif[0x112] = 6
    data = png("P", transparency=3, exif=exif)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert expected.shape == (14, 9, 3)
    assert np.array_equal(read(tmp_path, with_chunks(data, ODD)), expected)


def test_a_damaged_byte_is_an_error(tmp_path, capfd):
    good = png()
    expected = read(tmp_path, good)
    for at, flip in itertools.product(range(len(SIGNATURE), len(good)), (0x20, 0x55)):
        data = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
        with pytest.raises(ValueError, match="a (damaged )?PNG"):
            read(tmp_path, data)
    for length in range(len(SIGNATURE), len(good)):
        with pytest.raises(ValueError, match="ends too early"):
            read(tmp_path, good[:length])
    assert np.array_equal(read(tmp_path, good), expected)
    assert capfd.readouterr().err == ""


def test_animations_are_left_alone():
    data = np.frombuffer(with_chunks(png(), {b"acTL": bytes(8)}), np.uint8)
    assert plain_png(data) is data
