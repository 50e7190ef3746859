"""The Backend of a model file, by its suffix."""

from pathlib import Path

from utils.device import parse_device
from utils.errors import InputError
from utils.reading import check_file
from utils.runtime.backend import Backend

ENGINE_SUFFIXES = (".trt", ".engine", ".plan")


def load_backend(
    weights: str, device: str = "", half: bool = False, *, throughput: bool = False
) -> Backend:
    """Backend for a `.pt`, `.onnx` or engine file.

    Args:
        device: `cpu`, a GPU index such as `0` (also `cuda:0`), or `` for a GPU if this runtime
            has one and the CPU otherwise; `description` says which it became.
        half: FP16 arithmetic, `.pt` on a GPU only; other files have their precision built in.
        throughput: many images are coming and none of them is urgent. ONNX Runtime on a CPU then
            splits the cores among several calls at a time (`workers`), which wastes less than
            splitting every layer among all cores. On a GPU one batch is prepared while another
            is computed.

    Raises InputError for a file that cannot be run or a device that is not there.
    """
    path = Path(weights)
    suffix = path.suffix.lower()
    if suffix not in (".pt", ".onnx") + ENGINE_SUFFIXES:
        raise InputError(
            "`weights` %s: expected a .pt, .onnx, .trt, .engine or .plan file" % weights
        )
    kinds = {".pt": "checkpoint", ".onnx": "ONNX"}
    try:
        check_file(path, kinds.get(suffix, "engine"))
    except InputError as e:
        raise InputError("`weights` %s" % e) from e
    gpu = parse_device(device)
    # imported where used: the start of detect is felt
    if suffix == ".pt":
        from utils.runtime.torch_backend import TorchBackend

        return TorchBackend(path, gpu, half, throughput=throughput)
    if half:
        raise InputError("`half` goes with .pt weights; %s has its precision built in" % path.name)
    if suffix == ".onnx":
        from utils.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(path, gpu, throughput)
    from utils.runtime.tensorrt_backend import TensorrtBackend

    return TensorrtBackend(path, gpu, throughput=throughput)
