"""Overlap of decoding, inference and writing: threads joined by short queues.

frames = prefetch(source)                               # one thread decodes
outputs = prefetch(parallel_map(infer, frames, 2))      # two threads infer
for output in outputs: write(output)                    # this thread writes
"""

import collections
import concurrent.futures
import contextlib
import queue
import sys
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, TypeVar

S = TypeVar("S")
T = TypeVar("T")
_END = object()
SWITCH_S = 0.5e-3  # see one_thread_a_stage; on two cores the CPU time a frame stays as it was
JOIN_S = 1.0  # wait this long for a thread that may hang in a library; it is a daemon


class _Failure:
    """An exception on its way through the queue."""

    def __init__(self, error: BaseException):
        self.error = error


def one_thread_a_stage() -> None:
    """Prepare this process for threads that each do one stage.

    OpenCV works in the thread that calls it: its own threads would fight with the stages;
    letterboxing a 720p image with them takes half as much CPU again and is not done sooner.

    The interpreter's lock changes hands sooner. A thread that starts kernels on a GPU gives the
    lock away with each, and waits up to SWITCH_S to get it back from a thread that works in
    Python; with Python's 5 ms the GPU runs dry meanwhile.
    """
    import cv2

    cv2.setNumThreads(0)
    sys.setswitchinterval(SWITCH_S)


def prefetch(
    items: Iterable[T], depth: int = 2, on_stop: Optional[Callable[[], None]] = None
) -> Iterator[T]:
    """Iterate over `items` in a thread, at most `depth` items ahead; the order stays.

    An exception of `items` is raised here. When the consumer stops early (break, exception,
    close()), the thread ends after the item it is working on. `on_stop` is called then, to wake
    a source that waits for something that may never come.
    """
    with _thread(items, depth, on_stop) as ready:
        while True:
            item = ready.get()
            if item is _END:
                return
            yield _unpacked(item)


def gather(
    items: Iterable[T],
    size: int,
    wait_s: float,
    *,
    fits: Callable[[List[T], T], bool],
    on_stop: Optional[Callable[[], None]] = None,
) -> Iterator[List[T]]:
    """Lists of up to `size` items that come within `wait_s` of the first; the order stays.

    As prefetch otherwise. Args: fits: whether an item may follow a list; if not it begins the next.
    """
    with _thread(items, size, on_stop) as ready:
        left: List[Any] = []  # what did not fit
        while True:
            first = left.pop() if left else ready.get()
            if first is _END:
                return
            group = [_unpacked(first)]
            until = time.monotonic() + wait_s
            while len(group) < size:
                try:
                    item = ready.get(timeout=max(until - time.monotonic(), 0))
                except queue.Empty:
                    break
                if item is _END or isinstance(item, _Failure) or not fits(group, item):
                    left.append(item)
                    break
                group.append(item)
            yield group


def _unpacked(item: Any) -> Any:
    if isinstance(item, _Failure):
        raise item.error
    return item


@contextlib.contextmanager
def _thread(
    items: Iterable[Any], depth: int, on_stop: Optional[Callable[[], None]]
) -> Iterator[queue.Queue]:
    """The queue that a thread puts `items` into, then _END or a _Failure."""
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
        yield ready
    finally:
        stop.set()
        if on_stop is not None:
            on_stop()
        thread.join(timeout=JOIN_S)


def parallel_map(function: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """`map(function, items)` with up to `workers` calls at a time; the order stays.

    With several workers one more item waits its turn; with one worker none does.
    """
    ahead = workers if workers > 1 else 0
    pending: Deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            close = getattr(items, "close", None)
            if close is not None:
                close()


@contextlib.contextmanager
def elapsed(title: str, every_s: float = 60.0) -> Iterator[None]:
    """Show how long a call into a library has taken that says nothing itself.

    On a terminal a clock that runs; elsewhere a line each `every_s` seconds.
    """
    from tqdm import tqdm

    done = threading.Event()
    terminal = sys.stderr.isatty()
    bar = tqdm(desc=title, bar_format="{desc}: {elapsed}", leave=False, disable=not terminal)

    def tick() -> None:
        started = time.monotonic()
        while not done.wait(0.5 if terminal else every_s):
            if terminal:
                bar.refresh()
            else:
                print("%s: %.0f s so far" % (title, time.monotonic() - started), flush=True)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        bar.close()


class StageTimer:
    """Seconds spent in each named stage, added up over threads."""

    def __init__(self, stages: List[str]):
        self._lock = threading.Lock()
        self.seconds: Dict[str, float] = dict.fromkeys(stages, 0.0)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            with self._lock:
                self.seconds[stage] += spent

    def milliseconds_each(self, count: int) -> Dict[str, float]:
        """Mean milliseconds of each stage over `count` frames."""
        return {k: 1000 * v / max(count, 1) for k, v in self.seconds.items()}
