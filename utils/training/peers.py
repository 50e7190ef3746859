"""What the processes of a run tell each other beside gradients, through the store where they meet.

peers = Peers(ranks)
config = peers.of_first("config", find)      # what the first process found, for all
peers.check_alike("flags", {"`epochs`": 3})  # InputError that says what differs, and where
with peers.alert(advice): ...                # InputError if another process ends
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, TypeVar

from utils.errors import InputError, one_line
from utils.training.distributed import TIMEOUT, Ranks

Value = TypeVar("Value")
FAILED = "failed"  # key: which process ended, and why
IS_THERE = "is there/"  # before a key: a counter, above 0 once the key has its value
POLL_S = 0.05
ANSWER_S = 5.0  # for the store to answer; the host that has it may be the one that is gone


class Peers:
    """The processes of a run; with one process there is nobody to ask."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.store: Any = None
        self.place = "process %d of %d (%s)" % (ranks.rank + 1, ranks.world, socket.gethostname())
        if ranks.world > 1:
            import torch.distributed as dist

            self.store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))

    def of_first(self, key: str, make: Callable[[], Value]) -> Value:
        """make() of the first process, for all: plain values that JSON holds."""
        if self.store is None:
            return make()
        if self.ranks.first:
            self._set(key, make())
        return self._get(key)

    def check_alike(self, key: str, facts: Dict[str, Any]) -> None:
        """Raise InputError unless all processes have the same facts, name -> plain value."""
        if self.store is None:
            return
        self._set("%s/%d" % (key, self.ranks.rank), [self.place, facts])
        all_facts = [self._get("%s/%d" % (key, rank)) for rank in range(self.ranks.world)]
        first_place, wanted = all_facts[0]
        for place, found in all_facts[1:]:
            for name, value in found.items():
                if value != wanted.get(name):
                    raise InputError(
                        "%s: %s in %s, %s in %s; all need the same"
                        % (name, wanted.get(name), first_place, value, place)
                    )

    @contextlib.contextmanager
    def one_of_host_first(self, key: str) -> Iterator[None]:
        """One process of each host runs the body, then the others, which find its caches."""
        key = "%s/%s" % (key, os.environ.get("GROUP_RANK", "0"))
        if self.store is not None and self.ranks.local:
            self._get(key)
        yield
        if self.store is not None and not self.ranks.local:
            self._set(key, True)

    @contextlib.contextmanager
    def alert(self, advice: Callable[[], str]) -> Iterator[None]:
        """Tell the others why this process ends; raise InputError if it is another one that did.

        Args: advice: what the user can do then.
        """
        try:
            yield
        except BaseException as e:
            if self.store is None:
                raise
            if not _lost(e):
                said = self._tell(_reason(e))
                if said and isinstance(e, InputError):
                    raise SystemExit(1) from e
                raise
            why = self._told() or "another process ended or cannot be reached (%s)" % _reason(e)
            raise InputError("%s; %s" % (why, advice())) from e

    def _set(self, key: str, value: Any) -> None:
        self.store.set(key, json.dumps(value))
        self.store.add(IS_THERE + key, 1)

    def _is_there(self, key: str) -> bool:
        """Without waiting; store.check came with a later PyTorch than the oldest pinned one."""
        return self.store.add(IS_THERE + key, 0) > 0

    def _get(self, key: str) -> Any:
        """Wait for a value. Raises ProcessLost if a process ends instead."""
        until = time.monotonic() + TIMEOUT.total_seconds()
        while not self._is_there(key):
            if self._is_there(FAILED) or time.monotonic() > until:
                raise ProcessLost("no answer within %s" % TIMEOUT)
            time.sleep(POLL_S)
        return json.loads(self.store.get(key))

    def _tell(self, reason: str) -> bool:
        """Say why this process ends; True if another one of this host has said just that."""
        text = "%s ended: %s" % (self.place, reason)
        kept: List[str] = []

        def write() -> None:  # in one step: all may find the same mistake at the same time
            kept.append(json.loads(self.store.compare_set(FAILED, "", json.dumps(text))))
            self.store.add(IS_THERE + FAILED, 1)

        _in_time(write)
        same = "(%s) ended: %s" % (socket.gethostname(), reason)
        return bool(kept) and kept[0] != text and kept[0].endswith(same)

    def _told(self) -> str:
        """What the process said that ended first; empty if it could not."""
        found: List[str] = []

        def read() -> None:
            if self._is_there(FAILED):
                found.append(str(json.loads(self.store.get(FAILED))))

        _in_time(read)
        return found[0] if found else ""


class ProcessLost(RuntimeError):
    """Another process of the run ended, or does not answer."""


def _lost(error: BaseException) -> bool:
    """Whether another process is the cause. Gloo has no class of error, but names its source."""
    import torch.distributed as dist

    if isinstance(error, (ProcessLost, dist.DistError)):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _reason(error: BaseException) -> str:
    """An exception in a few words."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    # [/path/of/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:23977. This is ...
    words = re.match(r"\[[^]]*\.cc:\d+\] (.+?)(\. |$)", str(error))
    return words.group(1) if words else one_line(error, 150)


def _in_time(work: Callable[[], None]) -> None:
    """Run work(), which asks the store; give up where its host does not answer."""

    def quiet() -> None:
        with contextlib.suppress(RuntimeError):
            work()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
