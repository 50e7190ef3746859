"""A `.pt` checkpoint as a Backend."""

import contextlib
import functools
import queue
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Tuple, cast

import numpy as np

from utils.device import check_gpu
from utils.errors import InputError
from utils.pose.fixed_nms import NmsSettings
from utils.pose.nms import no_memory_for_nms, raw_to_poses
from utils.pose.poses import Poses
from utils.runtime.backend import Backend, Found, Output, largest_that_runs, too_large
from utils.runtime.fixed_suppression import FixedSuppression
from utils.runtime.gpu_backend import GPU_WORKERS
from utils.runtime.graph_stream import GraphStream
from utils.trt.engine import RUNS_BEFORE_GRAPH
from utils.trt.host_pool import HostPool

if TYPE_CHECKING:
    from models.yolo import Model


class TorchBackend(Backend):
    """A `.pt` checkpoint in PyTorch; outputs stay on the device."""

    def __init__(self, path: Path, gpu: Optional[int], half: bool, *, throughput: bool = False):
        try:
            import torch
        except ImportError as e:
            raise InputError(
                "`weights` %s: a .pt needs PyTorch; pip install torch, or use the .onnx" % path
            ) from e
        if gpu is None:
            gpu = 0 if torch.cuda.is_available() else -1
        check_gpu(gpu, torch.cuda.device_count(), "PyTorch " + torch.__version__)
        if half and gpu < 0:
            raise InputError("`half`: FP16 inference of a .pt needs a GPU; drop `half`")
        from models.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        self._adopt(checkpoint.model, gpu, half, throughput=throughput)
        self.imgsz = checkpoint.trained_hw

    @classmethod
    def of_model(cls, model: "Model", gpu: int, half: bool) -> "TorchBackend":
        """A backend of a network in memory, which it fuses: give it a copy. gpu -1: CPU."""
        backend = cls.__new__(cls)
        backend._adopt(model, gpu, half, throughput=False)
        return backend

    def _adopt(self, model: Any, gpu: int, half: bool, *, throughput: bool) -> None:
        import torch

        # cuDNN would round FP32 convolutions to TF32 (10 bits): points move by up to 17 px.
        torch.backends.cudnn.allow_tf32 = False
        self._torch = torch
        self._device = torch.device("cpu" if gpu < 0 else "cuda:%d" % gpu)
        model = model.fuse()
        self.names, self.nkpt, self.stride = list(model.names), model.nkpt, model.max_stride
        self.skeleton, self.imgsz = model.skeleton, None
        model = model.half() if half else model
        try:
            self._model = model.to(self._device)
        except torch.cuda.OutOfMemoryError as e:
            raise InputError(
                "`device` %d: the GPU memory does not suffice for the model; end other programs "
                "on this GPU, or choose another" % gpu
            ) from e
        self._half = half
        self._last: Optional[Tuple[int, ...]] = None  # shape of the last images
        self._host = HostPool(self._page_locked)
        self._fixed = FixedSuppression(self.nc, self._device, single=True)
        self.takes_pixels, self.takes_floats = gpu >= 0, gpu < 0
        self.workers = GPU_WORKERS if throughput and gpu >= 0 else 1
        self._streams: Any = queue.LifoQueue()
        for _ in range(self.workers if gpu >= 0 else 0):
            self._streams.put(GraphStream(self._device, self._host))
        self.input_shape = (None, 3, None, None)
        self.dtype = np.dtype(np.float32)  # halved on the device
        where = "CPU" if gpu < 0 else torch.cuda.get_device_name(gpu)
        self.on_gpu, self.precision = gpu >= 0, "FP16" if half else "FP32"
        self.description = "PyTorch %s, %s, %s" % (torch.__version__, where, self.precision)

    def _page_locked(self, size: int) -> np.ndarray:
        torch = self._torch
        return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()

    def new_batch(self, shape: Tuple[int, int, int]) -> np.ndarray:
        """Page-locked memory on a GPU, which is copied without a stop on the way."""
        if not self.on_gpu:
            return super().new_batch(shape)
        batch, height, width = shape
        return self._host.array((batch, height, width, 3), np.uint8)

    def __call__(self, images: np.ndarray) -> Output:
        self._check_input(images)
        if not self.on_gpu:
            with self._torch.inference_mode():
                return self._model(self._torch.from_numpy(images))
        with self._stream(images) as stream:
            raw, _ = self._run(stream, images, None)
            raw = raw.clone()  # a graph writes to the same place again
            self._torch.cuda.current_stream().synchronize()  # so that timings mean something
            return raw

    def find(self, images: np.ndarray, settings: NmsSettings) -> Found:
        """On a GPU network and NMS are one CUDA graph, and only poses are copied to the host."""
        if not self.on_gpu or not self._fixed.serves(settings, len(images)):
            return self(images)
        self._check_input(images)
        with self._stream(images) as stream:
            raw, packed = self._run(stream, images, settings)
            poses = self._fixed.poses(settings, packed.cpu().numpy())  # waits for the stream
            crowded = [i for i, found in enumerate(poses) if found is None]
            if crowded:
                try:
                    rest = raw_to_poses(raw[crowded], self.nc, **settings._asdict())
                except InputError as e:  # it knows of these images alone
                    raise InputError(no_memory_for_nms(len(images))) from e
                for i, found in zip(crowded, rest):
                    poses[i] = found
            return cast(List[Poses], poses)

    @contextlib.contextmanager
    def _stream(self, images: np.ndarray) -> Iterator[GraphStream]:
        """A free stream, which becomes the current one; so does the device.

        Raises InputError if the memory of the GPU does not suffice.
        """
        torch, stream = self._torch, self._streams.get()
        try:
            with torch.inference_mode(), torch.cuda.stream(stream.stream):
                yield stream
        except torch.cuda.OutOfMemoryError as e:
            traceback.clear_frames(e.__traceback__)  # which hold what was taken so far
            fits = largest_that_runs(len(images), functools.partial(self._runs, images.shape))
            raise InputError(too_large(len(images), fits)) from e
        finally:
            self._streams.put(stream)

    def _runs(self, shape: Tuple[int, ...], count: int) -> bool:
        """Whether each worker may have `count` images of a (B, H, W, 3) batch at a time."""
        torch = self._torch
        torch.cuda.empty_cache()
        size = (count * self.workers, *shape[1:])
        try:
            with torch.inference_mode():
                self._forward(torch.zeros(size, dtype=torch.uint8, device=self._device))
        except torch.cuda.OutOfMemoryError:
            return False
        return True

    def _run(self, stream: GraphStream, images: np.ndarray, settings: Optional[NmsSettings]) -> Any:
        """(raw predictions, packed NMS or None) of (B, H, W, 3) uint8."""
        self._last = images.shape
        suppress = None if settings is None else self._fixed.of(settings)

        def work(pixels: Any) -> Tuple[Any, Any]:
            raw = self._forward(pixels)
            return raw, None if suppress is None else suppress(raw)

        return stream.run(images, settings, work)

    def _forward(self, images: Any) -> Any:
        """(B, H, W, 3) uint8 BGR on the GPU -> raw predictions."""
        batch = images.permute(0, 3, 1, 2).flip(1)
        batch = batch.half() if self._half else batch.float()
        return self._model(batch.mul_(1 / 255.0))

    def warm_up(self, images: np.ndarray, settings: NmsSettings) -> None:
        """Let each stream choose its kernels and record its graph."""
        streams = [self._streams.get() for _ in range(self.workers if self.on_gpu else 0)]
        for stream in streams:
            self._streams.put(stream)
            for _ in range(RUNS_BEFORE_GRAPH + 1):
                self.find(images, settings)
            self._streams.get()
        for stream in streams:
            self._streams.put(stream)
        self._fixed.start_over(settings)  # one batch says nothing of those to come

    def engine_ms(self) -> Optional[np.ndarray]:
        """(100,) GPU times, ms, of the network alone as a CUDA graph, of the last shape."""
        if not self.on_gpu or self._last is None:
            return None
        images = np.zeros(self._last, np.uint8)
        with self._stream(images) as stream:
            return stream.milliseconds(images, self._forward)
