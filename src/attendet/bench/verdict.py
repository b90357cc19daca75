"""The fastest candidate, if the rounds show one.

Each candidate runs once in each round, so the times of a round are paired: other load affects all
candidates. The candidate with the best median is the fastest if it beats each other candidate in so
many rounds that the one-sided sign test is significant at 5 %. The test makes no assumption on the
distribution of times. It needs at least five rounds: five wins have a probability of 1/32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

LEVEL = 0.05
MIN_ROUNDS = 5


class Verdict(TypedDict):
    """The result of one comparison.

    Attributes:
        fastest: name of the fastest candidate; None if the rounds do not show one.
        ahead: speed of the fastest relative to the next candidate (1.5: 1.5 times as fast).
        tied: the best candidate and those that do not differ from it, in the order of their
            medians; empty if there is a fastest.
        reason: the reason, in a sentence.
    """

    fastest: str | None
    ahead: float | None
    tied: list[str]
    reason: str


def no_verdict(reason: str, tied: Sequence[str] = ()) -> Verdict:
    """Return a verdict without a fastest candidate."""
    return {"fastest": None, "ahead": None, "tied": list(tied), "reason": reason}


def sign_test(wins: int, losses: int) -> float:
    """Return the probability that a fair coin gives as many wins or more.

    Example:
        >>> sign_test(5, 0), sign_test(4, 1)
        (0.03125, 0.1875)
    """
    rounds = wins + losses
    return float(sum(math.comb(rounds, count) for count in range(wins, rounds + 1)) / 2**rounds)


def name_fastest(rounds: Mapping[str, Sequence[float]], *, higher: bool = False) -> Verdict:
    """Return the verdict on the fastest candidate.

    Args:
        rounds: one value per round for each candidate, by name; equally many for all.
        higher: whether higher is better (images per second), not lower (milliseconds).

    Example:
        >>> verdict = name_fastest({"a": [10, 11, 10, 12, 10], "b": [14, 15, 13, 16, 15]})
        >>> verdict["fastest"], round(verdict["ahead"], 1), verdict["tied"]
        ('a', 1.5, [])
        >>> name_fastest({"a": [10, 11, 10, 12, 10], "b": [14, 9, 13, 16, 15]})["tied"]
        ['a', 'b']
    """
    if not rounds:
        return no_verdict("nothing was measured")
    cost = {name: (-1 if higher else 1) * np.asarray(values) for name, values in rounds.items()}
    best, *others = sorted(cost, key=lambda name: float(np.median(cost[name])))
    if not others:
        return {"fastest": best, "ahead": None, "tied": [], "reason": "the only candidate"}
    basis = f"over {len(cost[best])} rounds (sign test at {100 * LEVEL:.0f} %)"
    close = [name for name in others if not _beats(cost[best], cost[name])]
    if close:
        return no_verdict(f"no significant difference {basis}", [best, *close])
    ahead = float(np.median(cost[others[0]]) / np.median(cost[best]))
    reason = f"faster than every other candidate {basis}"
    return {"fastest": best, "ahead": 1 / ahead if higher else ahead, "tied": [], "reason": reason}


def _beats(a: np.ndarray, b: np.ndarray) -> bool:
    return sign_test(int((a < b).sum()), int((a > b).sum())) <= LEVEL
