"""TensorRT 8.5, 8.6, 10.x, 11.x and TensorRT-RTX behind one interface.

    trt = import_tensorrt()
    network = read_network(trt, "x.onnx", data)
    plan = build(trt, network, BuildSettings(fp16=True))
    engine = Engine(trt, plan, open_memory(0))
    outputs = engine({"input": images})

Everything that depends on the version is in this module. Up to 10.x precisions are flags of the
builder, and INT8 ranges may come from a calibrator; from 11 on (and in TensorRT-RTX) the types in
the ONNX are the precision. No literal enum values: they changed their meaning between majors.
"""

import json
import re
import threading
from pathlib import Path
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

import numpy as np

from utils.errors import InputError, one_line

OLDEST = (8, 5)
INSTALL = (
    "TensorRT is not installed (%s); on a PC: pip install tensorrt (GeForce RTX cards also: "
    "tensorrt-rtx-cu13); on a Jetson it comes with JetPack: sudo apt install "
    "python3-libnvinfer-dev, and python3 -m venv --system-site-packages"
)
LIBRARY = (
    "TensorRT is installed, but a library it needs is missing (%s); add its folder to "
    "LD_LIBRARY_PATH (TensorRT 8.5 and 8.6 need cuBLAS 11 and cuDNN 8 of CUDA 11)"
)
# By name: `trt.nptype` of 8.5 needs np.bool, which NumPy 1.24 has no more.
DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}
FLOATS = ("FLOAT", "HALF")
RUNS_BEFORE_GRAPH = 2  # sizes that come once or twice are not worth a recording
Shape = Tuple[int, ...]


class Tensorrt:
    """An imported TensorRT and what it can do.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`. name, version: for people. number: (major, minor).
        typed: precision comes from the types in the ONNX alone (11.x, RTX).
        calibrates: has INT8 calibrators (8.5 to 10.x).
        log: messages of the libraries.
    """

    def __init__(self, module: Any, verbose: bool = False):
        self.module = module
        self.name = "TensorRT-RTX" if module.__name__ == "tensorrt_rtx" else "TensorRT"
        self.version = str(module.__version__)
        self.number = tuple(int(w) for w in self.version.split(".")[:2])
        if self.name == "TensorRT" and self.number < OLDEST:
            raise InputError(
                "TensorRT %s is too old: 8.5 (JetPack 5.1) or newer is needed" % self.version
            )
        self.typed = not hasattr(module.BuilderFlag, "FP16")
        self.calibrates = hasattr(module, "IInt8MinMaxCalibrator") and not self.typed
        self.log = make_log(module, verbose)
        module.init_libnvinfer_plugins(self.log, "")

    def __str__(self) -> str:
        return "%s %s" % (self.name, self.version)

    def has_plugin(self, name: str) -> bool:
        """Whether the library registers a plugin of that name."""
        registry = self.module.get_plugin_registry()
        creators: List[Any] = []
        for attribute in ("plugin_creator_list", "all_creators"):
            creators += list(getattr(registry, attribute, None) or [])
        return any(creator.name == name for creator in creators)


def import_tensorrt(verbose: bool = False) -> Tensorrt:
    """`tensorrt`, else `tensorrt_rtx`. Raises InputError if neither can be used."""
    import importlib

    reasons, broken = [], ""
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as e:  # OSError: a library it needs is missing
            if not (isinstance(e, ModuleNotFoundError) and e.name == name):
                reasons.append(one_line(e, 100))
                broken = broken or one_line(e, 150)
            continue
        if not hasattr(module, "Builder"):  # a folder of that name, or type stubs
            reasons.append("%s is no library" % name)
            continue
        return Tensorrt(module, verbose)
    if "cannot open shared object" in broken:
        raise InputError(LIBRARY % broken)
    raise InputError(INSTALL % (", ".join(reasons) or "no module tensorrt"))


def make_log(module: Any, verbose: bool) -> Any:
    """A logger for TensorRT that keeps its errors in `errors`.

    Prints errors and warnings, with `verbose` everything.
    """
    severity = module.ILogger.Severity
    shown = [severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING]
    if verbose:
        shown += [severity.INFO, severity.VERBOSE]

    class Log(module.ILogger):  # type: ignore
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: List[str] = []
            self.quiet = False
            self._said: Set[str] = set()

        def log(self, level: Any, message: str) -> None:
            """Called by the library."""
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(" ".join(message.split()))
            if level not in shown or self.quiet or message in self._said:  # some come often
                return
            self._said.add(message)
            print("[TensorRT %s] %s" % (str(level).split(".")[-1], message), flush=True)

        def reason(self) -> str:
            """The first error since `clear`, on one line."""
            return self.errors[0][:300] if self.errors else "no reason given"

        def clear(self) -> None:
            """Forget the errors."""
            del self.errors[:]

    return Log()


class Network(NamedTuple):
    """A parsed ONNX; builder and parser must live as long as the network."""

    definition: Any
    builder: Any
    parser: Any


def read_network(trt: Tensorrt, path: str, data: bytes) -> Network:
    """Parse a serialized ONNX.

    Args: path: for messages.

    Prints every error of the parser, then raises InputError.
    """
    module, log = trt.module, trt.log
    log.clear()
    try:
        builder = module.Builder(log)
    except (TypeError, RuntimeError) as e:  # how pybind11 says that there is no CUDA
        raise InputError(
            "%s cannot start its builder; is there a CUDA GPU and a driver? (%s)"
            % (trt, log.errors[0] if log.errors else one_line(e, 120))
        ) from e
    flags = 0
    explicit = getattr(module.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    if explicit is not None and trt.number[0] < 10:  # later it is the only mode
        flags |= 1 << int(explicit)
    definition = builder.create_network(flags)
    parser = module.OnnxParser(definition, log)
    log.quiet = True  # each error comes once more, below
    try:
        parsed = parser.parse(data)
    finally:
        log.quiet = False
    if not parsed:
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        errors = errors or [log.reason()]
        for error in errors:
            print("[%s parser] %s" % (trt.name, error), flush=True)
        raise InputError(
            "--onnx %s: %s cannot parse it (%d errors, printed above); first: %s"
            % (path, trt, len(errors), errors[0][:300])
        )
    return Network(definition, builder, parser)


def _parser_error(error: Any) -> str:
    text = " ".join(str(error.desc()).split())
    name = error.node_name() if hasattr(error, "node_name") else ""
    return "%s: %s" % (name, text) if name else "node %d: %s" % (error.node(), text)


class Profile(NamedTuple):
    """Smallest, most common and largest shape of the input (B, 3, H, W)."""

    smallest: Shape
    common: Shape
    largest: Shape


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
    layers: bool = False  # keep the details that `layer_table` reads
    fp16_asked: bool = True  # else FP16 is left out on a GPU that has none


class Layer(NamedTuple):
    """A layer of a built engine."""

    name: str
    kind: str  # as TensorRT calls it: CaskConvolution, Reformat, PointWiseV2, ...
    inputs: List[str]  # INT8, FP16, FP32, ...
    outputs: List[str]


class Built(NamedTuple):
    """What the builder returned."""

    plan: bytes
    timing_cache: Optional[bytes]


def build(trt: Tensorrt, network: Network, settings: BuildSettings) -> Built:
    """Build an engine. Raises InputError if this TensorRT or machine cannot."""
    module, log = trt.module, trt.log
    config = network.builder.create_builder_config()
    config.set_memory_pool_limit(
        module.MemoryPoolType.WORKSPACE, int(settings.workspace_gb * (1 << 30))
    )
    flag = module.BuilderFlag
    if hasattr(flag, "TF32"):
        config.clear_flag(flag.TF32)  # FP32 means FP32
    _set_precision(trt, network, config, settings)
    if settings.opt_level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise InputError("--opt-level: %s has none; 8.6 and newer do" % trt)
        config.builder_optimization_level = settings.opt_level
    if settings.dla is not None:
        _use_dla(trt, network, config, settings)
    if settings.profile is not None:
        _add_profile(network, config, settings)
    cache = _timing_cache(config, settings.timing_cache)
    if settings.layers:
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    log.clear()
    plan = network.builder.build_serialized_network(network.definition, config)
    raise_calibration_error(settings.calibrator)  # the cause, where it is one
    if plan is None:
        raise InputError("%s could not build the engine: %s" % (trt, log.reason()))
    return Built(bytes(plan), _merged(config, cache, settings.timing_cache))


def _timing_cache(config: Any, path: Optional[Path]) -> Any:
    """The timing cache of a file, an empty one if there is no file; None without a path."""
    if path is None:
        return None
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        print("warning: %s: made by another TensorRT or GPU; a new timing cache is made" % path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _merged(config: Any, cache: Any, path: Optional[Path]) -> Optional[bytes]:
    """A timing cache with what another build has written to its file in the meantime."""
    if cache is None or path is None:
        return None
    if path.is_file():
        other = config.create_timing_cache(path.read_bytes())
        if other is not None:
            cache.combine(other, True)
    return bytes(cache.serialize())


def layer_table(trt: Tensorrt, plan: bytes, memory: Any) -> List[Layer]:
    """The layers of an engine that was built with `layers`, in the order they run."""
    with memory.active():
        engine = trt.module.Runtime(trt.log).deserialize_cuda_engine(plan)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.module.LayerInformationFormat.JSON)
    found = []
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, str):  # an engine without details
            raise InputError("the engine was built without the details of its layers")
        kinds = [
            [_format_type(tensor.get("Format/Datatype", "")) for tensor in layer.get(side, [])]
            for side in ("Inputs", "Outputs")
        ]
        found.append(Layer(layer["Name"], layer["LayerType"], *kinds))
    return found


def _format_type(text: str) -> str:
    """`Channel major FP16 format where channel % 8 == 0` -> `FP16`."""
    match = re.search(r"INT8|FP16|FP32|INT32|BOOL", text.upper())
    return match.group(0) if match else text


def _set_precision(trt: Tensorrt, network: Network, config: Any, settings: BuildSettings) -> None:
    """Flags of 8.5 to 10.x; nothing to do where the ONNX is the precision."""
    if trt.typed:
        if settings.calibrator is not None:
            raise InputError("%s has no INT8 calibrators; use --quant explicit" % trt)
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
            raise InputError("--%s: this GPU has no fast %s; build without" % (name.lower(), name))
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


def constrain(definition: Any, names: Collection[str], dtype: Any) -> int:
    """Bind the layers of some nodes to a precision; how many that were.

    Layers that compute shapes and indices are left alone, and casts, which say their type.
    """
    layers = [definition.get_layer(i) for i in range(definition.num_layers if names else 0)]
    named = named_layers(layers, names)
    count = 0
    for layer in named + broadcasts(layers, named):
        # TensorRT 8.5 finds "no supported formats" for a plugin whose precision is set. NMS reads
        # FP32 nevertheless: what makes its boxes and scores is bound.
        if layer.type.name.startswith("PLUGIN"):
            continue
        outputs = _outputs(layer)
        if not all(o.dtype.name in FLOATS for o in outputs) or not outputs:
            continue
        if layer.type.name in ("SHAPE", "CONSTANT", "CAST"):
            continue
        layer.precision = dtype
        for j in range(layer.num_outputs):
            layer.set_output_type(j, dtype)
        count += 1
    return count


def named_layers(layers: List[Any], names: Collection[str]) -> List[Any]:
    """Layers that have one of the names (of nodes or tensors in the ONNX), or make a tensor so."""
    wanted = set(names)
    return [n for n in layers if n.name in wanted or wanted & {o.name for o in _outputs(n)}]


def broadcasts(layers: List[Any], readers: List[Any]) -> List[Any]:
    """Shuffles that `readers` read, and the shuffles that those read.

    The parser puts them there, under names of its own, to give an operand the rank of the other:
    the grid of the decode, pixels up to 1280, would go through them in FP16.
    """
    known = {layer.name for layer in readers}
    read = {t.name for layer in readers for t in _inputs(layer)}
    found = []
    for layer in reversed(layers):  # what reads comes after what is read
        if layer.type.name != "SHUFFLE" or layer.name in known:
            continue
        if read & {o.name for o in _outputs(layer)}:
            found.append(layer)
            read |= {t.name for t in _inputs(layer)}
    return found


def _outputs(layer: Any) -> List[Any]:
    return [layer.get_output(j) for j in range(layer.num_outputs)]


def _inputs(layer: Any) -> List[Any]:
    tensors = [layer.get_input(j) for j in range(layer.num_inputs)]
    return [t for t in tensors if t is not None]  # optional ones


def _use_dla(trt: Tensorrt, network: Network, config: Any, settings: BuildSettings) -> None:
    cores = int(getattr(network.builder, "num_DLA_cores", 0))
    if not 0 <= settings.dla < cores:  # type: ignore
        raise InputError("--dla %s: this machine has %d DLA cores" % (settings.dla, cores))
    config.default_device_type = trt.module.DeviceType.DLA
    config.DLA_core = settings.dla
    config.set_flag(trt.module.BuilderFlag.GPU_FALLBACK)


def _add_profile(network: Network, config: Any, settings: BuildSettings) -> None:
    profile = network.builder.create_optimization_profile()
    name = network.definition.get_input(0).name
    profile.set_shape(name, *settings.profile)
    config.add_optimization_profile(profile)
    if settings.calibrator is not None:  # calibrates at the common shape of its own profile
        fixed = network.builder.create_optimization_profile()
        shape = (settings.calibrator.get_batch_size(), *settings.calibrator.image_shape)
        fixed.set_shape(name, shape, shape, shape)
        config.set_calibration_profile(fixed)


def make_calibrator(
    trt: Tensorrt,
    algorithm: str,
    memory: Any,
    batches: Optional[Iterable[np.ndarray]],
    batch_shape: Shape,
    cache: Optional[bytes],
    on_cache: Callable[[bytes], None],
) -> Any:
    """A calibrator of TensorRT 8.5 to 10.x.

    Args:
        algorithm: MinMax or Entropy.
        batches: float32 arrays of `batch_shape` (B, 3, H, W), None: the cache has everything.
        cache: content of a calibration cache with the header of this version.
        on_cache: called with the cache that TensorRT made of all batches.

    The bindings print whatever a callback raises and go on with the batches so far. So nothing is
    raised: the calibrator keeps it in `error`, and a cache made of some of the batches is dropped.
    """
    base = {
        "MinMax": "IInt8MinMaxCalibrator",
        "Entropy": "IInt8EntropyCalibrator2",
    }[algorithm]
    kind = getattr(trt.module, base)

    class Calibrator(kind):  # type: ignore
        def __init__(self) -> None:
            kind.__init__(self)
            self.image_shape = tuple(batch_shape[1:])
            self.error: Optional[BaseException] = None
            self._batches = iter(batches) if batches is not None else iter(())
            self._buffer = None

        def get_batch_size(self) -> int:
            return int(batch_shape[0])

        def get_batch(self, names: List[str], *_: Any) -> Optional[List[int]]:
            """Device pointer of the next batch; None: that was all."""
            if self.error is not None:
                return None
            try:
                batch = next(self._batches, None)
                if batch is None:
                    return None
                with memory.active():
                    if self._buffer is None:
                        self._buffer = memory.allocate(batch.nbytes)
                    memory.upload(self._buffer, batch.astype(np.float32, copy=False))
                    memory.synchronize()
                return [memory.address(self._buffer)]
            except BaseException as e:  # Ctrl-C, too, would end the calibration and no more
                self.error = e
                return None

        def read_calibration_cache(self, *_: Any) -> Optional[bytes]:
            return cache

        def write_calibration_cache(self, content: Any, *_: Any) -> None:
            if self.error is not None:
                return
            try:
                on_cache(bytes(content))
            except BaseException as e:
                self.error = e

    return Calibrator()


def raise_calibration_error(calibrator: Any) -> None:
    """Raise what stopped a calibrator of `make_calibrator`, as InputError where it is the user's.

    None has no error.
    """
    error = getattr(calibrator, "error", None)
    if isinstance(error, (InputError, ValueError, OSError)):
        raise InputError("calibration stopped: %s" % error) from error
    if error is not None:
        raise error


class IoTensor(NamedTuple):
    """An input or output of an engine; -1 where the shape is dynamic."""

    name: str
    is_input: bool
    shape: Shape
    dtype: np.dtype


class Engine:
    """A deserialized engine with its context, buffers and stream; one call at a time.

    Args:
        memory: see device_memory.
        cuda_graph: record a graph and replay it while the input shape stays. An engine that cannot
            be recorded runs without; `graph_refused` says why.

    Attributes: tensors, the IoTensors; profile, the Profile of the first input.

    Raises InputError for bytes that are no engine of this version and GPU.
    """

    def __init__(self, trt: Tensorrt, plan: bytes, memory: Any, cuda_graph: bool = True):
        self._trt, self._memory, self._wants_graph = trt, memory, cuda_graph
        self.graph_refused: Optional[str] = None
        self._lock = threading.Lock()
        module, log = trt.module, trt.log
        log.clear()
        with memory.active():
            try:
                self._runtime = module.Runtime(log)
                self._engine = self._runtime.deserialize_cuda_engine(plan)
            except (TypeError, RuntimeError) as e:
                raise InputError("%s cannot start its runtime: %s" % (trt, one_line(e))) from e
            if self._engine is None:
                raise InputError(
                    "not an engine that %s on %s can run; build it again here from the .onnx (%s)"
                    % (trt, memory.device_name, log.reason())
                )
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise InputError(
                    "the GPU memory does not suffice to run the engine (%s)" % log.reason()
                )
        self.tensors = [self._tensor(i) for i in range(self._engine.num_io_tensors)]
        self.inputs = [t for t in self.tensors if t.is_input]
        self.outputs = [t for t in self.tensors if not t.is_input]
        self.profile: Optional[Profile] = None
        if self.inputs and min(self.inputs[0].shape) < 0:
            shapes = self._engine.get_tensor_profile_shape(self.inputs[0].name, 0)
            self.profile = Profile(*(tuple(int(v) for v in s) for s in shapes))
        self._buffers: Dict[str, Any] = {}
        self._shapes: Optional[Tuple[Shape, ...]] = None  # of the inputs, as the context has them
        self._graph: Optional[Callable[[], None]] = None  # replays a call of these shapes
        self._runs = 0  # in these shapes

    def _tensor(self, index: int) -> IoTensor:
        engine, module = self._engine, self._trt.module
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise InputError("tensor %s of the engine has the unknown type %s" % (name, kind))
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        shape = tuple(int(v) for v in engine.get_tensor_shape(name))
        return IoTensor(name, is_input, shape, np.dtype(DTYPES[kind]))

    def __call__(self, feed: Dict[str, np.ndarray]) -> Dict[str, Any]:
        """Run on host arrays of any float dtype, by name of the input.

        Returns the outputs by name: tensors on the GPU where PyTorch holds the memory, else NumPy.
        Raises ValueError for a shape the engine does not take.
        """
        memory = self._memory
        with self._lock, memory.active():
            arrays = [np.ascontiguousarray(feed[t.name], t.dtype) for t in self.inputs]
            shapes = tuple(a.shape for a in arrays)
            if shapes != self._shapes:
                self._bind(shapes)
            for tensor, array in zip(self.inputs, arrays):
                memory.upload(self._buffers[tensor.name], array)
            self._execute()
            outputs = {t.name: self._output(t) for t in self.outputs}
            memory.synchronize()
        return outputs

    def _bind(self, shapes: Tuple[Shape, ...]) -> None:
        """Tell the context the shapes, and give it buffers that are large enough.

        Graphs go: they hold addresses, and NVIDIA's guide says that one recorded from a context
        must not be replayed once that context was changed, as another shape does.
        """
        context, memory = self._context, self._memory
        self._shapes = None
        self._graph, self._runs = None, 0
        for tensor, shape in zip(self.inputs, shapes):
            self._check_shape(tensor, shape)
            if min(tensor.shape) < 0 and not context.set_input_shape(tensor.name, shape):
                raise ValueError("the engine refuses the shape %s" % (shape,))
        for tensor in self.tensors:
            shape = tuple(int(v) for v in context.get_tensor_shape(tensor.name))
            if min(shape, default=0) < 0:
                raise InputError(
                    "output %s has a size that depends on the data; export the model with "
                    "--nms static" % tensor.name
                )
            size = int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize
            buffer = self._buffers.get(tensor.name)
            if buffer is None or memory.size(buffer) < size:
                self._buffers[tensor.name] = memory.allocate(size)
        for tensor in self.tensors:
            address = memory.address(self._buffers[tensor.name])
            if not context.set_tensor_address(tensor.name, address):
                raise InputError("TensorRT refuses the buffer of %s" % tensor.name)
        self._shapes = shapes

    def _check_shape(self, tensor: IoTensor, shape: Shape) -> None:
        lows, highs = (self.profile.smallest, self.profile.largest) if self.profile else (
            tensor.shape, tensor.shape)  # fmt: skip
        inside = len(shape) == len(lows) and all(
            low <= s <= high for low, s, high in zip(lows, shape, highs)
        )
        if not inside:
            raise ValueError(
                "the engine takes %s, got %s"
                % (
                    " to ".join("x".join(map(str, s)) for s in dict.fromkeys((lows, highs))),
                    "x".join(map(str, shape)),
                )
            )

    def _execute(self) -> None:
        """Enqueue on our stream; with graphs: plain a few times, then recorded and replayed."""
        if self._graph is not None:
            self._graph()
            return
        if not self._wants_graph or self._runs < RUNS_BEFORE_GRAPH:
            self._enqueue()  # the first run of a shape may allocate, which no graph can hold
            self._runs += 1
            return
        self._memory.synchronize()
        try:
            self._graph = self._memory.capture(self._enqueue)
        except (InputError, RuntimeError) as e:
            self._wants_graph, self.graph_refused = False, one_line(e)
            self._enqueue()
            return
        self._graph()

    def milliseconds(self, runs: int = 100) -> np.ndarray:
        """(runs,) GPU time of the network alone, by CUDA events, on the input of the last call.

        What trtexec reports with --useCudaGraph --noDataTransfers: nothing is copied.

        Raises ValueError before the first call.
        """
        if self._shapes is None:
            raise ValueError("run the engine once, so that it has a shape")
        with self._lock, self._memory.active():
            for _ in range(RUNS_BEFORE_GRAPH + 5):
                self._execute()
            self._memory.synchronize()
            return np.array([self._memory.milliseconds(self._execute) for _ in range(runs)])

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise InputError("TensorRT could not run the engine: %s" % self._trt.log.reason())

    def _output(self, tensor: IoTensor) -> Any:
        shape = tuple(int(v) for v in self._context.get_tensor_shape(tensor.name))
        return self._memory.download(self._buffers[tensor.name], shape, tensor.dtype)
