"""One function over many small files, on all cores, with a bar.

for result in parallel_map(convert, jobs, "json2yolo"):
    ...

Processes, not threads: parsing a small file is Python's own work, which threads do one at a time
(docs/benchmarks.md).
"""

import collections
import concurrent.futures
import gc
import os
import signal
import threading
import time
from typing import Callable, Deque, Iterator, List, Sequence, TypeVar

from utils import outputs
from utils.device import available_cores

S = TypeVar("S")
T = TypeVar("T")
SERIAL_UP_TO = 400  # items; fewer are done before the processes have started
CHUNK = 100  # items a process does before it reports


def parallel_map(
    function: Callable[[S], T], items: Sequence[S], title: str, *, workers: int = 0
) -> Iterator[T]:
    """`map(function, items)`; the order stays.

    Args:
        function: of a module, so that another process can find it.
        title: of the bar.
        workers: processes; 0: one a core.
    """
    if len(items) <= SERIAL_UP_TO:
        yield from map(function, items)
        return
    from tqdm import tqdm

    workers = workers or available_cores()
    if workers == 1:
        yield from tqdm(map(function, items), title, len(items), unit="file", disable=None)
        return
    chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    pending: Deque[concurrent.futures.Future] = collections.deque()
    before_fork()
    started = (outputs.writer(), os.getpid())
    with concurrent.futures.ProcessPoolExecutor(workers, None, _start, started) as pool:
        bar = None
        try:
            for chunk in chunks:
                pending.append(pool.submit(_run, function, chunk))
                # the bar has a thread of its own, which a forked process must not inherit
                if len(pending) < 4 * workers:
                    continue
                bar = bar or tqdm(total=len(items), desc=title, unit="file", disable=None)
                yield from _take(pending, bar)
            bar = bar or tqdm(total=len(items), desc=title, unit="file", disable=None)
            while pending:
                yield from _take(pending, bar)
        finally:
            # Nothing is cancelled after an error: the few chunks that are under way end soon, and
            # Python 3.8 may wait forever for a pool whose last items were cancelled.
            if bar is not None:
                bar.close()


def _take(pending: Deque, bar) -> Iterator:
    results = pending.popleft().result()
    yield from results
    bar.update(len(results))


def _run(function: Callable[[S], T], items: Sequence[S]) -> List[T]:
    return [function(item) for item in items]


def before_fork() -> None:
    """Free what nobody needs, before processes inherit it; see `after_fork`."""
    gc.collect()


def after_fork() -> None:
    """Leave what was inherited alone.

    A library's object may wait for its threads where it is freed, and those exist only in the
    process that made it: ONNX Runtime's sessions would hang here.
    """
    gc.freeze()


def _start(writer: outputs.Writer, parent: int) -> None:
    """A worker leaves Ctrl-C and `docker stop` to the process that started it, and ends with it."""
    after_fork()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    outputs.adopt(writer)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent was killed: nobody else would tell."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
