"""X.onnx -> X.trt, X-FP16.trt or X-INT8.trt and their side files, with any supported TensorRT.

build_engine(EngineConfig("x.onnx", fp16=True))
"""

import collections
import contextlib
import dataclasses
import re
import time
import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from utils.device import parse_device
from utils.errors import InputError, InputWarning
from utils.export.calibration import (
    CalibrationConfig,
    calibrate,
    calibration_batches,
    load_ranges,
    settle,
)
from utils.export.int8 import with_pairs, write_onnx
from utils.export.onnx_file import OnnxFile, read_onnx, refuse_for_int8
from utils.files import atomic_path, check_output, check_writable
from utils.graph.analysis import Graph
from utils.graph.fp16 import has_qdq, is_fp16, to_fp16
from utils.graph.nms import PLUGIN, has_efficientnms, swap_efficientnms
from utils.pipeline import elapsed
from utils.pose.letterbox import parse_size, stride_multiple
from utils.quantization import qdq
from utils.quantization.cache import adapted, format_cache, parse_cache, read_cache, write_cache
from utils.quantization.cache_origin import write_origin
from utils.tables import markdown, write_csv
from utils.trt.api import Profile, Tensorrt, import_tensorrt
from utils.trt.builder import BuildSettings, build, read_network
from utils.trt.calibrator import make_calibrator
from utils.trt.layers import layer_table
from utils.trt.memory import open_memory
from utils.trt.sidecar import onnx_metadata, sha256, write_info

ROUND = ("cancel", "nearest")
QUANT = ("implicit", "explicit")
MAX_WORKSPACE_GB = 1024


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """What `build_engine` builds. Raises InputError for values that cannot be."""

    onnx: str
    batch_size: Optional[int] = None  # only for a dynamic ONNX [1]
    device: str = "0"  # GPU index
    fp16: bool = False
    int8: bool = False
    round: Optional[str] = None  # of FP16 weights, one of ROUND [cancel where it can be done]
    workspace: float = 4.0  # GB of GPU memory the builder may use
    verbose: bool = False
    # a range of sizes and batches, only for a dynamic ONNX
    dynamic: bool = False
    min_batch: Optional[int] = None  # [1]
    opt_batch: Optional[int] = None  # [batch_size]
    max_batch: Optional[int] = None  # [batch_size]
    min_size: Optional[Sequence[int]] = None  # px, one number or height width [one stride]
    opt_size: Optional[Sequence[int]] = None  # [that of the export]
    max_size: Optional[Sequence[int]] = None  # [opt_size]
    calibration: CalibrationConfig = CalibrationConfig()
    quant: Optional[str] = None  # one of QUANT [what this TensorRT can, implicit first]
    calib_by: Optional[str] = None  # one of CALIBRATORS [tensorrt if implicit, else onnxruntime]
    timing_cache: Optional[str] = None  # file [one in cache_dir, named after TensorRT and GPU]
    no_timing_cache: bool = False
    layers: bool = False  # write X.trt.layers.csv
    opt_level: Optional[int] = None  # 0 to 5, from TensorRT 8.6 on [TensorRT's own, 3]
    dla: Optional[int] = None  # deep learning accelerator of a Jetson

    def __post_init__(self) -> None:
        for name in ("batch_size", "min_batch", "opt_batch", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError("`%s` %d: expected at least 1" % (name, value))
        if not 0 < self.workspace <= MAX_WORKSPACE_GB:
            raise InputError(
                "`workspace` %g: expected GB, above 0 and up to %d"
                % (self.workspace, MAX_WORKSPACE_GB)
            )
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise InputError("`opt_level` %d: expected 0 to 5" % self.opt_level)
        if self.dla is not None and self.dla < 0:
            raise InputError("`dla` %d: expected the number of an accelerator, 0 or 1" % self.dla)
        if self.dla is not None and not (self.fp16 or self.int8):
            raise InputError(
                "`dla`: the accelerator computes in FP16 or INT8; add `fp16` or `int8`"
            )
        if self.round and (self.int8 or not self.fp16):
            raise InputError("`round` goes with `fp16`, without `int8`")
        if not self.dynamic:
            for name in ("min_batch", "opt_batch", "max_batch", "min_size", "max_size"):
                if getattr(self, name) is not None:
                    raise InputError("`%s` goes with `dynamic`" % name)
        if self.timing_cache and self.no_timing_cache:
            raise InputError("`timing_cache` and `no_timing_cache`: one of them")
        if (self.quant or self.calib_by) and not self.int8:
            raise InputError("`quant` and `calib_by` go with `int8`")
        self.gpu_index  # noqa: B018  # raises

    @property
    def gpu_index(self) -> int:
        """`device` as an index. Raises InputError for `cpu`."""
        gpu = parse_device(self.device)
        if gpu is not None and gpu < 0:
            raise InputError("`device` %s: TensorRT builds for a GPU" % self.device)
        return gpu or 0


class Prepared(NamedTuple):
    """What goes to TensorRT."""

    data: bytes  # the ONNX
    precision: str  # FP32, FP16, INT8
    fp16: bool
    int8: bool
    calibrator: Any
    float32: Tuple[str, ...]  # names whose layers stay FP32
    not_int8: Tuple[str, ...]
    explicit: bool  # Q/DQ pairs say what is INT8
    how: Dict[str, Any]  # for the side file


def build_engine(config: EngineConfig) -> Path:
    """Build the engine and its side file beside the ONNX; the engine's path.

    Raises InputError for what this TensorRT, GPU or network cannot do. An older engine stays then.
    """
    source = read_onnx(config.onnx)
    profile = input_shapes(config, source)
    trt = import_tensorrt(config.verbose)
    memory = find_gpu(config, trt)
    if memory is not None and config.workspace * (1 << 30) > memory.total_bytes():
        raise InputError(
            "`workspace` %g: %s has %.1f GB of memory; choose less"
            % (config.workspace, memory.device_name, memory.total_bytes() / (1 << 30))
        )
    timing = timing_path(config, trt, memory)
    prepared = prepare(config, source, trt, profile=profile)
    target = engine_path(source.path, prepared.precision)
    check_output(target)
    settings = BuildSettings(
        fp16=prepared.fp16 and not trt.typed,
        int8=prepared.int8 and not trt.typed,
        workspace_gb=config.workspace,
        profile=profile,
        calibrator=prepared.calibrator,
        float32=prepared.float32,
        not_int8=prepared.not_int8,
        # TensorRT 8.5 cannot build Q/DQ pairs under binding precisions (filterQDQFormats)
        obey=not prepared.explicit,
        opt_level=config.opt_level,
        dla=config.dla,
        timing_cache=timing,
        layers=config.layers,
        fp16_asked=config.fp16 or is_fp16(source.model),
    )
    known = timing is not None and timing.is_file()
    print("building %s with %s; %s" % (target, trt, "kernel timings from %s" % timing if known
          else "the first build on a GPU takes minutes"), flush=True)  # fmt: skip
    started = time.monotonic()
    # The builder takes the GPU that is current, which without this is the first one.
    with memory.active() if memory is not None else contextlib.nullcontext(), elapsed("build"):
        network = read_network(trt, config.onnx, prepared.data)
        built = build(trt, network, settings)
    info = side_file(source, trt, memory, profile=profile)
    info.update(precision=prepared.precision, bytes=len(built.plan), **prepared.how)
    with atomic_path(target) as tmp:  # the old pair stays until the new engine is whole
        tmp.write_bytes(built.plan)
        write_info(target, info)
    if timing is not None and built.timing_cache:
        with atomic_path(timing, replace=True) as tmp:
            tmp.write_bytes(built.timing_cache)
    if config.layers:
        write_layers(trt, built.plan, memory, target=target)
    size, spent = len(built.plan) / 1e6, time.monotonic() - started
    print("%s: %s, %s, %.1f MB, built in %.0f s" % (target, prepared.precision, trt, size, spent))
    return target


def input_shapes(config: EngineConfig, source: OnnxFile) -> Optional[Profile]:
    """The Profile of the engine, None for a static ONNX. Raises InputError."""
    name = source.path.name
    if source.batch is not None and source.hw is not None:
        _refuse_for_static(config, source)
        return None
    _refuse_static_part(config, source)
    known = onnx_metadata(source.model)
    stride = known.get("stride", 64)

    def size(values: Any, default: Any, parameter: str) -> Tuple[int, int]:
        hw = default if values is None else parse_size(values)
        if stride_multiple(hw, stride) != hw:
            raise InputError("`%s` %d %d: expected multiples of %d" % (parameter, *hw, stride))
        return hw

    if config.opt_size is None and source.hw is None and "imgsz" not in known:
        raise InputError("`opt_size`: %s does not say for which size; name one" % name)
    middle = source.hw or size(config.opt_size, known.get("imgsz"), "opt_size")
    batch = source.batch or config.batch_size or 1
    if not config.dynamic:
        return Profile(*[(batch, 3) + middle] * 3)
    smallest = source.hw or (min(stride, middle[0]), min(stride, middle[1]))
    low = source.hw or size(config.min_size, smallest, "min_size")
    high = source.hw or size(config.max_size, middle, "max_size")
    batches = [config.min_batch or 1, config.opt_batch or batch, config.max_batch or batch]
    batches[1] = config.opt_batch or min(max(batch, batches[0]), batches[2])
    if source.batch is not None:
        batches = [source.batch] * 3
    shapes = [(b, 3) + hw for b, hw in zip(batches, (low, middle, high))]
    if any(a > b for x, y in zip(shapes, shapes[1:]) for a, b in zip(x, y)):
        raise InputError(
            "`min_size`, `opt_size`, `max_size` and the batches must not shrink: %s"
            % ", ".join("x".join(map(str, s)) for s in shapes)
        )
    return Profile(*shapes)


def _refuse_for_static(config: EngineConfig, source: OnnxFile) -> None:
    """Raise InputError for a parameter that a static ONNX does not vary in."""
    name = source.path.name
    if config.dynamic:
        raise InputError("`dynamic`: %s is static; export it with `dynamic`" % name)
    if config.batch_size not in (None, source.batch):
        raise InputError(
            "`batch_size` %d: %s is static, batch %d; drop it, or export the model again with "
            "`batch_size` %d or `dynamic`"
            % (config.batch_size, name, source.batch, config.batch_size)  # type: ignore
        )
    if config.opt_size and tuple(parse_size(config.opt_size)) != source.hw:
        raise InputError("`opt_size`: %s is static, %d %d" % ((name,) + source.hw))  # type: ignore


def _refuse_static_part(config: EngineConfig, source: OnnxFile) -> None:
    """Raise InputError for a parameter that asks a half-static ONNX for what it does not vary in.

    Ours vary in all; other exporters also make a dynamic batch of one size, or the reverse.
    """
    name = source.path.name
    for key in ("batch_size", "min_batch", "opt_batch", "max_batch"):
        if source.batch is not None and getattr(config, key) not in (None, source.batch):
            raise InputError(
                "`%s` %d: the batch of %s is static, %d"
                % (key, getattr(config, key), name, source.batch)
            )
    for key in ("min_size", "opt_size", "max_size"):
        values = getattr(config, key)
        if source.hw is not None and values and tuple(parse_size(values)) != source.hw:
            raise InputError("`%s`: the size of %s is static, %d %d" % (key, name, *source.hw))


def prepare(
    config: EngineConfig, source: OnnxFile, trt: Tensorrt, *, profile: Optional[Profile]
) -> Prepared:
    """Choose the precision and make the ONNX this TensorRT needs for it."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    if has_efficientnms(model) and not trt.has_plugin(PLUGIN):
        swap_efficientnms(model)
        print("%s has no EfficientNMS plugin: its NMS is replaced by standard ops" % trt)
    source = source._replace(model=model)
    pairs = has_qdq(model)
    if config.quant == "implicit" and pairs:
        raise InputError(
            "`quant` implicit: %s has Q/DQ pairs; name the ONNX it was made of" % source.path.name
        )
    int8 = config.int8 or pairs
    fp16 = config.fp16 or is_fp16(model) or int8  # INT8 leaves the rest to FP16
    calibrator: Any = None
    how: Dict[str, Any] = {}
    if config.int8 and not pairs:
        refuse_for_int8(source)
        calibrator, source, how = quantized(config, source, trt, profile=profile)
        model = source.model
    elif int8:
        how = {"quantization": "explicit"}
        if not config.int8:
            print("%s has Q/DQ pairs: building INT8, the rest in FP16" % source.path.name)
    elif fp16 and not config.fp16:
        print("%s has FP16 weights: building FP16" % source.path.name)
    if fp16 and not int8 and not is_fp16(model) and config.round != "nearest":
        round_weights(config, source, profile)
    float32, not_int8 = precise_names(model, config.calibration.keep)
    if trt.typed and fp16:
        to_fp16(model)
    explicit = how.get("quantization") == "explicit"
    return Prepared(
        data=model.SerializeToString(),
        precision="INT8" if int8 else "FP16" if fp16 else "FP32",
        fp16=fp16,
        int8=int8,
        calibrator=calibrator,
        float32=float32,
        not_int8=() if explicit else not_int8,
        explicit=explicit,
        how=how,
    )


def round_weights(config: EngineConfig, source: OnnxFile, profile: Optional[Profile]) -> None:
    """Round the weights of a float32 model for FP16, in place, so that errors cancel.

    TensorRT then has nothing left to round. Raises InputError where the config asks for it and it
    cannot be done; otherwise a line says so.
    """
    from utils.quantization import adaptive_rounding

    print("rounding the weights so that errors cancel, a minute or two", flush=True)
    try:
        hw = source.hw if profile is None else profile.common[2:]
        adaptive_rounding.prepare(source.model, adaptive_rounding.sample_images(hw))
    except InputError as e:
        if config.round:
            raise InputError("`round` %s: %s" % (config.round, e)) from e
        print("weights are rounded to the nearest FP16: %s" % e)


def precise_names(model: Any, keep: Sequence[str]) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """(names of the decode and NMS: FP32, names of what is no INT8), nodes and their outputs.

    Raises InputError for a `keep` that names nothing.
    """
    graph = Graph(model)
    qdq.check_keep(graph, keep)
    behind = [n for n in graph.nodes if id(n) in graph.decode]
    float32 = [name for n in behind for name in (n.name, *n.output) if name]
    words = list(keep) + qdq.depthwise(graph)
    convs = graph.head + [conv for conv in graph.convs if qdq.matches(conv, words)]
    return tuple(float32), tuple(name for c in convs for name in (c.name, *c.output) if name)


def quantized(
    config: EngineConfig, source: OnnxFile, trt: Tensorrt, *, profile: Optional[Profile]
) -> Tuple[Any, OnnxFile, Dict[str, Any]]:
    """(calibrator or None, the ONNX to build, facts for the side file) of INT8."""
    quant = config.quant or ("implicit" if trt.calibrates else "explicit")
    if quant == "implicit" and not trt.calibrates:
        raise InputError("`quant` implicit: %s has no calibrators; use `quant` explicit" % trt)
    by = config.calib_by or ("tensorrt" if quant == "implicit" else "onnxruntime")
    if by == "tensorrt" and quant == "explicit":
        raise InputError("`calib_by` tensorrt goes with `quant` implicit")
    calibration, cached, images = settle(config.calibration, source, by=config.calib_by)
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
        warnings.warn("weights and biases are not fitted again: that needs the calibration images "
                      "(`calib_path`)", InputWarning, stacklevel=2)  # fmt: skip
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


def engine_path(onnx: Path, precision: str) -> Path:
    """X.onnx -> X.trt, X-FP16.trt or X-INT8.trt; X-INT8.onnx -> X-INT8.trt."""
    suffix = "" if precision == "FP32" else "-" + precision
    stem = onnx.stem[: -len("-INT8")] if onnx.stem.endswith("-INT8") else onnx.stem
    return onnx.with_name(stem + suffix + ".trt")


def find_gpu(config: EngineConfig, trt: Tensorrt) -> Optional[Any]:
    """Memory of the GPU to build for. TensorRT-RTX also builds without one: None."""
    try:
        return open_memory(config.gpu_index)
    except InputError:
        if trt.name == "TensorRT-RTX":
            print("no CUDA GPU: %s builds nevertheless, for every GeForce RTX" % trt)
            return None
        raise


def timing_path(config: EngineConfig, trt: Tensorrt, memory: Any) -> Optional[Path]:
    """Where the kernel timings are kept; None: nowhere. They hold for one version and GPU."""
    if config.no_timing_cache:
        return None
    if trt.name == "TensorRT-RTX":
        if config.timing_cache is not None:
            warnings.warn("`timing_cache`: %s keeps none" % trt, InputWarning, stacklevel=2)
        return None
    if config.timing_cache is not None:
        check_writable(config.timing_cache)
        return Path(config.timing_cache)
    name = "%s-%s-%s.timing" % (trt.name, trt.version, memory.device_name)
    path = Path(config.calibration.cache_dir) / re.sub(r"[^\w.-]+", "-", name)
    try:
        check_writable(path)
    except InputError as e:  # nobody asked for it
        warnings.warn("no kernel timings are kept: %s" % e, InputWarning, stacklevel=2)
        return None
    return path


def side_file(
    source: OnnxFile, trt: Tensorrt, memory: Any, *, profile: Optional[Profile]
) -> Dict[str, Any]:
    """What an engine cannot say of itself, see utils/trt/sidecar.py."""
    info = onnx_metadata(source.model)
    info.update(
        runtime=trt.name,
        version=trt.version,
        gpu=memory.device_name if memory is not None else None,
        onnx=str(source.path),
        onnx_sha256=sha256(source.data),
    )
    if profile is not None:
        info["profile"] = [list(shape) for shape in profile]
    if source.hw is None and profile is not None:
        info["imgsz"] = list(profile.common[2:])
    return info


def write_layers(trt: Tensorrt, plan: bytes, memory: Any, *, target: Path) -> None:
    """`X.trt.layers.csv`, and a line for each kind of layer and precision."""
    layers = layer_table(trt, plan, memory)
    rows = [[n.name, n.kind, " ".join(n.inputs), " ".join(n.outputs)] for n in layers]
    path = target.with_name(target.name + ".layers.csv")
    write_csv(path, ["layer", "kind", "inputs", "outputs"], rows)
    counts = collections.Counter(
        (n.kind, (n.inputs or ["-"])[0], (n.outputs or ["-"])[0]) for n in layers
    )
    table: List[List[str]] = [[*key, str(count)] for key, count in counts.most_common()]
    print(markdown(["kind", "input", "output", "layers"], table), end="")
    reformats = sum(n.kind == "Reformat" for n in layers)
    print("%d layers, %d of them reformat: %s" % (len(layers), reformats, path))
