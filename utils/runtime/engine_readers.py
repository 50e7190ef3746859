"""What leaves the GPU after a network has run: poses through PyTorch, candidates through pycuda.

reader = open_reader(memory, nc=1)
found = engine(feed, reader.reading(engine, "output", settings))  # no copy of it
poses = reader.result(found["output"], settings, batch=1)  # None: run again and copy everything

`engine` is an Engine of TensorRT or a BoundSession of ONNX Runtime.
"""

from typing import Any, Dict, List, Optional, Protocol, Tuple, Union, cast

import numpy as np

from utils.pose.fixed_nms import NmsSettings
from utils.pose.layout import Layout
from utils.pose.poses import Poses
from utils.trt.device_memory import Buffer, DeviceMemory
from utils.trt.engine import RUNS_BEFORE_GRAPH, Reading
from utils.trt.memory import PycudaMemory, TorchMemory
from utils.trt.row_filter import Filtered, RowFilter

MAX_GRAPHS = 8  # settings and places of the raw output


class Ran(Protocol):
    """An engine in the middle of a call."""

    def output(self, name: str) -> Tuple[Buffer, Tuple[int, ...]]:
        """(buffer, shape) of an output."""

    def dtype(self, name: str) -> np.dtype:
        """Type of an output."""


def open_reader(memory: DeviceMemory, nc: int, layout: Optional[Layout]) -> "Reader":
    """TorchReader or PycudaReader, as the memory is.

    Args: layout: of the raw output, None: our own.
    """
    if isinstance(memory, TorchMemory):
        return TorchReader(memory, nc, layout)
    assert isinstance(memory, PycudaMemory)
    return PycudaReader(memory, nc, layout)


Reader = Union["TorchReader", "PycudaReader"]


class TorchReader:
    """NMS by PyTorch where the raw output lies, as one CUDA graph.

    Args: memory: TorchMemory. nc: classes. layout: see open_reader.
    """

    def __init__(self, memory: TorchMemory, nc: int, layout: Optional[Layout]):
        from utils.runtime.fixed_suppression import FixedSuppression

        self._memory, self._layout = memory, layout
        self._fixed = FixedSuppression(nc, memory.device)
        self._graphs: Dict[Any, Any] = {}  # (address, shape, settings) -> replay, packed
        self._seen: Dict[Any, int] = {}

    def serves(self, settings: NmsSettings, batch: int) -> bool:
        return self._fixed.serves(settings, batch)

    def start_over(self, settings: NmsSettings) -> None:
        """Forget the calls that were not served."""
        self._fixed.start_over(settings)

    def reading(self, engine: Ran, raw_name: str, settings: NmsSettings) -> Reading:
        """What an engine calls with the names of its outputs, see Engine.__call__."""

        def read(name: str) -> Optional[np.ndarray]:
            if name != raw_name:
                return None
            buffer, shape = engine.output(name)
            key = self._memory.address(buffer), shape, settings
            raw = self._memory.view(buffer, shape, engine.dtype(name))
            return self._memory.fetch(self._packed(key, raw, self._fixed.of(settings)))

        return read

    def whole(self, engine: Ran, raw_name: str) -> Reading:
        """See `reading`: the raw output in our layout, made on the stream of the engine.

        On another one it would be read while the engine writes the next output to that memory.
        """

        def read(name: str) -> Any:
            if name != raw_name:
                return None
            buffer, shape = engine.output(name)
            raw = self._memory.view(buffer, shape, engine.dtype(name))
            ours = self._ours(raw)
            return ours.clone() if ours is raw else ours

        return read

    def _packed(self, key: Any, raw: Any, suppress: Any) -> Any:
        if key not in self._graphs:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= RUNS_BEFORE_GRAPH or len(self._graphs) >= MAX_GRAPHS:
                return suppress(self._ours(raw))
            made: List[Any] = []
            self._memory.synchronize()
            replay = self._memory.capture(lambda: made.append(suppress(self._ours(raw))))
            self._graphs[key] = replay, made[0]
        replay, packed = self._graphs[key]
        replay()
        return packed

    def _ours(self, raw: Any) -> Any:
        return raw if self._layout is None else self._layout.to_raw(raw)

    def result(
        self, packed: np.ndarray, settings: NmsSettings, batch: int
    ) -> Optional[List[Poses]]:
        """The poses of each image on the canvas; None if the fixed sizes did not suffice."""
        poses = self._fixed.poses(settings, packed)
        crowded = any(found is None for found in poses)
        return None if crowded else cast(List[Poses], poses)


class PycudaReader:
    """The rows above the confidence threshold, by a kernel of our own; NMS is the host's."""

    def __init__(self, memory: PycudaMemory, nc: int, layout: Optional[Layout]):
        self._filter, self._layout = RowFilter(memory), layout

    def serves(self, settings: NmsSettings, batch: int) -> bool:
        return self._filter.usable and self._layout is None

    def start_over(self, settings: NmsSettings) -> None:
        """Nothing is remembered."""

    def reading(self, engine: Ran, raw_name: str, settings: NmsSettings) -> Reading:
        """See TorchReader.reading."""

        def read(name: str) -> Optional[Filtered]:
            if name != raw_name:
                return None
            buffer, (b, n, width) = engine.output(name)
            return self._filter.start(buffer, (b, n, width), settings.conf_thres)

        return read

    def result(
        self, found: Filtered, settings: NmsSettings, batch: int
    ) -> Optional[List[np.ndarray]]:
        """(n, 5 + nc + 3K) candidates of each image; None if there was no room for all."""
        return self._filter.rows(found)
