"""Noise of the machine: whether its measurements can be compared.

Two things are measured during the run. A probe, a fixed computation on every core, runs before each
measurement: the spread of its times shows how much the speed of the machine changes. On Linux the
CPU time of other programs is measured as well: a steady load makes all measurements slower without
increasing their spread.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np

MAX_SPREAD = 0.10
"""Largest spread of the probe times (interquartile range / median) at which a fastest candidate is
named: relevant differences between runtimes are about as large."""

MAX_OTHER_LOAD = 0.05
"""Largest fraction of the CPU time that other programs may take."""

PROBE_BYTES = 8 * 2**20
STAT = Path("/proc/stat")


class Noise(TypedDict):
    """Noise of the machine during a run."""

    probe_spread: float
    other_load: float | None
    too_noisy: bool
    reason: str | None


class Probe:
    """Timer of a fixed computation on every core at once: SHA-256 over 8 MiB.

    Args:
        cores: number of cores.
    """

    def __init__(self, cores: int) -> None:
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="probe")
        self._cores = cores
        self._block = bytes(PROBE_BYTES)
        self.seconds: list[float] = []

    def run(self) -> None:
        """Time the computation once."""
        begun = time.perf_counter()
        list(self._pool.map(lambda _: hashlib.sha256(self._block).digest(), range(self._cores)))
        self.seconds.append(time.perf_counter() - begun)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


def _busy_and_total() -> tuple[float, float] | None:
    """Return the CPU seconds of the machine since boot: busy, and total; None if unknown."""
    try:
        ticks = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second


class LoadWatch:
    """Measurement of the CPU time of other programs, on Linux.

    The CPU time of this process and of its finished children is subtracted.
    """

    def __init__(self) -> None:
        self._before = _busy_and_total()
        self._own_before = sum(os.times()[:4])

    def other_load(self) -> float | None:
        """Return the fraction of the CPU time that other programs took, 0 to 1; None if unknown."""
        after = _busy_and_total()
        if self._before is None or after is None or after[1] <= self._before[1]:
            return None
        busy, total = after[0] - self._before[0], after[1] - self._before[1]
        own = sum(os.times()[:4]) - self._own_before
        return float(np.clip((busy - own) / total, 0, 1))


def judge_noise(probe_seconds: Sequence[float], other_load: float | None) -> Noise:
    """Return the noise of the machine, and whether it is too high to name the fastest.

    Args:
        probe_seconds: times of the probe during the run.
        other_load: see `LoadWatch.other_load`.

    Example:
        >>> judge_noise([1.0, 1.01, 1.02, 1.0], 0.01)["too_noisy"]
        False
        >>> judge_noise([1.0, 1.01, 1.02, 1.0], 0.4)["reason"]
        'other programs took 40 % of the processors (at most 5 %)'
    """
    low, median, high = np.percentile(probe_seconds, (25, 50, 75))
    spread = float((high - low) / median)
    reasons = []
    if spread > MAX_SPREAD:
        reasons.append(
            f"the time of the same computation varied by {100 * spread:.0f} % "
            f"(interquartile range; at most {100 * MAX_SPREAD:.0f} %)"
        )
    if other_load is not None and other_load > MAX_OTHER_LOAD:
        reasons.append(
            f"other programs took {100 * other_load:.0f} % of the processors "
            f"(at most {100 * MAX_OTHER_LOAD:.0f} %)"
        )
    return {
        "probe_spread": round(spread, 4),
        "other_load": None if other_load is None else round(other_load, 4),
        "too_noisy": bool(reasons),
        "reason": " and ".join(reasons) or None,
    }
