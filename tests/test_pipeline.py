import threading
import time

import pytest

from utils.pipeline import StageTimer, parallel_map, prefetch


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_prefetch_keeps_order_and_runs_ahead():
    taken = []

    def items():
        for i in range(6):
            taken.append(i)
            yield i

    stream = prefetch(items(), depth=2)
    assert next(stream) == 0
    assert wait_until(lambda: len(taken) >= 3)
    assert len(taken) <= 5
    assert list(stream) == [1, 2, 3, 4, 5]


def test_prefetch_raises_what_the_items_raise():
    def items():
        yield 1
        raise ValueError("broken")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_prefetch_ends_its_thread_when_the_consumer_stops():
    before = threading.active_count()
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    stream = prefetch(endless())
    next(stream)
    stream.close()
    assert wait_until(lambda: threading.active_count() == before)
    assert closed == [True]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_parallel_map_keeps_order(workers):
    def slow_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(parallel_map(slow_first, range(20), workers)) == [i * i for i in range(20)]


def test_parallel_map_overlaps():
    barrier = threading.Barrier(2, timeout=5)  # passes only if two calls run at a time
    assert list(parallel_map(lambda i: barrier.wait() >= 0, range(4), 2)) == [True] * 4


def test_parallel_map_raises_what_a_call_raises():
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda i: 1 // i, [1, 0, 1], 2))


def test_stage_timer_adds_up_over_threads():
    timer = StageTimer(["a", "b"])

    def work():
        with timer("a"):
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    each = timer.milliseconds_each(3)
    assert each["a"] >= 19 and each["b"] == 0
