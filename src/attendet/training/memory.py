"""Keep freed memory in the process, so that each step does not issue its pages in anew."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep large freed blocks for the next step; return whether it did.

    A training step on the CPU frees and allocates the same hundreds of megabytes again and again.
    glibc hands each large block back to the system, which then clears every page anew: about a
    sixth of a step's time on one core (2.8 to 3.4 images/s; ``benchmarks/training_step.py``
    measures it anew). The process's memory then stays at
    its peak. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
