"""X.onnx -> X.trt, X-FP16.trt or X-INT8.trt and their side files, with any supported TensorRT.

build_engine(EngineConfig("x.onnx", fp16=True))
"""

import collections
import contextlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from utils.errors import InputError, warn
from utils.export.engine_config import EngineConfig
from utils.export.engine_int8 import quantized
from utils.export.engine_shapes import channels_last, input_shapes
from utils.export.onnx_file import OnnxFile, read_onnx, refuse_for_int8
from utils.files import atomic_path, check_output, check_writable
from utils.graph.analysis import Graph
from utils.graph.fp16 import has_qdq, is_fp16, to_fp16
from utils.graph.nms import PLUGIN, has_efficientnms, swap_efficientnms
from utils.graph.pixels import add_pixels
from utils.pipeline import elapsed
from utils.quantization import qdq
from utils.quantization.cache_origin import origin_path
from utils.tables import markdown, write_csv
from utils.trt.api import Profile, Tensorrt, import_tensorrt
from utils.trt.builder import BuildSettings, build, check_timing_cache, read_network
from utils.trt.device_memory import DeviceMemory
from utils.trt.layers import layer_table
from utils.trt.memory import open_memory
from utils.trt.sidecar import info_path, onnx_metadata, sha256, write_info

if TYPE_CHECKING:
    from onnx import ModelProto

ATTENTION = ("MatMul", "Softmax")  # of imported models, no INT8: Q/DQ pairs leave it, too


class PreparedModel(NamedTuple):
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
    if config.int8 and not has_qdq(source.model):  # pairs need no calibration
        config.calibration.check_path(config.calibration.cache_path(source))
        config.calibration.check_size(source)
    profile = input_shapes(config, source)
    trt = import_tensorrt(config.verbose)
    memory = find_gpu(config, trt)
    if memory is not None and config.workspace * (1 << 30) > memory.total_bytes():
        raise InputError(
            "`workspace` %g: %s has %.1f GB of memory; choose less"
            % (config.workspace, memory.device_name, memory.total_bytes() / (1 << 30))
        )
    timing = timing_path(config, source, trt, memory=memory)
    prepared = prepare(config, source, trt, profile=profile)
    target = engine_path(source.path, prepared.precision)
    check_output(target)
    settings = BuildSettings(
        fp16=prepared.fp16 and not trt.typed,
        int8=prepared.int8 and not trt.typed,
        workspace_gb=config.workspace,
        profile=channels_last(profile) if source.pixels else profile,
        calibrator=prepared.calibrator,
        float32=prepared.float32,
        not_int8=prepared.not_int8,
        # TensorRT 8.5 cannot build Q/DQ pairs under binding precisions (filterQDQFormats)
        obey=not prepared.explicit,
        opt_level=config.opt_level,
        dla=config.dla,
        timing_cache=timing,
        timing_named=config.timing_cache is not None,
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
        built = build(trt, network, settings, memory=memory)
    info = side_file(source, trt, memory, profile=profile)
    info.update(precision=prepared.precision, bytes=len(built.plan), **prepared.how)
    with atomic_path(target) as tmp:  # the old pair stays until the new engine is whole
        tmp.write_bytes(built.plan)
        write_info(target, info)
    if timing is not None and built.timing_cache:
        with atomic_path(timing, replace=True) as tmp:
            tmp.write_bytes(built.timing_cache)
    if config.layers and memory is not None:
        write_layers(trt, built.plan, memory, target=target)
    size, spent = len(built.plan) / 1e6, time.monotonic() - started
    print("%s: %s, %s, %.1f MB, built in %.0f s" % (target, prepared.precision, trt, size, spent))
    return target


def prepare(
    config: EngineConfig, source: OnnxFile, trt: Tensorrt, *, profile: Optional[Profile]
) -> PreparedModel:
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
    return PreparedModel(
        data=_content(model, source.pixels),
        precision="INT8" if int8 else "FP16" if fp16 else "FP32",
        fp16=fp16,
        int8=int8,
        calibrator=calibrator,
        float32=float32,
        not_int8=() if explicit else not_int8,
        explicit=explicit,
        how=how,
    )


def _content(model: "ModelProto", pixels: bool) -> bytes:
    """The file that TensorRT parses. Args: pixels: with a uint8 input."""
    if pixels:
        add_pixels(model)
    return bytes(model.SerializeToString())


def round_weights(config: EngineConfig, source: OnnxFile, profile: Optional[Profile]) -> None:
    """Round the weights of a float32 model for FP16, in place, so that errors cancel.

    TensorRT then has nothing left to round. Raises InputError where the config asks for it and it
    cannot be done; otherwise a line says so.
    """
    from utils.quantization import adaptive_rounding

    print("rounding the weights so that errors cancel, a minute or two", flush=True)
    try:
        hw = source.hw if profile is None else (profile.common[2], profile.common[3])
        assert hw is not None  # a file without a size has a profile
        images = adaptive_rounding.sample_images(hw)
        adaptive_rounding.prepare(source.model, images, progress=True)
    except InputError as e:
        if config.round:
            raise InputError("`round` %s: %s" % (config.round, e)) from e
        print("weights are rounded to the nearest FP16: %s" % e)


def precise_names(
    model: "ModelProto", keep: Sequence[str]
) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """(names of the decode and NMS: FP32, names of what is no INT8), nodes and their outputs.

    Raises InputError for a `keep` that names nothing.
    """
    graph = Graph(model)
    qdq.check_keep(graph, keep)
    behind = [n for n in graph.nodes if id(n) in graph.decode]
    float32 = [name for n in behind for name in (n.name, *n.output) if name]
    words = list(keep) + qdq.depthwise(graph)
    kept = graph.head + [conv for conv in graph.convs if qdq.matches(conv, words)]
    kept += [n for n in graph.nodes if n.op_type in ATTENTION and id(n) not in graph.decode]
    return tuple(float32), tuple(name for n in kept for name in (n.name, *n.output) if name)


def engine_path(onnx: Path, precision: str) -> Path:
    """X.onnx -> X.trt, X-FP16.trt or X-INT8.trt; X-INT8.onnx -> X-INT8.trt."""
    suffix = "" if precision == "FP32" else "-" + precision
    stem = onnx.stem[: -len("-INT8")] if onnx.stem.endswith("-INT8") else onnx.stem
    return onnx.with_name(stem + suffix + ".trt")


def find_gpu(config: EngineConfig, trt: Tensorrt) -> Optional[DeviceMemory]:
    """Memory of the GPU to build for. TensorRT-RTX also builds without one: None."""
    try:
        return open_memory(config.gpu_index)
    except InputError:
        if trt.name == "TensorRT-RTX":
            if config.layers:
                raise
            print("no CUDA GPU: %s builds nevertheless, for every GeForce RTX" % trt)
            return None
        raise


def timing_path(
    config: EngineConfig, source: OnnxFile, trt: Tensorrt, *, memory: Optional[DeviceMemory]
) -> Optional[Path]:
    """Where the kernel timings are kept; None: nowhere. They hold for one version and GPU.

    Raises InputError for a file that the user named and TensorRT does not take, or that this build
    reads or writes as something else, also where files may be replaced.
    """
    if config.no_timing_cache:
        return None
    if trt.name == "TensorRT-RTX":
        if config.timing_cache is not None:
            warn("`timing_cache`: %s keeps none" % trt)
        return None
    assert memory is not None  # only RTX builds without a GPU
    if config.timing_cache is not None:
        check_writable(config.timing_cache)
        path = Path(config.timing_cache)
        _refuse_files_of_the_build(path, config, source)
        with memory.active():
            check_timing_cache(trt, path)
        return path
    name = "%s-%s-%s.timing" % (trt.name, trt.version, memory.device_name)
    path = Path(config.calibration.cache_dir) / re.sub(r"[^\w.-]+", "-", name)
    try:
        check_writable(path)
    except InputError as e:  # nobody asked for it
        warn("no kernel timings are kept: %s" % e)
        return None
    return path


def _refuse_files_of_the_build(path: Path, config: EngineConfig, source: OnnxFile) -> None:
    """Raise InputError for a timing cache at the place of the ONNX, engine or calibration cache."""
    engines = [engine_path(source.path, precision) for precision in ("FP32", "FP16", "INT8")]
    ranges = config.calibration.cache_path(source)
    quantised = source.path.with_name(source.path.stem + "-INT8.onnx")
    sides = [info_path(engine) for engine in engines] + [origin_path(ranges)]
    for used in [source.path, quantised, ranges, *engines, *sides]:
        if os.path.realpath(str(path)) == os.path.realpath(str(used)):
            what = "`onnx`" if used == source.path else "another file of this build"
            raise InputError("`timing_cache` %s: would overwrite %s" % (path, what))


def side_file(
    source: OnnxFile, trt: Tensorrt, memory: Optional[DeviceMemory], *, profile: Optional[Profile]
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


def write_layers(trt: Tensorrt, plan: bytes, memory: DeviceMemory, *, target: Path) -> None:
    """`X.trt.layers.csv`, and a line for each kind of layer and precision."""
    layers = layer_table(trt, plan, memory)
    rows = [
        [n.name, n.kind, " ".join(n.inputs), " ".join(n.outputs), "%.4f" % n.ms] for n in layers
    ]
    path = target.with_name(target.name + ".layers.csv")
    write_csv(path, ["layer", "kind", "inputs", "outputs", "ms"], rows)
    groups: Dict[Tuple[str, str, str], List[float]] = collections.defaultdict(list)
    for n in layers:
        groups[n.kind, (n.inputs or ["-"])[0], (n.outputs or ["-"])[0]].append(n.ms)
    table = [
        [*key, str(len(times)), "%.3f" % sum(times)]
        for key, times in sorted(groups.items(), key=lambda group: -sum(group[1]))
    ]
    print(markdown(["kind", "input", "output", "layers", "ms"], table), end="")
    reformats = sum(n.kind == "Reformat" for n in layers)
    print("%d layers, %d of them reformat: %s" % (len(layers), reformats, path))
