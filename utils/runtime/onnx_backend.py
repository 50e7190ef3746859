"""An `.onnx` file as a Backend."""

import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from utils.device import available_cores
from utils.errors import InputError, InputWarning, one_line
from utils.runtime.backend import Backend, check_input_dims, format_shape
from utils.runtime.metadata import DEFAULT_STRIDE, identify, is_fp16

MAX_WORKERS = 8  # each holds the activations of one inference, about 0.2 GB for s6 at 640


class OnnxBackend(Backend):
    """An `.onnx` in ONNX Runtime, on the CPU or with the CUDA provider: `session`."""

    def __init__(self, path: Path, gpu: Optional[int], throughput: bool = False):
        try:
            import onnxruntime
        except ImportError as e:
            raise InputError(
                "`weights` %s: an .onnx needs ONNX Runtime; pip install onnxruntime "
                "(onnxruntime-gpu for CUDA)" % path
            ) from e
        has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if gpu is not None and gpu >= 0 and not has_cuda:
            raise InputError(
                "`device` %d: this ONNX Runtime %s has no CUDA; pip install onnxruntime-gpu, "
                "use `device` cpu, or leave `device` out" % (gpu, onnxruntime.__version__)
            )
        use_cuda = has_cuda if gpu is None else gpu >= 0
        providers: List[Any] = ["CPUExecutionProvider"]
        if use_cuda:
            # FP32 means FP32: the default would round convolutions to TF32.
            cuda = {"device_id": gpu or 0, "use_tf32": 0}
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it has to say is in its exception
        if throughput and not use_cuda:
            cores = available_cores()
            self.workers = min(cores, MAX_WORKERS)
            # each call works itself; these threads more are shared by all calls
            options.intra_op_num_threads = cores - self.workers + 1
        swapped = False
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as e:  # onnxruntime's exceptions share no base class but Exception
            model = portable_model(path) if "EfficientNMS" in str(e) else None
            if model is None:
                raise InputError(
                    "`weights` %s: ONNX Runtime cannot load it; export or copy it again (%s)"
                    % (path, one_line(e))
                ) from e
            self.session = onnxruntime.InferenceSession(model, options, providers=providers)
            swapped = True
        # ONNX Runtime goes on with the CPU if the CUDA libraries do not load.
        on_cuda = "CUDAExecutionProvider" in self.session.get_providers()
        if use_cuda and not on_cuda:
            message = (
                "the CUDA provider of onnxruntime-gpu %s did not start "
                "(driver, CUDA or cuDNN missing?)" % onnxruntime.__version__
            )
            if gpu is not None:
                raise InputError("`device` %d: %s; use `device` cpu" % (gpu, message))
            warnings.warn("%s; running on the CPU" % message, InputWarning, stacklevel=2)
        self._read_model(path)
        self.on_gpu = on_cuda
        where = "CUDA:%d" % (gpu or 0) if on_cuda else "CPU"
        self.description = "ONNX Runtime %s, %s, %s" % (
            onnxruntime.__version__,
            where,
            self.precision,
        )
        if self.layout is not None:
            self.description += ", " + str(self.layout)
        if self.embedded_nms is not None:
            self.description += ", " + str(self.embedded_nms)
        if swapped:
            self.description += ", TensorRT's EfficientNMS replaced by standard ops"

    def _read_model(self, path: Path) -> None:
        """Shapes, dtype and metadata. Raises InputError for a network that is not YOLO-Pose."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        foreign = "`weights` %s: not a YOLO-Pose model (%%s)" % path
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4:
            raise InputError(foreign % ("%d inputs of shape %s" % (len(inputs), shape)))
        types = {
            "tensor(float)": np.float32,
            "tensor(float16)": np.float16,
            "tensor(uint8)": np.uint8,
        }
        if inputs[0].type not in types:
            raise InputError(foreign % ("input type %s" % inputs[0].type))
        self.dtype = np.dtype(types[inputs[0].type])
        self._set_input_shape([s if isinstance(s, int) else None for s in shape])
        if self.input_shape[1] != 3:
            raise InputError(foreign % ("input shape %s, expected 3 channels" % shape))
        self._input = inputs[0].name
        properties = self.session.get_modelmeta().custom_metadata_map
        self.precision = "FP16" if self.dtype == np.float16 else "FP32"
        if properties.get("precision") in ('"INT8"', '"FP16"'):  # that the input does not say
            self.precision = properties["precision"].strip('"')
        dims = {o.name: [d if isinstance(d, int) else None for d in o.shape] for o in outputs}
        try:
            check_input_dims(self.input_shape)
            if [d[1:] for d in dims.values()] == [[None, None]]:
                dims = {outputs[0].name: self._run_once(path, properties)}
            self._set_identity(identify(properties, dims))
        except ValueError as e:
            raise InputError(foreign % e) from e
        if self.precision == "FP32" and is_fp16(properties):
            self.precision = "FP16"

    def _run_once(self, path: Path, properties: Dict[str, str]) -> List[Optional[int]]:
        """Dimensions of the only output of a file that does not say its width, by running it."""
        try:
            side = 2 * int(properties.get("stride", DEFAULT_STRIDE))
        except ValueError:
            side = 2 * DEFAULT_STRIDE
        b, _, h, w = self.input_shape
        images = np.zeros((b or 1, 3, h or side, w or side), self.dtype)
        try:
            (output,) = self.session.run(None, {self._input: images})
        except Exception as e:  # onnxruntime's exceptions share no base class but Exception
            raise InputError(
                "`weights` %s: ONNX Runtime cannot run it at %s; export it again (%s)"
                % (path, format_shape(images.shape), one_line(e))
            ) from e
        return list(output.shape)

    def __call__(self, images: np.ndarray) -> Any:
        self._check_input(images)
        if images.dtype != self.dtype:
            images = images.astype(self.dtype)
        try:
            outputs = self.session.run(self._outputs, {self._input: images})
        except Exception as e:  # onnxruntime's exceptions share no base class but Exception
            raise InputError(
                "ONNX Runtime cannot run the model at %s (%s)"
                % (format_shape(images.shape), one_line(e))
            ) from e
        return self._read(outputs)


def portable_model(path: Path) -> Optional[bytes]:
    """An ONNX file with TensorRT's NMS plugin, rewritten in standard ops; None: it has none.

    Raises InputError if that needs the onnx package and it is not there.
    """
    try:
        import onnx
    except ImportError as e:
        raise InputError(
            "`weights` %s: its NMS is TensorRT's plugin; to run it here pip install onnx, or "
            "export it with `nms` static" % path
        ) from e
    from utils.graph.nms import has_efficientnms, swap_efficientnms

    model = onnx.load(str(path))
    if not has_efficientnms(model):
        return None
    swap_efficientnms(model)
    return model.SerializeToString()
