"""Processes as threads that meet in one store."""

import socket
import threading
import time

import pytest

dist = pytest.importorskip("torch.distributed")

from utils.errors import InputError  # noqa: E402
from utils.training.distributed import Ranks  # noqa: E402
from utils.training.peers import Peers, ProcessLost  # noqa: E402


def together(*works):
    """Run work(peers) of each process; what each returned or raised."""
    store, found = dist.HashStore(), {}

    def run(rank, work):
        peers = Peers(Ranks(0, 1))
        peers.ranks, peers.store = Ranks(rank, len(works), rank, len(works)), store
        peers.place = "process %d" % (rank + 1)
        try:
            with peers.alert(lambda: "start again"):
                found[rank] = work(peers)
        except BaseException as e:
            found[rank] = e

    threads = [threading.Thread(target=run, args=job) for job in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[rank] for rank in range(len(works))]


def test_alone():
    peers = Peers(Ranks())
    assert peers.of_first("a", lambda: 7) == 7
    peers.check_alike("b", {"x": 1})
    with peers.one_of_host_first("c"), pytest.raises(ZeroDivisionError), peers.alert(str):
        raise ZeroDivisionError


def test_the_first_one_says_it_for_all():
    def work(peers):
        return peers.of_first("key", lambda: {"said by": peers.ranks.rank, "list": [1.5, None]})

    assert together(work, work) == [{"said by": 0, "list": [1.5, None]}] * 2


def test_alike():
    def work(peers):
        return peers.check_alike("key", {"`epochs`": 3})

    assert together(work, work, work) == [None] * 3


def test_what_differs_is_told_in_all():
    def work(peers):
        peers.check_alike("key", {"`adam`": True, "`epochs`": 3 + (peers.ranks.rank == 2)})

    errors = together(work, work, work)
    text = "`epochs`: 3 in process 1, 4 in process 3; all need the same"
    assert [str(e) for e in errors] == [text] * 3
    assert all(isinstance(e, InputError) for e in errors)


@pytest.mark.parametrize(
    "error, words", [(InputError("none.yaml: no such file"), "none.yaml: no such file"),
                     (KeyboardInterrupt(), "interrupted"), (ValueError("x"), "ValueError: x")]
)  # fmt: skip
def test_why_another_one_ended(error, words):
    def waiting(peers):
        peers.check_alike("key", {})

    def failing(peers):
        raise error

    first, second = together(waiting, failing)
    assert isinstance(first, InputError) and second is error
    assert str(first) == "process 2 ended: %s; start again" % words


def test_one_process_of_a_host_says_it_for_the_others():
    """A mistake that all processes find is one line on each host."""

    def failing(peers):
        peers.place = "process %d (%s)" % (peers.ranks.rank + 1, socket.gethostname())
        while peers.ranks.rank and not peers._told():
            time.sleep(0.01)
        raise InputError("none.yaml: no such file")

    first, second = together(failing, failing)
    assert isinstance(first, InputError) and isinstance(second, SystemExit)


def test_a_mistake_that_all_find_at_once_is_one_line():
    barrier = threading.Barrier(4)

    def failing(peers):
        peers.place = "process %d (%s)" % (peers.ranks.rank + 1, socket.gethostname())

        class Store:  # nobody writes before all want to
            def __getattr__(self, name):
                return getattr(store, name)

            def compare_set(self, *words):
                barrier.wait(60)
                return store.compare_set(*words)

        store, peers.store = peers.store, Store()
        raise InputError("none.yaml: no such file")

    found = together(*[failing] * 4)
    assert [type(e) for e in found].count(InputError) == 1
    assert [type(e) for e in found].count(SystemExit) == 3


def test_who_ended_first_stays_in_a_store_of_the_network():
    """The store of torchrun does as the one of these tests."""
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    for prefix in ("", "/worker/attempt_0"):
        inside = dist.PrefixStore(prefix, store)
        assert inside.compare_set("failed", "", "first") == b"first"
        assert inside.compare_set("failed", "", "second") == b"first"


@pytest.mark.parametrize(
    "error, words",
    [
        (RuntimeError("[/a/gloo/pair.cc:553] Connection closed by peer [::1]:23. This is typically "
                      "caused by ..."), "Connection closed by peer [::1]:23"),
        (ProcessLost("no answer within 0:30:00"), "no answer within 0:30:00"),
    ],
)  # fmt: skip
def test_a_connection_that_is_lost(error, words):
    def work(peers):
        raise error

    (found,) = together(work)
    assert isinstance(found, InputError) and "cannot be reached" in str(found)
    assert words in str(found) and "typically" not in str(found)


def test_errors_of_our_own_stay():
    error = RuntimeError("shapes do not match")

    def work(peers):
        raise error

    assert together(work) == [error]


def test_one_process_of_a_host_reads_first():
    order = []

    def work(peers):
        with peers.one_of_host_first("labels"):
            order.append(peers.ranks.rank)

    together(work, work, work)
    assert order[0] == 0 and sorted(order) == [0, 1, 2]
