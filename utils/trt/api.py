"""An imported TensorRT: 8.5, 8.6, 10.x, 11.x or TensorRT-RTX, and what it can do.

    trt = import_tensorrt()
    network = read_network(trt, "x.onnx", data)                  # builder.py
    plan = build(trt, network, BuildSettings(fp16=True)).plan
    engine = Engine(trt, plan, open_memory(0))                   # engine.py
    outputs = engine({"input": images})

Everything that depends on the version is in this folder. Up to 10.x precisions are flags of the
builder, and INT8 ranges may come from a calibrator; from 11 on (and in TensorRT-RTX) the types in
the ONNX are the precision. No literal enum values: they changed their meaning between majors.
"""

from types import ModuleType
from typing import (
    Any,
    List,
    NamedTuple,
    Set,
    Tuple,
)

from utils.errors import InputError, one_line

OLDEST = (8, 5)
NO_SCALE = "Missing scale and zero-point for"
INSTALL = (
    "TensorRT is not installed (%s); on a PC: pip install -r "
    "requirements-tensorrt.txt; on a Jetson it comes with JetPack: sudo apt install "
    "python3-libnvinfer-dev, and python3 -m venv --system-site-packages"
)
LIBRARY = (
    "TensorRT is installed, but a library it needs is missing (%s); add its folder to "
    "LD_LIBRARY_PATH (TensorRT 8.5 and 8.6 need cuBLAS 11 and cuDNN 8 of CUDA 11)"
)
Shape = Tuple[int, ...]


class Tensorrt:
    """An imported TensorRT and what it can do.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`. name, version: for people. number: (major, minor).
        typed: precision comes from the types in the ONNX alone (11.x, RTX).
        calibrates: has INT8 calibrators (8.5 to 10.x).
        log: messages of the libraries.
    """

    def __init__(self, module: ModuleType, verbose: bool = False):
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


def make_log(module: ModuleType, verbose: bool) -> Any:
    """A logger for TensorRT that keeps its errors in `errors`.

    Prints errors and warnings, with `verbose` everything.
    """
    severity = module.ILogger.Severity
    shown = [severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING]
    if verbose:
        shown += [severity.INFO, severity.VERBOSE]

    class Log(module.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: List[str] = []
            self.quiet = False
            self._said: Set[str] = set()
            self._without_scale = 0

        def log(self, level: Any, message: str) -> None:
            """Called by the library, which swallows what is raised here and goes on."""
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(" ".join(message.split()))
            if level not in shown or self.quiet or message in self._said:  # some come often
                return
            self._said.add(message)
            if NO_SCALE in message and not verbose:  # a line for each tensor of the decode
                self._without_scale += 1
                if self._without_scale == 1:
                    print("[TensorRT] %s some tensors, the first of them %s: the layers that read "
                          "or make them are not INT8 (the decode never is)"
                          % (NO_SCALE, message.split(NO_SCALE)[1].split(",")[0].split()[-1]),
                          flush=True)  # fmt: skip
                return
            print("[TensorRT %s] %s" % (str(level).split(".")[-1], message), flush=True)

        def reason(self) -> str:
            """The first error since `clear`, on one line."""
            return self.errors[0][:300] if self.errors else "no reason given"

        def clear(self) -> None:
            """Forget the errors."""
            del self.errors[:]

    return Log()


class Profile(NamedTuple):
    """Smallest, most common and largest shape of the input (B, 3, H, W)."""

    smallest: Shape
    common: Shape
    largest: Shape
