"""Whether an exported ONNX computes what the PyTorch network does, on a real image."""

from pathlib import Path
from typing import TYPE_CHECKING, List, NamedTuple, Tuple

import numpy as np

from utils.errors import InputError

if TYPE_CHECKING:
    from models.yolo import Model

ROOT = Path(__file__).resolve().parents[2]


class Tolerance(NamedTuple):
    """How far ONNX Runtime may be from PyTorch in FP32, on the check image."""

    conf: float  # any confidence of any row
    px: float  # any coordinate, relative to max(box size, 64 px), rows with conf > MIN_CONF


# FP32 differs by summation order only. FP16 has 11 significant bits in every layer: on the demo
# weights confidences move by up to 0.003 and points by up to 0.4 % of the box.
TOLERANCE = {False: Tolerance(1e-3, 1e-3), True: Tolerance(3e-2, 3e-2)}
MIN_CONF = 0.01


def check_image(path: str) -> np.ndarray:
    """The image of the comparison. Raises InputError if there is none."""
    from utils.dataset.images import IMAGE_SUFFIXES, read_image

    folder = ROOT / "data" / "images"
    files = [Path(path)] if path else sorted(folder.glob("*"))
    files = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise InputError("`check_image`: no image in %s; name one" % (path or folder))
    try:
        return read_image(str(files[0]))
    except (ValueError, OSError) as e:
        raise InputError("`check_image` %s: %s" % (files[0], e)) from e


class Difference(NamedTuple):
    """Largest differences of two raw outputs; `rel_px` over rows with conf > MIN_CONF."""

    conf: float
    px: float
    rel_px: float
    rows: int


def compare(output: np.ndarray, reference: np.ndarray, nc: int) -> Difference:
    """Compare (B, N, 5 + nc + 3K) raw predictions.

    Confidences are compared in every row; coordinates only where somebody may be, since the
    boxes of empty cells mean nothing.
    """
    if output.shape != reference.shape:
        return Difference(np.inf, np.inf, np.inf, 0)
    columns = output.shape[2]
    is_conf = np.zeros(columns, bool)
    is_conf[4 : 5 + nc] = True
    is_conf[5 + nc + 2 :: 3] = True
    delta = np.abs(output - reference)
    conf = float(delta[..., is_conf].max())
    rows = reference[..., 4] * reference[..., 5 : 5 + nc].max(-1) > MIN_CONF
    if not np.isfinite(delta).all():
        return Difference(np.inf, np.inf, np.inf, int(rows.sum()))
    if not rows.any():  # an untrained network: its best row must do
        best = np.unravel_index(reference[..., 4].argmax(), rows.shape)
        rows[best] = True
    px = delta[rows][:, ~is_conf].max(1)
    size = np.maximum(reference[rows][:, 2:4].max(1), 64.0)
    return Difference(conf, float(px.max()), float((px / size).max()), int(rows.sum()))


def verify(
    path: Path, reference: np.ndarray, batch: np.ndarray, *, nc: int, half: bool
) -> Difference:
    """Run the file in ONNX Runtime and compare. Raises InputError if it differs."""
    from utils.runtime.onnx_backend import OnnxBackend

    output = OnnxBackend(path, gpu=-1)(batch)
    difference = compare(np.asarray(output), reference, nc)
    limit = TOLERANCE[half]
    if difference.conf > limit.conf or difference.rel_px > limit.px:
        raise InputError(
            "%s: ONNX Runtime differs from PyTorch (confidence %.2g, limit %.2g; points %.2g of "
            "the box, limit %.2g); the file was not kept"
            % ("FP16" if half else "FP32", difference.conf, limit.conf, difference.rel_px, limit.px)
        )
    return difference


def reference_output(model: "Model", batch: np.ndarray) -> np.ndarray:
    """FP32 PyTorch predictions on the CPU."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(batch)).numpy()


def check_batch(image: np.ndarray, net_hw: Tuple[int, int], batch: int) -> np.ndarray:
    """The image, letterboxed as detect does; further images of the batch are mirrored."""
    from utils.pose import letterbox

    box = letterbox.fit((image.shape[0], image.shape[1]), net_hw)
    views: List[np.ndarray] = [image, np.ascontiguousarray(image[:, ::-1])]
    return letterbox.to_batch([views[i % 2] for i in range(batch)], [box] * batch, net_hw)
