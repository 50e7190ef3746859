"""What the figures were measured on: one line for docs/benchmarks.md."""

import datetime
import os
import platform
from pathlib import Path


def describe() -> str:
    """Processor, cores, operating system, Python, date."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "%s, %s cores, %s, Python %s, %s" % (
        name,
        cores,
        platform.system(),
        platform.python_version(),
        datetime.date.today().isoformat(),
    )
