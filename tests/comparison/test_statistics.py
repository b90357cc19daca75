from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from attendet.comparison.statistics import (
    Noise,
    detectable_difference,
    further_seeds,
    holm,
    paired_difference,
    sign_flip_test,
    verdict_probability,
)

DIFFERENCES = [0.012, -0.003, 0.021, 0.009, 0.015]


# --- interval and test -------------------------------------------------------------------------


def test_without_image_variance_it_is_the_paired_t_test() -> None:
    theirs = stats.ttest_1samp(DIFFERENCES, 0.0)
    low, high = theirs.confidence_interval(0.95)

    ours = paired_difference(DIFFERENCES)

    assert (ours.low, ours.high, ours.p) == pytest.approx((low, high, theirs.pvalue), rel=1e-12)
    assert (ours.mean, ours.sd) == pytest.approx(
        (np.mean(DIFFERENCES), np.std(DIFFERENCES, ddof=1))
    )


def test_where_seeds_agree_the_images_alone_decide() -> None:
    same = paired_difference([0.01] * 4, image_variance=0.006**2, images=30)

    reach = stats.t.ppf(0.975, 29) * 0.006
    assert (same.low, same.high) == pytest.approx((0.01 - reach, 0.01 + reach))
    assert same.p == pytest.approx(2 * stats.t.sf(0.01 / 0.006, 29), rel=1e-9)


def test_the_interval_of_two_sources_is_worked_by_hand() -> None:
    # seeds 1 and 3: mean 2, variance of the mean 1, t quantile of one degree of freedom 12.706;
    # images: variance 4, five of them, t quantile 2.776
    both = paired_difference([1.0, 3.0], image_variance=4.0, images=5)

    assert both.high - both.mean == pytest.approx(math.sqrt(12.706**2 * 1 + 2.776**2 * 4), rel=1e-3)


@pytest.mark.parametrize("level", [0.5, 0.05, 0.001])
def test_p_is_the_level_at_which_the_interval_ends_at_zero(level: float) -> None:
    values = np.array([0.010, 0.016, 0.007, 0.019])
    noise = {"image_variance": 0.003**2, "images": 72}

    p = paired_difference(values, **noise).p

    edge = paired_difference(values, **noise, confidence=1 - p)
    assert edge.low == pytest.approx(0, abs=1e-9)
    assert (p < level) == (paired_difference(values, **noise, confidence=1 - level).low > 0)


def test_one_seed_says_nothing_of_the_noise() -> None:
    one = paired_difference([0.02], image_variance=1e-6, images=50)

    assert (one.low, one.high) == (-math.inf, math.inf)
    assert math.isnan(one.p)


def test_identical_runs_differ_by_nothing_for_sure() -> None:
    same = paired_difference([0.0, 0.0, 0.0])

    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


def _studies(
    count: int, seeds: int, *, difference: float, sd: float, image_sd: float, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate studies: paired differences of seeds, and the variance that images add.

    Each image has a difference of its own, the same for all seeds; a study sees some images,
    and estimates their variance from those.
    """
    rng = np.random.default_rng(seeds)
    of_images = rng.normal(0, image_sd, (count, images))
    shift = of_images.mean(axis=1, keepdims=True)
    values = rng.normal(difference, sd, (count, seeds)) + shift
    return values, of_images.var(axis=1, ddof=1) / images


def _missed(values: np.ndarray, variances: np.ndarray, *, level: float = 0.05) -> float:
    """Return the fraction of studies whose interval does not hold the true difference, zero."""
    results = [
        paired_difference(value, image_variance=variance, images=72, confidence=1 - level)
        for value, variance in zip(values, variances, strict=True)
    ]
    return float(np.mean([not result.low <= 0 <= result.high for result in results]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_variants_are_said_to_differ_five_times_in_a_hundred(seeds: int) -> None:
    values, nothing = _studies(2000, seeds, difference=0, sd=0.01, image_sd=0.0, images=72)

    assert _missed(values, nothing) == pytest.approx(0.05, abs=0.017)  # 3.5 standard errors


@pytest.mark.parametrize("level", [0.05, 0.0125])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("image_sd", [0.03, 0.06, 0.3])
def test_the_interval_of_seeds_and_images_is_never_too_sure(
    seeds: int, image_sd: float, level: float
) -> None:
    drawn = _studies(1000, seeds, difference=0, sd=0.01, image_sd=image_sd, images=72)

    missed = _missed(*drawn, level=level)

    assert missed <= level + 3.5 * math.sqrt(level * (1 - level) / 1000)


def test_leaving_out_the_images_would_claim_too_much() -> None:
    """Why their variance is in: a t test over seeds alone says "differs" far too often."""
    values, variances = _studies(500, 5, difference=0, sd=0.005, image_sd=0.1, images=72)

    assert _missed(values, 0 * variances) > 0.4


# --- permutation, Holm -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_sign_flips_are_all_counted(count: int) -> None:
    values = np.random.default_rng(count).normal(0.5, 1, count)
    sums = np.array(list(itertools.product((1, -1), repeat=count))) @ values
    reached = np.abs(sums) >= abs(values.sum()) - 1e-12

    assert sign_flip_test(values) == pytest.approx(reached.mean())
    assert sign_flip_test(np.ones(count)) == pytest.approx(2 / 2**count)  # none can be less


def test_many_seeds_are_flipped_by_draws() -> None:
    values = np.random.default_rng(0).normal(0.5, 1, 18)
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    exact = np.mean(np.abs(sums) >= abs(values.sum()) - 1e-12)

    assert sign_flip_test(values) == pytest.approx(exact, abs=0.003)


def test_three_and_five_seeds_cannot_be_significant_by_flips_alone() -> None:
    assert sign_flip_test([0.3]) == 1.0
    assert sign_flip_test([1, 1, 1]) == 0.25
    assert sign_flip_test([1, 1, 1, 1, 1]) == 0.0625


def test_holm_is_worked_by_hand() -> None:
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, none below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_claim() -> None:
    p_values = np.random.default_rng(0).uniform(size=(4000, 4))

    any_claim = np.mean([min(holm(row.tolist())) <= 0.05 for row in p_values])

    assert any_claim == pytest.approx(0.05, abs=0.012)


# --- power -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (5, 1), (5, 4), (10, 2)])
def test_the_detectable_difference_is_detected_as_often_as_claimed(
    seeds: int, comparisons: int
) -> None:
    true = detectable_difference(seeds, Noise(0.01, comparisons=comparisons))
    values = np.random.default_rng(0).normal(true, 0.01, (3000, seeds))

    shown = np.mean(stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05 / comparisons)

    assert shown == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_power_without_images_is_that_of_the_t_test(seeds: int) -> None:
    critical, shift = stats.t.ppf(0.975, seeds - 1), 0.02 / (0.01 / math.sqrt(seeds))
    exact = stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift)

    power = verdict_probability(seeds, Noise(0.01), difference=0.02, margin=0.0)

    assert power == pytest.approx(exact, abs=0.002)


@pytest.mark.parametrize(
    ("difference", "sd", "image_sd"),
    [(0.01, 0.01, 0.0), (0.0, 0.004, 0.0), (0.004, 0.003, 0.0), (0.02, 0.02, 0.05)],
)
@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_the_chance_of_an_answer_is_that_of_simulated_studies(
    difference: float, sd: float, image_sd: float, seeds: int
) -> None:
    margin = 0.005
    values, variances = _studies(
        800, seeds, difference=difference, sd=sd, image_sd=image_sd, images=72
    )
    clear = []
    for value, variance in zip(values, variances, strict=True):
        found = paired_difference(value, image_variance=variance, images=72)
        clear.append(found.low * found.high > 0 or (-margin < found.low and found.high < margin))

    noise = Noise(sd, image_variance=image_sd**2 / 72, images=72)
    claimed = verdict_probability(seeds, noise, difference=difference, margin=margin)

    assert claimed == pytest.approx(np.mean(clear), abs=0.05)


def test_further_seeds_give_an_answer_and_one_fewer_does_not() -> None:
    true = {"noise": Noise(0.01), "difference": 0.01, "margin": 0.005}

    more = further_seeds(3, **true)

    assert more is not None
    assert verdict_probability(3 + more, **true) >= 0.8 > verdict_probability(2 + more, **true)


def test_no_number_of_seeds_makes_up_for_too_few_images() -> None:
    noise = Noise(0.001, image_variance=0.01**2, images=20)

    assert further_seeds(3, noise, difference=0.004, margin=0.005) is None
