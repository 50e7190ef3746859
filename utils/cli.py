"""The error boundary of every script."""

import argparse
import os
import signal
import sys
from typing import Callable, List, Optional

from utils.errors import InputError


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
        main(args)
    except InputError as e:
        fail(str(e))
    except BrokenPipeError:  # the reader of our output left, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        fail("%s: %s" % (e.filename, e.strerror) if e.filename else str(e))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def no_torch(error: ImportError, name: str, what: str) -> None:
    """PyTorch could not be imported at the top of the module `name`: for a script one line says
    that `what` needs it; where the module was imported, its importer is to know."""
    if name == "__main__":
        fail("%s needs PyTorch; pip install torch (%s)" % (what, error))
    raise error


def _usage_error(message: str) -> None:
    fail(message + " (--help shows all flags)")


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def fail(message: str) -> None:
    """Print `error: message` to stderr and leave with exit code 1."""
    sys.stdout.flush()
    print("error: " + message, file=sys.stderr)
    sys.exit(1)
