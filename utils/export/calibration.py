"""The ranges of a network's tensors: from calibration images, or from a cache."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from utils.errors import InputError, InputWarning
from utils.export.onnx_file import OnnxFile, runnable
from utils.pose.letterbox import parse_size, stride_multiple
from utils.quantization import activation_ranges, qdq
from utils.quantization.cache import check_match, make_cache, read_cache, write_cache
from utils.quantization.images import batches, choose_pictures

METHODS = tuple(activation_ranges.METHODS)
DEFAULT_METHOD = "Foreground"  # of ONNX Runtime; TensorRT's own calibrators know the first two
ONNX_RUNTIME_BATCH = 8  # all activations of a batch are in memory


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """Which images calibrate a network and how. Raises InputError for values that cannot be."""

    calib_path: str = "data/custom_kpts/images"  # a folder with its subfolders, or a list file
    calib_num: int = 1024  # images, chosen at random
    calib_batch: int = 128  # images at a time; a static ONNX has its own batch
    calib_imgsz: Sequence[int] = (832,)  # px, one number or height width; a static ONNX has its own
    calib_method: Optional[str] = None  # one of METHODS, None: the default of who calibrates
    calib_letterbox: bool = True  # prepared as detect does; else squeezed to the size
    calib_seed: int = 0
    cache_dir: str = "caches"  # folder of `<onnx stem>.cache`
    keep: Sequence[str] = ()  # further convolutions in floating point, by parts of their names
    recalibrate: bool = False  # also where a cache is there

    def __post_init__(self) -> None:
        for name in ("calib_num", "calib_batch"):
            if getattr(self, name) < 1:
                raise InputError("`%s` %d: expected at least 1" % (name, getattr(self, name)))
        if self.calib_method is not None:
            names = {name.lower(): name for name in METHODS}
            method = names.get(self.calib_method.lower())
            if method is None:
                raise InputError(
                    "`calib_method` %s: expected %s" % (self.calib_method, ", ".join(METHODS))
                )
            object.__setattr__(self, "calib_method", method)

    @property
    def method(self) -> str:
        """How ONNX Runtime's histograms become ranges."""
        return self.calib_method or DEFAULT_METHOD

    def cache_path(self, source: OnnxFile) -> Path:
        """`<cache_dir>/<onnx stem>.cache`."""
        return Path(self.cache_dir) / (source.path.stem + ".cache")

    def image_hw(self, source: OnnxFile) -> Tuple[int, int]:
        """(height, width) of calibration images: the model's own if it is static."""
        if source.hw is not None:
            return source.hw
        return stride_multiple(parse_size(self.calib_imgsz), 64)

    def images(self) -> List[str]:
        """Paths of the calibration images. Raises InputError if there are too few."""
        return choose_pictures(self.calib_path, self.calib_num, self.calib_seed)

    def facts(self, method: str, by: str) -> Dict[str, Any]:
        """How the ranges were found, for the side file of an engine."""
        return {
            "method": method, "by": by, "images": self.calib_num, "letterbox": self.calib_letterbox
        }  # fmt: skip


def calibration_batches(
    config: CalibrationConfig, source: OnnxFile, *, most: Optional[int] = None
) -> Tuple[Iterator[np.ndarray], int]:
    """(batches of calibration images, batch size).

    Args: most: images at a time at most, where the model takes any number.

    Raises InputError without enough images.
    """
    size = source.batch or min(config.calib_batch, config.calib_num, most or config.calib_batch)
    if source.batch is not None and config.calib_num % size:
        print("calibration: %d images in batches of %d (the model's own); the last is filled up "
              "with the first ones" % (config.calib_num, size))  # fmt: skip
    hw = config.image_hw(source)
    fixed = source.batch is not None
    return batches(config.images(), hw, size, letterboxed=config.calib_letterbox, fixed=fixed), size


def calibrate(
    config: CalibrationConfig, source: OnnxFile, *, version: str = ""
) -> Dict[str, float]:
    """Largest magnitudes of the model's tensors, from images, by ONNX Runtime on this CPU.

    Args: version: of the TensorRT that the cache is written for, empty: the oldest.

    Writes the cache, and returns what it holds.
    """
    method = config.method
    images, _ = calibration_batches(config, source, most=ONNX_RUNTIME_BATCH)
    model = runnable(source.model)
    histograms = activation_ranges.collect(model, images, source.graph.float_tensors())
    plan = qdq.usual_plan(model, source.graph, config.keep, hw=config.image_hw(source))
    amax = activation_ranges.choose(histograms, method, qdq.read_together(plan))
    path = config.cache_path(source)
    cache = make_cache(amax, "Entropy" if method == "Entropy" else "MinMax", version)
    write_cache(path, cache)
    print("calibration on %d images (%s): %s, %d tensors"
          % (config.calib_num, method, path, len(amax)))  # fmt: skip
    return cache.amax  # rounded as in the file, so that it is the same with and without one


def load_ranges(config: CalibrationConfig, source: OnnxFile) -> Dict[str, float]:
    """Largest magnitudes from the cache. Raises InputError for that of another model."""
    path = config.cache_path(source)
    cache = read_cache(path)
    check_match(cache, needed_tensors(source), path, onnx=source.path.name)
    form = "TRT-%s-%s" % (cache.version, cache.algorithm)
    print("calibration from %s (%d tensors, format %s); images are not looked at"
          % (path, len(cache.scales), form))  # fmt: skip
    if config.calib_method is not None:
        warnings.warn(
            "`calib_method` is not used, %s is there; `recalibrate` makes it anew" % path,
            InputWarning,
            stacklevel=2,
        )
    return cache.amax


def needed_tensors(source: OnnxFile) -> List[str]:
    """Tensors a cache must know for this model: inputs of convolutions that may be INT8."""
    final = [conv.output[0] for conv in source.graph.head]
    plan = qdq.make_plan(source.graph, qdq.depthwise(source.graph), final)
    return list(dict.fromkeys(conv.input[0] for conv in plan.convs))
