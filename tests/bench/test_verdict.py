"""The fastest candidate, and when none is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.bench.verdict import LEVEL, MIN_ROUNDS, name_fastest, sign_test

stats = pytest.importorskip("scipy.stats")


@given(st.integers(0, 20), st.integers(0, 20))
def test_the_sign_test_is_that_of_scipy(wins: int, losses: int) -> None:
    if wins + losses == 0:
        assert sign_test(0, 0) == 1
        return
    expected = stats.binomtest(wins, wins + losses, alternative="greater").pvalue

    assert sign_test(wins, losses) == pytest.approx(expected)


def test_fewer_than_the_minimum_of_rounds_show_nothing() -> None:
    assert sign_test(MIN_ROUNDS, 0) <= LEVEL < sign_test(MIN_ROUNDS - 1, 0)


def test_a_clear_lead_is_named_with_its_ratio() -> None:
    rounds = {"slow": [30.0] * 5, "fast": [10, 11, 10, 12, 10], "middle": [20, 22, 21, 30, 20]}

    verdict = name_fastest(rounds)

    assert verdict["fastest"] == "fast"
    assert verdict["ahead"] == pytest.approx(2.1)
    assert verdict["tied"] == []


def test_more_is_better_for_rates() -> None:
    verdict = name_fastest({"a": [10.0] * 5, "b": [15.0] * 5}, higher=True)

    assert verdict["fastest"] == "b"
    assert verdict["ahead"] == pytest.approx(1.5)


def test_equal_times_are_a_tie() -> None:
    verdict = name_fastest({"a": [10.0] * 7, "b": [10.0] * 7, "c": [12.0] * 7})

    assert verdict["fastest"] is None
    assert verdict["tied"] == ["a", "b"]
    assert "no significant difference over 7 rounds" in verdict["reason"]


def test_one_candidate_and_none() -> None:
    assert name_fastest({"a": [1.0]})["fastest"] == "a"
    assert name_fastest({})["fastest"] is None


def test_equal_candidates_rarely_differ() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(10, 1, (400, 2, 9))

    named = [name_fastest({"a": a, "b": b})["fastest"] is not None for a, b in draws]

    assert np.mean(named) < 0.1  # 2 x 10 / 512 = 4 %, as either may lead
