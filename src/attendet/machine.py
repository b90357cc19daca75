"""What the processor is, how much of it this process has, and the memory that it held."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["available_cores", "describe_machine", "has_bfloat16", "peak_memory_mib"]

CPUINFO = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Return whether the processor multiplies in bfloat16 (AVX512-BF16, AMX), as Linux tells."""
    return bool(BFLOAT16_FLAGS & set(_cpuinfo().split()))


def describe_machine() -> dict[str, Any]:
    """Return what a reader of figures needs to know of this machine.

    Example:
        >>> sorted(describe_machine())
        ['cores', 'processor', 'python', 'system']
    """
    models = (line for line in _cpuinfo().splitlines() if line.startswith("model name"))
    _, _, model = next(models, "").partition(": ")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def peak_memory_mib() -> int | None:
    """Return the most memory that this process has held so far, MiB; None where nobody knows.

    On Linux this is the peak of the program that runs: getrusage would give that of the process it
    was started from where that one held more.
    """
    try:
        peak = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        peak = None
    if peak is not None:
        return round(int(peak[1]) / 2**10)
    if sys.platform == "win32":
        try:
            import psutil
        except ImportError:
            return None
        return round(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))
