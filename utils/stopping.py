"""Ctrl-C and SIGTERM: what was done is kept, and the process ends whatever hangs.

    with watched():
        work()            # KeyboardInterrupt at the first signal

Further signals do not interrupt the clean-up. A thread ends the process GRACE_S after a SIGTERM or
a second Ctrl-C, also where a library neither returns nor lets Python's handlers run. Once the
clean-up is done `end_if_asked` ends it at once. Inside `at_once` the first signal ends it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Iterator, Optional, Type

from utils import files

GRACE_S = 3.0
EXIT_CODE = 130
PR_SET_PDEATHSIG = 1  # prctl(2)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Watch:
    """The pipe that the signals come through, and the thread that reads it."""

    def __init__(self) -> None:
        self.signals = 0
        self.at_once = False
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.write_end, False)
        threading.Thread(target=self._run, daemon=True, name="stopping").start()

    def handle(self, signum: int, frame: object) -> None:
        """Python's handler: the first signal interrupts the main thread."""
        self.signals += 1
        if self.at_once:
            end_now()
        if self.signals == 1:
            raise KeyboardInterrupt

    def _run(self) -> None:
        """The C handler writes the number of each signal at once, whatever the main thread does."""
        interrupts = 0
        for number in iter(lambda: os.read(self.read_end, 1), b""):
            interrupts += number[0] == signal.SIGINT
            if number[0] == signal.SIGTERM or interrupts == 2:
                self.end_soon()
        os.close(self.read_end)

    def end_soon(self) -> None:
        threading.Thread(target=self._end, daemon=True, name="stopping").start()

    def _end(self) -> None:
        time.sleep(GRACE_S)
        end_now()


_watch: Optional[_Watch] = None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Signals that arrive inside stop the process as described above; main thread only."""
    global _watch
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    # a shell lets background jobs ignore Ctrl-C
    before = {s: signal.getsignal(s) for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, watch.handle)
    fd = signal.set_wakeup_fd(watch.write_end, warn_on_full_buffer=False)
    outer, _watch = _watch, watch
    try:
        yield
    finally:
        if not watch.signals:  # else until the process has ended
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(watch.write_end)
            _watch = outer


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """A signal that arrives inside ends the process: temporary files go, nothing else is done.

    For calls into a C++ library that calls Python: it may swallow the KeyboardInterrupt, complain
    of it, and go on for minutes.
    """
    watch = _watch
    if watch is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch.at_once = True
    try:
        yield
    finally:
        watch.at_once = False


def end_with_parent() -> None:
    """Have the system send SIGTERM when the process that started this one ends; Linux only.

    torchrun's processes would go on without it, and with them the run that is being started anew.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def one_line_while_loading() -> None:
    """Ctrl-C while a script still loads its modules: one line instead of a traceback.

    Nothing happens in programs that are no script of ours.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or Path(__file__).resolve().parents[1] not in Path(script).resolve().parents:
        return
    usual = sys.excepthook

    def show(
        kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        cause: Optional[BaseException] = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__  # a module makes an ImportError of it
        if cause is None:
            usual(kind, error, trace)
        else:
            print("interrupted", file=sys.stderr)

    sys.excepthook = show


def asked(wait_s: float = 0.0) -> bool:
    """Whether a signal to stop came, or comes within `wait_s` seconds.

    One that goes to the whole group of processes may end a worker first, and the error that this
    makes is no fault.
    """
    try:
        time.sleep(wait_s)
    except KeyboardInterrupt:
        return True
    return _watch is not None and _watch.signals > 0


def end_if_asked() -> None:
    """The main thread is done: after a signal nothing else is waited for.

    Threads that hang in a library would be; and libraries crash where they are taken down while a
    thread is in them.
    """
    if asked():
        end_now(said=True)


def end_now(*, said: bool = False) -> None:
    """End the process and those that it started; temporary files go, nothing is waited for."""
    import multiprocessing

    # the process ends, whatever goes wrong here; a pipe that nobody reads blocks who writes to it
    last = threading.Timer(1.0, os._exit, (EXIT_CODE,))
    last.daemon = True
    last.start()
    with contextlib.suppress(Exception):
        for child in multiprocessing.active_children():
            child.kill()
        files.remove_temporary()
        if not said:
            print("interrupted", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(EXIT_CODE)
