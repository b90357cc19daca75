"""What a budget can hold: seconds from the first epochs, and successive halving where it must be.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) trains all arms for a few epochs,
keeps the better half, and goes on with those. The rungs here are those of Hyperband's brackets (Li
et al. 2018, arXiv:1603.06560, algorithm 1, eta = 2): bracket s starts n arms at E / 2^s epochs.
Differences: the smallest s is taken whose runs fit the budget, the baseline is never cut, an arm is
all its seeds, and all seeds of an arm are cut together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attendet.errors import ConfigError
from attendet.training.recipe import Recipe
from attendet.training.schedule import canvas_at, evaluates_at

__all__ = ["PROBE_EPOCHS", "ArmCost", "Plan", "Rung", "ap_at", "arm_cost", "make_plan", "rungs"]

PROBE_EPOCHS = 2
"""Epochs from which the seconds of a whole run are estimated; the first warms up."""

ETA = 2
LEAST_SEEDS = 3
"""A budget is not met by fewer seeds than this (unless fewer were asked for)."""


@dataclass(frozen=True)
class ArmCost:
    """Seconds that the runs of an arm take."""

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

    arms: int
    """Arms that are trained up to here, without the baseline."""

    until: int
    """Epochs."""


@dataclass(frozen=True)
class Plan:
    """How a budget is used."""

    rungs: tuple[Rung, ...]
    """One: nothing is cut."""

    seeds: int
    """Seeds of each arm."""

    seconds: float
    """Estimate of the time that it takes."""

    whole_seconds: float
    """Estimate of the time that the whole grid would take."""


def _area(recipe: Recipe, epoch: int) -> float:
    height, width = canvas_at(epoch, 0, canvas_hw=(recipe.size, recipe.size), recipe=recipe, seed=0)
    return height * width / recipe.size**2


def arm_cost(record: Mapping[str, Any], recipe: Recipe) -> ArmCost:
    """Return what a run of an arm will take, from the record of one that has begun.

    Epochs that are still to come cost as the measured ones, by the area of their canvas (recipes
    start with small canvases).
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
    return ArmCost(epochs, max(rest, 0.0))


def rungs(arms: int, epochs: int, bracket: int) -> tuple[Rung, ...]:
    """Return the rungs of a bracket.

    Args:
        arms: n, without the baseline.
        epochs: E of a whole run.
        bracket: s: how often the number of arms is halved.

    Example:
        >>> [(rung.arms, rung.until) for rung in rungs(8, 100, 2)]
        [(8, 25), (4, 50), (2, 100)]
    """
    return tuple(
        Rung(
            max(1, arms // ETA**step),
            min(epochs, max(PROBE_EPOCHS, math.ceil(epochs * ETA ** (step - bracket)))),
        )
        for step in range(bracket + 1)
    )


def _work(plan: Sequence[Rung], baseline: ArmCost, arms: Sequence[ArmCost]) -> float:
    """Return the seconds of one seed; which arms stay is unknown, so each costs the mean."""
    total = 0.0
    reached = 0
    for rung in plan:
        total += baseline.seconds(reached, rung.until)
        mean = sum(arm.seconds(reached, rung.until) for arm in arms) / max(len(arms), 1)
        total += rung.arms * mean
        reached = rung.until
    return total


def make_plan(
    baseline: ArmCost,
    arms: Sequence[ArmCost],
    *,
    epochs: int,
    seeds: int,
    budget: float,
    slots: int = 1,
) -> Plan:
    """Return how a budget is best used: the whole grid, else the fewest halvings that fit.

    Args:
        baseline: what a run of the baseline takes.
        arms: what a run of each other arm takes.
        epochs: of a whole run.
        seeds: of each arm; fewer are taken (down to three) where halving alone does not do.
        budget: seconds that are left.
        slots: runs at once.

    Raises:
        ConfigError: if not even the smallest plan fits.
    """
    most = int(math.log2(len(arms))) if arms else 0
    whole = _work(rungs(len(arms), epochs, 0), baseline, arms) * seeds / slots
    smallest = whole
    for count in range(seeds, min(seeds, LEAST_SEEDS) - 1, -1):
        for bracket in range(most + 1) if count == seeds else (most,):
            plan = rungs(len(arms), epochs, bracket)
            needed = _work(plan, baseline, arms) * count / slots
            if needed <= budget:
                return Plan(plan, count, needed, whole)
            smallest = min(smallest, needed)
    raise ConfigError(
        f"budget must hold the smallest plan; it needs about {smallest / 60:.0f} more minutes "
        f"and {budget / 60:.0f} are left (--budget). Give more, fewer --epochs, a smaller --size, "
        "or fewer arms; what was trained so far stays."
    )


def ap_at(record: Mapping[str, Any], epoch: int) -> float:
    """Return a run's AP on the validation split after an epoch, or the nearest one that has it.

    That of the base weights, epoch 0, is no answer: arms that begin as the base all have it.
    """
    known = [
        (abs(each["epoch"] - epoch), each["ap"])
        for each in record["curve"]
        if each["epoch"] > 0 and each.get("ap") is not None
    ]
    return float(min(known)[1]) if known else 0.0
