"""A CUDA stream of PyTorch with the graphs of what was run on it."""

import collections
import threading
import traceback
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Counter,
    Dict,
    Hashable,
    NamedTuple,
    Optional,
    TypeVar,
)

import numpy as np

from utils.trt.engine import RUNS_BEFORE_GRAPH
from utils.trt.host_pool import HostPool

if TYPE_CHECKING:
    import torch

MAX_GRAPHS = 8  # shapes of the input; each holds the memory of its activations
Made = TypeVar("Made")
_recording = threading.Lock()  # one at a time in this process


class _Recorded(NamedTuple):
    """A CUDA graph and the tensors it reads and writes."""

    graph: Any
    images: Any  # (B, H, W, 3) uint8
    made: Any


class GraphStream:
    """One call at a time; two of them copy and compute side by side.

    Args: device: torch.device of a GPU. host: page-locked memory that images may lie in.
    """

    def __init__(self, device: "torch.device", host: HostPool):
        import torch

        self._torch, self._device, self._host = torch, device, host
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: Dict[Hashable, _Recorded] = {}
        self._seen: Counter[Hashable] = collections.Counter()
        self._full = False  # there is no memory for another graph

    def run(
        self, images: np.ndarray, key: Hashable, work: Callable[["torch.Tensor"], Made]
    ) -> Made:
        """What `work` makes of (B, H, W, 3) uint8 images, copied to the GPU; on this stream.

        What comes back becomes a CUDA graph: launching kernels one by one takes several times as
        long as running them. What a graph returns is valid until the next call.

        Args: key: what `work` depends on besides the shape of the images.
        """
        key = images.shape, key
        recorded = self._graphs.get(key)
        if recorded is None and not self._full:
            self._seen[key] += 1
            if self._seen[key] > RUNS_BEFORE_GRAPH and len(self._graphs) < MAX_GRAPHS:
                recorded = self._recorded(images, key, work)
        if recorded is None:
            return work(self._upload(images))
        self._upload(images, into=recorded.images)
        recorded.graph.replay()
        return recorded.made

    def _recorded(
        self, images: np.ndarray, key: Hashable, work: Callable[[Any], Any]
    ) -> Optional[_Recorded]:
        """A new graph, which is kept; None from the first one on that finds no memory.

        A graph has memory of its own; without one the same batch runs in what others gave back.
        """
        try:
            self._graphs[key] = self._record(images, work)
        except RuntimeError as e:  # the end of a recording may fail in turn
            no_memory = self._torch.cuda.OutOfMemoryError
            if not (isinstance(e, no_memory) or isinstance(e.__context__, no_memory)):
                raise
            traceback.clear_frames(e.__traceback__)  # which hold what was taken so far
            self._full = True
            self._torch.cuda.empty_cache()
        return self._graphs.get(key)

    def milliseconds(
        self, images: np.ndarray, work: Callable[["torch.Tensor"], object], runs: int = 100
    ) -> np.ndarray:
        """(runs,) GPU times of `work` as a CUDA graph; nothing is copied."""
        graph, times = self._record(images, work).graph, []
        for _ in range(runs + 10):
            start, stop = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
        return np.array(times[10:])

    def _record(self, images: np.ndarray, work: Callable[[Any], Any]) -> _Recorded:
        fixed, graph = self._upload(images), self._torch.cuda.CUDAGraph()
        with _recording, self._torch.cuda.graph(
            graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            made = work(fixed)
        return _Recorded(graph, fixed, made)

    def _upload(self, images: np.ndarray, into: Any = None) -> Any:
        """A copy on the GPU, in stream order; page-locked images must live until it is done."""
        torch, locked = self._torch, self._host.holds(images)
        if into is None:
            into = torch.empty(images.shape, dtype=torch.uint8, device=self._device)
        return into.copy_(torch.from_numpy(images), non_blocking=locked)
