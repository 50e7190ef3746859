"""Scripts as users run them: a process, its output, its exit code."""

import os
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
