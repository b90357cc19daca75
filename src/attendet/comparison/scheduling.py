"""Which runs are made, in which order, and which variants are cut where a budget cannot hold
all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attendet.comparison.grid import Job, Variant
from attendet.comparison.halving import (
    PROBE_EPOCHS,
    Plan,
    VariantCost,
    ap_at,
    make_plan,
    variant_cost,
)
from attendet.training.recipe import Recipe

__all__ = ["Scheduler"]

Records = dict[str, dict[str, Any]]
Make = Callable[[Iterable[Job]], Records]


class Scheduler:
    """Orders the runs of a grid: all variants of a seed before the next seed.

    Args:
        variants: of the study.
        baseline: one of them; never cut.
        seeds: of the study.
        jobs: by variant's name and seed.
        records: of the runs that are done, by key; grows while runs are made.
        recipe: of all runs.
        paused: records, by key, of the runs that an earlier call began and did not end.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        baseline: Variant,
        seeds: list[int],
        jobs: Mapping[tuple[str, int], Job],
        records: Records,
        recipe: Recipe,
        paused: Records | None = None,
    ) -> None:
        self.variants, self.baseline, self.seeds = list(variants), baseline, seeds
        self.jobs, self.records, self.recipe = jobs, records, recipe
        self.kept = [variant.name for variant in variants]
        self.paused: Records = dict(paused or {})

    def pending(self, until: int | None = None) -> Iterator[Job]:
        """Give the runs of the kept variants and seeds that are not done, or not done that far."""
        whole = until is None or until >= self.recipe.epochs
        for seed in self.seeds:
            for name in self.kept:
                job = self.jobs[name, seed]
                if job.key in self.records:
                    continue
                done = self.paused.get(job.key, {}).get("epochs_done", 0)
                if whole:
                    yield job
                elif until is not None and done < until:
                    yield dataclasses.replace(job, until=until)

    def cut(self) -> list[Job]:
        """Return the runs that were begun and are not gone on with."""
        return [
            job
            for job in self.jobs.values()
            if job.key in self.paused and job.key not in self.records
        ]

    def within(
        self,
        budget: float,
        left: Callable[[], float],
        slots: int,
        make: Make,
        note: Callable[[str], None],
    ) -> dict[str, Any]:
        """Make the runs that a budget holds, and return what was decided, for study.json.

        Args:
            budget: seconds in all.
            left: gives the seconds that are left.
            slots: runs at once.
            make: makes runs, and returns the records of those that pause.
            note: is told what was decided.

        Raises:
            ConfigError: if the budget cannot hold the smallest plan.
        """
        self._probe(make)
        done = self._seconds_done() / slots
        plan = self._plan(left() + done, slots)
        told: dict[str, Any] = {
            "whole_grid_seconds": round(budget - left() + plan.whole_seconds - done, 1),
            "planned_seconds": round(budget - left() + plan.seconds - done, 1),
            "rungs": [{"variants": rung.variants, "epochs": rung.until} for rung in plan.rungs],
            "cuts": [],
            "seeds": list(self.seeds),
            "seeds_left_out": [],
            "out_of_time": [],
        }
        needed, held = told["whole_grid_seconds"] / 60, budget / 60
        if len(plan.rungs) > 1:
            note(
                f"the whole grid would take about {needed:.0f} min, the budget is {held:.0f} "
                f"min: variants are cut after {', '.join(str(r.until) for r in plan.rungs[:-1])} "
                "epochs"
            )
        keep = self._seeds_kept(plan)
        told["seeds_left_out"] = [seed for seed in self.seeds if seed not in keep]
        told["seeds"] = self.seeds = keep
        for number, rung in enumerate(plan.rungs):
            if number:
                told["cuts"] += self._cut(rung.variants, plan.rungs[number - 1].until, number, note)
            jobs = list(self.pending(rung.until))
            self.paused |= make(self._in_time(jobs, left, told["out_of_time"]))
        return told

    def _probe(self, make: Make) -> None:
        """Train one run of each variant that has none for a few epochs, to see what they take."""
        if self.recipe.epochs <= PROBE_EPOCHS:
            return
        first = []
        for variant in self.variants:
            jobs = [self.jobs[variant.name, seed] for seed in self.seeds]
            if not any(job.key in self.records or job.key in self.paused for job in jobs):
                first.append(dataclasses.replace(jobs[0], until=PROBE_EPOCHS))
        self.paused |= make(first)

    def _plan(self, left: float, slots: int) -> Plan:
        open_seeds = [
            seed
            for seed in self.seeds
            if any(
                self.jobs[variant.name, seed].key not in self.records for variant in self.variants
            )
        ]
        open_variants = [variant for variant in self._others() if not self._is_done(variant)]
        free = VariantCost((0.0,) * self.recipe.epochs, 0.0)
        baseline = free if self._is_done(self.baseline) else self._cost(self.baseline)
        return make_plan(
            baseline or free,
            [self._cost(variant) or free for variant in open_variants],
            epochs=self.recipe.epochs,
            seeds=max(len(open_seeds), 1),
            budget=left,
            slots=slots,
        )

    def _seconds_done(self) -> float:
        """Return what is trained already of runs that are not done; plans count them whole."""
        return sum(
            variant_cost(record, self.recipe).seconds(0, record["epochs_done"])
            for key, record in self.paused.items()
            if key not in self.records and record["curve"]
        )

    def _others(self) -> list[Variant]:
        return [variant for variant in self.variants if variant.name != self.baseline.name]

    def _is_done(self, variant: Variant) -> bool:
        return all(self.jobs[variant.name, seed].key in self.records for seed in self.seeds)

    def _cost(self, variant: Variant) -> VariantCost | None:
        for seed in self.seeds:
            key = self.jobs[variant.name, seed].key
            record = self.paused.get(key) or self.records.get(key)
            if record is not None and record["curve"]:
                return variant_cost(record, self.recipe)
        return None

    def _seeds_kept(self, plan: Plan) -> list[int]:
        """Return the seeds, less the last ones that a plan leaves out and that are not done."""
        open_seeds = [
            seed
            for seed in self.seeds
            if any(
                self.jobs[variant.name, seed].key not in self.records for variant in self.variants
            )
        ]
        dropped = set(open_seeds[plan.seeds :])
        return [seed for seed in self.seeds if seed not in dropped]

    def _cut(
        self, keep: int, epochs: int, rung: int, note: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Leave the variants with the best AP on the validation split; return the others."""
        open_variants = [
            variant
            for variant in self._others()
            if variant.name in self.kept and not self._is_done(variant)
        ]
        means = {variant.name: self._validation_ap(variant, epochs) for variant in open_variants}
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

    def _validation_ap(self, variant: Variant, epochs: int) -> float:
        values = []
        for seed in self.seeds:
            key = self.jobs[variant.name, seed].key
            record = self.records.get(key) or self.paused.get(key)
            if record is not None and record["curve"]:
                values.append(ap_at(record, epochs))
        return sum(values) / len(values) if values else 0.0

    def _in_time(
        self, jobs: Sequence[Job], left: Callable[[], float], missed: list[dict[str, Any]]
    ) -> Iterator[Job]:
        """Give runs while there is time; what is left then is told of."""
        for job in jobs:
            if left() > 0:
                yield job
            else:
                missed.append({"variant_name": job.variant_name, "seed": job.seed})
