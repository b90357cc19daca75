"""Whether the machine is quiet enough for its figures to be compared.

Two signs are looked at during the run. A probe, a fixed piece of arithmetic on every core at once,
runs before each turn: how much its time spreads is how much the machine's speed changes under one's
hands. And on Linux the processor time that other programs took is counted: a steady load shifts the
figures without spreading them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np

__all__ = ["MOST_OTHER_LOAD", "MOST_SPREAD", "LoadWatch", "Noise", "Probe", "judge_noise"]

MOST_SPREAD = 0.10
"""Interquartile range of the probe over its median, above which nothing is named the fastest:
runtimes that are worth choosing between differ by about as much."""

MOST_OTHER_LOAD = 0.05
"""Share of the machine's processor time that other programs may take."""

PROBE_BYTES = 8 * 2**20
STAT = Path("/proc/stat")


class Noise(TypedDict):
    """How quiet the machine was, and what follows from it."""

    probe_spread: float
    other_load: float | None
    too_noisy: bool
    reason: str | None


class Probe:
    """Times a fixed piece of arithmetic on every core at once: SHA-256 over 8 MiB.

    Args:
        cores: how many.
    """

    def __init__(self, cores: int) -> None:
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="probe")
        self._cores = cores
        self._block = bytes(PROBE_BYTES)
        self.seconds: list[float] = []

    def run(self) -> None:
        """Time it once more."""
        begun = time.perf_counter()
        for _ in self._pool.map(
            lambda block: hashlib.sha256(block).digest(), [self._block] * self._cores
        ):
            pass
        self.seconds.append(time.perf_counter() - begun)

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()


def _busy_and_total() -> tuple[float, float] | None:
    """Return the processor seconds of the whole machine since its start: in work, and in all."""
    try:
        ticks = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / per_second, sum(ticks) / per_second


def _process_seconds(process_id: int) -> float:
    """Return the processor seconds of a process that lives; 0 where nobody knows."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


class LoadWatch:
    """Counts the processor time that other programs take, on Linux.

    Our own is that of this process and of the workers; ended ones count as this process's children.
    """

    def __init__(self) -> None:
        self._before = _busy_and_total()
        self._own_before = self._own(())

    @staticmethod
    def _own(workers: Iterable[int]) -> float:
        return sum(os.times()[:4]) + sum(_process_seconds(worker) for worker in workers)

    def other_load(self, workers: Iterable[int] = ()) -> float | None:
        """Return the share of the machine that others had since the start, 0 to 1.

        Args:
            workers: process ids of ours that live.
        """
        after = _busy_and_total()
        if self._before is None or after is None or after[1] <= self._before[1]:
            return None
        busy, total = after[0] - self._before[0], after[1] - self._before[1]
        own = self._own(workers) - self._own_before
        return float(np.clip((busy - own) / total, 0, 1))


def judge_noise(probe_seconds: Sequence[float], other_load: float | None) -> Noise:
    """Return how noisy the machine was, and whether too noisy to name the fastest.

    Args:
        probe_seconds: times of the probe, spread over the run.
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
    if spread > MOST_SPREAD:
        reasons.append(
            f"the same arithmetic took {100 * spread:.0f} % more or less time from turn to turn "
            f"(interquartile; at most {100 * MOST_SPREAD:.0f} %)"
        )
    if other_load is not None and other_load > MOST_OTHER_LOAD:
        reasons.append(
            f"other programs took {100 * other_load:.0f} % of the processors "
            f"(at most {100 * MOST_OTHER_LOAD:.0f} %)"
        )
    return {
        "probe_spread": round(spread, 4),
        "other_load": None if other_load is None else round(other_load, 4),
        "too_noisy": bool(reasons),
        "reason": " and ".join(reasons) or None,
    }
