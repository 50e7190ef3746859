"""INT8 of an engine: TensorRT's calibrator, our cache, or Q/DQ pairs, as this TensorRT can."""

import dataclasses
from typing import Any, Dict, Optional, Sequence, Tuple

from utils.errors import InputError
from utils.export.calibration import calibrate, calibration_batches, load_ranges, settle
from utils.export.engine_config import EngineConfig
from utils.export.int8 import warn_unfitted, with_pairs, write_onnx
from utils.export.onnx_file import OnnxFile
from utils.files import check_writable
from utils.quantization import qdq
from utils.quantization.cache import adapted, format_cache, parse_cache, read_cache, write_cache
from utils.quantization.cache_origin import write_origin
from utils.trt.api import Profile, Tensorrt
from utils.trt.calibrator import make_calibrator
from utils.trt.memory import open_memory


def quantized(
    config: EngineConfig, source: OnnxFile, trt: Tensorrt, *, profile: Optional[Profile]
) -> Tuple[Any, OnnxFile, Dict[str, Any]]:
    """(calibrator or None, the ONNX to build, facts for the side file) of INT8."""
    quant = config.quant or ("implicit" if trt.calibrates and not source.pixels else "explicit")
    if quant == "implicit" and source.pixels:
        raise InputError("`quant` implicit: %s has a uint8 input, which goes with `quant` explicit"
                         % source.path.name)  # fmt: skip
    if quant == "implicit" and not trt.calibrates:
        raise InputError("`quant` implicit: %s has no calibrators; use `quant` explicit" % trt)
    by = config.calib_by or ("tensorrt" if quant == "implicit" else "onnxruntime")
    if by == "tensorrt" and quant == "explicit":
        raise InputError("`calib_by` tensorrt goes with `quant` implicit")
    qdq.check_keep(source.graph, config.calibration.keep)
    settled = settle(config.calibration, source, by=config.calib_by)
    calibration, cached, images = settled[:3]
    config = dataclasses.replace(config, calibration=calibration)
    path = calibration.cache_path(source)
    facts: Dict[str, Any] = {"quantization": quant, "cache": path.name}
    if not cached:
        check_writable(path)
    if by == "tensorrt" and not cached:
        method = calibration.calib_method or "MinMax"
        if method not in ("MinMax", "Entropy"):
            raise InputError(
                "`calib_method` %s: TensorRT's calibrator knows MinMax and Entropy; add `calib_by` "
                "onnxruntime" % method
            )
        facts["calibration"] = calibration.facts(method, "TensorRT")
        calibrator = image_calibrator(config, source, trt, method=method, profile=profile)
        return calibrator, source, facts
    if cached:
        amax = load_ranges(calibration, source)
    else:
        # RTX counts its versions by itself and reads no caches
        version = trt.version if trt.name == "TensorRT" else ""
        amax = calibrate(calibration, source, version=version)
        facts["calibration"] = calibration.facts(calibration.method, "ONNX Runtime")
    if quant == "implicit":
        return cache_calibrator(config, source, trt, profile=profile), source, facts
    settled.say_folder()
    return None, explicit_model(config, source, amax, images=images), facts


def explicit_model(
    config: EngineConfig,
    source: OnnxFile,
    amax: Dict[str, float],
    *,
    images: Optional[Sequence[str]],
) -> OnnxFile:
    """The ONNX with Q/DQ pairs; X-INT8.onnx is written unless it is there.

    Args: images: paths, to fit weights and biases on; None: they stay.
    """
    if images is None:
        warn_unfitted(config.calibration)
    done = with_pairs(config.calibration, source, amax, images=images)
    target = source.path.with_name(source.path.stem + "-INT8.onnx")
    kept = target.exists()  # perhaps distilled, or tested: not ours to replace
    if not kept:
        write_onnx(target, done.model, source, fit=bool(images))
    print("%s: %d convolutions in INT8, %.1f %% of the multiplications"
          % (source.path.name if kept else target, done.convs, 100 * done.coverage))  # fmt: skip
    if kept:
        print("note: %s is there and stays as it is; this engine is built of pairs made anew. "
              "Build %s itself to use that file" % (target.name, target))  # fmt: skip
    return source._replace(model=done.model)


def calibrator_shape(
    config: EngineConfig, source: OnnxFile, profile: Optional[Profile]
) -> Tuple[int, ...]:
    """(B, 3, H, W) of a calibrator: that of the engine, since the GPU may be small."""
    size = source.batch or (profile.common[0] if profile is not None else 1)
    return (size, 3, *config.calibration.image_hw(source))


def cache_calibrator(
    config: EngineConfig, source: OnnxFile, trt: Tensorrt, *, profile: Optional[Profile]
) -> Any:
    """A calibrator that reads the cache and needs no images."""
    cache = read_cache(config.calibration.cache_path(source))
    content = format_cache(adapted(cache, trt.version, "MinMax"))
    shape = calibrator_shape(config, source, profile)
    return make_calibrator(
        trt,
        "MinMax",
        None,
        batches=None,
        batch_shape=shape,
        cache=content,
        on_cache=lambda data: None,
    )


def image_calibrator(
    config: EngineConfig,
    source: OnnxFile,
    trt: Tensorrt,
    *,
    method: str,
    profile: Optional[Profile],
) -> Any:
    """TensorRT's own calibrator over the calibration images; writes the cache."""
    path = config.calibration.cache_path(source)
    shape = calibrator_shape(config, source, profile)
    fixed = source._replace(batch=shape[0], hw=(shape[2], shape[3]))
    images, _ = calibration_batches(config.calibration, fixed)

    def keep(data: bytes) -> None:
        write_cache(path, parse_cache(data))
        write_origin(path, config.calibration.origin(source, method=method, by="tensorrt"))

    memory = open_memory(config.gpu_index)
    return make_calibrator(
        trt, method, memory, batches=images, batch_shape=shape, cache=None, on_cache=keep
    )
