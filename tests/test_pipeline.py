import sys
import threading
import time

import pytest

from utils.pipeline import StageTimer, gather, one_thread_a_stage, parallel_map, prefetch


def wait_until(condition, seconds=60.0):
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
    barrier = threading.Barrier(2, timeout=60)  # passes only if two calls run at a time
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


def anything(group, item):
    return True


def test_gather_takes_what_is_there_and_waits_no_longer():
    slow = threading.Event()

    def items():
        yield from range(5)
        slow.wait(60)
        yield 5

    groups = gather(items(), 4, 0.2, fits=anything)
    assert next(groups) == [0, 1, 2, 3]
    assert next(groups) == [4]  # 5 is not waited for
    slow.set()
    assert list(groups) == [[5]]


def test_gather_begins_a_new_group_with_what_does_not_fit():
    even = gather(iter([2, 4, 5, 7, 8]), 9, 60, fits=lambda group, item: (item - group[0]) % 2 == 0)
    assert list(even) == [[2, 4], [5, 7], [8]]


def test_gather_hands_over_what_came_before_an_error():
    def items():
        yield 1
        yield 2
        raise ValueError("broken")

    groups = gather(items(), 5, 60, fits=anything)
    assert next(groups) == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(groups)


def test_gather_stops_its_source():
    stopped = threading.Event()

    def items():
        yield 1
        stopped.wait(60)

    groups = gather(items(), 3, 0.01, fits=anything, on_stop=stopped.set)
    assert next(groups) == [1]
    groups.close()
    assert stopped.is_set()


def test_stages_share_the_interpreter_in_short_turns():
    cv2 = pytest.importorskip("cv2")
    before = cv2.getNumThreads(), sys.getswitchinterval()
    try:
        one_thread_a_stage()
        assert cv2.getNumThreads() == 1 and sys.getswitchinterval() <= 1e-3
    finally:
        cv2.setNumThreads(before[0])
        sys.setswitchinterval(before[1])
