from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from attendet.comparison.budget import (
    Scheduler,
    VariantCost,
    ap_at,
    plan_budget,
    rungs,
    variant_cost,
)
from attendet.comparison.variants import Job, make_variants
from attendet.errors import ConfigError
from attendet.training.recipe import Recipe

EPOCHS = 100
COST = VariantCost((1.0,) * EPOCHS, 0.0)


def test_rungs_are_those_of_hyperbands_brackets() -> None:
    # Li et al. 2018, table 1 halves in the same way with eta = 3; here eta = 2
    assert [(r.variants, r.until) for r in rungs(16, 80, 3)] == [
        (16, 10),
        (8, 20),
        (4, 40),
        (2, 80),
    ]
    assert [(r.variants, r.until) for r in rungs(5, 80, 0)] == [(5, 80)]
    assert [(r.variants, r.until) for r in rungs(5, 80, 2)] == [(5, 20), (2, 40), (1, 80)]


def test_a_budget_that_holds_the_grid_cuts_nothing() -> None:
    plan = plan_budget(COST, [COST] * 4, epochs=EPOCHS, seeds=3, budget=1500)

    assert [(r.variants, r.until) for r in plan.rungs] == [(4, 100)]
    assert plan.seconds == plan.whole_seconds == 3 * 5 * 100


def test_a_smaller_budget_takes_the_fewest_halvings_that_fit() -> None:
    # one halving: baseline 100, four variants to 50, two on to 100: 100 + 200 + 100 = 400 a seed
    plan = plan_budget(COST, [COST] * 4, epochs=EPOCHS, seeds=3, budget=1499)
    assert [(r.variants, r.until) for r in plan.rungs] == [(4, 50), (2, 100)]
    assert plan.seconds == 1200

    # two halvings: 100 + 4 x 25 + 2 x 25 + 1 x 50 = 300 a seed
    plan = plan_budget(COST, [COST] * 4, epochs=EPOCHS, seeds=3, budget=1199)
    assert [(r.variants, r.until) for r in plan.rungs] == [(4, 25), (2, 50), (1, 100)]
    assert plan.seconds == 900


def test_devices_divide_the_work() -> None:
    plan = plan_budget(COST, [COST] * 4, epochs=EPOCHS, seeds=3, budget=400, slots=4)

    assert plan.seconds == 1500 / 4


def test_then_seeds_go_but_not_below_three() -> None:
    plan = plan_budget(COST, [COST] * 4, epochs=EPOCHS, seeds=5, budget=1499)
    assert (plan.seeds, plan.seconds) == (4, 1200)

    with pytest.raises(ConfigError, match=r"needs about 15 more minutes, and 10 are left"):
        plan_budget(COST, [COST] * 4, epochs=EPOCHS, seeds=5, budget=600)


def test_seconds_are_foreseen_by_the_area_of_the_input() -> None:
    recipe = Recipe().replace(
        epochs=8, size=256, start_size_fraction=0.5, full_size_fraction=0.5, evaluate_every=8
    )
    curve = [{"epoch": 1, "seconds": 9.0}, {"epoch": 2, "seconds": 3.515625}]

    cost = variant_cost({"curve": curve, "start_seconds": 1.5, "validation_seconds": 2.0}, recipe)

    # sides 128, 160, 192, 224, then 256: the second epoch has 25/64 of the whole area
    whole = 3.515625 / (25 / 64)
    assert cost.epochs[4] == pytest.approx(whole)
    assert cost.epochs[2] == pytest.approx(whole * 36 / 64)
    assert cost.epochs[7] == pytest.approx(whole + 2.0)  # with its evaluation
    assert cost.start == 1.5
    assert cost.seconds(2, 4) == pytest.approx(cost.start + sum(cost.epochs[2:4]))
    assert cost.seconds(4, 4) == 0


def test_evaluations_are_foreseen_by_those_of_the_epochs() -> None:
    recipe = Recipe().replace(epochs=6, size=64, start_size_fraction=1.0, evaluate_every=2)
    curve: list[dict[str, Any]] = [
        {"epoch": 0, "seconds": 4.0, "ap": 0.0, "evaluation_seconds": 4.0},
        {"epoch": 1, "seconds": 2.0},
        {"epoch": 2, "seconds": 1.0, "ap": 0.1, "evaluation_seconds": 3.0},
    ]

    cost = variant_cost({"curve": curve, "validation_seconds": None}, recipe)

    assert cost.epochs == (2.0, 1.0 + 3.5, 1.0, 1.0 + 3.5, 1.0, 1.0 + 3.5)


def test_ap_of_a_run_is_taken_from_the_nearest_evaluation() -> None:
    curve = [
        {"epoch": 1},
        {"epoch": 5, "ap": 0.1},
        {"epoch": 9, "ap": None},
        {"epoch": 10, "ap": 0.3},
    ]

    assert ap_at({"curve": curve}, 5) == 0.1
    assert ap_at({"curve": curve}, 9) == 0.3
    assert ap_at({"curve": curve[:1]}, 1) == 0.0


# --- the scheduler, with runs that are made up --------------------------------------------------

QUALITY = {"none": 0.30, "se@p5": 0.25, "cbam@p5": 0.35, "eca@p5": 0.40, "ca@p5": 0.45}


class _Made:
    """Makes runs at a second an epoch, on a clock of its own."""

    def __init__(self, scheduler: Scheduler, budget: float) -> None:
        self.scheduler, self.left = scheduler, budget
        self.epochs: dict[str, int] = {}
        self.order: list[tuple[str, int]] = []

    def __call__(self, jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
        paused = {}
        for job in jobs:
            until = job.until or 40
            done = self.epochs.get(job.key, 0)
            self.left -= until - done
            self.epochs[job.key] = until
            self.order.append((job.variant.name, job.seed))
            curve = [
                {"epoch": e + 1, "seconds": 1.0, "ap": QUALITY[job.variant.name] * (e + 1) / 40}
                for e in range(until)
            ]
            record = {"curve": curve, "epochs_done": until, "start_seconds": 0.0}
            if job.until is None:
                self.scheduler.records[job.key] = record
            else:
                paused[job.key] = record
        return paused


Jobs = dict[tuple[str, int], Job]


def _jobs(attention: list[str], seeds: int) -> Jobs:
    variants = make_variants(attention, ["p5"], ["paper"])
    return {
        (variant.name, seed): Job(
            variant=variant,
            seed=seed,
            setup={},
            data="",
            format=None,
            pretrained=None,
            accelerator="cpu",
            study="",
        )
        for seed in range(seeds)
        for variant in variants
    }


def _schedule(budget: float, seeds: int = 3) -> tuple[dict[str, Any], _Made, Scheduler, list[str]]:
    jobs = _jobs(["none", "se", "cbam", "eca", "ca"], seeds)
    recipe = Recipe().replace(epochs=40, start_size_fraction=1.0)
    scheduler = Scheduler(jobs, "none", recipe, {}, {})
    made = _Made(scheduler, budget)
    said: list[str] = []
    summary = scheduler.run_within_budget(budget, lambda: made.left, 1, made, said.append)
    return summary, made, scheduler, said


def test_all_is_run_where_the_budget_holds_it() -> None:
    summary, made, scheduler, said = _schedule(1000)

    assert summary["cuts"] == summary["skipped_seeds"] == said == []
    assert len(scheduler.records) == 15
    assert set(made.epochs.values()) == {40}


def test_the_worse_half_is_cut_and_the_baseline_never() -> None:
    summary, made, scheduler, said = _schedule(400)

    assert [cut["variant_name"] for cut in summary["cuts"]] == ["cbam@p5", "se@p5", "eca@p5"]
    assert [cut["after_epochs"] for cut in summary["cuts"]] == [10, 10, 20]
    assert summary["cuts"][0]["val_ap"] < summary["cuts"][0]["least_kept_val_ap"]
    done = {name for (name, _), job in scheduler.jobs.items() if job.key in scheduler.records}
    assert done == {"none", "ca@p5"}
    assert len(scheduler.records) == 6
    assert {made.epochs[scheduler.jobs["eca@p5", seed].key] for seed in range(3)} == {20}
    assert {job.variant.name for job in scheduler.cut()} == {"cbam@p5", "se@p5", "eca@p5"}
    assert "variants with a lower AP are cut after 10, 20 epochs" in said[0]
    assert made.left >= 0


def test_time_that_runs_out_leaves_runs_and_says_which() -> None:
    recipe = Recipe().replace(epochs=40, start_size_fraction=1.0)
    scheduler = Scheduler(_jobs(["none", "ca"], 3), "none", recipe, {}, {})
    made = _Made(scheduler, 250)
    slowed = made.left

    def left() -> float:
        return made.left - (0 if made.left > slowed - 100 else 130)  # others use the machine, too

    summary = scheduler.run_within_budget(250, left, 1, made, lambda _: None)

    assert summary["out_of_time"] == [
        {"variant_name": "ca@p5", "seed": 1},
        {"variant_name": "none", "seed": 2},
        {"variant_name": "ca@p5", "seed": 2},
    ]


def test_runs_that_are_there_are_not_made_again() -> None:
    _, _, scheduler, _ = _schedule(1000)
    again = _Made(scheduler, 10)

    summary = scheduler.run_within_budget(10, lambda: again.left, 1, again, lambda _: None)

    assert again.order == []
    assert summary["cuts"] == []


def test_all_variants_of_a_seed_come_before_the_next_seed() -> None:
    scheduler = Scheduler(_jobs(["none", "ca"], 2), "none", Recipe(), {}, {})

    order = [(job.variant.name, job.seed) for job in scheduler.pending()]

    assert order == [("none", 0), ("ca@p5", 0), ("none", 1), ("ca@p5", 1)]


def test_what_an_earlier_call_trained_is_not_planned_again() -> None:
    """The cut variants of a first call go on in a second one that has time for the rest alone."""
    _, _, scheduler, _ = _schedule(400)
    trained = {key: record["epochs_done"] for key, record in scheduler.paused.items()}
    rest = sum(
        40 - trained.get(job.key, 0)
        for job in scheduler.jobs.values()
        if job.key not in scheduler.records
    )
    paused = {k: r for k, r in scheduler.paused.items() if k not in scheduler.records}
    again = Scheduler(scheduler.jobs, "none", scheduler.recipe, scheduler.records, paused)
    made = _Made(again, rest + 30)
    made.epochs = dict(trained)

    summary = again.run_within_budget(rest + 30, lambda: made.left, 1, made, lambda _: None)

    assert summary["cuts"] == summary["out_of_time"] == []
    assert summary["planned_seconds"] <= rest + 30
    assert len(again.records) == 15
    assert made.left == pytest.approx(30)
