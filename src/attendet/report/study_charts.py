"""The charts of a study's report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from attendet.report.chart import (
    Dot,
    Interval,
    Series,
    interval_chart,
    line_chart,
    scatter_chart,
)
from attendet.report.study import StudyRecords, number, value_at, value_in
from attendet.report.study_tables import points

__all__ = ["curve_chart", "difference_chart", "loss_of", "part_chart", "trade_chart"]

MOST_ROWS = 40
"""Rows of an interval chart; with more it is left out, and the table stands alone."""

MOST_CURVES = 7
"""Variants whose curves are drawn; of more, the best by AP and the baseline."""


def tones(study: StudyRecords) -> dict[str, int]:
    """Return the color of each variant, the same in all charts."""
    return {variant: tone for tone, variant in enumerate(study.variants())}


def difference_chart(study: StudyRecords) -> str | None:
    """Return the difference of each variant with its interval, and each seed; None without any."""
    rows = []
    for variant in study.variants():
        found = study.verdict(variant)
        differences = study.differences(variant, "metrics", "ap")
        if variant == study.baseline or not differences:
            continue
        mean = number(found.get("difference"))
        mean = statistics.fmean(differences) if mean is None else mean
        rows.append(
            Interval(
                variant,
                100 * mean,
                _percent(found.get("low")),
                _percent(found.get("high")),
                [100 * one for one in differences],
                f"{points(mean, signed=True).text}, {len(differences)} "
                f"seed{'' if len(differences) == 1 else 's'}",
                tones(study)[variant],
            )
        )
    if not rows:
        return None
    margin = 100 * study.margin
    return interval_chart(
        rows,
        alt=f"Difference in AP to {study.baseline} of each variant, with 95 % interval",
        x_label=f"AP points against {study.baseline}",
        zone=(-margin, margin),
    )


def _percent(value: Any) -> float | None:
    found = number(value)
    return None if found is None else 100 * found


def part_chart(study: StudyRecords, parts: list[tuple[str, tuple[str, ...]]]) -> str | None:
    """Return differences in parts of AP, one row a variant and part; None if there are too many.

    Args:
        study: the records.
        parts: name of a part, and where its number stands in ``metrics``.
    """
    rows = []
    for heading, path in parts:
        for variant in study.variants():
            effect = None if variant == study.baseline else study.effect(variant, *path)
            if effect is None:
                continue
            rows.append(
                Interval(
                    f"{heading}: {variant}",
                    100 * effect[0],
                    _percent(effect[1]),
                    _percent(effect[2]),
                    tone=tones(study)[variant],
                )
            )
    if not rows or len(rows) > MOST_ROWS:
        return None
    return interval_chart(
        rows,
        alt=f"Differences to {study.baseline} in parts of AP",
        x_label=f"AP points against {study.baseline}",
    )


def curve_chart(
    study: StudyRecords, pick: Callable[[Mapping[str, Any]], float | None], *, y_label: str
) -> str | None:
    """Return a number by epoch, mean over seeds, with a band from the least to the greatest seed.

    Args:
        study: the records.
        pick: the number of an epoch; None where it was not measured.
        y_label: beside the axis.
    """
    series = []
    for variant in _shown_variants(study):
        by_epoch: dict[int, list[float]] = {}
        for run in study.runs_of(variant):
            for epoch in run.get("curve") or ():
                value = pick(epoch)
                if value is not None and number(epoch.get("epoch")) is not None:
                    by_epoch.setdefault(int(epoch["epoch"]), []).append(value)
        if not by_epoch:
            continue
        ordered = sorted(by_epoch.items())
        series.append(
            Series(
                variant,
                [(epoch, statistics.fmean(values)) for epoch, values in ordered],
                [(epoch, min(values), max(values)) for epoch, values in ordered],
                tone=tones(study)[variant],
                dashed=variant == study.baseline,
            )
        )
    if not series:
        return None
    return line_chart(
        series, alt=f"{y_label} by epoch for each variant", x_label="epoch", y_label=y_label
    )


def loss_of(epoch: Mapping[str, Any]) -> float | None:
    """Return the sum of the loss terms of an epoch."""
    losses = value_in(epoch, "losses")
    if not isinstance(losses, Mapping) or not losses:
        return None
    terms = [number(value) for value in losses.values()]
    return sum(term for term in terms if term is not None)


def _shown_variants(study: StudyRecords) -> list[str]:
    variants = study.variants()
    if len(variants) <= MOST_CURVES:
        return variants
    best = sorted(variants, key=lambda variant: -(study.mean(variant, "metrics", "ap") or 0.0))
    kept = {study.baseline, *best[: MOST_CURVES - 1]}
    return [variant for variant in variants if variant in kept]


def trade_chart(study: StudyRecords, runtime: str | None) -> str | None:
    """Return AP against latency, or against arithmetic, with the Pareto front.

    Args:
        study: the records.
        runtime: whose latency; None for multiply-accumulates.
    """
    measured = study.latency().get(runtime, {}) if runtime else {}
    dots = []
    for variant in study.variants():
        aps = study.values(variant, "metrics", "ap")
        macs = study.mean(variant, "macs")
        x = value_at(measured.get(variant), "median_ms") if runtime else macs and macs / 1e6
        if not aps or not x:
            continue
        low, high = (value_at(measured.get(variant), name) for name in ("low_ms", "high_ms"))
        mean = statistics.fmean(aps)
        unit = "ms" if runtime else "million MACs"
        dots.append(
            Dot(
                variant,
                x,
                100 * mean,
                (low, high) if low is not None and high is not None else None,
                (100 * min(aps), 100 * max(aps)) if len(aps) > 1 else None,
                tones(study)[variant],
                f"{variant}: AP {100 * mean:.2f}, {x:.2f} {unit}",
            )
        )
    if len(dots) < 2:
        return None
    label = f"{runtime}: milliseconds an image" if runtime else "million multiply-accumulates"
    return scatter_chart(dots, alt=f"AP against {label}", x_label=label, y_label="AP points")
