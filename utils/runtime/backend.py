"""Run a model file, whatever made it: `load_backend("x.onnx", "cpu")`.

A Backend maps (B, 3, H, W) float RGB 0..1 to raw predictions (B, N, 5 + nc + 3K). What it is
(shape, dtype, names, keypoints, NMS inside or not) is read off the file, never from flags.
torch and onnxruntime are imported by the backend that needs them and by no other.
"""

import ast
import json
import os
import threading
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from utils.errors import InputError, one_line

DEFAULT_STRIDE = 64
GPU_WORKERS = 2  # PyTorch: while one computes, the other copies and suppresses
MAX_GRAPHS = 8  # input shapes
MAX_WORKERS = 8  # each holds the activations of one inference, about 0.2 GB for s6 at 640
ENGINE_SUFFIXES = (".trt", ".engine", ".plan")


class BakedNms(NamedTuple):
    """NMS that is inside a model; nothing at run time changes it."""

    conf_thres: float
    iou_thres: float
    topk: int  # poses an image at most

    def __str__(self) -> str:
        return "NMS inside (conf %g, iou %g, at most %d poses)" % tuple(self)


class Detections(NamedTuple):
    """What a model with NMS inside returns, NumPy; rows from num_dets on are empty."""

    num_dets: np.ndarray  # (B, 1) int32
    det_indices: np.ndarray  # (B, topk, 3) int32 image, class, row of the raw output
    det_boxes: np.ndarray  # (B, topk, 4) float32 xyxy, network pixels
    det_pose: np.ndarray  # (B, topk, 3K) float32 x y conf a keypoint
    det_scores: np.ndarray  # (B, topk, 1) float32, descending


class Backend:
    """What all backends share.

    Attributes:
        description: one line for people: runtime, device, precision.
        precision: of its arithmetic: FP32, FP16, ...
        on_gpu: where it runs.
        input_shape: (B, 3, H, W); None where the model is dynamic.
        dtype: NumPy dtype of the input.
        names: class names. nc, nkpt: classes and keypoints. stride: px the size is a multiple of.
        imgsz: (height, width) the model was trained or exported for, None if unknown.
        baked: the NMS inside the model, None if it has none.
        max_batch: most images at once where `input_shape` says any, None: no limit.
        workers: calls that may run at the same time, from as many threads.
        takes_pixels: it wants (B, H, W, 3) uint8 BGR and makes RGB 0..1 of them on the device.
    """

    description: str
    precision: str
    on_gpu: bool
    input_shape: Tuple[Optional[int], int, Optional[int], Optional[int]]
    dtype: np.dtype
    names: List[str]
    nkpt: int
    stride: int
    imgsz: Optional[Tuple[int, int]]
    baked: Optional[BakedNms] = None
    max_batch: Optional[int] = None
    workers: int = 1
    takes_pixels: bool = False

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def end2end(self) -> bool:
        """NMS is inside the model."""
        return self.baked is not None

    @property
    def batch(self) -> Optional[int]:
        """Images the model takes at once, None = any number."""
        return self.input_shape[0]

    @property
    def static_hw(self) -> Optional[Tuple[int, int]]:
        """(height, width) the model is bound to, None if it takes several sizes."""
        _, _, h, w = self.input_shape
        return None if h is None or w is None else (h, w)

    def new_batch(self, shape: Tuple[int, int, int]) -> np.ndarray:
        """An array to put (B, H, W) images into: (B, H, W, 3) uint8 or (B, 3, H, W) float32.

        A backend may return memory from which its device copies faster.
        """
        batch, height, width = shape
        if self.takes_pixels:
            return np.empty((batch, height, width, 3), np.uint8)
        return np.empty((batch, 3, height, width), np.float32)

    def __call__(self, images: np.ndarray) -> Any:
        """(B, 3, H, W) float32 -> (B, N, 5 + nc + 3K) float32, NumPy or torch tensor.

        With NMS inside: -> Detections.
        """
        raise NotImplementedError

    def engine_ms(self) -> Optional[np.ndarray]:
        """GPU times, ms, of the network alone on the last input, None where they are not known."""
        return None

    def _check_input(self, images: np.ndarray) -> None:
        wanted = self.input_shape
        if self.takes_pixels:
            wanted = (wanted[0], wanted[2], wanted[3], 3)  # type: ignore
        if images.ndim != 4 or any(w is not None and w != g for w, g in zip(wanted, images.shape)):
            raise ValueError(
                "the model takes %s, got %s" % (format_shape(wanted), format_shape(images.shape))
            )


def format_shape(shape: Any) -> str:
    """(1, 3, None, None) -> `1x3x?x?`."""
    return "x".join("?" if s is None else str(s) for s in shape)


def load_backend(
    weights: str, device: str = "", half: bool = False, throughput: bool = False
) -> Backend:
    """Backend for a `.pt`, `.onnx` or engine file.

    Args:
        device: `cpu`, a GPU index such as `0` (also `cuda:0`), or `` for a GPU if this runtime
            has one and the CPU otherwise; `description` says which it became.
        half: FP16 arithmetic, `.pt` on a GPU only; other files have their precision built in.
        throughput: many images are coming and none of them is urgent. ONNX Runtime on a CPU then
            splits the cores among several calls at a time (`workers`), which wastes less than
            splitting every layer among all cores. PyTorch on a GPU copies one batch while it
            computes another.

    Raises InputError for a file that cannot be run or a device that is not there.
    """
    path = Path(weights)
    suffix = path.suffix.lower()
    if suffix not in (".pt", ".onnx") + ENGINE_SUFFIXES:
        raise InputError(
            "--weights %s: expected a .pt, .onnx, .trt, .engine or .plan file" % weights
        )
    if not path.is_file():
        raise InputError("--weights %s: no such file" % weights)
    gpu = parse_device(device)
    if suffix == ".pt":
        return TorchBackend(path, gpu, half, throughput)
    if half:
        raise InputError("--half goes with .pt weights; %s has its precision built in" % path.name)
    if suffix == ".onnx":
        return OnnxBackend(path, gpu, throughput)
    from utils.runtime.tensorrt_backend import TensorrtBackend

    return TensorrtBackend(path, gpu)


def parse_device(device: str) -> Optional[int]:
    """`cpu` -> -1, `0` or `cuda:0` -> 0, empty -> None (choose)."""
    text = str(device).strip().lower()
    if not text:
        return None
    if text == "cpu":
        return -1
    number = text[len("cuda:") :] if text.startswith("cuda:") else text
    if text == "cuda":
        return 0
    if not (number.isdecimal() and len(number) < 4):
        raise InputError("--device %s: expected cpu or one GPU index such as 0" % device)
    return int(number)


class TorchBackend(Backend):
    """A `.pt` checkpoint in PyTorch; outputs stay on the device."""

    def __init__(self, path: Path, gpu: Optional[int], half: bool, throughput: bool = False):
        try:
            import torch
        except ImportError as e:
            raise InputError(
                "--weights %s: a .pt needs PyTorch; pip install torch, or use the .onnx" % path
            ) from e
        if gpu is None:
            gpu = 0 if torch.cuda.is_available() else -1
        if gpu >= 0 and gpu >= torch.cuda.device_count():
            raise InputError(
                "--device %d: PyTorch %s sees %d CUDA GPUs; use --device cpu"
                % (gpu, torch.__version__, torch.cuda.device_count())
            )
        if half and gpu < 0:
            raise InputError("--half: FP16 inference of a .pt needs a GPU; drop --half")
        from models.checkpoint import load_checkpoint

        self._adopt(load_checkpoint(path).model, gpu, half, throughput)

    @classmethod
    def of_model(cls, model: Any, gpu: int, half: bool) -> "TorchBackend":
        """A backend of a network in memory, which it fuses: give it a copy. gpu -1: CPU."""
        backend = cls.__new__(cls)
        backend._adopt(model, gpu, half, False)
        return backend

    def _adopt(self, model: Any, gpu: int, half: bool, throughput: bool) -> None:
        import torch

        # cuDNN would round FP32 convolutions to TF32 (10 bits): points move by up to 17 px.
        torch.backends.cudnn.allow_tf32 = False
        self._torch = torch
        self._device = torch.device("cpu" if gpu < 0 else "cuda:%d" % gpu)
        model = model.fuse()
        self.names, self.nkpt, self.stride = list(model.names), model.nkpt, model.max_stride
        self.imgsz = None
        model = model.half() if half else model
        self._model = model.to(self._device)
        self._half, self._local, self._capture = half, threading.local(), threading.Lock()
        self.takes_pixels = gpu >= 0
        self.workers = GPU_WORKERS if throughput and gpu >= 0 else 1
        self.input_shape = (None, 3, None, None)
        self.dtype = np.dtype(np.float32)  # halved on the device
        where = "CPU" if gpu < 0 else torch.cuda.get_device_name(gpu)
        self.on_gpu, self.precision = gpu >= 0, "FP16" if half else "FP32"
        self.description = "PyTorch %s, %s, %s" % (torch.__version__, where, self.precision)

    def __call__(self, images: np.ndarray) -> Any:
        self._check_input(images)
        torch = self._torch
        with torch.inference_mode():
            if self._device.type == "cpu":
                return self._model(torch.from_numpy(images))
            # Streams of their own: one call copies while another computes.
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream()):
                try:
                    raw = self._on_gpu(torch.from_numpy(images))
                    torch.cuda.current_stream().synchronize()  # so that timings mean something
                except torch.cuda.OutOfMemoryError as e:
                    raise InputError(
                        "--batch-size %d: the GPU memory does not suffice for %d calls at a time; "
                        "try %d" % (len(images), self.workers, max(len(images) // 2, 1))
                    ) from e
            return raw

    def _on_gpu(self, images: Any) -> Any:
        """Predictions of a (B, H, W, 3) uint8 host tensor, on the stream of this thread.

        Where several calls run at a time, a shape seen before becomes a CUDA graph: launching
        kernels one by one needs the interpreter, which the threads that decode need, too.
        """
        torch, local = self._torch, self._local
        if self.workers == 1:
            return self._forward(images.to(self._device))
        if not hasattr(local, "graphs"):
            local.graphs, local.seen, local.pool = {}, set(), torch.cuda.graph_pool_handle()
        key = tuple(images.shape)
        if key not in local.graphs:
            if key not in local.seen or len(local.graphs) >= MAX_GRAPHS:
                local.seen.add(key)
                return self._forward(images.to(self._device))
            fixed = images.to(self._device)
            graph = torch.cuda.CUDAGraph()
            with self._capture, torch.cuda.graph(
                graph, pool=local.pool, stream=self._stream(), capture_error_mode="thread_local"
            ):
                output = self._forward(fixed)
            local.graphs[key] = graph, fixed, output
        graph, fixed, output = local.graphs[key]
        fixed.copy_(images)
        graph.replay()
        return output.clone()

    def _forward(self, images: Any) -> Any:
        """(B, H, W, 3) uint8 BGR on the GPU -> raw predictions."""
        batch = images.permute(0, 3, 1, 2).flip(1)
        batch = batch.half() if self._half else batch.float()
        return self._model(batch.mul_(1 / 255.0))

    def resident(self, images: np.ndarray) -> Any:
        """A function that runs the model on these images, copied to the GPU once (benchmarks)."""
        torch = self._torch
        fixed = torch.from_numpy(images).to(self._device)

        def run(_: Any = None) -> Any:
            with torch.inference_mode():
                raw = self._forward(fixed)
                torch.cuda.synchronize(self._device)
            return raw

        return run

    def _stream(self) -> Any:
        """The CUDA stream of this thread."""
        if not hasattr(self._local, "stream"):
            self._local.stream = self._torch.cuda.Stream(self._device)
        return self._local.stream


class OnnxBackend(Backend):
    """An `.onnx` in ONNX Runtime, on the CPU or with the CUDA provider: `session`."""

    def __init__(self, path: Path, gpu: Optional[int], throughput: bool = False):
        try:
            import onnxruntime
        except ImportError as e:
            raise InputError(
                "--weights %s: an .onnx needs ONNX Runtime; pip install onnxruntime "
                "(onnxruntime-gpu for CUDA)" % path
            ) from e
        has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if gpu is not None and gpu >= 0 and not has_cuda:
            raise InputError(
                "--device %d: this ONNX Runtime %s has no CUDA; pip install onnxruntime-gpu, "
                "or use --device cpu" % (gpu, onnxruntime.__version__)
            )
        use_cuda = has_cuda if gpu is None else gpu >= 0
        providers: List[Any] = ["CPUExecutionProvider"]
        if use_cuda:
            # FP32 means FP32: the default would round convolutions to TF32.
            cuda = {"device_id": gpu or 0, "use_tf32": 0}
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
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
                    "--weights %s: ONNX Runtime cannot load it; export or copy it again (%s)"
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
                raise InputError("--device %d: %s; use --device cpu" % (gpu, message))
            print("warning: %s; running on the CPU" % message)
        self._read_model(path)
        self.on_gpu = on_cuda
        where = "CUDA:%d" % (gpu or 0) if on_cuda else "CPU"
        self.description = "ONNX Runtime %s, %s, %s" % (
            onnxruntime.__version__,
            where,
            self.precision,
        )
        if self.baked is not None:
            self.description += ", " + str(self.baked)
        if swapped:
            self.description += ", TensorRT's EfficientNMS replaced by standard ops"

    def _read_model(self, path: Path) -> None:
        """Shapes, dtype and metadata. Raises InputError for a network that is not YOLO-Pose."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        foreign = "--weights %s: not a YOLO-Pose model (%%s)" % path
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4:
            raise InputError(foreign % ("%d inputs of shape %s" % (len(inputs), shape)))
        self.input_shape = tuple(s if isinstance(s, int) else None for s in shape)  # type: ignore
        if self.input_shape[1] != 3:
            raise InputError(foreign % ("input shape %s, expected 3 channels" % shape))
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if inputs[0].type not in types:
            raise InputError(foreign % ("input type %s" % inputs[0].type))
        self.dtype = np.dtype(types[inputs[0].type])
        self._input = inputs[0].name
        self._outputs = [o.name for o in outputs]
        properties = self.session.get_modelmeta().custom_metadata_map
        self.precision = "FP16" if self.dtype == np.float16 else "FP32"
        if properties.get("precision") == '"INT8"':  # Q/DQ pairs inside
            self.precision = "INT8"
        if "det_boxes" in self._outputs:
            shapes = {o.name: o.shape for o in outputs}
            try:
                self.baked = read_baked_nms(properties, shapes)
                pose = shapes["det_pose"][2]
                info = read_metadata(properties, 5 + len(read_names(properties)) + pose)
            except ValueError as e:
                raise InputError(
                    "--weights %s: NMS inside, but not as this version writes it (%s); export it "
                    "again" % (path, e)
                ) from e
            self.names, self.nkpt, self.stride, self.imgsz = info
            self._outputs = list(Detections._fields)
            return
        rows, width = outputs[0].shape[1:] if len(outputs[0].shape) == 3 else (None, None)
        # Other networks lay their output out the other way round, (B, values, predictions).
        turned = "nkpt" not in properties and isinstance(rows, int) and rows < (width or 0)
        if not isinstance(width, int) or turned:
            raise InputError(
                foreign % ("output %s of shape %s" % (outputs[0].name, outputs[0].shape))
            )
        try:
            info = read_metadata(properties, width)
        except ValueError as e:
            raise InputError(foreign % e) from e
        self.names, self.nkpt, self.stride, self.imgsz = info

    def __call__(self, images: np.ndarray) -> Any:
        self._check_input(images)
        if images.dtype != self.dtype:
            images = images.astype(self.dtype)
        if self.baked is not None:
            return Detections(*self.session.run(self._outputs, {self._input: images}))
        return self.session.run(self._outputs[:1], {self._input: images})[0]


def portable_model(path: Path) -> Optional[bytes]:
    """An ONNX file with TensorRT's NMS plugin, rewritten in standard ops; None: it has none.

    Raises InputError if that needs the onnx package and it is not there.
    """
    try:
        import onnx
    except ImportError as e:
        raise InputError(
            "--weights %s: its NMS is TensorRT's plugin; to run it here pip install onnx, or "
            "export it with --nms static" % path
        ) from e
    from utils.graph.nms import has_efficientnms, swap_efficientnms

    model = onnx.load(str(path))
    if not has_efficientnms(model):
        return None
    swap_efficientnms(model)
    return model.SerializeToString()


def available_cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ModelInfo(NamedTuple):
    """What a model file says about itself beyond its shapes."""

    names: List[str]
    nkpt: int
    stride: int
    imgsz: Optional[Tuple[int, int]]


def read_metadata(properties: Dict[str, str], width: int) -> ModelInfo:
    """Check and complete the JSON metadata of an exported model.

    Args:
        properties: ONNX `metadata_props`, or the like; every key is optional.
        width: columns of the raw output, 5 + nc + 3K.

    Raises ValueError (reason only) if they contradict each other or make no sense.
    """
    names = read_names(properties)
    nkpt = (width - 5 - len(names)) // 3
    if nkpt < 1 or 5 + len(names) + 3 * nkpt != width:
        raise ValueError(
            "%d output columns are not 5 + %d classes + 3 x keypoints" % (width, len(names))
        )
    if _metadata_value(properties, "nkpt", nkpt) != nkpt:
        raise ValueError("metadata nkpt %s, output %d" % (properties["nkpt"], nkpt))
    stride = _metadata_value(properties, "stride", DEFAULT_STRIDE)
    if type(stride) is not int or not 1 <= stride <= 1024:
        raise ValueError("metadata stride: %s" % str(stride)[:60])
    imgsz = _metadata_value(properties, "imgsz", None)
    if imgsz is not None:
        if not (isinstance(imgsz, list) and len(imgsz) == 2):
            raise ValueError("metadata imgsz: %s is not height, width" % str(imgsz)[:60])
        if any(type(v) is not int or v < 1 or v % stride for v in imgsz):
            raise ValueError("metadata imgsz: %s are no multiples of %d" % (imgsz, stride))
        imgsz = (imgsz[0], imgsz[1])
    return ModelInfo(names, nkpt, stride, imgsz)


def read_names(properties: Dict[str, str]) -> List[str]:
    """Class names, `person` if the metadata has none. Raises ValueError (reason only)."""
    names = _metadata_value(properties, "names", ["person"])
    if isinstance(names, dict):  # {"0": "person"}, as other tools write it
        names = list(names.values())
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise ValueError("metadata names: %s is no list of class names" % str(names)[:60])
    return names


def read_baked_nms(properties: Dict[str, str], shapes: Dict[str, List[Any]]) -> BakedNms:
    """The NMS of a model from its metadata and the shapes of its outputs.

    Raises ValueError (reason only) if something is missing or contradicts.
    """
    missing = [name for name in Detections._fields if name not in shapes]
    if missing:
        raise ValueError("no output %s" % ", ".join(missing))
    topk = shapes["det_boxes"][1]
    widths = [shapes[name][-1] for name in ("det_indices", "det_boxes", "det_scores")]
    if widths != [3, 4, 1] or not all(isinstance(v, int) for v in (topk, shapes["det_pose"][-1])):
        raise ValueError("output shapes %s" % shapes)
    values = [_metadata_value(properties, key, None) for key in ("conf_thres", "iou_thres")]
    for key, value in zip(("conf_thres", "iou_thres"), values):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError("metadata %s: %s" % (key, str(value)[:60]))
    if _metadata_value(properties, "topk", topk) != topk:
        raise ValueError("metadata topk %s, output %d" % (properties["topk"], topk))
    return BakedNms(float(values[0]), float(values[1]), topk)


def _metadata_value(properties: Dict[str, str], key: str, default: Any) -> Any:
    if key not in properties:
        return default
    try:
        return json.loads(properties[key])
    except ValueError:
        try:  # the text of a Python value
            return ast.literal_eval(properties[key])
        except (ValueError, SyntaxError, MemoryError, RecursionError) as e:
            raise ValueError("metadata %s is not JSON" % key) from e
