"""A `.pt` checkpoint as a Backend."""

import threading
from pathlib import Path
from typing import Any, Optional

import numpy as np

from utils.errors import InputError
from utils.runtime.backend import Backend

GPU_WORKERS = 2  # PyTorch: while one computes, the other copies and suppresses
MAX_GRAPHS = 8  # input shapes


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
        if gpu >= 0 and gpu >= torch.cuda.device_count():
            raise InputError(
                "`device` %d: PyTorch %s sees %d CUDA GPUs; use `device` cpu"
                % (gpu, torch.__version__, torch.cuda.device_count())
            )
        if half and gpu < 0:
            raise InputError("`half`: FP16 inference of a .pt needs a GPU; drop `half`")
        from models.checkpoint import load_checkpoint

        self._adopt(load_checkpoint(path).model, gpu, half, throughput=throughput)

    @classmethod
    def of_model(cls, model: Any, gpu: int, half: bool) -> "TorchBackend":
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
                        "`batch_size` %d: the GPU memory does not suffice for %d calls at a time; "
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
