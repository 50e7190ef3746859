"""Overlap of decoding, inference and writing: threads joined by short queues.

frames = prefetch(source)                      # thread 1 decodes
outputs = prefetch(map(infer, frames))         # thread 2 infers
for output in outputs: write(output)           # this thread writes
"""

import contextlib
import queue
import threading
import time
from typing import Dict, Iterable, Iterator, List, TypeVar

T = TypeVar("T")
_END = object()


class _Failure:
    """An exception on its way through the queue."""

    def __init__(self, error: BaseException):
        self.error = error


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Iterate over `items` in a thread, at most `depth` items ahead; the order stays.

    An exception of `items` is raised here. When the consumer stops early (break, exception,
    close()), the thread ends after the item it is working on.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as e:  # handed to the consumer, whatever it is
            put(_Failure(e))
        finally:
            close = getattr(items, "close", None)  # a generator frees what it holds
            if close is not None:
                close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore
    finally:
        stop.set()
        thread.join(timeout=10)


class StageTimer:
    """Seconds spent in each named stage; a stage is only ever timed from one thread."""

    def __init__(self, stages: List[str]):
        self.seconds: Dict[str, float] = dict.fromkeys(stages, 0.0)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def milliseconds_each(self, count: int) -> Dict[str, float]:
        """Mean milliseconds of each stage over `count` frames."""
        return {k: 1000 * v / max(count, 1) for k, v in self.seconds.items()}
