"""The charts of a study's report. A variant has the same color in all of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from attendet.report.charts import (
    Interval,
    Line,
    Point,
    chart_image,
    interval_chart,
    line_chart,
    scatter_chart,
)
from attendet.report.pages import Image
from attendet.report.study import Study, value_at
from attendet.report.study_tables import Keys, points

MAX_ROWS = 40
"""Maximum rows of an interval chart; with more rows, only the table is shown."""

MAX_CURVES = 7
"""Maximum variants with a curve: the baseline and the best by AP."""


def effect_chart(study: Study, name: str, metrics: Mapping[str, Keys], caption: str) -> list[Image]:
    """Return the chart of differences to the baseline, one row per metric and variant.

    The list is empty if there are no rows, or more than `MAX_ROWS`.

    Args:
        study: the records.
        name: file name without suffix.
        metrics: name of a metric to its keys in ``metrics`` of a run.
        caption: text below the chart, before the explanation of its marks.
    """
    rows = []
    for metric, keys in metrics.items():
        for style, variant in enumerate(study.variants()):
            effect = study.effect(variant, *keys)
            if effect is not None:
                value, low, high = (None if part is None else 100 * part for part in effect)
                dots = [100 * part for part in study.differences(variant, "metrics", *keys)]
                label = f"{metric}: {variant}" if len(metrics) > 1 else variant
                note = f"{points(effect[0], signed=True)}, seeds: {len(dots)}"
                rows.append(Interval(label, value or 0.0, low, high, dots, note, style))
    if not rows or len(rows) > MAX_ROWS:
        return []
    margin = 100 * study.margin
    label = f"difference in AP to {study.baseline}, points"
    caption += (
        " Small dots: seeds. Bar: 95 % interval of the mean. Shaded: counts as no difference."
    )
    alt = f"{label}, of each variant"
    zone = (-margin, margin)
    return [chart_image(name, interval_chart, rows, caption, alt, x_label=label, zone=zone)]


def curve_charts(study: Study) -> list[Image]:
    """Return the charts of validation AP and training loss by epoch."""
    caption = "Line: mean over seeds. Band: lowest to highest seed."
    charts = []
    for name, label in (("ap", "validation AP, points"), ("loss", "training loss")):
        lines = _curves(study, name)
        if lines:
            alt = f"{label} of each variant by epoch"
            labels = {"x_label": "epoch", "y_label": label}
            charts.append(chart_image(f"curve-{name}", line_chart, lines, caption, alt, **labels))
    return charts


def _curves(study: Study, name: str) -> list[Line]:
    variants = study.variants()
    best = sorted(variants, key=lambda variant: -(study.mean(variant, "metrics", "ap") or 0.0))
    shown = {study.baseline, *best[: MAX_CURVES - 1]} if len(variants) > MAX_CURVES else best
    lines = []
    for style, variant in enumerate(variants):
        by_epoch: dict[int, list[float]] = {}
        for run in study.runs_of(variant):
            for epoch in run["curve"]:
                value = _curve_value(epoch, name)
                if value is not None:
                    by_epoch.setdefault(epoch["epoch"], []).append(value)
        if by_epoch and variant in shown:
            epochs, values = zip(*sorted(by_epoch.items()), strict=True)
            band = [min(seeds) for seeds in values], [max(seeds) for seeds in values]
            means = [statistics.fmean(seeds) for seeds in values]
            lines.append(Line(variant, epochs, means, band, style))
    return lines


def _curve_value(epoch: Mapping[str, Any], name: str) -> float | None:
    if name == "ap":
        return None if epoch.get("ap") is None else 100 * epoch["ap"]
    return sum(epoch["losses"].values()) if epoch["losses"] else None


def cost_charts(study: Study) -> list[Image]:
    """Return charts of AP by latency, one per runtime; by MACs if latency was not measured."""
    charts: list[Image] = []
    for runtime, measured in (study.latency() or {"": {}}).items():
        dots = []
        for style, variant in enumerate(study.variants()):
            aps = study.values(variant, "metrics", "ap")
            macs = study.mean(variant, "macs")
            cost = value_at(measured, variant, "median_ms") if runtime else macs and macs / 1e6
            if not aps or not cost:
                continue
            low, high = (value_at(measured, variant, name) for name in ("low_ms", "high_ms"))
            dots.append(
                Point(
                    variant,
                    cost,
                    100 * statistics.fmean(aps),
                    None if low is None or high is None else (low, high),
                    (100 * min(aps), 100 * max(aps)),
                    style,
                )
            )
        caption = "Mean AP over seeds. Vertical bars: lowest to highest seed."
        charts += trade_off_chart("AP", runtime, dots, caption, y_label="AP, points")
    return charts


def trade_off_chart(
    quality: str, runtime: str, dots: Sequence[Point], caption: str, *, y_label: str
) -> list[Image]:
    """Return the chart of quality by cost; an empty list for fewer than two variants.

    Args:
        quality: name of the quality, one word.
        runtime: runtime of the latency; empty if the cost is multiply-accumulates.
        dots: one point per variant.
        caption: text below the chart, before the explanation of its marks.
        y_label: label of the quality axis.
    """
    if len(dots) < 2:
        return []
    label = f"{runtime}: milliseconds per image" if runtime else "million multiply-accumulates"
    caption += " Horizontal bars: quartiles of the latency." if runtime else ""
    caption += " Dashed line, bold names: Pareto front (no other variant is better in both)."
    name = f"{quality.lower()}-by-{runtime or 'macs'}".replace(" ", "-")
    labels = {"x_label": label, "y_label": y_label}
    return [chart_image(name, scatter_chart, dots, caption, f"{quality} by {label}", **labels)]
