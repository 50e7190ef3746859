"""What benchmarks share: the machine in one line for docs/benchmarks.md, the rate of a call."""

import datetime
import os
import platform
import time
from pathlib import Path
from typing import Any, Callable


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


def calls_per_second(call: Callable[[], Any], seconds: float, *, warm_up: int) -> float:
    """How often a second a call ends, one after the other, after some that do not count."""
    for _ in range(warm_up):
        call()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - started)
