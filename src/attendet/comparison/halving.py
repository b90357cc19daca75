"""What a budget can hold: seconds from the first epochs, and successive halving where it must be.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) trains all variants for a few
epochs, keeps the better half, and goes on with those. The rungs here are those of Hyperband's
brackets (Li et al. 2018, arXiv:1603.06560, algorithm 1, eta = 2): bracket s starts n variants at E
/ 2^s epochs. Differences: the smallest s is taken whose runs fit the budget, the baseline is never
cut, a variant is all its seeds, and all seeds of a variant are cut together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attendet.errors import ConfigError
from attendet.training.recipe import Recipe
from attendet.training.schedule import evaluates_at, input_hw_at

__all__ = [
    "PROBE_EPOCHS",
    "VariantCost",
    "Plan",
    "Rung",
    "ap_at",
    "variant_cost",
    "make_plan",
    "rungs",
]

PROBE_EPOCHS = 2
"""Epochs from which the seconds of a whole run are estimated; the first warms up."""

ETA = 2
LEAST_SEEDS = 3
"""A budget is not met by fewer seeds than this (unless fewer were asked for)."""


@dataclass(frozen=True)
class VariantCost:
    """Seconds that the runs of a variant take."""

    epochs: tuple[float, ...]
    """Of each epoch, with its evaluation where there is one."""

    start: float
    """Of starting, or going on with, a run, and of measuring it at the end."""

    def seconds(self, first: int, last: int) -> float:
        """Return the seconds of a run from after epoch ``first`` up to epoch ``last``."""
        return self.start + sum(self.epochs[first:last]) if last > first else 0.0


@dataclass(frozen=True)
class Rung:
    """A step of successive halving."""

    variants: int
    """Variants that are trained up to here, without the baseline."""

    until: int
    """Epochs."""


@dataclass(frozen=True)
class Plan:
    """How a budget is used."""

    rungs: tuple[Rung, ...]
    """One: nothing is cut."""

    seeds: int
    """Seeds of each variant."""

    seconds: float
    """Estimate of the time that it takes."""

    whole_seconds: float
    """Estimate of the time that the whole grid would take."""


def _area(recipe: Recipe, epoch: int) -> float:
    height, width = input_hw_at(
        epoch, 0, input_hw=(recipe.size, recipe.size), recipe=recipe, seed=0
    )
    return height * width / recipe.size**2


def variant_cost(record: Mapping[str, Any], recipe: Recipe) -> VariantCost:
    """Return what a run of a variant will take, from the record of one that has begun.

    Epochs that are still to come cost as the measured ones, by the area of their network input
    (recipes start with small network inputs).
    """
    measured = [float(epoch["seconds"]) for epoch in record["curve"] if epoch["epoch"] > 0]
    counted = range(1 if len(measured) > 1 else 0, len(measured))
    pace = sum(measured[epoch] for epoch in counted)
    pace /= sum(_area(recipe, epoch) for epoch in counted)
    validation = float(record.get("validation_seconds") or 0.0)
    epochs = tuple(
        (measured[epoch] if epoch < len(measured) else pace * _area(recipe, epoch))
        + (validation if evaluates_at(epoch, recipe=recipe) else 0.0)
        for epoch in range(recipe.epochs)
    )
    rest = float(record["wall_seconds"]) - sum(measured)
    return VariantCost(epochs, max(rest, 0.0))


def rungs(variants: int, epochs: int, bracket: int) -> tuple[Rung, ...]:
    """Return the rungs of a bracket.

    Args:
        variants: n, without the baseline.
        epochs: E of a whole run.
        bracket: s: how often the number of variants is halved.

    Example:
        >>> [(rung.variants, rung.until) for rung in rungs(8, 100, 2)]
        [(8, 25), (4, 50), (2, 100)]
    """
    return tuple(
        Rung(
            max(1, variants // ETA**step),
            min(epochs, max(PROBE_EPOCHS, math.ceil(epochs * ETA ** (step - bracket)))),
        )
        for step in range(bracket + 1)
    )


def _work(plan: Sequence[Rung], baseline: VariantCost, variants: Sequence[VariantCost]) -> float:
    """Return the seconds of one seed; which variants stay is unknown, so each costs the mean."""
    total = 0.0
    reached = 0
    for rung in plan:
        total += baseline.seconds(reached, rung.until)
        mean = sum(variant.seconds(reached, rung.until) for variant in variants) / max(
            len(variants), 1
        )
        total += rung.variants * mean
        reached = rung.until
    return total


def make_plan(
    baseline: VariantCost,
    variants: Sequence[VariantCost],
    *,
    epochs: int,
    seeds: int,
    budget: float,
    slots: int = 1,
) -> Plan:
    """Return how a budget is best used: the whole grid, else the fewest halvings that fit.

    Args:
        baseline: what a run of the baseline takes.
        variants: what a run of each other variant takes.
        epochs: of a whole run.
        seeds: of each variant; fewer are taken (down to three) where halving alone does not do.
        budget: seconds that are left.
        slots: runs at once.

    Raises:
        ConfigError: if not even the smallest plan fits.
    """
    most = int(math.log2(len(variants))) if variants else 0
    whole = _work(rungs(len(variants), epochs, 0), baseline, variants) * seeds / slots
    smallest = whole
    for count in range(seeds, min(seeds, LEAST_SEEDS) - 1, -1):
        for bracket in range(most + 1) if count == seeds else (most,):
            plan = rungs(len(variants), epochs, bracket)
            needed = _work(plan, baseline, variants) * count / slots
            if needed <= budget:
                return Plan(plan, count, needed, whole)
            smallest = min(smallest, needed)
    raise ConfigError(
        f"budget must hold the smallest plan; it needs about {smallest / 60:.0f} more minutes "
        f"and {budget / 60:.0f} are left (--budget). Give more, fewer --epochs, a smaller --size, "
        "or fewer variants; what was trained so far stays."
    )


def ap_at(record: Mapping[str, Any], epoch: int) -> float:
    """Return a run's AP on the validation split after an epoch, or the nearest one that has it.

    That of the base weights, epoch 0, is no answer: variants that begin as the base all have it.
    """
    known = [
        (abs(each["epoch"] - epoch), each["ap"])
        for each in record["curve"]
        if each["epoch"] > 0 and each.get("ap") is not None
    ]
    return float(min(known)[1]) if known else 0.0
