"""PNG files as OpenCV decodes them without libpng writing to the terminal.

image = cv2.imdecode(plain_png(data), cv2.IMREAD_COLOR)

libpng tells faults and oddities on stderr, from C and without the name of the file: of a damaged
image, but also of each good one with a colour profile that it does not like. So chunks that do not
concern the pixels are left out, and a file whose check sums are wrong is refused before. Costs
about 2 % of the decoding. Where a faulty encoder wrote wrong data with right check sums, libpng
still prints a line before our error. Format: www.w3.org/TR/png-3.
"""

import zlib
from typing import List, Union

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # eXIf: orientation
ANIMATION = b"acTL"


def is_png(data: np.ndarray) -> bool:
    return data[: len(SIGNATURE)].tobytes() == SIGNATURE


def plain_png(data: np.ndarray) -> np.ndarray:
    """The bytes of a PNG, (n,) uint8, without chunks that do not concern the pixels.

    An animation comes back as it is. Raises ValueError (reason only) for a damaged file.
    """
    file = memoryview(np.ascontiguousarray(data)).cast("B")
    parts: List[Union[bytes, memoryview]] = [SIGNATURE]
    start, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        # a chunk: length, kind, content, check sum of both
        end = start + 12 + int.from_bytes(file[start : start + 4], "big")
        if start + 12 > len(file) or end > len(file):
            raise ValueError("a PNG that ends too early: copy it again")
        kind = bytes(file[start + 4 : start + 8])
        if kind == ANIMATION:
            return data
        if zlib.crc32(file[start + 4 : end - 4]) != int.from_bytes(file[end - 4 : end], "big"):
            raise ValueError("a damaged PNG (check sum at byte %d)" % (end - 4))
        if kind in KEPT:
            parts.append(file[start:end])
        elif not kind[:1].islower():  # nobody may pass over it
            raise ValueError("a damaged PNG (unknown chunk at byte %d)" % start)
        start = end
    return np.frombuffer(b"".join(parts), np.uint8)
