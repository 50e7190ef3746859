"""Images for INT8 calibration, prepared exactly as detect prepares them.

paths = choose_images("data/custom_kpts/images", 256)
for batch in batches(paths, (640, 640), 8): ...     # (B, 3, 640, 640) float32 RGB 0..1
"""

import random
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

import numpy as np

from utils.errors import InputError, reason_of
from utils.pose import letterbox
from utils.pose.letterbox import HW

SEED = 0


def choose_images(folder: str, count: int, seed: int = SEED) -> List[str]:
    """`count` images of a folder and its subfolders (or of a list file), the same each time.

    The first n of a larger choice are the choice of n.

    Raises InputError if there are fewer, or none.
    """
    from utils.dataset.images import IMAGE_SUFFIXES
    from utils.dataset.labels import list_images

    path = Path(folder)
    if path.is_dir():
        files = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    elif path.is_file() and path.suffix == ".txt":
        files = sorted(list_images(path))
    else:
        raise InputError(
            "`calib_path` %s: expected a folder of images or a list file (.txt)" % folder
        )
    if not files:
        raise InputError(
            "`calib_path` %s: no images in it (%s)" % (folder, " ".join(sorted(IMAGE_SUFFIXES)))
        )
    if len(files) < count:
        raise InputError(
            "`calib_num` %d: only %d images in %s; add some or say `calib_num` %d"
            % (count, len(files), folder, len(files))
        )
    random.Random(seed).shuffle(files)
    return files[:count]


def read_batch(paths: Sequence[str], net_hw: HW, letterboxed: bool = False) -> np.ndarray:
    """(B, 3, net_h, net_w) float32 RGB 0..1 of image files, resized or letterboxed.

    Raises InputError for a file that cannot be read.
    """
    from utils.dataset.images import read_image

    images, boxes = [], []
    place = letterbox.fit if letterboxed else letterbox.stretch
    for path in paths:
        try:
            image = read_image(path)
        except (ValueError, OSError) as e:
            reason = reason_of(e)
            raise InputError("`calib_path`: %s: %s" % (path, reason)) from e
        images.append(image)
        boxes.append(place((image.shape[0], image.shape[1]), net_hw))
    return letterbox.to_batch(images, boxes, net_hw)


def batches(
    paths: Sequence[str],
    net_hw: HW,
    size: int,
    *,
    letterboxed: bool = False,
    fixed: bool = False,
    title: Optional[str] = "calibrate",
) -> Iterator[np.ndarray]:
    """Batches of `size` images, all of them used; a bar shows the progress.

    Args:
        fixed: the last batch is filled up with the first images again, for a model or a
            calibrator that takes only full batches.
        title: of the bar, None: no bar.
    """
    from tqdm import tqdm

    with tqdm(
        total=len(paths), desc=title or "", unit="image", disable=True if title is None else None
    ) as bar:
        for start in range(0, len(paths), size):
            part = list(paths[start : start + size])
            count = len(part)
            if fixed and count < size:
                part += [paths[i % len(paths)] for i in range(size - count)]
            yield read_batch(part, net_hw, letterboxed)
            bar.update(count)
