"""INT8 calibrators of TensorRT 8.5 to 10.x."""

from typing import Any, Callable, Iterable, Iterator, List, Optional

import numpy as np

from utils.errors import InputError
from utils.trt.api import Shape, Tensorrt
from utils.trt.device_memory import Buffer, DeviceMemory


def _uploads(batches: Iterable[np.ndarray], memory: Optional[DeviceMemory]) -> Iterator[int]:
    """Device pointer of each batch, which the next one replaces."""
    buffer: Optional[Buffer] = None
    for batch in batches:
        assert memory is not None  # who gives batches gives memory
        with memory.active():
            if buffer is None:
                buffer = memory.allocate(batch.nbytes)
            memory.upload(buffer, batch.astype(np.float32, copy=False))
            memory.synchronize()
        yield memory.address(buffer)


def make_calibrator(
    trt: Tensorrt,
    algorithm: str,
    memory: Optional[DeviceMemory],
    *,
    batches: Optional[Iterable[np.ndarray]],
    batch_shape: Shape,
    cache: Optional[bytes],
    on_cache: Callable[[bytes], None],
) -> Any:
    """A calibrator of TensorRT 8.5 to 10.x.

    Args:
        algorithm: MinMax or Entropy.
        batches: float32 arrays of `batch_shape` (B, 3, H, W), None: the cache has everything.
        cache: content of a calibration cache with the header of this version.
        on_cache: called with the cache that TensorRT made of all batches.

    The bindings print whatever a callback raises and go on with the batches so far. So nothing is
    raised: the calibrator keeps it in `error`, and a cache made of some of the batches is dropped.
    """
    base = {
        "MinMax": "IInt8MinMaxCalibrator",
        "Entropy": "IInt8EntropyCalibrator2",
    }[algorithm]
    kind = getattr(trt.module, base)

    class Calibrator(kind):  # type: ignore
        def __init__(self) -> None:
            kind.__init__(self)
            self.image_shape = tuple(batch_shape[1:])
            self.error: Optional[BaseException] = None
            self._uploads = _uploads(batches or (), memory)

        def get_batch_size(self) -> int:
            return int(batch_shape[0])

        def get_batch(self, names: List[str], *_: Any) -> Optional[List[int]]:
            """Device pointer of the next batch; None: that was all."""
            if self.error is not None:
                return None
            try:
                address = next(self._uploads, None)
                return None if address is None else [address]
            except BaseException as e:  # Ctrl-C, too, would end the calibration and no more
                self.error = e
                return None

        def read_calibration_cache(self, *_: Any) -> Optional[bytes]:
            return cache

        def write_calibration_cache(self, content: Any, *_: Any) -> None:
            if self.error is not None:
                return
            try:
                on_cache(bytes(content))
            except BaseException as e:
                self.error = e

    return Calibrator()


def raise_calibration_error(calibrator: Any) -> None:
    """Raise what stopped a calibrator of `make_calibrator`, as InputError where it is the user's.

    None has no error.
    """
    error = getattr(calibrator, "error", None)
    if isinstance(error, (InputError, ValueError, OSError)):
        raise InputError("calibration stopped: %s" % error) from error
    if error is not None:
        raise error
