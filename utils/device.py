"""Devices by name, and how many cores and how much memory there are."""

import os
from typing import Optional

from utils.errors import InputError


def parse_device(device: str) -> Optional[int]:
    """`cpu` -> -1, `0` or `cuda:0` -> 0, empty -> None (choose)."""
    text = str(device).strip().lower()
    if not text:
        return None
    if text == "cpu":
        return -1
    number = text[len("cuda:") :] if text.startswith("cuda:") else text
    if text == "cuda":
        return 0
    if not (number.isdecimal() and len(number) < 4):
        raise InputError("`device` %s: expected cpu or one GPU index such as 0" % device)
    return int(number)


def check_gpu(gpu: int, count: int, who: str, *, advice: str = "; use `device` cpu") -> None:
    """Raise InputError for the index of a GPU that is not there.

    Args: count: GPUs that there are for `who`, such as PyTorch 2.4.
    """
    if gpu >= count:
        raise InputError("`device` %d: %s sees %d CUDA GPUs%s" % (gpu, who, count, advice))


def available_cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> Optional[int]:
    """Bytes of memory that are free; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
