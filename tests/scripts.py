"""Scripts as users run them: a process, its output, its exit code."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT


def run_script(script: str, *flags: Any, cwd=ROOT) -> subprocess.CompletedProcess:
    """`python script flags` from the repository root."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, flags)],
        cwd=str(cwd),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=240,
    )


def run_inside(script: str, *flags: Any, cwd=None) -> subprocess.CompletedProcess:
    """The same inside this process, with the libraries that are loaded already.

    Args: cwd: another working directory than that of the tests.
    """
    from utils import cli

    module = importlib.import_module(script[: -len(".py")].replace("/", "."))
    handler = signal.getsignal(signal.SIGTERM)
    before = os.getcwd()
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        os.chdir(str(cwd or before))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.run(module.main, module.get_args_parser(), [str(f) for f in flags])
            except SystemExit as e:
                code = e.code
    finally:
        os.chdir(before)
        signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(flags, code, out.getvalue(), err.getvalue())
