"""Verdicts on the variants of a study, from their AP differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.comparison.statistics import (
    LEVEL,
    MAX_SEEDS,
    POWER,
    UNLIMITED_SEEDS,
    Noise,
    PairedDifference,
    detectable_difference,
    further_seeds,
    holm,
    paired_difference,
    sign_flip_test,
    verdict_probability,
)

Floats = NDArray[np.float64]

MIN_LEARNED_AP = 0.02
"""AP below which a network has learned next to nothing. If variant and baseline are both below it,
their difference has no meaning."""


@dataclass(frozen=True, eq=False)
class Paired:
    """A variant and the baseline, on the seeds that both have."""

    seeds: tuple[int, ...]
    """The n seeds."""

    ap: Floats
    """(n,): AP of the variant."""

    baseline_ap: Floats
    """(n,): AP of the baseline."""

    resampled: Floats
    """(n, B): AP difference on each resampled draw of the test images."""

    images: int
    """Number of test images."""

    @property
    def differences(self) -> Floats:
        """(n,): AP difference of each seed."""
        return self.ap - self.baseline_ap

    @property
    def image_variance(self) -> float:
        """Variance of the mean difference over draws of the test images, common to all seeds.

        The effect of a draw on a single seed is part of the spread between seeds already. It adds
        1/n of its variance to the variance of the mean, which is subtracted here.
        """
        if self.images < 2 or self.resampled.size == 0:
            return 0.0
        count = len(self.resampled)
        means = self.resampled.mean(axis=0)
        variance = float(np.nanvar(means))
        if count > 1:
            own = np.nanvar(self.resampled - means, axis=1).mean() * count / (count - 1)
            variance = max(0.0, variance - float(own) / count)
        return variance * self.images / (self.images - 1)


def judge(variants: Mapping[str, Paired], *, margin: float) -> dict[str, dict[str, Any]]:
    """Return the verdict on each variant, as stored in study.json.

    - ``nothing learned``: variant and baseline both have an AP below 2 points.
    - ``helps``, ``hurts``: otherwise, if the difference is not zero (test over seeds and test
      images, p adjusted by Holm's method over all variants, level 5 %).
    - ``no difference``: otherwise, if the 95 % interval lies within plus or minus the margin
      (equivalence by the interval: Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15).
    - ``not enough seeds``: otherwise; with an estimate of the further seeds for a clear verdict
      (None with one seed, or if 1000 seeds in total are not enough).

    Args:
        variants: each variant compared with the baseline.
        margin: largest difference that counts as none; AP, 0 to 1.
    """
    measured = {
        name: paired_difference(
            variant.differences, image_variance=variant.image_variance, images=variant.images
        )
        for name, variant in variants.items()
    }
    tested = [name for name, difference in measured.items() if not math.isnan(difference.p)]
    adjusted = dict(zip(tested, holm([measured[name].p for name in tested]), strict=True))
    return {
        name: _verdict(variant, measured[name], adjusted.get(name), margin, len(tested))
        for name, variant in variants.items()
    }


def _verdict(
    variant: Paired,
    difference: PairedDifference,
    adjusted: float | None,
    margin: float,
    comparisons: int,
) -> dict[str, Any]:
    count = len(variant.seeds)
    word = verdict_word(difference, adjusted, margin)
    if max(variant.ap.mean(), variant.baseline_ap.mean()) < MIN_LEARNED_AP:
        word = "nothing learned"
    noise = Noise(difference.sd, variant.image_variance, variant.images, comparisons)
    more, too_few = None, None
    if word == "not enough seeds" and count > 1:
        more = further_seeds(count, noise, difference=difference.mean, margin=margin)
        chance = verdict_probability(
            UNLIMITED_SEEDS, noise, difference=difference.mean, margin=margin
        )
        too_few = variant.images if more is None and chance < POWER else None
    return {
        "verdict": word,
        "text": _sentence(word, difference, margin, count, more, too_few),
        "difference": difference.mean,
        "low": finite(difference.low),
        "high": finite(difference.high),
        "p": finite(difference.p),
        "p_holm": adjusted,
        "sign_flip_p": sign_flip_test(variant.differences),
        "sign_flip_least_p": 2.0 ** (1 - count),
        "seed_sd": finite(difference.sd),
        "seed_se": finite(difference.seed_se),
        "image_se": difference.image_se,
        "seeds": list(variant.seeds),
        "differences": variant.differences.tolist(),
        "ap": float(variant.ap.mean()),
        "baseline_ap": float(variant.baseline_ap.mean()),
        "margin": margin,
        "further_seeds": more,
        "detectable": detectable_difference(count, noise) if count > 1 else None,
    }


def finite(value: float) -> float | None:
    """Return a value for a record, with None for infinity and NaN."""
    return value if math.isfinite(value) else None


def verdict_word(difference: PairedDifference, adjusted: float | None, margin: float) -> str:
    """Return the label of a verdict, from the difference and its adjusted p-value."""
    if adjusted is None:
        return "not enough seeds"
    if adjusted <= LEVEL and difference.mean != 0:
        return "helps" if difference.mean > 0 else "hurts"
    if -margin <= difference.low and difference.high <= margin:
        return "no difference"
    return "not enough seeds"


def signed_points(value: float) -> str:
    """Return an AP difference in points, with its sign, rounded as in the tables of reports.

    Example:
        >>> signed_points(0.0123), signed_points(-0.004), signed_points(-0.00001)
        ('+1.23', '-0.40', '+0.00')
    """
    return f"{100 * value:+z.2f}"


def _sentence(
    word: str,
    difference: PairedDifference,
    margin: float,
    count: int,
    more: int | None,
    too_few: int | None,
) -> str:
    """Return the sentence of a verdict; ``too_few``: number of test images if that is the limit."""
    if count < 2 and word != "nothing learned":
        return (
            f"{signed_points(difference.mean)} AP with one seed: the noise between seeds is "
            "unknown. Use at least three seeds."
        )
    measured = f"{signed_points(difference.mean)} AP"
    if count > 1:
        measured += (
            f" (95 % interval {signed_points(difference.low)} to "
            f"{signed_points(difference.high)}, {count} seeds)"
        )
    if word == "nothing learned":
        return (
            "nothing learned: variant and baseline both have an AP below "
            f"{100 * MIN_LEARNED_AP:g} points. Train longer."
        )
    if word in ("helps", "hurts"):
        small = max(abs(difference.low), abs(difference.high)) <= margin
        return f"{word}: {measured}" + (
            f"; the whole interval is within {100 * margin:g} AP." if small else "."
        )
    if word == "no difference":
        return f"no difference larger than {100 * margin:g} AP: {measured}."
    if more is not None:
        plural = "" if more == 1 else "s"
        return f"not enough seeds: {measured}. About {more} further seed{plural} would decide it."
    if too_few is None:
        return f"not enough seeds: {measured}. Even {MAX_SEEDS} seeds would probably not decide it."
    return (
        f"not enough seeds: {measured}. More seeds alone would not decide it: the {too_few} test "
        "images are too few."
    )


def effect(values: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Return a mean paired difference with its t interval over seeds only."""
    difference = paired_difference(np.asarray(values) - np.asarray(baseline))
    return {
        "difference": difference.mean,
        "low": finite(difference.low),
        "high": finite(difference.high),
    }
