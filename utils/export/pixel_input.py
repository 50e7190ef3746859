"""A uint8 input in front of an exported ONNX, compared with the file that reads floats."""

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import numpy as np

from utils.errors import InputError
from utils.export.onnx_export import add_metadata
from utils.graph.pixels import add_pixels

if TYPE_CHECKING:
    from onnx import ModelProto


def put_pixels(
    graph: "ModelProto", path: Path, *, half: bool, batches: Sequence[np.ndarray]
) -> None:
    """Give the file at `path` a uint8 input and compare what it finds, bit for bit.

    Args: graph: its ModelProto, changed in place. batches: (B, 3, H, W) float32 RGB k / 255.

    Raises InputError if the outputs differ.
    """
    import onnx

    from utils.runtime.onnx_backend import OnnxBackend

    before = OnnxBackend(path, gpu=-1)
    wanted = [before(images) for images in batches]
    add_pixels(graph)
    if half:
        add_metadata(graph, {"precision": "FP16"})
    onnx.save(graph, str(path))
    backend = OnnxBackend(path, gpu=-1)
    for images, expected in zip(batches, wanted):
        found = backend(to_pixels(images))
        pairs = zip(found, expected) if isinstance(expected, tuple) else [(found, expected)]
        if not all(np.array_equal(a, b) for a, b in pairs):
            raise InputError("with a uint8 input the model finds something else; it was not kept")


def to_pixels(images: np.ndarray) -> np.ndarray:
    """(B, 3, H, W) float RGB k / 255 -> (B, H, W, 3) uint8 BGR k."""
    levels = np.rint(images * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(levels[:, ::-1].transpose(0, 2, 3, 1))
