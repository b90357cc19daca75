"""Time budget: estimated run times, successive halving and the order of runs.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) trains all variants for a few
epochs, keeps the better half, and trains that half further. The rungs are those of Hyperband's
brackets (Li et al. 2018, arXiv:1603.06560, algorithm 1, eta = 2): bracket s starts with n variants
at E / 2^s epochs. Differences: the smallest s whose runs fit the budget is used, the baseline is
never cut, and all seeds of a variant are trained and cut together.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attendet.comparison.variants import Job
from attendet.errors import ConfigError
from attendet.training.recipe import Recipe
from attendet.training.schedule import evaluates_at, input_hw_at

PROBE_EPOCHS = 2
"""Number of epochs from which the time of a whole run is estimated; the first is a warm-up."""

ETA = 2
MIN_SEEDS = 3
"""Smallest number of seeds to which a budget reduces a study (unless fewer were requested)."""


@dataclass(frozen=True)
class VariantCost:
    """Time that a run of a variant takes, in seconds."""

    epochs: tuple[float, ...]
    """Seconds of each epoch, with its evaluation if it has one."""

    start: float
    """Seconds to start or resume a run, and to measure it at the end."""

    def seconds(self, first: int, last: int) -> float:
        """Return the seconds to train a run from the end of epoch ``first`` to epoch ``last``."""
        return self.start + sum(self.epochs[first:last]) if last > first else 0.0


@dataclass(frozen=True)
class Rung:
    """A step of successive halving."""

    variants: int
    """Number of variants that are trained up to this rung, without the baseline."""

    until: int
    """Number of epochs at the end of this rung."""


@dataclass(frozen=True)
class BudgetPlan:
    """Plan of the runs within a budget."""

    rungs: tuple[Rung, ...]
    """Steps of successive halving; with only one, nothing is cut."""

    seeds: int
    """Seeds of each variant."""

    seconds: float
    """Estimated seconds of the plan."""

    whole_seconds: float
    """Estimated seconds of the whole grid."""


def variant_cost(record: Mapping[str, Any], recipe: Recipe) -> VariantCost:
    """Return the estimated time of a run, from the record of a run that has begun.

    The time of later epochs is estimated from the measured ones, in proportion to the area of their
    network input (recipes start with small network inputs).
    """
    whole_hw = (recipe.size, recipe.size)
    areas = [
        math.prod(input_hw_at(epoch, 0, input_hw=whole_hw, recipe=recipe, seed=0))
        for epoch in range(recipe.epochs)
    ]
    measured = [float(epoch["seconds"]) for epoch in record["curve"] if epoch["epoch"] > 0]
    warm = 1 if len(measured) > 1 else 0
    pace = sum(measured[warm:]) / sum(areas[warm : len(measured)])
    seconds = measured + [pace * area for area in areas[len(measured) :]]
    evaluations = [e["evaluation_seconds"] for e in record["curve"] if "evaluation_seconds" in e]
    validation = float(
        statistics.fmean(evaluations) if evaluations else record.get("validation_seconds") or 0.0
    )
    epochs = tuple(
        each + (validation if evaluates_at(epoch, recipe=recipe) else 0.0)
        for epoch, each in enumerate(seconds)
    )
    return VariantCost(epochs, float(record.get("start_seconds", 0.0)))


def rungs(variants: int, epochs: int, bracket: int) -> tuple[Rung, ...]:
    """Return the rungs of a bracket.

    Args:
        variants: n, without the baseline.
        epochs: E, the epochs of a whole run.
        bracket: s, how often the number of variants is halved.

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
    """Return the seconds of one seed; each variant costs the mean, as the kept ones are unknown."""
    total, reached = 0.0, 0
    for rung in plan:
        total += baseline.seconds(reached, rung.until)
        if variants:
            costs = [variant.seconds(reached, rung.until) for variant in variants]
            total += rung.variants * statistics.fmean(costs)
        reached = rung.until
    return total


def plan_budget(
    baseline: VariantCost,
    variants: Sequence[VariantCost],
    *,
    epochs: int,
    seeds: int,
    budget: float,
    slots: int = 1,
) -> BudgetPlan:
    """Return the best plan for a budget: the whole grid, else the fewest halvings that fit.

    Args:
        baseline: time of a run of the baseline.
        variants: time of a run of each other variant.
        epochs: epochs of a whole run.
        seeds: seeds of each variant; reduced (to three at least) if halving alone is not enough.
        budget: seconds that are left.
        slots: number of concurrent runs.

    Raises:
        ConfigError: if not even the smallest plan fits.
    """
    most = int(math.log2(len(variants))) if variants else 0
    whole = _work(rungs(len(variants), epochs, 0), baseline, variants) * seeds / slots
    smallest = whole
    for count in range(seeds, min(seeds, MIN_SEEDS) - 1, -1):
        for bracket in range(most + 1) if count == seeds else (most,):
            plan = rungs(len(variants), epochs, bracket)
            needed = _work(plan, baseline, variants) * count / slots
            if needed <= budget:
                return BudgetPlan(plan, count, needed, whole)
            smallest = min(smallest, needed)
    raise ConfigError(
        f"budget must be enough for the smallest plan; it needs about {smallest / 60:.0f} more "
        f"minutes, and {budget / 60:.0f} are left (--budget). Set a larger budget, fewer --epochs, "
        "a smaller --size or fewer variants. The training so far is kept."
    )


def ap_at(record: Mapping[str, Any], epoch: int) -> float:
    """Return a run's AP on the validation split, at the evaluated epoch nearest to ``epoch``.

    Epoch 0, the base weights, does not count: all variants that start as the base have the same AP.
    """
    known = [
        (abs(each["epoch"] - epoch), each["ap"])
        for each in record["curve"]
        if each["epoch"] > 0 and each.get("ap") is not None
    ]
    return float(min(known)[1]) if known else 0.0


# --- the order of runs ------------------------------------------------------------------------

Records = dict[str, dict[str, Any]]
"""Records of runs by key."""

Execute = Callable[[Iterable[Job]], Records]


class Scheduler:
    """Scheduler of the runs of a grid: all variants of a seed before the next seed.

    Args:
        jobs: runs of the study, by variant name and seed.
        baseline: name of the baseline variant, which is never cut.
        recipe: recipe of all runs.
        records: records of the runs that are done; updated as runs end.
        paused: records of the runs that were started but not finished; updated as runs pause.
    """

    def __init__(
        self,
        jobs: Mapping[tuple[str, int], Job],
        baseline: str,
        recipe: Recipe,
        records: Records,
        paused: Records,
    ) -> None:
        self.jobs, self.baseline, self.recipe = jobs, baseline, recipe
        self.records, self.paused = records, paused
        self.kept = list(dict.fromkeys(name for name, _ in jobs))
        self.seeds = list(dict.fromkeys(seed for _, seed in jobs))

    def pending(self, until: int | None = None) -> Iterator[Job]:
        """Yield the runs of the kept variants and seeds that are not trained to an epoch yet."""
        if until is not None and until >= self.recipe.epochs:
            until = None
        for seed in self.seeds:
            for name in self.kept:
                job = self.jobs[name, seed]
                trained = self.paused.get(job.key, {}).get("epochs_done", 0)
                if job.key not in self.records and (until is None or trained < until):
                    yield dataclasses.replace(job, until=until)

    def cut(self) -> list[Job]:
        """Return the runs that were started and then cut."""
        begun = self.paused.keys() - self.records.keys()
        return [job for job in self.jobs.values() if job.key in begun]

    def run_within_budget(
        self,
        budget: float,
        left: Callable[[], float],
        slots: int,
        execute: Execute,
        note: Callable[[str], None],
    ) -> dict[str, Any]:
        """Execute the runs that fit the budget and return the decisions for study.json.

        Args:
            budget: seconds in total.
            left: returns the seconds that are left.
            slots: number of concurrent runs.
            execute: executes runs, and returns the records of paused runs.
            note: receives messages about the decisions.

        Raises:
            ConfigError: if even the smallest plan does not fit the budget.
        """
        if self.recipe.epochs > PROBE_EPOCHS:
            self.paused |= execute(self._probes())
        done = self._seconds_done() / slots
        open_seeds = [
            seed
            for seed in self.seeds
            if any(self.jobs[name, seed].key not in self.records for name in self.kept)
        ]
        plan = plan_budget(
            self._cost(self.baseline),
            [self._cost(name) for name in self._open_variants()],
            epochs=self.recipe.epochs,
            seeds=max(len(open_seeds), 1),
            budget=left() + done,
            slots=slots,
        )
        skipped = open_seeds[plan.seeds :]
        self.seeds = [seed for seed in self.seeds if seed not in skipped]
        decision: dict[str, Any] = {
            "whole_grid_seconds": round(budget - left() + plan.whole_seconds - done, 1),
            "planned_seconds": round(budget - left() + plan.seconds - done, 1),
            "rungs": [{"variants": rung.variants, "epochs": rung.until} for rung in plan.rungs],
            "cuts": [],
            "seeds": list(self.seeds),
            "skipped_seeds": skipped,
            "out_of_time": [],
        }
        if len(plan.rungs) > 1:
            note(
                f"the whole grid would take about {decision['whole_grid_seconds'] / 60:.0f} min, "
                f"the budget is {budget / 60:.0f} min: variants with a lower AP are cut after "
                f"{', '.join(str(rung.until) for rung in plan.rungs[:-1])} epochs"
            )
        for number, rung in enumerate(plan.rungs):
            if number:
                after = plan.rungs[number - 1].until
                decision["cuts"] += self._cut(rung.variants, after, number, note)
            jobs = list(self.pending(rung.until))
            self.paused |= execute(_in_time(jobs, left, decision["out_of_time"]))
        return decision

    def _probes(self) -> Iterator[Job]:
        """Yield the first epochs of one run of each variant without runs, to measure its cost."""
        begun = self.records.keys() | self.paused.keys()
        for name in self.kept:
            jobs = self._jobs_of(name)
            if not any(job.key in begun for job in jobs):
                yield dataclasses.replace(jobs[0], until=PROBE_EPOCHS)

    def _jobs_of(self, name: str) -> list[Job]:
        return [self.jobs[name, seed] for seed in self.seeds]

    def _is_done(self, name: str) -> bool:
        return all(job.key in self.records for job in self._jobs_of(name))

    def _open_variants(self) -> list[str]:
        return [name for name in self.kept if name != self.baseline and not self._is_done(name)]

    def _begun(self, name: str) -> list[dict[str, Any]]:
        """Return the records of the runs of a variant that have trained."""
        known = self.paused | self.records
        found = [known.get(job.key) for job in self._jobs_of(name)]
        return [record for record in found if record is not None and record["curve"]]

    def _cost(self, name: str) -> VariantCost:
        """Return the time of another run of a variant; zero if all are done or none has begun."""
        begun = self._begun(name)
        if self._is_done(name) or not begun:
            return VariantCost((0.0,) * self.recipe.epochs, 0.0)
        return variant_cost(begun[0], self.recipe)

    def _seconds_done(self) -> float:
        """Return the seconds already spent on unfinished runs; plans include them again."""
        return sum(
            variant_cost(record, self.recipe).seconds(0, record["epochs_done"])
            for key, record in self.paused.items()
            if key not in self.records and record["curve"]
        )

    def _cut(
        self, keep: int, epochs: int, rung: int, note: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Keep the variants with the best AP on the validation split; return the cut ones."""
        means = {}
        for name in self._open_variants():
            aps = [ap_at(record, epochs) for record in self._begun(name)]
            means[name] = statistics.fmean(aps) if aps else 0.0
        ranked = sorted(means, key=lambda name: -means[name])
        cut = ranked[keep:]
        self.kept = [name for name in self.kept if name not in cut]
        for name in cut:
            note(f"{name} is cut after {epochs} epochs: AP {100 * means[name]:.1f} on val")
        return [
            {
                "variant_name": name,
                "rung": rung,
                "after_epochs": epochs,
                "val_ap": round(means[name], 6),
                "least_kept_val_ap": round(means[ranked[keep - 1]], 6),
            }
            for name in cut
        ]


def _in_time(
    jobs: Sequence[Job], left: Callable[[], float], missed: list[dict[str, Any]]
) -> Iterator[Job]:
    """Yield runs while time is left; add the remaining ones to ``missed``."""
    for job in jobs:
        if left() > 0:
            yield job
        else:
            missed.append({"variant_name": job.variant.name, "seed": job.seed})
