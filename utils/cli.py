"""The error boundary of every script."""

import argparse
import os
import sys
from typing import Callable, List, Optional

from utils.errors import InputError


def run(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Optional[List[str]] = None,
) -> None:
    """Parse the command line, call `main(args)` and leave with an exit code.

    0: done. 1: InputError or an error of the operating system, printed as one line. 2: argparse
    did not understand the command line. 130: interrupted. Anything else keeps its traceback.
    """
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


def fail(message: str) -> None:
    """Print `error: message` to stderr and leave with exit code 1."""
    sys.stdout.flush()
    print("error: " + message, file=sys.stderr)
    sys.exit(1)
