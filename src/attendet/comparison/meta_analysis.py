"""Random-effects meta-analysis: the effect of a block over several data sets.

The effect of a block on a data set is its mean paired difference over seeds. Effects differ between
data sets because of noise (seeds, test images) and because a block suits some data sets better than
others (heterogeneity). The estimate is for data sets like these, so its interval includes both.

The verdict gives each data set the same weight. The random-effects interval of Hartung and Knapp
(2001, Statistics in Medicine 20) is then Student's t interval over the data sets, which stays valid
however much noise and heterogeneity differ between data sets (Ibragimov and Mueller 2010, Journal
of Business and Economic Statistics 28, section 2). With inverse-variance weights, false claims are
slightly too frequent, because a variance from three seeds is itself uncertain; that estimate is in
the records but does not decide. `benchmarks/error_rates.py` simulates both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from attendet.comparison.statistics import (
    LEVEL,
    MAX_SEEDS,
    POWER,
    Noise,
    PairedDifference,
    detectable_difference,
    first_enough,
    further_seeds,
    holm,
    paired_difference,
    verdict_probability,
)
from attendet.comparison.verdicts import finite, signed_points, verdict_word
from attendet.system import require

SEED_COUNTS = (3, 5, 10)
"""Numbers of seeds for which `power_of_set` computes the power of a data set."""

MAX_IMAGES = 100_000
"""Upper limit of the number of test images in `power_of_set`."""

MIN_VARIANCE = 1e-12
"""Lower limit of the variance of an effect (AP squared): a library divides by it. The difference of
two runs always varies more."""


@dataclass(frozen=True)
class Effect:
    """The effect of a block on one data set."""

    difference: float
    """Mean paired difference, AP."""

    seed_se: float
    """Standard error over seeds; 0 with one seed, whose noise then counts as heterogeneity."""

    image_se: float
    """Standard error over test images."""

    seeds: int

    @property
    def variance(self) -> float:
        """Variance of the difference due to noise alone."""
        return max(self.seed_se**2 + self.image_se**2, MIN_VARIANCE)


@dataclass(frozen=True)
class Combined:
    """Effects on several data sets, combined; all values in AP, except I2, Q and p."""

    mean: PairedDifference
    """Mean over data sets with interval and p; ``sd`` is between the measured effects."""

    prediction_low: float
    prediction_high: float
    """95 % prediction interval of the effect measured on a further data set."""

    tau: float
    """Standard deviation of the true effects between data sets."""

    i2: float
    """Fraction of the variance between measured effects that noise does not explain."""

    q: float
    q_p: float
    """Cochran's Q, and the p-value of no heterogeneity."""

    weighted: tuple[float, float, float]
    """Mean weighted by inverse variances, with the Hartung-Knapp interval; does not decide."""


def combine(effects: Sequence[Effect]) -> Combined | None:
    """Return the random-effects estimate over data sets; None with fewer than two.

    tau2 is estimated by the method of Paule and Mandel (1982). The prediction interval is for the
    effect measured on one more data set from the same distribution; it contains the true effect on
    that data set at least as often.

    Args:
        effects: one for each data set.

    Example:
        >>> made = combine([Effect(0.010, 0.002, 0.001, 3), Effect(0.016, 0.002, 0.001, 3)])
        >>> round(made.mean.mean, 4), round(made.tau, 4)
        (0.013, 0.0036)
    """
    count = len(effects)
    if count < 2:
        return None
    module = require(
        "statsmodels.stats.meta_analysis", extra="study", purpose="comparing over several data sets"
    )
    values = np.array([effect.difference for effect in effects])
    variances = np.array([effect.variance for effect in effects])
    with np.errstate(divide="ignore"):  # effects without any difference
        equal = module.combine_effects(values, np.full(count, variances.mean()), use_t=True)
        weighted = module.combine_effects(values, variances, use_t=True)
    mean = paired_difference(values)
    reach = special.stdtrit(count - 1, 1 - LEVEL / 2) * mean.sd * math.sqrt(1 + 1 / count)
    # F instead of chi-squared: the variance in Q is estimated from few seeds.
    freedom = sum(effect.seeds - 1 for effect in effects)
    low, high = weighted.conf_int()[3]
    return Combined(
        mean=mean,
        prediction_low=float(mean.mean - reach),
        prediction_high=float(mean.mean + reach),
        tau=math.sqrt(equal.tau2),
        i2=max(0.0, 1 - (count - 1) / equal.q) if equal.q > 0 else 0.0,
        q=float(equal.q),
        q_p=float(special.fdtrc(count - 1, max(freedom, 1), equal.q / (count - 1))),
        weighted=(float(weighted.mean_effect_re), float(low), float(high)),
    )


def judge_over_sets(
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]], *, margin: float
) -> dict[str, dict[str, Any]]:
    """Return the verdict on each variant over all data sets.

    The verdicts are those of `attendet.comparison.verdicts.judge`; a data set on which variant and
    baseline learned nothing does not count. ``not enough data sets``: fewer than two data sets
    count, or the result is not clear and more seeds on the same data sets would not decide it.

    Args:
        variants: verdict by variant and data set, as in study.json.
        margin: largest difference that counts as none; AP, 0 to 1.
    """
    used = {
        name: {of: verdict for of, verdict in sets.items() if _counts(verdict)}
        for name, sets in variants.items()
    }
    effects = {name: [_effect(each) for each in sets.values()] for name, sets in used.items()}
    combined = {name: combine(each) for name, each in effects.items()}
    tested = {name: made.mean.p for name, made in combined.items() if made is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        name: {
            **_verdict(effects[name], combined[name], adjusted.get(name), margin, len(tested)),
            "sets": list(used[name]),
            "by_set": {of: _of_set(verdict) for of, verdict in variants[name].items()},
        }
        for name in variants
    }


def _counts(verdict: Mapping[str, Any]) -> bool:
    return "difference" in verdict and verdict["verdict"] != "nothing learned"


def _effect(verdict: Mapping[str, Any]) -> Effect:
    seed_se, image_se = verdict["seed_se"] or 0.0, verdict["image_se"]
    return Effect(verdict["difference"], seed_se, image_se, len(verdict["seeds"]))


def _of_set(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a verdict on one data set that sets.json repeats."""
    names = ("verdict", "difference", "low", "high", "seed_se", "image_se", "seeds", "differences")
    return {name: verdict.get(name) for name in (*names, "ap", "baseline_ap")}


def _verdict(
    effects: Sequence[Effect],
    combined: Combined | None,
    adjusted: float | None,
    margin: float,
    comparisons: int,
) -> dict[str, Any]:
    if combined is None:
        text = "fewer than two data sets have a usable result. Add data sets."
        return {"verdict": "not enough data sets", "text": f"not enough data sets: {text}"}
    mean, count = combined.mean, len(effects)
    found = verdict_word(mean, adjusted, margin)
    noise = Noise(mean.sd, comparisons=comparisons)
    more_sets = more_seeds = None
    if found == "not enough seeds":
        aim = {"difference": mean.mean, "margin": margin}
        more_sets = further_seeds(count, noise, **aim)
        more_seeds = _more_seeds(effects, combined.tau, comparisons, **aim)
        found = found if more_seeds is not None else "not enough data sets"
    return {
        "verdict": found,
        "text": _sentence(found, combined, count, margin, more_sets, more_seeds),
        "difference": mean.mean,
        "low": finite(mean.low),
        "high": finite(mean.high),
        "p": mean.p,
        "p_holm": adjusted,
        "prediction_low": combined.prediction_low,
        "prediction_high": combined.prediction_high,
        "tau": combined.tau,
        "i2": combined.i2,
        "q": combined.q,
        "q_p": combined.q_p,
        "weighted": dict(zip(("difference", "low", "high"), combined.weighted, strict=True)),
        "margin": margin,
        "further_sets": more_sets,
        "further_seeds": more_seeds,
        "detectable": detectable_difference(count, noise),
    }


def _more_seeds(
    effects: Sequence[Effect], tau: float, comparisons: int, *, difference: float, margin: float
) -> int | None:
    """Return how many more seeds on each of the same data sets give a clear verdict, or None.

    Heterogeneity and the noise of the test images stay as they are.
    """
    constant = tau**2 + float(np.mean([effect.image_se**2 for effect in effects]))

    def clear(more: int) -> bool:
        left = [effect.seed_se**2 * effect.seeds / (effect.seeds + more) for effect in effects]
        noise = Noise(math.sqrt(constant + float(np.mean(left))), comparisons=comparisons)
        chance = verdict_probability(len(effects), noise, difference=difference, margin=margin)
        return chance >= POWER

    return first_enough(range(1, MAX_SEEDS), clear)


def _sentence(
    found: str,
    combined: Combined,
    count: int,
    margin: float,
    more_sets: int | None,
    more_seeds: int | None,
) -> str:
    mean = combined.mean
    measured = (
        f"{signed_points(mean.mean)} AP (95 % interval {signed_points(mean.low)} to "
        f"{signed_points(mean.high)}, {count} data sets)"
    )
    ahead = (
        f" On a further data set: {signed_points(combined.prediction_low)} to "
        f"{signed_points(combined.prediction_high)} in 95 % of cases."
    )
    if found in ("helps", "hurts"):
        return f"{found}: {measured}.{ahead}"
    if found == "no difference":
        return f"no difference larger than {100 * margin:g} AP on average: {measured}.{ahead}"
    if more_sets is None:
        advice = f"Even {MAX_SEEDS} data sets would probably not decide it."
    else:
        plural = "" if more_sets == 1 else "s"
        advice = f"About {more_sets} further data set{plural} would decide it"
        if more_seeds is not None:
            advice += f", or {more_seeds} further seed{'' if more_seeds == 1 else 's'} on each"
        advice += "."
    return f"{found}: {measured}. {advice}{ahead}"


def power_of_set(verdicts: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any] | None:
    """Return the seeds and test images that show one AP point on a data set; None if unknown.

    For one variant and the baseline, level 5 %, power 80 %. The noise is the mean over the variants
    that were measured on the data set.

    Args:
        verdicts: verdicts on the variants of the data set, as in study.json.
        images: number of its test images.

    Returns:
        ``seed_sd`` and ``image_se`` (AP); ``images_measured``: the number of test images;
        ``detectable``: smallest detectable difference with these images, by number of seeds (3, 5,
        10); ``seeds``: number of seeds for one point with these images; ``images``: number of
        images for one point, by number of seeds. None where no number is enough.
    """
    known = [each for each in verdicts if _counts(each) and each["seed_sd"] is not None]
    if not known or images < 2:
        return None
    sd = math.sqrt(float(np.mean([each["seed_sd"] ** 2 for each in known])))
    variance = float(np.mean([each["image_se"] ** 2 for each in known]))
    if sd == 0 and variance == 0:
        return None
    aim = {"difference": 0.01, "margin": 0.0}
    more = further_seeds(1, Noise(sd, variance, images), **aim)

    def images_for(seeds: int) -> int | None:
        def clear(count: int) -> bool:
            noise = Noise(sd, variance * images / count, count)
            return verdict_probability(seeds, noise, **aim) >= POWER

        return first_enough(range(2, MAX_IMAGES), clear)

    return {
        "seed_sd": sd,
        "image_se": math.sqrt(variance),
        "images_measured": images,
        "detectable": {
            str(seeds): detectable_difference(seeds, Noise(sd, variance, images))
            for seeds in SEED_COUNTS
        },
        "seeds": None if more is None else more + 1,
        "images": {str(seeds): images_for(seeds) for seeds in SEED_COUNTS},
    }
