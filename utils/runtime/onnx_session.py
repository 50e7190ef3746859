"""An ONNX Runtime session of a file, on the CPU or with the CUDA provider on a stream of ours."""

import contextlib
import io
import mmap
from pathlib import Path
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from utils.device import available_cores
from utils.errors import InputError, one_line, warn
from utils.runtime.gpu_backend import GPU_WORKERS
from utils.trt.device_memory import DeviceMemory
from utils.trt.memory import find_memory

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, RunOptions

MAX_WORKERS = 8  # each holds the activations of one inference, about 0.2 GB for s6 at 640
CPU = ["CPUExecutionProvider"]
GRAPH_ID = "gpu_graph_id"  # of a run; since 1.18
PLAIN_RUN, GRAPH_RUN = "-1", "1"
FALLBACK = "EP Error"  # begins what it prints where it goes on with the CPU
RUN_ERROR = 500  # characters; the reason is behind the node, a file and a function of C++
Answer = TypeVar("Answer")


# What ONNX Runtime, CUDA, cuDNN and cuBLAS say; there is no type of its own for it.
OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a run or the loading of a model failed for the memory of the GPU."""
    said = "%s %s" % (error, error.__cause__)  # a RunError is cut off
    return any(text in said for text in OUT_OF_MEMORY)


class RunError(Exception):
    """What ONNX Runtime says of a run; its exceptions share no base class but Exception."""


class OpenSession(NamedTuple):
    """A session and where it runs."""

    session: "InferenceSession"  # onnxruntime.InferenceSession
    on_cuda: bool
    workers: int  # calls that may run at the same time
    swapped: bool  # TensorRT's NMS was replaced by standard ops
    memory: Optional[DeviceMemory]  # whose stream it runs on; None: CPU, or nothing provides it
    graphs: bool  # its runs can be recorded, see run_options


def import_onnxruntime(path: Path) -> ModuleType:
    """The package. Raises InputError if it is not installed."""
    try:
        import onnxruntime
    except ImportError as e:
        raise InputError(
            "`weights` %s: an .onnx needs ONNX Runtime; pip install onnxruntime "
            "(onnxruntime-gpu for CUDA)" % path
        ) from e
    return onnxruntime


def open_session(
    path: Path, gpu: Optional[int], *, throughput: bool = False, graphs: bool = True
) -> OpenSession:
    """Load a model file.

    Args:
        gpu: index, -1: the CPU, None: a GPU if there is one.
        throughput: see load_backend.
        graphs: ask for CUDA graphs; a model that has none is loaded without.

    Raises InputError for a file that cannot be run and a GPU that cannot be used.
    """
    onnxruntime = import_onnxruntime(path)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if gpu is not None and gpu >= 0 and not has_cuda:
        raise InputError(
            "`device` %d: this ONNX Runtime %s has no CUDA; pip install onnxruntime-gpu, "
            "use `device` cpu, or leave `device` out" % (gpu, onnxruntime.__version__)
        )
    use_cuda = has_cuda if gpu is None else gpu >= 0
    options, workers = onnxruntime.SessionOptions(), GPU_WORKERS if throughput and use_cuda else 1
    options.log_severity_level = 4  # what it has to say is in its exception
    if throughput and not use_cuda:
        cores = available_cores()
        workers = min(cores, MAX_WORKERS)
        # each call works itself; these threads more are shared by all calls
        options.intra_op_num_threads = cores - workers + 1
    memory = _memory(onnxruntime, gpu or 0) if use_cuda else None
    graphs = graphs and memory is not None and _version(onnxruntime) >= (1, 18)
    choices = [
        _cuda_options(gpu or 0, memory, graph=g) for g in ((True, False) if graphs else (False,))
    ]
    made, swapped = _load(onnxruntime, path, options, choices=choices if use_cuda else [])
    # ONNX Runtime leaves CUDA out without a word if its libraries do not load.
    on_cuda = "CUDAExecutionProvider" in made.session.get_providers()
    if use_cuda and not on_cuda:
        message = "the CUDA provider of onnxruntime-gpu %s did not start (%s)" % (
            onnxruntime.__version__,
            made.refused or "driver, CUDA or cuDNN missing?",
        )
        if gpu is not None:
            raise InputError("`device` %d: %s; use `device` cpu" % (gpu, message))
        warn("%s; running on the CPU" % message)
        memory = None
    graphs = "enable_cuda_graph" in made.choice and on_cuda
    return OpenSession(made.session, on_cuda, workers, swapped, memory, graphs)


def run_options(
    onnxruntime: ModuleType, *, graphs: bool, graph_id: str = PLAIN_RUN, wait: bool = True
) -> "RunOptions":
    """Options of a run. Args: graphs: of the session. wait: for the GPU."""
    options = onnxruntime.RunOptions()
    if not wait:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if graphs:
        options.add_run_config_entry(GRAPH_ID, graph_id)
    return options


def guarded(run: Callable[..., Answer], *arguments: object) -> Answer:
    """Call a session. Raises RunError for whatever it raises."""
    try:
        return run(*arguments)
    except Exception as e:
        raise RunError(one_line(e, RUN_ERROR)) from e


def _version(onnxruntime: Any) -> Any:
    return tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def _memory(onnxruntime: Any, gpu: int) -> Optional[DeviceMemory]:
    """Memory and a stream of a GPU, None where neither PyTorch nor pycuda provides them.

    Raises InputError for a GPU that is not there.
    """
    memory, _ = find_memory(gpu)
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21: CUDA and cuDNN of NVIDIA's wheels
        with contextlib.redirect_stdout(io.StringIO()):  # without them the session says so
            onnxruntime.preload_dlls()
    return memory


def _cuda_options(gpu: int, memory: Optional[DeviceMemory], *, graph: bool) -> Dict[str, Any]:
    # FP32 means FP32: the default would round convolutions to TF32.
    options: Dict[str, Any] = {"device_id": gpu, "use_tf32": 0}
    if memory is not None:
        options["user_compute_stream"] = memory.stream
    if graph:
        options["enable_cuda_graph"] = 1
    return options


class _Loaded(NamedTuple):
    """What came of the choices of CUDA options."""

    session: "InferenceSession"
    choice: Dict[str, Any]  # that it took; {}: no CUDA
    refused: str  # what CUDA said where it was tried in vain


def _load(
    onnxruntime: Any, path: Path, options: Any, *, choices: List[Dict[str, Any]]
) -> Tuple[_Loaded, bool]:
    """The session, and whether TensorRT's NMS was replaced. Raises InputError.

    Args: choices: of CUDA options; none: the CPU alone.
    """
    on_gpu = bool(choices)
    try:
        return _first(onnxruntime, str(path), options, choices=choices), False
    except Exception as e:  # its exceptions share no base class but Exception
        model = portable_model(path)
        if model is None:
            raise _cannot_load(path, e, on_gpu=on_gpu) from e
    try:
        return _first(onnxruntime, model, options, choices=choices), True
    except Exception as e:
        raise _cannot_load(path, e, on_gpu=on_gpu) from e


def _cannot_load(path: Path, error: Exception, *, on_gpu: bool) -> InputError:
    if on_gpu and is_out_of_memory(error):
        return InputError(
            "`weights` %s: the GPU memory does not suffice for the model; end other programs "
            "on this GPU, or choose another `device` (%s)" % (path, one_line(error))
        )
    return InputError(
        "`weights` %s: ONNX Runtime cannot load it; export or copy it again (%s)"
        % (path, one_line(error))
    )


def _first(
    onnxruntime: Any, model: Union[str, bytes], options: Any, *, choices: List[Dict[str, Any]]
) -> _Loaded:
    """The first choice that works, the CPU alone at last. Raises what ONNX Runtime raises."""
    refused = ""
    for choice in choices:
        providers: List[Any] = [("CUDAExecutionProvider", choice), *CPU]
        try:
            made = _open(onnxruntime, model, options, providers=providers)
            return _Loaded(made, choice, "")
        except Exception as e:  # its exceptions share no base class but Exception
            if is_out_of_memory(e):
                raise
            refused = one_line(e)
    return _Loaded(_open(onnxruntime, model, options, providers=CPU), {}, refused)


def _open(onnxruntime: Any, model: Union[str, bytes], options: Any, *, providers: List[Any]) -> Any:
    """Raises what ONNX Runtime raises. By itself it would go on with the CPU, in a call too."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # 1.19 knows no `enable_fallback`: it prints the error
        made = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if FALLBACK in said.getvalue():
        raise RuntimeError(said.getvalue().replace("*", ""))
    print(said.getvalue(), end="")  # of another thread
    made.disable_fallback()
    return made


def portable_model(path: Path) -> Optional[bytes]:
    """An ONNX file with TensorRT's NMS plugin, rewritten in standard ops; None: it has none.

    Raises InputError if that needs the onnx package and it is not there.
    """
    from utils.graph.nms_forms import PLUGIN

    with open(str(path), "rb") as file:  # names of operators are plain text
        if not path.stat().st_size:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(PLUGIN.encode()) < 0:
                return None
    try:
        import onnx
    except ImportError as e:
        raise InputError(
            "`weights` %s: its NMS is TensorRT's plugin; to run it here pip install onnx, or "
            "export it with `nms` static" % path
        ) from e
    from utils.graph.nms import has_efficientnms, swap_efficientnms

    try:
        model = onnx.load(str(path))
    except Exception:  # protobuf's errors share no base class but Exception
        return None
    if not has_efficientnms(model):
        return None
    swap_efficientnms(model)
    return model.SerializeToString()
