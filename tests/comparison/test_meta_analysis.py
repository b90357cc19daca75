from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from attendet.comparison.meta_analysis import Effect, combine, judge_over_sets, power_of_set
from attendet.comparison.statistics import paired_difference

VALUES = [0.012, 0.004, 0.021, 0.009, 0.017]


def _effects(values: list[float], se: float = 0.003) -> list[Effect]:
    return [Effect(value, se, 0.001, 3) for value in values]


def test_with_equal_variances_it_is_the_library_with_the_hartung_knapp_interval() -> None:
    effects = _effects(VALUES)

    made = combine(effects)

    theirs = combine_effects(np.array(VALUES), np.full(5, effects[0].variance), use_t=True)
    assert made is not None
    assert (made.mean.low, made.mean.high) == pytest.approx(tuple(theirs.conf_int()[3]))
    assert made.weighted == pytest.approx((made.mean.mean, made.mean.low, made.mean.high))
    p = 2 * stats.t.sf(theirs.mean_effect_re / theirs.sd_eff_w_re_hksj, 4)
    assert made.mean.p == pytest.approx(p)


def test_heterogeneity_is_worked_by_hand() -> None:
    # effects 1, 3 and 8 of variance 4: mean 4, squared distances 9, 1 and 16, their variance 13
    made = combine([Effect(value, 2.0, 0.0, 5) for value in (1.0, 3.0, 8.0)])

    assert made is not None
    assert made.tau**2 == pytest.approx(13 - 4, rel=1e-4)
    assert made.q == pytest.approx(26 / 4)
    assert made.i2 == pytest.approx(1 - 2 / 6.5)
    assert made.q_p == pytest.approx(stats.f.sf(6.5 / 2, 2, 12))
    reach = 4.302653 * math.sqrt(13 * (1 + 1 / 3))
    assert (made.prediction_low, made.prediction_high) == pytest.approx((4 - reach, 4 + reach))


def test_alike_effects_have_no_heterogeneity() -> None:
    made = combine(_effects([0.010, 0.011, 0.0105]))

    assert made is not None
    assert (made.tau, made.i2) == (0.0, 0.0)


def test_a_data_set_with_less_noise_weighs_more_only_in_the_weighted_mean() -> None:
    made = combine([Effect(0.0, 0.001, 0.0, 5), Effect(0.003, 0.01, 0.0, 5)])

    assert made is not None
    assert made.mean.mean == pytest.approx(0.0015)
    assert made.weighted[0] < 0.0005


def test_one_data_set_alone_gives_no_estimate() -> None:
    assert combine(_effects([0.01])) is None


# --- verdicts ----------------------------------------------------------------------------------


def _of_set(difference: float, **changes: Any) -> dict[str, Any]:
    return {
        "verdict": "not enough seeds",
        "difference": difference,
        "seed_sd": 0.005,
        "seed_se": 0.005 / math.sqrt(3),
        "image_se": 0.001,
        "seeds": [0, 1, 2],
        **changes,
    }


def _judge(margin: float = 0.005, **variants: list[float]) -> dict[str, dict[str, Any]]:
    return judge_over_sets(
        {
            name: {f"set{number}": _of_set(each) for number, each in enumerate(values)}
            for name, values in variants.items()
        },
        margin=margin,
    )


def test_the_verdicts_are_those_of_one_data_set() -> None:
    verdicts = _judge(
        ca=[0.020, 0.022, 0.018, 0.021, 0.019],
        se=[-0.030, -0.028, -0.033, -0.029, -0.031],
        eca=[0.001, -0.001, 0.0005, -0.0005, 0.0],
        sge=[0.020, -0.020, 0.010, -0.030, 0.022],
    )

    assert {name: verdict["verdict"] for name, verdict in verdicts.items()} == {
        "ca": "helps",
        "se": "hurts",
        "eca": "no difference",
        "sge": "not enough data sets",
    }
    assert verdicts["ca"]["text"].startswith("helps: +2.00 AP (95 % interval +1.80 to +2.20, 5 ")
    assert verdicts["ca"]["p_holm"] == pytest.approx(
        3 * paired_difference([0.020, 0.022, 0.018, 0.021, 0.019]).p
    )


def test_where_noise_is_all_there_is_more_seeds_would_decide_it() -> None:
    noise = {"seed_sd": 0.02, "seed_se": 0.02 / math.sqrt(3), "image_se": 0.0005}
    sets = {
        f"set{number}": _of_set(value, **noise)
        for number, value in enumerate((0.022, 0.001, 0.015, 0.004, 0.008))
    }

    verdict = judge_over_sets({"ca": sets}, margin=0.005)["ca"]

    assert verdict["verdict"] == "not enough seeds"
    assert verdict["tau"] == 0
    assert f"or {verdict['further_seeds']} further seed" in verdict["text"]


def test_a_data_set_where_nothing_was_learned_or_a_variant_was_cut_does_not_count() -> None:
    sets = {
        "a": _of_set(0.02),
        "b": _of_set(0.03),
        "c": _of_set(0.0, verdict="nothing learned"),
        "d": {"verdict": "cut", "text": ""},
    }

    verdict = judge_over_sets({"ca": sets}, margin=0.005)["ca"]

    assert verdict["sets"] == ["a", "b"]
    assert verdict["difference"] == pytest.approx(0.025)
    assert set(verdict["by_set"]) == {"a", "b", "c", "d"}


def test_one_data_set_that_counts_is_not_enough() -> None:
    verdict = judge_over_sets({"ca": {"a": _of_set(0.02)}}, margin=0.005)["ca"]

    assert verdict["verdict"] == "not enough data sets"
    assert "difference" not in verdict


# --- power -------------------------------------------------------------------------------------


def test_the_power_of_a_data_set_without_noise_of_images_is_that_of_the_t_test() -> None:
    sd = 0.01
    power = power_of_set([_of_set(0.0, seed_sd=sd, image_se=0.0)], images=50)

    assert power is not None
    # Cohen's tables: an effect of one standard deviation takes 10 pairs at 80 %
    assert power["seeds"] == 10
    assert power["detectable"]["10"] == pytest.approx(0.01, rel=0.01)
    assert power["images"]["3"] is None


def test_where_the_images_are_the_noise_their_number_follows_from_the_normal_quantiles() -> None:
    few = power_of_set([_of_set(0.0, seed_sd=0.0001, image_se=0.006)], images=50)

    assert few is not None
    # 0.01 is 1.96 + 0.84 standard errors, and these fall with the root of the images
    assert few["images"]["10"] == pytest.approx(50 * (0.006 * 2.8 / 0.01) ** 2, rel=0.03)


# --- simulated error rates ---------------------------------------------------------------------


SIMULATE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "error_rates.py"))[
    "simulate"
]


def _most(level: float, count: int) -> float:
    return level + 3.5 * math.sqrt(level * (1 - level) / count)


@pytest.mark.parametrize(("sets", "seeds", "tau"), [(3, 3, 1.0), (5, 3, 0.5), (5, 3, 0.0)])
def test_blocks_without_effect_are_said_to_help_or_hurt_at_most_as_often_as_claimed(
    sets: int, seeds: int, tau: float
) -> None:
    wrong = SIMULATE(400, sets=sets, seeds=seeds, tau=tau)

    assert wrong["claims"] <= _most(0.05, 400)
    assert wrong["strict_claims"] <= _most(0.005, 400)
    assert wrong["predictions"] <= _most(0.05, 400)


@pytest.mark.slow
@pytest.mark.parametrize("sets", [3, 5, 10])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_error_rates_hold_whatever_the_heterogeneity(sets: int, seeds: int, tau: float) -> None:
    wrong = SIMULATE(4000, sets=sets, seeds=seeds, tau=tau)

    assert wrong["claims"] <= _most(0.05, 4000)
    assert wrong["strict_claims"] <= _most(0.005, 4000)
    assert wrong["predictions"] <= _most(0.05, 4000)


@pytest.mark.slow
def test_weights_by_inverse_variances_would_claim_too_much() -> None:
    """Why they do not decide."""
    wrong = SIMULATE(4000, sets=10, seeds=3, tau=1.0)

    assert wrong["weighted_claims"] > 0.055 > wrong["claims"]
