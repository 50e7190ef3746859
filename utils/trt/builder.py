"""ONNX -> engine: parse, set flags, precision, profile and timing cache, build.

What a version of TensorRT can do is asked of api.py.
"""

import contextlib
from pathlib import Path
from typing import (
    Any,
    Collection,
    Iterator,
    NamedTuple,
    Optional,
)

from utils import outputs, stopping
from utils.errors import InputError, one_line, warn
from utils.trt.api import Profile, Tensorrt
from utils.trt.calibrator import raise_calibration_error
from utils.trt.device_memory import DeviceMemory
from utils.trt.precision import constrain

# Bytes of GPU memory. TensorRT 8.5.3 with its libraries could not build s6 at 640 px with 1.5 GB.
SCARCE = 2 << 30


class ParsedNetwork(NamedTuple):
    """A parsed ONNX; builder and parser must live as long as the network."""

    definition: Any
    builder: Any
    parser: Any


def read_network(trt: Tensorrt, path: str, data: bytes) -> ParsedNetwork:
    """Parse a serialized ONNX.

    Args: path: for messages.

    Prints every error of the parser, then raises InputError.
    """
    module, log = trt.module, trt.log
    builder = _start_builder(trt)
    flags = 0
    explicit = getattr(module.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    if explicit is not None and trt.number[0] < 10:  # later it is the only mode
        flags |= 1 << int(explicit)
    definition = builder.create_network(flags)
    parser = module.OnnxParser(definition, log)
    with _quiet(log):  # each error comes once more, below
        parsed = parser.parse(data)
    if not parsed:
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        errors = errors or [log.reason()]
        for error in errors:
            print("[%s parser] %s" % (trt.name, error), flush=True)
        raise InputError(
            "`onnx` %s: %s cannot parse it (%d errors, printed above); first: %s"
            % (path, trt, len(errors), errors[0][:300])
        )
    return ParsedNetwork(definition, builder, parser)


def _start_builder(trt: Tensorrt) -> Any:
    """A builder for the current GPU. Raises InputError where there is none."""
    log = trt.log
    log.clear()
    try:
        return trt.module.Builder(log)
    except (TypeError, RuntimeError) as e:  # how pybind11 says that there is no CUDA
        raise InputError(
            "%s cannot start its builder; is there a CUDA GPU and a driver? (%s)"
            % (trt, log.errors[0] if log.errors else one_line(e, 120))
        ) from e


@contextlib.contextmanager
def _quiet(log: Any) -> Iterator[None]:
    """Errors inside are kept, and not printed."""
    log.quiet = True
    try:
        yield
    finally:
        log.quiet = False


def _parser_error(error: Any) -> str:
    text = " ".join(str(error.desc()).split())
    name = error.node_name() if hasattr(error, "node_name") else ""
    return "%s: %s" % (name, text) if name else "node %d: %s" % (error.node(), text)


class BuildSettings(NamedTuple):
    """How to build; `fp16`, `int8`, `calibrator` only where the precision is a flag."""

    fp16: bool = False
    int8: bool = False
    workspace_gb: float = 4.0
    profile: Optional[Profile] = None  # of a dynamic network
    calibrator: Any = None
    # names of nodes and tensors (of the ONNX) whose layers stay FP32, and FP16 instead of INT8
    float32: Collection[str] = ()
    not_int8: Collection[str] = ()
    obey: bool = True  # these are binding; else the builder may go by another precision
    opt_level: Optional[int] = None
    dla: Optional[int] = None  # core
    timing_cache: Optional[Path] = None  # read; None: none is used
    timing_named: bool = False  # by the user, whose file it may be
    layers: bool = False  # keep the details that `layer_table` reads
    fp16_asked: bool = True  # else FP16 is left out on a GPU that has none


class Built(NamedTuple):
    """What the builder returned."""

    plan: bytes
    timing_cache: Optional[bytes]


def build(
    trt: Tensorrt,
    network: ParsedNetwork,
    settings: BuildSettings,
    *,
    memory: Optional[DeviceMemory] = None,
) -> Built:
    """Build an engine. Raises InputError if this TensorRT or machine cannot.

    Args: memory: of the GPU, which is looked at if the build fails.
    """
    module, log = trt.module, trt.log
    config = network.builder.create_builder_config()
    config.set_memory_pool_limit(
        module.MemoryPoolType.WORKSPACE, int(settings.workspace_gb * (1 << 30))
    )
    flag = module.BuilderFlag
    if hasattr(flag, "TF32"):
        config.clear_flag(flag.TF32)  # FP32 means FP32
    _set_precision(trt, network, config, settings=settings)
    if settings.opt_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise InputError("`opt_level`: %s has none; 8.6 and newer do" % trt)
        config.builder_optimization_level = settings.opt_level
    if settings.dla is not None:
        _use_dla(trt, network, config, settings=settings)
    if settings.profile is not None:
        _add_profile(network, config, settings)
    cache = _timing_cache(trt, config, settings)
    if settings.layers:
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    log.clear()
    with stopping.at_once():
        plan = network.builder.build_serialized_network(network.definition, config)
    raise_calibration_error(settings.calibrator)  # the cause, where it is one
    if plan is None:
        hint = "" if memory is None else _memory_hint(memory)
        raise InputError("%s could not build the engine: %s%s" % (trt, log.reason(), hint))
    return Built(bytes(plan), _merged(trt, config, cache, path=settings.timing_cache))


def _memory_hint(memory: DeviceMemory) -> str:
    """What TensorRT does not say: without memory it names any step of a build, such as cuDNN's."""
    free = memory.free_bytes()
    if free is None or free >= SCARCE:
        return ""
    return (
        "; only %.1f GB of the memory of %s are free, which may be the cause: end other programs "
        "on this GPU" % (free / (1 << 30), memory.device_name)
    )


def check_timing_cache(trt: Tensorrt, path: Path) -> None:
    """Raise InputError for a file that a user named and that is no timing cache of this TensorRT
    and GPU, unless it may be replaced; for what takes minutes before it builds."""
    if not path.is_file() or outputs.writer().overwrite:
        return
    builder = _start_builder(trt)  # has to live as long as its config
    settings = BuildSettings(timing_cache=path, timing_named=True)
    _timing_cache(trt, builder.create_builder_config(), settings)


def _timing_cache(trt: Tensorrt, config: Any, settings: BuildSettings) -> Any:
    """The timing cache of a file, an empty one if there is no file; None without a path.

    Raises InputError for a file that was named and may be anything: it would be replaced.
    """
    path, log = settings.timing_cache, trt.log
    if path is None:
        return None
    known = path.read_bytes() if path.is_file() else b""
    log.clear()
    with _quiet(log):  # it is told below
        cache = config.create_timing_cache(known)
        taken = cache is not None and config.set_timing_cache(cache, False)
    # of a file of another kind TensorRT may also say so and go on with an empty cache
    if not taken or log.errors:
        if settings.timing_named and not outputs.writer().overwrite:
            raise InputError(
                "`timing_cache` %s: no timing cache of this TensorRT and GPU; name another file, "
                "or delete this one if it is an old timing cache" % path
            )
        warn("%s: no timing cache of this TensorRT and GPU; a new one is made" % path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _merged(trt: Tensorrt, config: Any, cache: Any, *, path: Optional[Path]) -> Optional[bytes]:
    """A timing cache with what another build has written to its file in the meantime."""
    if cache is None or path is None:
        return None
    if path.is_file():
        with _quiet(trt.log):  # of another kind: that was told before the build
            other = config.create_timing_cache(path.read_bytes())
            if other is not None:
                cache.combine(other, False)  # one of another GPU is left out
    return bytes(cache.serialize())


def _set_precision(
    trt: Tensorrt, network: ParsedNetwork, config: Any, *, settings: BuildSettings
) -> None:
    """Flags of 8.5 to 10.x; nothing to do where the ONNX is the precision."""
    if trt.typed:
        if settings.calibrator is not None:
            raise InputError("%s has no INT8 calibrators; use `quant` explicit" % trt)
        return
    flag = trt.module.BuilderFlag
    wished = settings.fp16 and not settings.fp16_asked
    if wished and not getattr(network.builder, "platform_has_fast_fp16", True):
        print("note: this GPU has no fast FP16; what is not INT8 is FP32")
        settings = settings._replace(fp16=False)
    for wanted, name in ((settings.fp16, "FP16"), (settings.int8, "INT8")):
        if not wanted:
            continue
        fast = getattr(network.builder, "platform_has_fast_" + name.lower(), True)
        if not fast:
            raise InputError("`%s`: this GPU has no fast %s; build without" % (name.lower(), name))
        config.set_flag(getattr(flag, name))
    if settings.calibrator is not None:
        config.int8_calibrator = settings.calibrator
    if settings.fp16 or settings.int8:
        rest = trt.module.float16 if settings.fp16 else trt.module.float32
        bound = constrain(network.definition, settings.float32, trt.module.float32)
        if settings.int8:
            bound += constrain(network.definition, settings.not_int8, rest)
        if bound and settings.obey:
            config.set_flag(flag.OBEY_PRECISION_CONSTRAINTS)
        elif bound:
            config.set_flag(flag.PREFER_PRECISION_CONSTRAINTS)


def _use_dla(
    trt: Tensorrt, network: ParsedNetwork, config: Any, *, settings: BuildSettings
) -> None:
    cores = int(getattr(network.builder, "num_DLA_cores", 0))
    if not 0 <= settings.dla < cores:  # type: ignore
        raise InputError("`dla` %s: this machine has %d DLA cores" % (settings.dla, cores))
    config.default_device_type = trt.module.DeviceType.DLA
    config.DLA_core = settings.dla
    config.set_flag(trt.module.BuilderFlag.GPU_FALLBACK)


def _add_profile(network: ParsedNetwork, config: Any, settings: BuildSettings) -> None:
    profile = network.builder.create_optimization_profile()
    name = network.definition.get_input(0).name
    assert settings.profile is not None
    profile.set_shape(name, *settings.profile)
    config.add_optimization_profile(profile)
    if settings.calibrator is not None:  # calibrates at the common shape of its own profile
        fixed = network.builder.create_optimization_profile()
        shape = (settings.calibrator.get_batch_size(), *settings.calibrator.image_shape)
        fixed.set_shape(name, shape, shape, shape)
        config.set_calibration_profile(fixed)
