"""The error boundary of every script."""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Set, Type, TypeVar

from utils import outputs, stopping
from utils.errors import InputError, InputWarning, one_line, printable

stopping.one_line_while_loading()
UNEXPECTED = 70  # exit code of a fault of ours; EX_SOFTWARE of sysexits.h
# Said in the one line of an error, or of no use; before OpenCV is imported.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))  # 0.8 GB; a small file can claim


def run(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Optional[List[str]] = None,
) -> None:
    """Parse the command line, call `main(args)` and leave with an exit code.

    0: done. 1: a wrong command line, InputError or an error of the operating system, printed as
    one line. 70: a fault of ours, one line that names the file with the traceback. 130:
    interrupted, see utils/stopping.py.
    """
    parser.error = functools.partial(_usage_error, parser)  # type: ignore  # one line, as others
    with printable_streams(), stopping.watched():
        args = parser.parse_args(argv)
        verbose = bool(getattr(args, "verbose", False))
        overwrite = bool(getattr(args, "overwrite", False))
        try:
            with warnings.catch_warnings(), outputs.writing_as(
                Path(parser.prog).stem, overwrite=overwrite
            ):
                others = show_warnings(parser, at_once=verbose)
                main(args)
            for line in others:
                print("warning: " + line, file=sys.stderr)
        except (Exception, KeyboardInterrupt) as e:
            # a module that is being loaded makes an ImportError of a signal
            foreseen = isinstance(e, (InputError, OSError))
            if isinstance(e, KeyboardInterrupt) or stopping.asked(0.0 if foreseen else 0.2):
                interrupted()
            _end_with(e, parser, verbose=verbose)


def _end_with(error: Exception, parser: argparse.ArgumentParser, *, verbose: bool) -> NoReturn:
    """Leave with one line about an error."""
    if isinstance(error, InputError):
        fail(with_flags(str(error), parser))
    if isinstance(error, BrokenPipeError):  # the reader of our output left, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if isinstance(error, OSError):
        named = "%s: %s" % (error.filename, error.strerror)
        fail(named if error.filename else str(error))
    if out_of_memory(error):
        fail("the memory does not suffice; use fewer or smaller images at a time (%s)"
             % one_line(error, 120))  # fmt: skip
    unexpected(error, verbose=verbose)


def interrupted() -> NoReturn:
    """Leave with exit code 130."""
    print("interrupted", file=sys.stderr, flush=True)
    stopping.end_if_asked()
    sys.exit(stopping.EXIT_CODE)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """The flag of a script that writes where the user says, see utils/outputs.py."""
    parser.add_argument("--overwrite", action="store_true",
        help="replace files of these names that this script did not write")  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the computer or of a GPU did not suffice; PyTorch, pycuda and CUDA say
    so in words alone."""
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


def unexpected(error: BaseException, *, verbose: bool = False) -> NoReturn:
    """Leave with exit code 70: one line, and the traceback in a file, with `verbose` also here."""
    import platform
    import tempfile
    import traceback

    lines = [" ".join(sys.argv), "Python %s, %s" % (sys.version, platform.platform()), ""]
    text = "\n".join(lines + traceback.format_exception(type(error), error, error.__traceback__))
    try:
        descriptor, path = tempfile.mkstemp(".txt", "yolo-pose-error-")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as e:
        path = "no file (%s)" % e.strerror
    if verbose:
        print(text, file=sys.stderr)
    fail("unexpected %s; details in %s" % (one_line(error, 200), path), UNEXPECTED)


class _Printable:
    """A stream that shows control characters of what is written as `\\x1b`."""

    def __init__(self, stream: Any, keep: str):
        self._stream, self._keep = stream, keep

    def write(self, text: str) -> int:
        moves = not text.replace("\x1b[A", "").strip("\n")  # of tqdm, between two bars
        self._stream.write(text if moves else printable(text, self._keep))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def printable_streams() -> Iterator[None]:
    """No file name can send commands to the terminal, or fail to be shown."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Printable(streams[0], "\n\t"), _Printable(streams[1], "\n\t\r")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def with_flags(message: str, parser: Optional[argparse.ArgumentParser] = None) -> str:
    """A message of the library in the words of the command line: `img_size` becomes --img-size.

    A parameter that this script does not have is a flag of another one.
    """
    flags: Dict[str, str] = {}
    for action in parser._actions if parser is not None else []:
        long = [option for option in action.option_strings if option.startswith("--")]
        if long:
            flags.setdefault(action.dest, long[0])

    def flag(match: "re.Match[str]") -> str:
        return flags.get(match.group(1), "--" + match.group(1).replace("_", "-"))

    return re.sub(r"`(\w+)`", flag, message)


Config = TypeVar("Config")


def config_of(kind: Type[Config], args: argparse.Namespace, **values: Any) -> Config:
    """A dataclass whose fields are the parsed flags of the same names, and further values."""
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore
    found = {name: value for name, value in vars(args).items() if name in fields}
    return kind(**{**found, **values})


def no_torch(error: ImportError, name: str, what: str) -> None:
    """PyTorch could not be imported at the top of the module `name`: for a script one line says
    that `what` needs it; where the module was imported, its importer is to know."""
    if name == "__main__":
        fail("%s needs PyTorch; pip install torch (%s)" % (what, error))
    raise error


def show_warnings(
    parser: Optional[argparse.ArgumentParser] = None, *, at_once: bool = False
) -> List[str]:
    """From now on print each InputWarning once, on one line; a list that those of other libraries
    go to.

    Args: at_once: print those of other libraries as usual.
    """
    usual = warnings.showwarning
    found: List[str] = []
    printed: Set[str] = set()

    def show(message: Any, kind: Any, *rest: Any, **more: Any) -> None:
        if issubclass(kind, InputWarning):
            line = "warning: " + printable(with_flags(str(message), parser))
            if line not in printed:
                print(line, flush=True)
            printed.add(line)
        elif at_once:
            usual(message, kind, *rest, **more)
        else:
            line = "%s: %s" % (kind.__name__, " ".join(str(message).split())[:300])
            if line not in found:
                found.append(line)

    warnings.showwarning = show  # type: ignore[assignment]  # the names of its parameters
    warnings.simplefilter("always", InputWarning)
    return found


def _usage_error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Leave with one line; for an unknown flag it names the one that is spelt most alike."""
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    if unknown:
        for flag in difflib.get_close_matches(unknown.group(1), parser._option_string_actions, 1):
            message += "; did you mean %s?" % flag
    fail(message + " (--help shows all flags)")


def fail(message: str, code: int = 1) -> NoReturn:
    """Print `error: message` to stderr, on one line, and leave with an exit code."""
    sys.stdout.flush()
    print("error: " + printable(message), file=sys.stderr)
    sys.exit(code)
