"""How often a study over several data sets is wrong: simulated blocks without effect on average.

    python benchmarks/error_rates.py [STUDIES]

In AP points: the standard deviation of a paired difference between seeds is 1, multiplied or
divided by up to 2.5 in each data set; that of the test images is 0.4; true effects differ between
data sets by a normal distribution with mean 0 and standard deviation tau. Prints a Markdown table
of percentages: claims at 5 % and at 0.5 % (the first of Holm's steps over ten blocks), both by the
verdict's method, claims at 5 % with weights by inverse variances, and further data sets whose true
effect is outside of the prediction interval.
"""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np

from attendet.comparison.meta_analysis import Effect, combine
from attendet.report import markdown_table

UNEQUAL = 2.5
IMAGE_SD = 0.4


def simulate(count: int, *, sets: int, seeds: int, tau: float, seed: int = 0) -> dict[str, float]:
    """Return the fraction of studies that are wrong, by kind of error."""
    rng = np.random.default_rng(seed)
    wrong = dict.fromkeys(("claims", "strict_claims", "weighted_claims", "predictions"), 0)
    for _ in range(count):
        sd = np.exp(rng.uniform(-1, 1, sets) * math.log(UNEQUAL))
        shift = tau * rng.normal(size=sets) + IMAGE_SD * rng.normal(size=sets)
        values = shift[:, None] + sd[:, None] * rng.normal(size=(sets, seeds))
        means, errors = values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(seeds)
        made = combine([Effect(means[i], errors[i], IMAGE_SD, seeds) for i in range(sets)])
        wrong["claims"] += made.mean.p <= 0.05
        wrong["strict_claims"] += made.mean.p <= 0.005
        wrong["weighted_claims"] += not made.weighted[1] <= 0 <= made.weighted[2]
        further = tau * rng.normal()
        wrong["predictions"] += not made.prediction_low <= further <= made.prediction_high
    return {name: number / count for name, number in wrong.items()}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    rows = []
    for sets, seeds, tau in itertools.product((3, 5, 10), (3, 5), (0.0, 0.5, 1.0)):
        wrong = simulate(count, sets=sets, seeds=seeds, tau=tau)
        rows.append([str(sets), str(seeds), f"{tau:g}"])
        rows[-1] += [f"{100 * value:.1f}" for value in wrong.values()]
        print(*rows[-1], file=sys.stderr, flush=True)
    header = [
        "data sets",
        "seeds",
        "tau",
        "claims at 5 %",
        "at 0.5 %",
        "weighted",
        "outside",
    ]
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
