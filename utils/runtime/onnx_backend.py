"""An `.onnx` file as a Backend."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from utils.errors import InputError
from utils.runtime.backend import (
    Output,
    check_input_dims,
    format_shape,
    largest_that_runs,
    too_large,
)
from utils.runtime.bound_session import TYPES, BoundSession
from utils.runtime.engine_readers import open_reader
from utils.runtime.gpu_backend import GpuBackend
from utils.runtime.metadata import DEFAULT_STRIDE, identify, is_fp16
from utils.runtime.onnx_session import (
    OpenSession,
    RunError,
    guarded,
    import_onnxruntime,
    is_out_of_memory,
    open_session,
    run_options,
)
from utils.trt.memory import GpuMemoryError
from utils.trt.pixels import open_pixels

DEVICE = "cuda"  # as ONNX Runtime calls it


class OnnxBackend(GpuBackend):
    """An `.onnx` in ONNX Runtime, on the CPU or with the CUDA provider: `session`.

    With CUDA, and PyTorch or pycuda for the memory, a BoundSession is the `runner`. A model of
    fixed shape runs as a CUDA graph; `graph_refused` says why not.
    """

    def __init__(self, path: Path, gpu: Optional[int], throughput: bool = False):
        self._onnxruntime = import_onnxruntime(path)
        self.graph_refused: Optional[str] = None
        opened = open_session(path, gpu, throughput=throughput)
        self._adopt(path, opened, gpu or 0)
        if self._bound is not None and opened.graphs and None not in self.input_shape:
            shape = tuple(self.session.get_inputs()[0].shape)
            self._guarded(self._bound.record, shape, shape=shape)
            self.graph_refused = self._bound.graph_refused
            if self.graph_refused is not None:  # the stream may be left in the recording
                # its memory on the GPU goes before the next one takes it
                del opened, self.session, self.runner, self._bound, self._reader, self._memory
                opened = open_session(path, gpu, throughput=throughput, graphs=False)
                self._adopt(path, opened, gpu or 0)
        where = "CUDA:%d" % (gpu or 0) if opened.on_cuda else "CPU"
        self.description = "ONNX Runtime %s, %s, %s" % (
            self._onnxruntime.__version__,
            where,
            self.precision,
        )
        if self.layout is not None:
            self.description += ", " + str(self.layout)
        if self.embedded_nms is not None:
            self.description += ", " + str(self.embedded_nms)
        if opened.swapped:
            self.description += ", TensorRT's EfficientNMS replaced by standard ops"

    def _adopt(self, path: Path, opened: OpenSession, gpu: int) -> None:
        """Read the model; with CUDA bind its input and outputs."""
        self.session, self.workers, self.on_gpu = opened.session, opened.workers, opened.on_cuda
        self._options = run_options(self._onnxruntime, graphs=opened.graphs)
        self._read_model(path)
        self.runner, self._reader, self._memory = None, None, opened.memory
        self._bound: Optional[BoundSession] = None
        # how many detections leave an embedded NMS may depend on the image
        fixed = all(isinstance(d, int) for o in self.session.get_outputs() for d in o.shape)
        raw = self.embedded_nms is None and (self.layout is None or not self.layout.suppressed)
        bindable = all(o.type in TYPES for o in self.session.get_outputs())
        if opened.memory is None or not (raw or fixed) or not bindable:
            # calls on one stream, and of a session that may record graphs: one after the other
            self.workers = 1 if self.on_gpu else self.workers
            return
        pixels = open_pixels(opened.memory)
        self.runner = self._bound = BoundSession(
            self._onnxruntime, opened, self._outputs, pixels=pixels, device=(DEVICE, gpu)
        )
        self.takes_pixels = self.takes_pixels or pixels.usable
        if raw:
            self._reader = open_reader(opened.memory, self.nc, self.layout)

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
            wanted = "(B, H, W, 3) of uint8" if self.takes_pixels else "(B, 3, H, W)"
            raise InputError(foreign % ("input shape %s, expected %s" % (shape, wanted)))
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
            (output,) = guarded(self.session.run, None, {self._input: images}, self._options)
        except RunError as e:
            raise InputError(
                "`weights` %s: ONNX Runtime cannot run it at %s; export it again (%s)"
                % (path, format_shape(images.shape), e)
            ) from e
        return list(output.shape)

    def _run_on_host(self, images: np.ndarray) -> Output:
        if images.dtype != self.dtype:
            images = images.astype(self.dtype)
        outputs = self._guarded(
            guarded, self.session.run, self._outputs, {self._input: images}, self._options,
            shape=images.shape,
        )  # fmt: skip
        return self._read(outputs)

    def _run(self, images: np.ndarray, read: Any = None) -> Dict[str, Any]:
        self._check_input(images)
        return self._guarded(self._bound, images, read, shape=images.shape)

    def _guarded(self, run: Any, *arguments: Any, shape: Tuple[int, ...]) -> Any:
        """Call ONNX Runtime. Raises InputError for what it says. Args: shape: of the images."""
        try:
            return run(*arguments)
        except (RunError, RuntimeError, GpuMemoryError) as e:  # PyTorch's is a RuntimeError
            if isinstance(e, GpuMemoryError) or (self.on_gpu and is_out_of_memory(e)):
                raise InputError(self._too_large(shape)) from e
            if not isinstance(e, RunError):
                raise
            raise InputError(
                "ONNX Runtime cannot run the model at %s (%s)" % (format_shape(shape), e)
            ) from e

    def _too_large(self, shape: Tuple[int, ...]) -> str:
        if self.batch is not None and self.batch > 1:
            return (
                "the GPU memory does not suffice for the model's fixed batch of %d; export it for "
                "fewer images" % self.batch
            )
        if self.static_hw is not None and shape[0] == 1:
            return (
                "the GPU memory does not suffice for the model; end other programs on this GPU, "
                "or export it for a smaller `img_size`"
            )
        kind = np.uint8 if shape[-1] == 3 and self.takes_pixels else np.float32

        def runs(count: int) -> bool:
            images = np.zeros((count, *shape[1:]), kind)
            try:
                if self._bound is not None:
                    self._bound(images)
                else:
                    feed = {self._input: images.astype(self.dtype)}
                    guarded(self.session.run, self._outputs, feed, self._options)
            except (RunError, RuntimeError, GpuMemoryError):  # this size does not run
                return False
            return True

        return too_large(shape[0], largest_that_runs(shape[0], runs))
