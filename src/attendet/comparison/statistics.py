"""Statistics of paired differences: intervals, tests and required seeds.

Training (seeds) and the choice of test images both add variance to an AP difference. With three to
five seeds, a t interval with Satterthwaite's degrees of freedom is too narrow at the strict levels
that several variants require. Verdicts use Banerjee's interval for the sum of two variances, which
covers the true value at least as often as stated. All of it is tested against scipy, or in
simulation with known true values.

n seeds, m comparisons.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

MAX_FLIPS = 100_000
"""Largest number of sign flips to enumerate; of more, this many are drawn at random."""

LEVEL = 0.05
"""Chance of any false "helps" or "hurts" in a study of variants that all equal the baseline."""

POWER = 0.8
"""Required probability of a clear verdict."""

MAX_SEEDS = 1000

UNLIMITED_SEEDS = 10**8
"""Number of seeds at which the noise between seeds is negligible."""

QUANTILES = (np.arange(200) + 0.5) / 200
"""Quantiles at which the distribution of a measured variance is evaluated."""


@dataclass(frozen=True)
class PairedDifference:
    """A mean paired difference with its interval and test."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided p-value of no difference (see `paired_difference`); NaN with one seed."""

    sd: float
    """Standard deviation between seeds; NaN with one seed."""

    seed_se: float
    image_se: float


def _half_width(
    level: float, seed_variance: float | Floats, seeds: int, image_variance: float, images: int
) -> Floats:
    """Return the half-width of an interval that misses the true value at most at rate ``level``.

    Banerjee 1960, Approximate confidence interval for linear functions of means of k populations
    when the population variances are not equal, Sankhya 22: the square root of the sum of the
    variances of the means, each times the square of its own t quantile.

    Args:
        level: two-sided, 0 to 1.
        seed_variance: variance of the mean due to seeds.
        seeds: n, at least 2.
        image_variance: variance of the mean due to test images.
        images: number of test images.
    """
    of_seeds = special.stdtrit(seeds - 1, level / 2)
    of_images = special.stdtrit(max(images - 1, 1), level / 2)
    total = of_seeds**2 * np.asarray(seed_variance) + of_images**2 * image_variance
    return np.asarray(np.sqrt(total))


def _p_value(mean: float, *variances: float | int) -> float:
    """Return the level at which the interval of `_half_width` just ends at zero."""

    def beyond(logarithm: float) -> float:
        return float(_half_width(math.exp(logarithm), *variances)) - abs(mean)  # type: ignore[arg-type]

    return math.exp(optimize.brentq(beyond, -80.0, 0.0)) if beyond(-80.0) > 0 else 0.0


def paired_difference(
    differences: Sequence[float] | Floats,
    *,
    image_variance: float = 0.0,
    images: int = 2,
    confidence: float = 0.95,
) -> PairedDifference:
    """Return the mean of paired differences with an interval over seeds and test images.

    Without ``image_variance`` this is Student's paired t interval and test. With it, the
    interval is Banerjee's (1960), which contains the true difference at least as often as stated
    for any two variances; p is the level at which the interval just ends at zero.

    Args:
        differences: (n,), one for each seed.
        image_variance: variance of their mean over draws of the test images.
        images: number of test images.
        confidence: confidence level of the interval, 0 to 1.

    Returns:
        Mean, interval and two-sided p; interval infinite and p NaN with one seed.

    Example:
        >>> d = paired_difference([0.010, 0.014, 0.012])
        >>> round(d.mean, 4), round(d.low, 4), round(d.high, 4), round(d.p, 4)
        (0.012, 0.007, 0.017, 0.0092)
    """
    values = np.asarray(differences, dtype=np.float64)
    mean, image_se = float(values.mean()), math.sqrt(image_variance)
    if len(values) < 2:
        nan = float("nan")
        return PairedDifference(mean, -math.inf, math.inf, nan, nan, nan, image_se)
    sd = float(values.std(ddof=1))
    seed_se = sd / math.sqrt(len(values))
    sources = (seed_se**2, len(values), image_variance, images)
    if seed_se == 0 and image_variance == 0:
        p = 1.0 if mean == 0 else 0.0
    elif image_variance == 0:
        p = float(2 * special.stdtr(len(values) - 1, -abs(mean) / seed_se))
    else:
        p = _p_value(mean, *sources)
    reach = float(_half_width(1 - confidence, *sources))
    return PairedDifference(mean, mean - reach, mean + reach, p, sd, seed_se, image_se)


def sign_flip_test(differences: Sequence[float] | Floats) -> float:
    """Return the two-sided p-value of the sign-flip permutation test.

    Fisher 1935, The Design of Experiments, section 21. If variant and baseline do not
    differ, each paired difference is equally likely to have the other sign. All 2^n sign flips are
    enumerated (from 17 seeds on, 100,000 random ones). With five seeds p is at least 1/16, so five
    seeds alone cannot be significant at 5 %.

    Args:
        differences: (n,), one for each seed.

    Example:
        >>> sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0])
        0.0625
    """
    if len(differences) < 2:
        return 1.0
    test = stats.permutation_test(
        (differences,),
        lambda values, axis: np.abs(np.sum(values, axis=axis)),
        permutation_type="samples",
        n_resamples=MAX_FLIPS,
        alternative="greater",
        random_state=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons.

    Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6(2). The chance of any false claim among the m variants stays below the level.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    adjusted = [1.0] * count
    highest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class Noise:
    """Noise of a measured difference, and the number of comparisons."""

    sd: float
    """Standard deviation between seeds."""

    image_variance: float = 0.0
    """Variance of the mean over draws of the images; more seeds do not reduce it."""

    images: int = 2
    """Number of test images."""

    comparisons: int = 1
    """Number of variants that are judged together; the level is divided by it."""


@functools.cache
def _variance_quantiles(seeds: int) -> Floats:
    """Return quantiles of the variance measured from seeds, as a ratio to the true variance."""
    return np.asarray(special.chdtri(seeds - 1, 1 - QUANTILES) / (seeds - 1))


def verdict_probability(seeds: int, noise: Noise, *, difference: float, margin: float) -> float:
    """Return the probability that a study gives a clear verdict, if these values are true.

    A verdict is clear if the difference is shown not to be zero, or shown to lie within plus or
    minus ``margin``. The probability is the mean over the chi-squared distribution of the variance
    that such a study would measure. Without image variance and margin it is the power of the t test
    (Cohen 1988, Statistical Power Analysis, chapter 2).

    Args:
        seeds: n, at least 2.
        noise: true noise.
        difference: true mean difference.
        margin: largest difference that counts as none.
    """
    seed_variance = noise.sd**2 / seeds
    se = math.sqrt(seed_variance + noise.image_variance)
    if se == 0:
        return 1.0
    sources = (
        _variance_quantiles(seeds) * seed_variance,
        seeds,
        noise.image_variance,
        noise.images,
    )
    claim = _half_width(LEVEL / noise.comparisons, *sources)
    slack = np.clip(margin - _half_width(LEVEL, *sources), 0, claim)

    def within(reach: Floats) -> Floats:
        ends = special.ndtr((reach - difference) / se), special.ndtr((-reach - difference) / se)
        return np.asarray(ends[0] - ends[1])

    return float((1 - within(claim) + within(slack)).mean())


def further_seeds(now: int, noise: Noise, *, difference: float, margin: float) -> int | None:
    """Return how many more seeds give a clear verdict with a probability of `POWER`.

    The measured values are assumed to be true, so with few seeds the number is a rough guide.

    Returns:
        The number; None if no total of up to 1000 seeds is enough.
    """

    def clear(seeds: int) -> bool:
        return verdict_probability(seeds, noise, difference=difference, margin=margin) >= POWER

    seeds = first_enough(range(max(now + 1, 2), MAX_SEEDS + 1), clear)
    return None if seeds is None else seeds - now


def first_enough(counts: range, enough: Callable[[int], bool]) -> int | None:
    """Return the smallest count that is enough, by binary search; None if none is.

    If a count is enough, all larger ones must be enough too.

    Example:
        >>> first_enough(range(2, 9), lambda count: count**2 > 20)
        5
    """
    index = bisect.bisect_left(counts, True, key=enough)
    return counts[index] if index < len(counts) else None


def detectable_difference(seeds: int, noise: Noise) -> float:
    """Return the smallest true difference that a study detects with a probability of `POWER`.

    Args:
        seeds: n, at least 2.
        noise: true noise.

    Example:
        >>> [round(detectable_difference(seeds, Noise(0.01)), 3) for seeds in (3, 5, 10)]
        [0.033, 0.017, 0.010]
    """
    se = math.sqrt(noise.sd**2 / seeds + noise.image_variance)
    if se == 0:
        return 0.0

    def beyond(difference: float) -> float:
        return verdict_probability(seeds, noise, difference=difference, margin=0.0) - POWER

    return float(optimize.brentq(beyond, 0.0, 200 * se * noise.comparisons))
