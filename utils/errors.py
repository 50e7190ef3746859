"""The exception and the warning that are the user's to act on; errors on one line."""

import os
import re
import sys
import threading
import warnings
from types import FrameType
from typing import Mapping, Optional, Tuple

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARY = tuple(os.path.join(_ROOT, name, "") for name in ("escalator", "models", "utils"))
_STARTERS = ("threading", "concurrent.futures.thread")  # modules that call the function of a thread
# C0, DEL, C1; line separators; what turns the direction of text; half characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(Exception):
    """A file, parameter or machine is not what was asked for.

    The message is one line: what is wrong with which file or parameter, what was expected, what to
    do. Names of parameters stand in backticks; scripts make flags of them (utils/cli.py), print
    the line and exit with code 1. Anything else that is raised is a bug: exit code 70.
    """


class InputWarning(UserWarning):
    """Something the user should know and may want to change; worded as an InputError."""


def warn(message: str) -> None:
    """Warn of `message` with an InputWarning, at the line that called into this library.

    That is the line the user wrote; where in the library something was noticed tells them nothing.
    In a thread of the library it is the line that the main thread waits at. Where a program hands a
    function of the library itself to a thread or pool, as `pool.submit(read_data, path)`, no line
    of the program calls it, and the warning names the one in the library that noticed.
    """
    frame = _calling_frame(sys._getframe(1))
    if frame is None and threading.current_thread() is not threading.main_thread():
        frame = _calling_frame(sys._current_frames().get(threading.main_thread().ident or 0))
    if frame is None:  # a script of this library
        warnings.warn(message, InputWarning, stacklevel=2)
        return
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module, path = frame.f_globals.get("__name__"), frame.f_code.co_filename
    warnings.warn_explicit(message, InputWarning, path, frame.f_lineno, module, registry)


def _calling_frame(frame: Optional[FrameType]) -> Optional[FrameType]:
    """The frame that called the outermost one of this library; None if a thread did, or nothing."""
    caller = None
    while frame is not None:
        if os.path.abspath(frame.f_code.co_filename).startswith(_LIBRARY):
            caller = frame.f_back
        frame = frame.f_back
    while caller is not None and caller.f_globals.get("__name__") in _STARTERS:
        caller = caller.f_back
    return caller


def check_limits(config: object, limits: Mapping[str, Tuple[float, float]]) -> None:
    """Raise InputError for a field of a config below or above its limits; None is no value.

    Args: limits: field -> (lowest, highest).
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:  # NaN is not, either
            raise InputError("`%s` %g: expected %g to %g" % (name, value, low, high))


def reason_of(error: Exception) -> str:
    """Why a file could not be read: what the system says, else the words of the exception."""
    return getattr(error, "strerror", None) or str(error)


def one_line(error: BaseException, limit: int = 300) -> str:
    """Kind and first words of an exception, without line breaks."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[:limit] + " ..."
    return "%s: %s" % (type(error).__name__, text)


def printable(text: str, keep: str = "") -> str:
    """Text on one line, control characters as `\\x1b`. Args: keep: characters that stay."""

    def escape(match: "re.Match[str]") -> str:
        char = match.group()
        return char if char in keep else char.encode("unicode_escape").decode("ascii")

    return _CONTROL.sub(escape, text)
