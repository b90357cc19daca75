"""The tables of a study's report, each made once for the page, Markdown, CSV and JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attendet.report.html import Cell, Tone
from attendet.report.study import StudyRecords, number, value_at, value_in

__all__ = [
    "StudyTable",
    "variant_rows",
    "cost_table",
    "effect_table",
    "gate_table",
    "run_rows",
    "run_table",
    "verdict_table",
]

SIZES = {"ap_small": "small", "ap_medium": "medium", "ap_large": "large"}
OVERLAPS = {"ap50": "AP50", "ap75": "AP75"}

FLAT = 0.01
"""As in the health of gates: one that varies by less than 1 % of its mean is called the same."""


@dataclass(frozen=True)
class StudyTable:
    """A table with a caption."""

    header: list[str]
    """A text a column."""

    rows: list[list[Cell | str]]
    """The first column is a name."""

    caption: str = ""
    """What the numbers are."""

    words: set[int] = field(default_factory=set)
    """Further columns that hold words."""


def points(value: float | None, *, signed: bool = False) -> Cell:
    """Return AP, 0 to 1, as points with one decimal more than is usually known."""
    if value is None:
        return Cell("-", math.nan)
    rounded = round(100 * value, 2) + 0.0  # no minus before a zero
    shown = f"{rounded:+.2f}" if signed else f"{rounded:.2f}"
    return Cell(shown.replace("-", "\u2212"), round(100 * value, 6))


def count(value: float | None, digits: int = 0) -> Cell:
    """Return a number with separators of thousands."""
    return Cell("-", math.nan) if value is None else Cell(f"{value:,.{digits}f}", value)


def interval(low: float | None, high: float | None) -> Cell:
    """Return an interval in points."""
    if low is None or high is None:
        return Cell("-", math.nan)
    return Cell(f"{points(low, signed=True).text} to {points(high, signed=True).text}", low)


def tone_of(verdict: str) -> Tone:
    """Return how a verdict is shown."""
    if verdict.startswith("helps"):
        return "good"
    if verdict.startswith("hurts"):
        return "bad"
    return "warn" if verdict.startswith(("not enough", "cut", "failed")) else "quiet"


def verdict_word(study: StudyRecords, variant: str) -> str:
    """Return the verdict on a variant in a few words."""
    if variant == study.baseline:
        return "baseline"
    word = str(study.verdict(variant).get("verdict") or "")
    if word == "no difference":
        return f"no difference > {100 * study.margin:g}"
    if word:
        return word
    return (
        "failed"
        if any(r.get("stopped") == "failed" for r in study.runs_of(variant, measured=False))
        else "not measured"
    )


def verdict_table(study: StudyRecords) -> StudyTable:
    """Return verdict, difference and its certainty for each variant."""
    rows: list[list[Cell | str]] = []
    for variant in study.variants():
        found, aps = study.verdict(variant), study.values(variant, "metrics", "ap")
        word = verdict_word(study, variant)
        p, further = number(found.get("p_holm")), number(found.get("further_seeds"))
        deviation = statistics.stdev(aps) if len(aps) > 1 else None
        rows.append(
            [
                variant,
                Cell(word, tone=tone_of(word), hint=str(found.get("text") or "")),
                points(number(found.get("difference")), signed=True),
                interval(number(found.get("low")), number(found.get("high"))),
                Cell("-", math.nan)
                if p is None
                else Cell("<0.001" if p < 0.001 else f"{p:.3f}", p),
                Cell(str(len(aps)), len(aps)),
                points(statistics.fmean(aps) if aps else None),
                points(deviation),
                Cell("-", math.nan) if further is None else Cell(f"{further:.0f}", further),
            ]
        )
    return StudyTable(
        [
            "variant",
            "verdict",
            "difference",
            "95 % interval",
            "p (Holm)",
            "seeds",
            "AP",
            "sd",
            "further seeds",
        ],
        rows,
        "AP (mean over IoU 0.50 to 0.95) in points, 0 to 100; differences to "
        f"{study.baseline or 'the baseline'}, seed by seed; sd is over seeds.",
        {1},
    )


def cost_table(study: StudyRecords) -> StudyTable:
    """Return what each variant costs: parameters, arithmetic, training, latency."""
    latency = study.latency()
    rows: list[list[Cell | str]] = []
    for variant in study.variants():
        row: list[Cell | str] = [
            variant,
            points(study.mean(variant, "metrics", "ap")),
            count(study.mean(variant, "parameters")),
            count(_scaled(study.mean(variant, "macs"), 1e-6), 1),
            count(_scaled(study.mean(variant, "seconds"), 1 / 60), 1),
            count(study.mean(variant, "memory_mib")),
        ]
        rows.append(
            [*row, *(_milliseconds(by_variant.get(variant)) for by_variant in latency.values())]
        )
    header = ["variant", "AP", "parameters", "million MACs", "training min", "memory MiB"]
    return StudyTable(
        [*header, *(f"{runtime} ms" for runtime in latency)],
        rows,
        "Means over the runs of a variant. "
        + (_where_measured(study) if latency else "Latency was not measured."),
    )


def _where_measured(study: StudyRecords) -> str:
    """Return what latency is, and what it was measured on as far as the records say."""
    text = "Latency: median of one image, whole call; the variants took turns"
    machine = study.head.get("latency_machine") or {}
    if machine:
        device = machine.get("device")
        text += f" ({machine.get('processor')}, {machine.get('threads')} threads"
        text += ")" if device == "cpu" else f"; torch on {device})"
    return f"{text}."


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _milliseconds(measured: Mapping[str, float] | None) -> Cell:
    if measured is None:
        return Cell("-", math.nan)
    low, high = measured.get("low_ms"), measured.get("high_ms")
    hint = "" if low is None or high is None else f"half of the calls: {low:.2f} to {high:.2f} ms"
    return Cell(f"{measured['median_ms']:.2f}", measured["median_ms"], hint=hint)


def effect_table(
    study: StudyRecords,
    parts: Sequence[tuple[str, tuple[str, ...]]],
    *,
    part_a_row: str = "",
    caption: str = "",
) -> StudyTable:
    """Return the differences of each variant in parts of AP.

    Args:
        study: the records.
        parts: heading of a part, and where its number stands in ``metrics``.
        part_a_row: what the parts are, to give each a row instead of a column.
        caption: stands above; what the numbers are if left out.
    """
    rows: list[list[Cell | str]] = []
    for variant in study.variants():
        if variant == study.baseline:
            means = [points(study.mean(variant, "metrics", *path)) for _, path in parts]
            rows.append([f"{variant} (AP itself)", *means])
            continue
        row: list[Cell | str] = [variant]
        for _, path in parts:
            row.append(_effect_cell(study.effect(variant, *path)))
        rows.append(row)
    header = ["variant", *(heading for heading, _ in parts)]
    if part_a_row:
        header, rows = _turned(header, rows, part_a_row)
    return StudyTable(
        header,
        rows,
        caption
        or "Differences to the baseline in points; in brackets half the width of the 95 % interval "
        "over seeds, where it is known. These are looks from many sides, not tests: with many of "
        "them some differ from zero by chance.",
    )


def _turned(
    header: list[str], rows: list[list[Cell | str]], corner: str
) -> tuple[list[str], list[list[Cell | str]]]:
    """Return a table with its rows as columns."""
    names = [row[0].text if isinstance(row[0], Cell) else row[0] for row in rows]
    turned: list[list[Cell | str]] = [
        [heading, *(row[column] for row in rows)]
        for column, heading in enumerate(header[1:], start=1)
    ]
    return [corner, *names], turned


def _effect_cell(effect: tuple[float, float | None, float | None] | None) -> Cell:
    if effect is None:
        return Cell("-", math.nan)
    difference, low, high = effect
    shown = points(difference, signed=True)
    if low is None or high is None:
        return shown
    return Cell(
        f"{shown.text} (\u00b1{100 * (high - low) / 2:.2f})",
        shown.key,
        hint=f"95 % interval {interval(low, high).text}",
    )


def gate_table(study: StudyRecords) -> StudyTable:
    """Return how the gates of each variant behave, means over its runs."""
    rows: list[list[Cell | str]] = []
    for variant in study.variants():
        found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for run in study.runs_of(variant):
            for site, gates in (run.get("gates") or {}).items():
                for name, numbers in _gates_of(gates).items():
                    found.setdefault((site, name), []).append(numbers)
        for (site, name), several in found.items():
            mean, spread, between, ends = (
                _mean([number(one.get(key)) for one in several])
                for key in ("mean", "spread", "between_images", "saturated")
            )
            rows.append(
                [
                    f"{variant} {site} {name}",
                    _decimal(mean),
                    _decimal(spread),
                    _decimal(between),
                    Cell("-", math.nan) if ends is None else Cell(f"{ends:.1%}", ends),
                    _gate_words(mean, spread, between, ends),
                ]
            )
    return StudyTable(
        ["gate", "mean", "spread", "between images", "saturated", "in words"],
        rows,
        "Means over the runs of a variant. Spread: standard deviation over channels, places and "
        "images; between images: that of a gate between images; saturated: share of values "
        "at the ends of their range.",
        {5},
    )


def _gates_of(gates: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the numbers of each gate, from a summary or from the health of a block."""
    inner = gates.get("gates") if isinstance(gates.get("gates"), Mapping) else None
    if inner is None:
        return {name: one for name, one in gates.items() if isinstance(one, Mapping)}
    found: dict[str, Mapping[str, Any]] = {}
    for name, one in inner.items():
        spreads = [one.get(f"spread_{part}") or 0.0 for part in ("images", "places", "channels")]
        found[name] = {
            "mean": one.get("mean"),
            "spread": math.hypot(*spreads),
            "between_images": one.get("spread_images"),
            "saturated": one.get("saturated"),
        }
    return found


def _gate_words(
    mean: float | None, spread: float | None, between: float | None, ends: float | None
) -> str:
    if mean is None or spread is None or between is None:
        return "-"
    if spread < FLAT and abs(mean - 1) < FLAT:
        return f"does nothing (spread {spread:.3f})"
    if ends is not None and ends > 0.9:
        return "works as a switch"
    if between < FLAT * mean:
        return f"the same for all images ({between / mean:.1%} of its mean)"
    return f"responds to the image ({between / mean:.1%} of its mean)"


def _decimal(value: float | None) -> Cell:
    return Cell("-", math.nan) if value is None else Cell(f"{value:.4f}", value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def run_rows(study: StudyRecords) -> list[dict[str, Any]]:
    """Return one flat record a run, as it stands in CSV and JSON; AP is 0 to 1."""
    rows = []
    for run in study.runs:
        row: dict[str, Any] = {
            "variant": run.get("variant_name"),
            "attention": value_in(run, "variant", "attention"),
            "sites": ",".join(value_in(run, "variant", "sites") or ()),
            "init": value_in(run, "variant", "init"),
            "seed": run.get("seed"),
            "stopped": run.get("stopped"),
        }
        for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100"):
            row[name] = value_at(run, "metrics", name)
        for name in study.classes():
            row[f"ap {name}"] = value_at(run, "metrics", "per_class", name, "ap")
        for name in ("epochs_done", "seconds", "memory_mib", "parameters", "macs"):
            row[name] = number(run.get(name))
        row["folder"] = run.get("folder")
        row["key"] = run.get("key")
        rows.append(row)
    return rows


def variant_rows(study: StudyRecords) -> list[dict[str, Any]]:
    """Return one flat record a variant, as it stands in CSV and JSON; AP is 0 to 1."""
    rows = []
    latency = study.latency()
    for variant in study.variants():
        found, aps = study.verdict(variant), study.values(variant, "metrics", "ap")
        row: dict[str, Any] = {
            "variant": variant,
            "verdict": verdict_word(study, variant),
            "text": found.get("text"),
            **{
                name: number(found.get(name))
                for name in ("difference", "low", "high", "p", "p_holm", "further_seeds")
            },
            "runs": len(aps),
            "ap": statistics.fmean(aps) if aps else None,
            "ap_sd": statistics.stdev(aps) if len(aps) > 1 else None,
            **{
                name: study.mean(variant, name)
                for name in ("parameters", "macs", "seconds", "memory_mib")
            },
        }
        for runtime, by_variant in latency.items():
            row[f"{runtime}_ms"] = value_at(by_variant.get(variant), "median_ms")
        rows.append(row)
    return rows


def run_table(study: StudyRecords) -> StudyTable:
    """Return one row a run."""
    rows: list[list[Cell | str]] = []
    for run in study.runs:
        metrics = [points(value_at(run, "metrics", name)) for name in ("ap", "ap50", "ap75")]
        state = run.get("stopped")
        rows.append(
            [
                f"{run.get('variant_name')}, seed {run.get('seed')}",
                *metrics,
                count(number(run.get("epochs_done"))),
                count(_scaled(number(run.get("seconds")), 1 / 60), 1),
                count(number(run.get("memory_mib"))),
                Cell(str(state), tone="warn", hint=str(run.get("error") or "")) if state else "",
            ]
        )
    header = ["run", "AP", "AP50", "AP75", "epochs", "minutes", "memory MiB", "stopped"]
    return StudyTable(header, rows, "Every run, AP in points.", {7})
