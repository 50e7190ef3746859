"""The error boundary of every script."""

import argparse
import dataclasses
import os
import re
import signal
import sys
import warnings
from typing import Any, Callable, List, Optional, Type, TypeVar

from utils.errors import InputError, InputWarning


def run(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Optional[List[str]] = None,
) -> None:
    """Parse the command line, call `main(args)` and leave with an exit code.

    0: done. 1: a wrong command line, InputError or an error of the operating system, printed as
    one line. 130: interrupted. Anything else keeps its traceback.
    """
    parser.error = _usage_error  # type: ignore  # one line, as every other error
    signal.signal(signal.SIGTERM, _stop)  # `docker stop`, systemd: end as with Ctrl-C
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a file name that this terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            show_warnings(parser)
            main(args)
    except InputError as e:
        fail(with_flags(str(e), parser))
    except BrokenPipeError:  # the reader of our output left, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        fail("%s: %s" % (e.filename, e.strerror) if e.filename else str(e))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def with_flags(message: str, parser: Optional[argparse.ArgumentParser] = None) -> str:
    """A message of the library in the words of the command line: `img_size` becomes --img-size.

    A parameter that this script does not have is a flag of another one.
    """
    flags = {}
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


def show_warnings(parser: Optional[argparse.ArgumentParser] = None) -> None:
    """From now on print each InputWarning on one line; those of other libraries as usual."""
    usual = warnings.showwarning

    def show(message: Any, kind: Any, *rest: Any) -> None:
        if issubclass(kind, InputWarning):
            print("warning: " + with_flags(str(message), parser), flush=True)
        else:
            usual(message, kind, *rest)

    warnings.showwarning = show
    warnings.simplefilter("always", InputWarning)


def _usage_error(message: str) -> None:
    fail(message + " (--help shows all flags)")


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def fail(message: str) -> None:
    """Print `error: message` to stderr and leave with exit code 1."""
    sys.stdout.flush()
    print("error: " + message, file=sys.stderr)
    sys.exit(1)
