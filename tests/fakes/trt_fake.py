"""Stand-ins for the Python API of TensorRT 8.5, 8.6, 10.x and 11.x; ONNX Runtime does the work.

    populate(globals(), "8.5.2.2")       # in v85/tensorrt/__init__.py

An attribute that a version does not have is absent here, too. `tests/test_fakes.py` compares the
11.x one with tensorrt_rtx, whose API it shares, and says what else it rests on. Engines compute in
FP32 (FP16 where the ONNX is typed FP16, INT8 where it has Q/DQ pairs), and remember how they were
built: `engine_facts`.

One long file: a version is made of all of it, in one namespace, as in the real module.
"""

import ctypes
import enum
import json
import os
import pickle
import struct
import sys
import time

import numpy as np

MAGIC = b"FAKETRT\0"


def engine_facts(plan):
    """What a plan says about how it was built."""
    return pickle.loads(plan[len(MAGIC) :])


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class DeviceType(enum.Enum):
    GPU = 0
    DLA = 1


DTYPES = ("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8")
DataType = enum.Enum("DataType", DTYPES + ("INT64",))
OldDataType = enum.Enum("DataType", DTYPES)  # before 10 the parser makes INT32 of INT64
FROM_ONNX = {
    1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8",
}  # fmt: skip
TO_NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8,
}  # fmt: skip
LAYERS = ("CONVOLUTION", "ACTIVATION", "ELEMENTWISE", "SHUFFLE", "CONSTANT", "SHAPE", "PLUGIN_V2",
          "QUANTIZE", "DEQUANTIZE", "IDENTITY")  # fmt: skip
LAYER_OF = {
    "Conv": "CONVOLUTION", "Sigmoid": "ACTIVATION", "Shape": "SHAPE", "Constant": "CONSTANT",
    "EfficientNMS_ONNX_TRT": "PLUGIN_V2", "Reshape": "SHUFFLE", "Cast": "IDENTITY",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
}  # fmt: skip


NO_FORMATS = (
    "2: [optimizer.cpp::getFormatRequirements::3103] Error Code 2: Internal Error (Assertion "
    "!n->candidateRequirements.empty() failed. No supported formats for nms/16)"
)
NO_CANDIDATES = (
    "2: [optimizer.cpp::filterQDQFormats::4422] Error Code 2: Internal Error (Assertion "
    "!n->candidateRequirements.empty() failed. All of the candidates were removed, which points to "
    "the node being incorrectly marked as an int8 node.)"
)
# with operands of different rank the parser puts a shuffle behind a constant one
BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")


def numbers(version):
    return tuple(int(w) for w in version.split("."))


def cache_version(version):
    """8.5.2 -> 8502, 10.7.0 -> 100700."""
    major, minor, patch = numbers(version)[:3]
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def widen_half_pairs(model):
    """Q/DQ pairs with FP16 scales, which TensorRT takes and ONNX does from opset 19 on, in FP32."""
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        pair = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if not pair or constants[node.input[1]].data_type != 10:
            nodes.append(node)
            continue
        wide = node.input[1] + "/wide"
        if wide not in constants:
            value = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
            constants[wide] = numpy_helper.from_array(value, wide)
            model.graph.initializer.append(constants[wide])
        node.input[1] = wide
        if node.op_type == "QuantizeLinear":
            name = node.output[0] + "/wide"
            nodes += [helper.make_node("Cast", [node.input[0]], [name], to=1), node]
            node.input[0] = name
        else:
            name = node.output[0]
            node.output[0] = name + "/wide"
            nodes += [node, helper.make_node("Cast", [name + "/wide"], [name], to=10)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def executable(data):
    """An ONNX Runtime session of what the engine holds."""
    import onnx
    import onnxruntime

    from utils.graph.nms import has_efficientnms, swap_efficientnms

    model = onnx.load_model_from_string(data)
    if has_efficientnms(model):
        swap_efficientnms(model)
    widen_half_pairs(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # as it is written: fusing Q/DQ into kernels of this CPU would round otherwise
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def gpu_index():
    """The current device, for which a builder builds."""
    from pycuda import driver

    return driver.current_device()


def read_memory(address, shape, dtype):
    count = int(np.prod(shape))
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


class ILogger:
    Severity = Severity

    def __init__(self):
        pass


class ITensor:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.dtype = name, shape, dtype


class ILayer:
    def __init__(self, name, kind, inputs, outputs):
        self.name, self.type = name, kind
        self._inputs, self._outputs = inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]


class WeakLayer(ILayer):
    """Up to 10.x: a layer's precision can be set."""

    precision = None

    def set_output_type(self, index, dtype):
        kind = self._outputs[index].dtype.name
        assert kind in ("FLOAT", "HALF"), "%s is %s: not a layer of floats" % (self.name, kind)


class INetworkDefinition:
    def __init__(self, explicit):
        self.explicit, self.data, self._layers, self._inputs = explicit, None, [], []

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]

    def get_input(self, index):
        return self._inputs[index]


class ParserError:
    def __init__(self, node, text, name):
        self._node, self._text, self._name = node, text, name

    def desc(self):
        return self._text

    def node(self):
        return self._node


class NamedParserError(ParserError):
    def node_name(self):
        return self._name


class IOptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):
        self.shapes[input] = tuple(tuple(s) for s in (min, opt, max))


class ITimingCache:
    def __init__(self, data):
        self.data = data

    def combine(self, input_cache, ignore_mismatch):
        return True

    def serialize(self):
        return self.data


class IHostMemory(bytes):
    pass


class IProfiler:
    def __init__(self):
        pass


class IExecutionContext:
    profiler = None

    def __init__(self, engine):
        self.engine, self._shape, self._addresses, self._known = engine, {}, {}, {}
        for tensor in engine.io:
            if tensor.is_input and min(tensor.shape) >= 0:
                self._shape[tensor.name] = tensor.shape

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.facts["profile"][name]
        good = all(a <= b <= c for a, b, c in zip(low, shape, high))
        if good:
            self._shape[name] = tuple(shape)
        return good

    def get_tensor_shape(self, name):
        if name in self._shape:
            return self._shape[name]
        tensor = next(t for t in self.engine.io if t.name == name)
        if min(tensor.shape, default=0) >= 0:
            return tensor.shape
        if len(self._shape) < 1:
            return tensor.shape
        key = tuple(self._shape.values())
        if key not in self._known:  # TensorRT computes it; here a run on zeros does
            outputs = self._run({i: np.zeros(s, self.engine._numpy_type(i)) for i, s in
                                 self._shape.items()})  # fmt: skip
            self._known[key] = {n: v.shape for n, v in outputs.items()}
        return self._known[key][name]

    def _run(self, feed):
        names = [t.name for t in self.engine.io if not t.is_input]
        return dict(zip(names, self.engine.session.run(names, feed)))

    def set_tensor_address(self, name, memory):
        assert isinstance(memory, int) and memory
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        from pycuda import driver

        driver.require_context()
        if set(self._addresses) != {t.name for t in self.engine.io}:
            return False
        shapes, addresses = dict(self._shape), dict(self._addresses)
        if self.profiler is not None:
            for name in self.engine.facts["layers"]:
                self.profiler.report_layer_time(name, 0.25)

        def work():
            feed = {n: read_memory(addresses[n], s, self.engine._numpy_type(n))
                    for n, s in shapes.items()}  # fmt: skip
            for name, value in self._run(feed).items():
                value = np.ascontiguousarray(value)
                ctypes.memmove(addresses[name], value.ctypes.data, value.nbytes)

        driver.streams[stream_handle].work.append(work)
        return True


class IoTensor:
    def __init__(self, name, is_input, shape, kind):
        self.name, self.is_input, self.shape, self.kind = name, is_input, shape, kind


class EngineInspector:
    def __init__(self, engine):
        self._facts = engine.facts

    def get_engine_information(self, format):
        """As 8.5 writes it; names alone unless the engine was built with DETAILED."""
        layers = [
            {"Name": name, "LayerType": "CaskConvolution",
             "Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
             "Outputs": [{"Format/Datatype": "Row major linear FP32"}]}
            for name in self._facts["layers"]
        ]  # fmt: skip
        detailed = self._facts["verbosity"] == "DETAILED"
        return json.dumps({"Layers": layers if detailed else self._facts["layers"]})


class ICudaEngine:
    def __init__(self, facts, dtypes):
        import onnx

        self.facts, self._dtypes = facts, dtypes
        model = onnx.load_model_from_string(facts["onnx"])
        constants = {i.name for i in model.graph.initializer}
        self.io = []
        for is_input, values in ((True, model.graph.input), (False, model.graph.output)):
            for value in values:
                if value.name in constants:
                    continue
                kind = value.type.tensor_type
                shape = tuple(d.dim_value or -1 for d in kind.shape.dim)
                fixed = facts["profile"].get(value.name)
                if fixed and fixed[0] == fixed[2]:
                    shape = fixed[0]
                self.io.append(IoTensor(value.name, is_input, shape, FROM_ONNX[kind.elem_type]))
        self.session = executable(facts["onnx"])
        self.num_io_tensors = len(self.io)

    def _find(self, name):
        return next(t for t in self.io if t.name == name)

    def _numpy_type(self, name):
        return TO_NUMPY[self._find(name).kind]

    def get_tensor_name(self, index):
        return self.io[index].name

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self._find(name).is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._dtypes[self._find(name).kind]

    def get_tensor_shape(self, name):
        fixed = self.facts["profile"].get(name)
        if fixed and fixed[0] != fixed[2]:
            return tuple(a if a == b else -1 for a, b in zip(fixed[0], fixed[2]))
        return self._find(name).shape

    def get_tensor_profile_shape(self, name, profile_index):
        return [list(s) for s in self.facts["profile"][name]]

    def create_execution_context(self):
        return IExecutionContext(self)

    def create_engine_inspector(self):
        return EngineInspector(self)


class Creator:
    def __init__(self, name):
        self.name = name


ONNX_STARTS = b"\x08"  # the first byte of every ONNX file


def populate(module, version):
    """Put the API of a version into a module's globals."""
    number = numbers(version)
    major = number[0]
    weak = major < 11

    def enumeration(name, members):
        return enum.IntEnum(name, {m: i for i, m in enumerate(members)})

    flags = ["TF32", "GPU_FALLBACK"]
    flags += ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"] * weak
    kinds = enum.Enum("LayerType", LAYERS + (("CAST",) if number >= (8, 6) else ()))
    builder_flag = enumeration("BuilderFlag", flags)
    creation = ["EXPLICIT_BATCH"] if weak else []
    creation += ["STRONGLY_TYPED"] if major >= 10 else []
    # a shifted value: who uses literals is found out
    bits = {m: i + (major >= 11) for i, m in enumerate(creation)}
    creation_flag = enum.IntEnum("NetworkDefinitionCreationFlag", bits)
    dtypes = DataType if major >= 10 else OldDataType

    def data_type(name):
        return dtypes["INT32" if name == "INT64" and major < 10 else name]

    plugins = ["EfficientNMS_TRT"]
    plugins += ["EfficientNMS_ONNX_TRT"] if number < (10, 16) else []

    class Registry:
        def __init__(self):
            if weak:
                self.plugin_creator_list = [Creator(p) for p in plugins]
            if major >= 10:
                self.all_creators = [Creator(p) for p in plugins]

    class IBuilderConfig:
        def __init__(self, logger):
            self._logger = logger
            self.flags_set, self.pools, self.profiles = {"TF32"}, {}, []
            self.calibration_profile = None
            self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
            self.default_device_type, self.DLA_core = DeviceType.GPU, -1
            if weak:
                self.int8_calibrator = None
            if number >= (8, 6):
                self.builder_optimization_level = 3

        def __setattr__(self, name, value):
            known = {"int8_calibrator": weak, "builder_optimization_level": number >= (8, 6)}
            assert known.get(name, True), "%s has no %s" % (version, name)
            object.__setattr__(self, name, value)

        def set_flag(self, flag):
            self.flags_set.add(flag.name)

        def clear_flag(self, flag):
            self.flags_set.discard(flag.name)

        def set_memory_pool_limit(self, pool, pool_size):
            assert isinstance(pool_size, int)
            self.pools[pool] = pool_size

        def add_optimization_profile(self, profile):
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            if serialized_timing_cache[:1] == ONNX_STARTS:  # as 8.6 says
                self._logger.log(Severity.ERROR, "1: Serialization (Magic tag does not match)")
                return ITimingCache(b"timing")
            return ITimingCache(serialized_timing_cache or b"timing")

        def set_timing_cache(self, cache, ignore_mismatch):
            return cache.data == b"timing"

    if weak:

        def set_calibration_profile(self, profile):
            self.calibration_profile = profile
            return True

        IBuilderConfig.set_calibration_profile = set_calibration_profile

    class Builder:
        def __init__(self, logger):
            if os.environ.get("FAKE_NO_CUDA"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            self.num_DLA_cores = 2
            if weak:
                self.platform_has_fast_fp16 = not os.environ.get("FAKE_NO_FP16")
                self.platform_has_fast_int8 = not os.environ.get("FAKE_NO_INT8")

        def create_network(self, flags=0):
            bit = getattr(creation_flag, "EXPLICIT_BATCH", None)
            explicit = major >= 10 or bool(flags & (1 << int(bit)))
            assert weak or flags in (0, 1 << int(creation_flag.STRONGLY_TYPED))
            return INetworkDefinition(explicit)

        def create_builder_config(self):
            return IBuilderConfig(self._logger)

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            if os.environ.get("FAKE_BUILD_FAILS"):
                self._logger.log(Severity.ERROR, "10: Could not find any implementation for node x")
                return None
            _stopped_in_here()
            return build_plan(network, config, self._logger)

    def _stopped_in_here():
        """As the real binding: what a logger raises is printed, and the build goes on."""
        try:
            if os.environ.get("FAKE_SIGNAL"):
                os.kill(os.getpid(), int(os.environ["FAKE_SIGNAL"]))
                time.sleep(0.1)
        except KeyboardInterrupt:
            print("[ERROR] Exception caught in log(): KeyboardInterrupt", file=sys.stderr)

    def build_plan(network, config, logger):
        import onnx

        model = onnx.load_model_from_string(network.data)
        shapes = dict(config.profiles[0].shapes) if config.profiles else {}
        for tensor in network._inputs:
            if min(tensor.shape) < 0 and tensor.name not in shapes:
                logger.log(Severity.ERROR, "4: Network has dynamic inputs, but no profile")
                return None
        types = {i.name: i.data_type for i in model.graph.initializer}
        half = any(n.op_type == "Conv" and types.get(n.input[1]) == 10 for n in model.graph.node)
        explicit = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
        if weak and half and "FP16" not in config.flags_set:
            logger.log(Severity.ERROR, "half type is used but kFP16 is not set")
            return None
        if weak and explicit and "INT8" not in config.flags_set:
            logger.log(Severity.ERROR, "network has Q/DQ layers, but kINT8 is not set")
            return None
        bound = [n for n in network._layers if getattr(n, "precision", None) is not None]
        obeyed = "OBEY_PRECISION_CONSTRAINTS" in config.flags_set
        for refused, text in (  # word for word what TensorRT 8.5.3.1 says
            (obeyed and any(n.type.name == "PLUGIN_V2" for n in bound), NO_FORMATS),
            (obeyed and bool(bound) and explicit, NO_CANDIDATES),
        ):
            if refused:
                logger.log(Severity.ERROR, text)
                return None
        scales, images, shape = None, 0, None
        if weak and "INT8" in config.flags_set and not explicit:
            if config.int8_calibrator is None:
                logger.log(Severity.ERROR, "Calibration failure: no calibrator")
                return None
            scales, images, shape = run_calibration(network, config)
            if not scales:
                logger.log(Severity.ERROR, "Calibration failure: no data")
                return None
        facts = {
            "version": version,
            "gpu_index": gpu_index(),
            "onnx": network.data,
            "profile": shapes,
            "flags": sorted(config.flags_set),
            "workspace": config.pools.get(MemoryPoolType.WORKSPACE),
            "precisions": {
                layer.name: layer.precision.name
                for layer in network._layers
                if getattr(layer, "precision", None) is not None
            },
            "scales": scales,
            "calibrated_images": images,
            "calibrated_shape": shape,
            "layers": [layer.name for layer in network._layers],
            "verbosity": config.profiling_verbosity.name,
            "opt_level": getattr(config, "builder_optimization_level", None),
            "dla": config.DLA_core,
        }
        return IHostMemory(MAGIC + pickle.dumps(facts))

    def run_calibration(network, config):
        """Ask the calibrator as TensorRT does: the cache first, then batch after batch."""
        calibrator = config.int8_calibrator
        header = "TRT-%d-%s" % (cache_version(version), calibrator.header)
        cached = calibrator.read_calibration_cache()
        if cached and bytes(cached).split(b"\n")[0].decode() == header:
            lines = [line.rsplit(": ", 1) for line in bytes(cached).decode().splitlines()[1:]]
            scales = {n: struct.unpack(">f", bytes.fromhex(v.zfill(8)))[0] for n, v in lines}
            return scales, 0, None
        import onnx

        entry = network._inputs[0]
        shape = tuple(entry.shape)
        if min(shape) < 0:
            shape = config.calibration_profile.shapes[entry.name][1]
        model = onnx.load_model_from_string(network.data)
        kinds = ("Conv", "Sigmoid", "Relu", "Mul", "Add", "Concat", "MaxPool", "Resize")
        inner = [n for node in model.graph.node for n in node.output if node.op_type in kinds]
        for name in inner:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        session = executable(model.SerializeToString())
        images, amax = 0, {}
        while True:
            try:
                pointers = calibrator.get_batch([entry.name])
            except BaseException as e:  # as the bindings do: this ends the calibration
                print("[ERROR] Exception caught in get_batch(): %r" % e)
                break
            if pointers is None:
                break
            batch = read_memory(pointers[0], shape, np.float32)  # whatever its batch size says
            images += shape[0]
            found = dict(zip(inner, session.run(inner, {entry.name: batch})))
            found[entry.name] = batch
            for name, value in found.items():
                amax[name] = max(amax.get(name, 0.0), float(np.abs(value).max()))
        if not images:
            return None, 0, None
        lines = [header]
        for name, value in amax.items():
            word = struct.unpack(">I", struct.pack(">f", np.float32(value) / np.float32(127)))[0]
            lines.append("%s: %x" % (name, word))
        try:
            calibrator.write_calibration_cache(("\n".join(lines) + "\n").encode())
        except BaseException as e:
            print("[ERROR] Exception caught in write_calibration_cache(): %r" % e)
        return {n: v / 127 for n, v in amax.items()}, images, shape

    class OnnxParser:
        def __init__(self, network, logger):
            self._network, self._errors = network, []

        @property
        def num_errors(self):
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

        def parse(self, model, path=None):
            import onnx

            data = model

            def fail(node, text, name=""):
                kind = NamedParserError if major >= 10 else ParserError
                self._errors.append(kind(node, text, name))

            try:
                model = onnx.load_model_from_string(data)
            except Exception as e:  # protobuf
                fail(-1, "Failed to parse the ONNX model: %s" % e)
                return False
            if not self._network.explicit:
                fail(-1, "the network must be created with EXPLICIT_BATCH")
                return False
            shapes, ranks = {}, {}
            if all(n.domain == "" for n in model.graph.node):
                inferred = onnx.shape_inference.infer_shapes(model).graph
                for v in list(inferred.value_info) + list(inferred.output):
                    shapes[v.name] = v.type.tensor_type.elem_type
                    ranks[v.name] = len(v.type.tensor_type.shape.dim)
            layer = WeakLayer if weak else ILayer
            constants = {i.name: i for i in model.graph.initializer}
            tensors, layers = {}, self._network._layers

            def operand(node, name):
                """The tensor that a node reads; None: weights, which are no tensor."""
                if name not in constants:
                    return tensors.get(name)
                if node.op_type not in BROADCASTING:
                    return None
                constant = constants[name]
                kind = data_type(FROM_ONNX[constant.data_type])
                made = ITensor(name + "_output", (), kind)
                layers.append(layer(name, kinds.CONSTANT, [], [made]))
                rank = max(ranks.get(n, 9) for n in node.input if n not in constants)
                if len(constant.dims) < rank:
                    own = "ONNXTRT_Broadcast_%d" % len(layers)
                    wide = ITensor(own + "_output", (), kind)
                    layers.append(layer(own, kinds.SHUFFLE, [made], [wide]))
                    made = wide
                return made

            for number, node in enumerate(model.graph.node):
                known = node.domain in ("", "ai.onnx") or (
                    node.domain == "TRT" and node.op_type in plugins
                )
                if not known or node.op_type in ("Loop", "Scan"):
                    fail(number, "No importer registered for op: %s" % node.op_type, node.name)
                    continue
                plugin = node.op_type in plugins
                outputs = [
                    ITensor(
                        n,
                        (),
                        data_type("INT32" if plugin else FROM_ONNX.get(shapes.get(n, 1), "INT32")),
                    )
                    for n in node.output
                ]
                inputs = [operand(node, n) for n in node.input]
                tensors.update(zip(node.output, outputs))
                kind = LAYER_OF.get(node.op_type, "ELEMENTWISE")
                if kind == "IDENTITY" and hasattr(kinds, "CAST"):
                    kind = "CAST"
                layers.append(layer(node.name, kinds[kind], inputs, outputs))
            for value in model.graph.input:
                if value.name not in constants:
                    kind = value.type.tensor_type
                    shape = tuple(d.dim_value or -1 for d in kind.shape.dim)
                    self._network._inputs.append(
                        ITensor(value.name, shape, data_type(FROM_ONNX[kind.elem_type]))
                    )
            self._network.data = data
            return not self._errors

    class Runtime:
        def __init__(self, logger):
            if os.environ.get("FAKE_NO_CUDA"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            plan = serialized_engine
            if not bytes(plan).startswith(MAGIC):
                self._logger.log(Severity.ERROR, "1: Serialization assertion magicTagRead failed")
                return None
            try:
                facts = engine_facts(bytes(plan))
            except Exception:  # a truncated pickle
                self._logger.log(Severity.ERROR, "1: Serialization: unexpected end of the plan")
                return None
            if facts["version"] != version:
                self._logger.log(
                    Severity.ERROR, "1: The engine plan file is not compatible with this version"
                )
                return None
            return ICudaEngine(facts, dtypes)

    module.update(
        __version__=version,
        ILogger=ILogger,
        DataType=dtypes,
        LayerType=kinds,
        ProfilingVerbosity=ProfilingVerbosity,
        LayerInformationFormat=LayerInformationFormat,
        TensorIOMode=TensorIOMode,
        MemoryPoolType=MemoryPoolType,
        DeviceType=DeviceType,
        BuilderFlag=builder_flag,
        NetworkDefinitionCreationFlag=creation_flag,
        Builder=Builder,
        IBuilderConfig=IBuilderConfig,
        INetworkDefinition=INetworkDefinition,
        ILayer=WeakLayer if weak else ILayer,
        IOptimizationProfile=IOptimizationProfile,
        OnnxParser=OnnxParser,
        Runtime=Runtime,
        ICudaEngine=ICudaEngine,
        IExecutionContext=IExecutionContext,
        IProfiler=IProfiler,
        float32=dtypes.FLOAT,
        float16=dtypes.HALF,
        init_libnvinfer_plugins=lambda logger, namespace: True,
        get_plugin_registry=lambda: Registry(),
    )
    if weak:

        class IInt8MinMaxCalibrator:
            header = "MinMaxCalibration"

            def __init__(self):
                pass

        class IInt8EntropyCalibrator2:
            header = "EntropyCalibration2"

            def __init__(self):
                pass

        module.update(
            IInt8MinMaxCalibrator=IInt8MinMaxCalibrator,
            IInt8EntropyCalibrator2=IInt8EntropyCalibrator2,
        )
