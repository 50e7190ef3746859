"""The ranges of a network's tensors: from calibration images, or from a cache."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from utils.errors import InputError, check_limits, warn
from utils.export.onnx_file import OnnxFile, runnable
from utils.pose.letterbox import parse_size, stride_multiple
from utils.quantization import activation_ranges, qdq
from utils.quantization.cache import check_match, make_cache, read_cache, write_cache
from utils.quantization.cache_origin import (
    Origin,
    images_digest,
    origin_path,
    read_origin,
    write_origin,
)
from utils.quantization.images import batches, choose_images
from utils.trt.sidecar import onnx_metadata, sha256
from utils.words import counted

CALIB_PATH, CALIB_NUM, CALIB_IMGSZ = "data/custom_kpts/images", 1024, (832,)  # where none is named
CALIBRATORS = ("tensorrt", "onnxruntime")
SETTINGS = ("calib_path", "calib_num", "calib_method", "calib_letterbox", "calib_seed")
METHODS = tuple(activation_ranges.METHODS)
DEFAULT_METHOD = "Foreground"  # of ONNX Runtime; TensorRT's own calibrators know the first two
ONNX_RUNTIME_BATCH = 8  # all activations of a batch are in memory


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """Which images calibrate a network and how. Raises InputError for values that cannot be.

    None: the value of the cache that is there, else the default.
    """

    calib_path: Optional[str] = None  # folder with its subfolders, or a list file [CALIB_PATH]
    calib_num: Optional[int] = None  # images, chosen at random [CALIB_NUM]
    calib_batch: int = 128  # images at a time; a static ONNX has its own batch
    calib_imgsz: Optional[Sequence[int]] = None  # px, one number or height width [CALIB_IMGSZ];
    # a static ONNX has its own
    calib_method: Optional[str] = None  # one of METHODS [the default of who calibrates]
    calib_letterbox: Optional[bool] = None  # prepared as detect does [True], or squeezed
    calib_seed: Optional[int] = None  # [0]
    cache_dir: str = "caches"  # folder of `<onnx stem>.cache`
    keep: Sequence[str] = ()  # further convolutions in floating point, by parts of their names
    recalibrate: bool = False  # also where a cache is there

    def __post_init__(self) -> None:
        check_limits(self, {"calib_num": (1, 1000000), "calib_batch": (1, 4096)})
        if self.calib_imgsz is not None:
            parse_size(self.calib_imgsz, "calib_imgsz")
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

    @property
    def count(self) -> int:
        """Number of calibration images."""
        return CALIB_NUM if self.calib_num is None else self.calib_num

    @property
    def folder(self) -> str:
        """Folder or list file of the calibration images."""
        return self.calib_path or CALIB_PATH

    @property
    def letterboxed(self) -> bool:
        """Whether calibration images are letterboxed."""
        return self.calib_letterbox is not False

    def cache_path(self, source: OnnxFile) -> Path:
        """`<cache_dir>/<onnx stem>.cache`."""
        return Path(self.cache_dir) / (source.path.stem + ".cache")

    def image_hw(self, source: OnnxFile) -> Tuple[int, int]:
        """(height, width) of calibration images: the model's own if it is static."""
        if source.hw is not None:
            return source.hw
        return stride_multiple(parse_size(self.calib_imgsz or CALIB_IMGSZ), 64)

    def check_size(self, source: OnnxFile) -> None:
        """Warn of a calib_imgsz that is named and not the size of a static ONNX."""
        if source.hw is None or self.calib_imgsz is None:
            return
        asked = parse_size(self.calib_imgsz, "calib_imgsz")
        if source.hw not in (asked, stride_multiple(asked, 64)):
            warn(
                "`calib_imgsz` %d %d is ignored: %s is static, %d %d, and calibrates at that size"
                % (*asked, source.path.name, *source.hw)
            )

    def check_path(self, cache: Optional[Path] = None) -> None:
        """Raises InputError for a calib_path that is named and not there.

        Args: cache: one that needs no images. The folder it was made from may be on another
        computer, so that the command that made it can be given here, too.
        """
        if self.calib_path is None or self.has_images():
            return
        known = cache is not None and cache.is_file() and not self.recalibrate
        if cache is not None and known:
            origin = read_origin(cache)
            same = os.path.normpath(self.calib_path)
            if origin is None or os.path.normpath(origin.calib_path) == same:
                return
        raise InputError(
            "`calib_path` %s: no such file or folder%s"
            % (self.calib_path, "; without it the ranges come from %s" % cache if known else "")
        )

    def has_images(self) -> bool:
        """Whether calibration images are named and there."""
        return self.calib_path is not None and Path(self.calib_path).exists()

    def images(self) -> List[str]:
        """Paths of the calibration images. Raises InputError if there are too few."""
        return choose_images(self.folder, self.count, self.calib_seed or 0)

    def images_if_there(self) -> Optional[List[str]]:
        """The same; None where they are not on this machine. Raises InputError if there are too
        few in the folder that is named."""
        if self.calib_path is not None:
            return self.images() if self.has_images() else None
        try:
            return self.images()
        except InputError:  # nobody named the usual folder
            return None

    def facts(self, method: str, by: str) -> Dict[str, Any]:
        """How the ranges were found, for the side file of an engine."""
        return {"method": method, "by": by, "images": self.count, "letterbox": self.letterboxed}

    def origin(self, source: OnnxFile, *, method: str, by: str) -> Origin:
        """The same in full, for the side file of the cache. Args: by: one of CALIBRATORS."""
        return Origin(
            onnx_sha256=sha256(source.data),
            imgsz=self.image_hw(source),
            calib_method=method,
            calib_by=by,
            calib_path=self.folder,
            calib_num=self.count,
            calib_letterbox=self.letterboxed,
            calib_seed=self.calib_seed or 0,
            images_sha256=images_digest(self.images(), self.folder),
        )


class Settled(NamedTuple):
    """What a calibration is to be, after a look at the cache."""

    config: CalibrationConfig  # with what it left open and the cache knows
    cached: bool  # the ranges are those of the cache; else they are to be collected
    images: Optional[List[str]]  # for the fit of weights; None: not on this machine
    recorded: str = ""  # the side file that names the folder of the images, where nobody did

    def say_folder(self) -> None:
        """Print a line about images that nobody named."""
        if self.recorded and self.images:
            print("calibration images: %s, as %s says" % (self.config.calib_path, self.recorded))


def settle(config: CalibrationConfig, source: OnnxFile, *, by: Optional[str] = None) -> Settled:
    """Decide whether the ranges come from the cache.

    Args: by: who has to have collected them, one of CALIBRATORS, None: any.

    They do where the cache is there and was made from this ONNX at this size and as the config asks
    for; where it was not, new ones are to be collected from the images that are named. Raises
    InputError where none are, or too few. Warns of a cache of which nothing is known, and of a
    folder that is named, not there and not needed.
    """
    path = config.cache_path(source)
    if config.recalibrate or not path.is_file():
        return Settled(config, cached=False, images=config.images())
    origin = read_origin(path)
    if origin is None:
        read_cache(path)  # what is no cache is that error, and no warning before it
        warn(
            "%s: no %s that belongs to it, so nobody checked that these ranges are of this %s and "
            "its size; `recalibrate` makes them anew"
            % (path, origin_path(path).name, source.path.name)
        )
        return Settled(config, cached=True, images=config.images_if_there())
    reason = _difference(config, source, origin, by=by)
    if reason is None:
        known = {n: getattr(origin, n) for n in SETTINGS if getattr(config, n) is None}
        if source.hw is None:
            known["calib_imgsz"] = origin.imgsz
        if config.calib_path is not None and not config.has_images():
            warn(
                "`calib_path` %s: not here; the ranges of %s need no images"
                % (config.calib_path, path)
            )
        recorded = "" if config.calib_path is not None else str(origin_path(path))
        config = dataclasses.replace(config, **known)
        images = _same_images(config, origin)
        return Settled(config, cached=True, images=images, recorded=recorded)
    if not config.has_images():
        raise InputError(
            "%s: %s; name images that are here (`calib_path`) to calibrate again, or another "
            "`cache_dir`" % (path, reason)
        )
    images = config.images()
    warn("%s: %s; calibrating again" % (path, reason))
    return Settled(config, cached=False, images=images)


def _difference(
    config: CalibrationConfig, source: OnnxFile, origin: Origin, *, by: Optional[str]
) -> Optional[str]:
    """What the origin of a cache and a config do not agree in, in words; None: nothing."""
    if origin.onnx_sha256 != sha256(source.data):
        return "made from another %s than this one" % source.path.name
    if (source.hw or config.calib_imgsz) and config.image_hw(source) != origin.imgsz:
        return "made at %dx%d, expected %dx%d" % (*origin.imgsz, *config.image_hw(source))
    for name in SETTINGS:
        asked = getattr(config, name)
        if name != "calib_path" and asked not in (None, getattr(origin, name)):
            return "made with `%s` %s, not %s" % (name, getattr(origin, name), asked)
    if by not in (None, origin.calib_by):
        return "made with `calib_by` %s, not %s" % (origin.calib_by, by)
    if config.has_images():
        number, seed = origin.calib_num, origin.calib_seed
        known = dataclasses.replace(config, calib_num=number, calib_seed=seed)
        if _same_images(known, origin) is None:
            return "made from other images than those in %s" % config.calib_path
    return None


def _same_images(config: CalibrationConfig, origin: Origin) -> Optional[List[str]]:
    """The images of a calibration where they are as they were, else None."""
    try:
        paths = config.images()
    except InputError:
        return None
    same = images_digest(paths, config.folder) == origin.images_sha256
    return paths if same else None


def calibration_batches(
    config: CalibrationConfig, source: OnnxFile, *, most: Optional[int] = None
) -> Tuple[Iterator[np.ndarray], int]:
    """(batches of calibration images, batch size).

    Args: most: images at a time at most, where the model takes any number.

    Raises InputError without enough images.
    """
    size = source.batch or min(config.calib_batch, config.count, most or config.calib_batch)
    hw = config.image_hw(source)
    exported = onnx_metadata(source.model).get("imgsz", list(hw))
    more = "" if exported == list(hw) else ", the export was at %dx%d" % tuple(exported)
    many = counted(config.count, "image")
    print("calibrating on %s at %dx%d px%s" % (many, *hw, more), flush=True)
    if source.batch is not None and config.count % size:
        print("calibration: %d images in batches of %d (the model's own); the last is filled up "
              "with the first ones" % (config.count, size))  # fmt: skip
    fixed = source.batch is not None
    return batches(config.images(), hw, size, letterboxed=config.letterboxed, fixed=fixed), size


def calibrate(
    config: CalibrationConfig, source: OnnxFile, *, version: str = ""
) -> Dict[str, float]:
    """Largest magnitudes of the model's tensors, from images, by ONNX Runtime on this CPU.

    Args: version: of the TensorRT that the cache is written for, empty: the oldest.

    Writes the cache and its side file, and returns what the cache holds.
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
    write_origin(path, config.origin(source, method=method, by="onnxruntime"))
    print("calibration on %s (%s): %s, %d tensors"
          % (counted(config.count, "image"), method, path, len(amax)))  # fmt: skip
    return cache.amax  # rounded as in the file, so that it is the same with and without one


def load_ranges(config: CalibrationConfig, source: OnnxFile) -> Dict[str, float]:
    """Largest magnitudes from the cache. Raises InputError for that of another model."""
    path = config.cache_path(source)
    cache = read_cache(path)
    check_match(cache, needed_tensors(source), path, onnx=source.path.name)
    form = "TRT-%s-%s" % (cache.version, cache.algorithm)
    origin = read_origin(path)
    how = ""
    if origin is not None:
        many = counted(origin.calib_num, "image")
        how = ", %s on %s at %dx%d" % (origin.calib_method, many, *origin.imgsz)
    print("calibration from %s (%d tensors, format %s%s)"
          % (path, len(cache.scales), form, how))  # fmt: skip
    return cache.amax


def needed_tensors(source: OnnxFile) -> List[str]:
    """Tensors a cache must know for this model: inputs of convolutions that may be INT8."""
    final = [conv.output[0] for conv in source.graph.head]
    plan = qdq.make_plan(source.graph, qdq.depthwise(source.graph), final)
    return list(dict.fromkeys(conv.input[0] for conv in plan.convs))
