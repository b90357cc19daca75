"""Which candidate is the fastest, said only where the rounds bear it out.

Each round has one turn of every candidate, so that rounds are pairs: what made one slow, made the
others slow. The candidate with the best median is the fastest if it beats each of the others in so
many rounds that a fair coin would do so in one of twenty cases at most (one-sided sign test at 5 %,
no assumption on how times are distributed). Five rounds are the least that can show this: 1/32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

__all__ = ["LEAST_ROUNDS", "LEVEL", "Verdict", "name_fastest", "sign_test"]

LEVEL = 0.05
LEAST_ROUNDS = 5


class Verdict(TypedDict):
    """The outcome of one comparison."""

    fastest: str | None
    """Name of the fastest; None where nobody is shown to be."""

    ahead: float | None
    """How many times as fast as the next one it is."""

    tied: list[str]
    """Who is not told apart from the best, the best median first; empty if one is the fastest."""

    reason: str
    """What the verdict rests on, in a sentence."""


def sign_test(wins: int, losses: int) -> float:
    """Return how likely a fair coin gives as many wins or more.

    Example:
        >>> sign_test(5, 0), sign_test(4, 1)
        (0.03125, 0.1875)
    """
    rounds = wins + losses
    ways = sum(math.comb(rounds, count) for count in range(wins, rounds + 1))
    return float(ways / 2**rounds)


def name_fastest(rounds: Mapping[str, Sequence[float]], *, higher: bool = False) -> Verdict:
    """Return who is the fastest.

    Args:
        rounds: name to one figure a round, as many for each.
        higher: whether more is better (images a second), not less (milliseconds).

    Example:
        >>> verdict = name_fastest({"a": [10, 11, 10, 12, 10], "b": [14, 15, 13, 16, 15]})
        >>> verdict["fastest"], round(verdict["ahead"], 1), verdict["tied"]
        ('a', 1.5, [])
        >>> name_fastest({"a": [10, 11, 10, 12, 10], "b": [14, 9, 13, 16, 15]})["tied"]
        ['a', 'b']
    """
    if not rounds:
        return {"fastest": None, "ahead": None, "tied": [], "reason": "nothing was measured"}
    cost = {name: (-1 if higher else 1) * np.asarray(values) for name, values in rounds.items()}
    order = sorted(cost, key=lambda name: float(np.median(cost[name])))
    best, others = order[0], order[1:]
    count = len(cost[best])
    close = [name for name in others if not _beats(cost[best], cost[name])]
    if close:
        reason = f"too close to call over {count} rounds (sign test at {100 * LEVEL:.0f} %)"
        return {"fastest": None, "ahead": None, "tied": [best, *close], "reason": reason}
    if not others:
        return {"fastest": best, "ahead": None, "tied": [], "reason": "the only one"}
    medians = [abs(float(np.median(cost[name]))) for name in (best, others[0])]
    ahead = medians[0] / medians[1] if higher else medians[1] / medians[0]
    reason = f"ahead of each other one over {count} rounds (sign test at {100 * LEVEL:.0f} %)"
    return {"fastest": best, "ahead": ahead, "tied": [], "reason": reason}


def _beats(mine: np.ndarray, theirs: np.ndarray) -> bool:
    wins, losses = int((mine < theirs).sum()), int((mine > theirs).sum())
    return sign_test(wins, losses) <= LEVEL
