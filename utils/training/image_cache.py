"""Training images decoded at the size they are needed in, and kept in memory.

cache = ImageCache(hws, here=1)
if not cache.read(7, out):
    decode(path, image_hw, out)
    cache.write(7, out)
"""

from typing import Sequence

import cv2
import numpy as np

from utils.dataset.images import decode_image
from utils.device import available_memory
from utils.errors import InputError


class ImageCache:
    """Decoded images in memory that all workers share.

    Args: here: processes on this host, each of which keeps them.

    Raises InputError if there is not enough of it.
    """

    def __init__(self, hws: np.ndarray, here: int):
        import torch

        self.counts = hws.prod(1) * 3
        self.starts = np.cumsum(self.counts) - self.counts
        total, free = int(self.counts.sum()), available_memory()
        if free is not None and total * here > 0.8 * free:
            raise InputError(
                "`cache_images`: %d images need %.1f GB of memory, %.1f GB are free; drop the flag"
                % (len(hws), total * here / 1e9, free / 1e9)
            )
        self.pixels = torch.empty(total, dtype=torch.uint8).share_memory_()
        self.there = torch.zeros(len(hws), dtype=torch.uint8).share_memory_()

    def _slot(self, image: int) -> np.ndarray:
        start = int(self.starts[image])
        return self.pixels.numpy()[start : start + int(self.counts[image])]

    def read(self, image: int, out: np.ndarray) -> bool:
        """Copy an image into `out`; False if it is not there yet."""
        if not self.there[image]:
            return False
        out.reshape(-1)[:] = self._slot(image)
        return True

    def write(self, image: int, pixels: np.ndarray) -> None:
        """Two workers may write one image: the same bytes."""
        self._slot(image)[:] = pixels.reshape(-1)
        self.there[image] = 1


def decode(path: str, image_hw: Sequence[int], out: np.ndarray) -> None:
    """Read an image file into `out`, (h, w, 3) uint8, as RGB of that size.

    A JPEG at least twice as large as wanted is decoded at half the size, or a quarter, or an
    eighth, which saves most of the time.

    Raises ValueError for what is no image, OSError as open().
    """
    hw = out.shape[:2]
    ratio = min(image_hw[0] / hw[0], image_hw[1] / hw[1])
    flag = cv2.IMREAD_COLOR
    for factor, reduced in ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4),
                            (2, cv2.IMREAD_REDUCED_COLOR_2)):  # fmt: skip
        if ratio >= factor:
            flag = reduced
            break
    image = decode_image(path, flag)
    if image.shape[:2] != hw:
        image = cv2.resize(image, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out)
