"""The tables of a study's report, and the rows of its CSV and JSON files."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attendet.report.pages import Cell, Table, Tone
from attendet.report.study import Study, value_at
from attendet.report.tables import MISSING
from attendet.system import machine_text

OVERALL = {"AP50": ("ap50",), "AP75": ("ap75",)}
SIZES = {"small": ("ap_small",), "medium": ("ap_medium",), "large": ("ap_large",)}
"""Column heading to the keys of a metric."""

GATE_COLUMNS = {
    "mean": "mean",
    "sd by image": "std_images",
    "sd by position": "std_positions",
    "sd by channel": "std_channels",
}
GATE_CAPTION = (
    "Means over the runs of a variant. sd: standard deviation of the gate between images, "
    "positions and channels. Saturated: fraction of values at the ends of the gate's range. Block: "
    "verdict on the block, with the number of runs."
)

UNDECIDED = ("not enough", "nothing learned", "cut", "failed", "not measured")
"""Prefixes of the verdicts that do not decide whether a variant helps."""

VERDICT_ORDER = ("helps", "hurts", "no difference", *UNDECIDED)

_NEGATIVE = re.compile(r"(?<![\w@.-])-(?=\d)")

Keys = tuple[str, ...]
Row = dict[str, Cell | str]


def points(value: float | None, *, signed: bool = False) -> Cell:
    """Return an AP of 0 to 1 as points with two decimals."""
    if value is None:
        return Cell(MISSING)
    rounded = round(100 * value, 2) + 0.0  # -0.0 becomes 0.0
    text = f"{rounded:+.2f}" if signed else f"{rounded:.2f}"
    return Cell(text.replace("-", "\u2212"), 100 * value)


def with_minus(text: str) -> str:
    """Return text whose negative numbers have a minus sign in place of a hyphen.

    Example:
        >>> with_minus("yolov4-tiny: -0.9 to +1.5").split(": ")[1] == "\u22120.9 to +1.5"
        True
    """
    return _NEGATIVE.sub("\u2212", text)


def number(value: float | None, digits: int = 0, *, scale: float = 1) -> str:
    """Return a scaled number with thousands separators; "-" for None."""
    return MISSING if value is None else f"{value * scale:,.{digits}f}"


def interval(low: float | None, high: float | None) -> Cell:
    """Return an interval in points."""
    if low is None or high is None:
        return Cell(MISSING)
    return Cell(f"{points(low, signed=True)} to {points(high, signed=True)}", low)


def p_value(p: float | None) -> Cell:
    """Return a p-value with three decimals.

    Example:
        >>> str(p_value(0.0)), str(p_value(0.03)), str(p_value(None))
        ('<0.001', '0.030', '-')
    """
    return Cell("<0.001" if p is not None and p < 0.001 else number(p, 3), p)


def verdict_of(study: Study, variant: str) -> str:
    """Return the verdict on a variant in a few words."""
    verdict = str(study.verdict(variant).get("verdict") or "")
    if variant == study.baseline:
        return "baseline"
    if verdict == "no difference":
        return f"no difference > {100 * study.margin:g}"
    failed = any(run["variant_name"] == variant for run in study.failed_runs())
    return verdict or ("failed" if failed else "not measured")


def verdict_tone(verdict: str) -> Tone:
    """Return the color of a verdict's badge."""
    if verdict.startswith("helps"):
        return "good"
    if verdict.startswith("hurts"):
        return "bad"
    undecided = verdict.startswith(UNDECIDED) and verdict != "not measured"
    return "warn" if undecided else "quiet"


def verdict_answer(verdicts: Sequence[tuple[str, str, float | None]]) -> str:
    """Return whether any variant helps, and one sentence per verdict with its variants.

    Args:
        verdicts: variant, verdict in a few words, difference (AP, 0 to 1).

    Example:
        >>> verdict_answer([("se", "no difference", 0.001), ("ca", "helps", 0.012)])
        'Yes. Helps: ca (+1.20). No difference: se (+0.10).'
    """
    groups: dict[str, list[str]] = {}
    for variant, verdict, difference in verdicts:
        shown = "" if difference is None else f" ({points(difference, signed=True)})"
        groups.setdefault(verdict, []).append(f"{variant}{shown}")
    if "helps" in groups:
        answer = "Yes."
    elif any(verdict.startswith(UNDECIDED) for verdict in groups):
        answer = "Not decided yet."
    else:
        answer = "No."
    results = (
        f"{verdict[:1].upper()}{verdict[1:]}: {', '.join(groups[verdict])}."
        for verdict in sorted(groups, key=_verdict_rank)
    )
    return " ".join([answer, *results])


def _verdict_rank(verdict: str) -> int:
    ranks = [rank for rank, start in enumerate(VERDICT_ORDER) if verdict.startswith(start)]
    return ranks[0] if ranks else len(VERDICT_ORDER)


def verdict_table(study: Study) -> Table:
    """Return the table of verdict, difference and confidence interval of each variant."""
    rows: list[Row] = []
    for record in variant_rows(study):
        verdict = record["verdict"]
        rows.append(
            {
                "variant": record["variant"],
                "verdict": Cell(verdict, tone=verdict_tone(verdict), hint=record["text"] or ""),
                "difference": points(record["difference"], signed=True),
                "95 % interval": interval(record["low"], record["high"]),
                "p (Holm)": p_value(record["p_holm"]),
                "seeds": str(record["runs"]),
                "AP": points(record["ap"]),
                "sd": points(record["ap_sd"]),
                "seeds to add": number(record["further_seeds"]),
            }
        )
    return Table.of(
        rows,
        "AP (mean over IoU 0.50 to 0.95) in points, 0 to 100. Difference: variant minus "
        f"{study.baseline}, mean over seeds. sd: standard deviation of AP over seeds.",
        text_columns=["verdict"],
    )


def cost_table(study: Study) -> Table:
    """Return the table of parameters, MACs, training cost and latency of each variant."""
    latency = study.latency()
    rows: list[Row] = []
    for record in variant_rows(study):
        row: Row = {
            "variant": record["variant"],
            "AP": points(record["ap"]),
            "parameters": number(record["parameters"]),
            "million MACs": number(record["macs"], 1, scale=1e-6),
            "training, min": number(record["seconds"], 1, scale=1 / 60),
            "memory, MiB": number(record["memory_mib"]),
        }
        for runtime, by_variant in latency.items():
            measured = by_variant.get(record["variant"], {})
            low, high = number(measured.get("low_ms"), 2), number(measured.get("high_ms"), 2)
            hint = "" if low == MISSING else f"quartiles: {low} to {high} ms"
            row[f"{runtime}, ms"] = Cell(number(measured.get("median_ms"), 2), hint=hint)
        rows.append(row)
    note = "Latency was not measured."
    if latency:
        where = machine_text(study.description.get("latency_machine") or {})
        note = (
            "Latency: median time for one image, the whole call; the variants were measured "
            f"alternately{where and f' ({where})'}."
        )
    return Table.of(rows, f"Means over the runs of a variant. {note}")


def effect_table(
    study: Study, metrics: Mapping[str, Keys], *, first_column: str = "variant", caption: str = ""
) -> Table:
    """Return the table of differences of each variant to the baseline in several metrics.

    Args:
        study: the records.
        metrics: name of a metric to its keys in ``metrics`` of a run.
        first_column: ``variant`` for one row per variant; any other heading for one row per metric.
        caption: text above the table.
    """
    cells: dict[str, dict[str, Cell | str]] = {}
    for variant in study.variants():
        if variant == study.baseline:
            cells[f"{variant} (AP itself)"] = {
                name: points(study.mean(variant, "metrics", *keys))
                for name, keys in metrics.items()
            }
        else:
            cells[variant] = {
                name: _effect(study.effect(variant, *keys)) for name, keys in metrics.items()
            }
    if first_column == "variant":
        rows: list[Row] = [{first_column: name, **columns} for name, columns in cells.items()]
    else:
        rows = [
            {first_column: name, **{variant: cells[variant][name] for variant in cells}}
            for name in metrics
        ]
    return Table.of(rows, caption)


def _effect(effect: tuple[float, float | None, float | None] | None) -> Cell:
    if effect is None:
        return Cell(MISSING)
    difference, low, high = effect
    cell = points(difference, signed=True)
    if low is None or high is None:
        return cell
    half = 100 * (high - low) / 2
    hint = f"95 % interval {interval(low, high)}"
    return Cell(f"{cell} (\u00b1{half:.2f})", cell.key, hint=hint)


def gate_table(study: Study) -> Table:
    """Return the table of gate statistics of each variant, means over its runs."""
    rows: list[Row] = []
    for variant in study.variants():
        blocks: dict[str, list[Mapping[str, Any]]] = {}
        for run in study.runs_of(variant):
            for site, block in (run["gates"] or {}).items():
                blocks.setdefault(site, []).append(block)
        for site, found in blocks.items():
            verdicts = Counter(block["verdict"] for block in found)
            counts = ", ".join(f"{verdict} ({count})" for verdict, count in verdicts.items())
            for gate in found[0]["gates"]:
                several = [block["gates"][gate] for block in found]
                saturated = _mean(one["saturated"] for one in several)
                rows.append(
                    {
                        "gate": f"{variant} {site} {gate}",
                        **{
                            heading: number(_mean(one[key] for one in several), 4)
                            for heading, key in GATE_COLUMNS.items()
                        },
                        "saturated": MISSING if saturated is None else f"{100 * saturated:.1f} %",
                        "block (runs)": counts,
                    }
                )
    return Table.of(rows, GATE_CAPTION, text_columns=["block (runs)"])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def run_table(study: Study) -> Table:
    """Return the table of runs, one row per run."""
    rows: list[Row] = [
        {
            "run": f"{record['variant']}, seed {record['seed']}",
            "AP": points(record["ap"]),
            "AP50": points(record["ap50"]),
            "AP75": points(record["ap75"]),
            "epochs": number(record["epochs_done"]),
            "minutes": number(record["seconds"], 1, scale=1 / 60),
            "memory, MiB": number(record["memory_mib"]),
            "stopped": Cell(record["stopped"], tone="warn") if record["stopped"] else "",
        }
        for record in run_rows(study)
    ]
    return Table.of(rows, "AP in points.", text_columns=["stopped"])


def run_rows(study: Study) -> list[dict[str, Any]]:
    """Return one flat record per run for CSV and JSON; AP is 0 to 1."""
    rows = []
    for run in study.runs:
        metrics = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")
        costs = ("epochs_done", "seconds", "memory_mib", "parameters", "macs", "folder", "key")
        row = {
            "variant": run["variant_name"],
            "attention": run["variant"]["attention"],
            "sites": ",".join(run["variant"]["sites"]),
            "init": run["variant"]["init"],
            "seed": run["seed"],
            "stopped": run["stopped"],
            **{name: value_at(run, "metrics", name) for name in metrics},
            **{
                f"ap {name}": value_at(run, "metrics", "per_class", name, "ap")
                for name in study.classes()
            },
            **{name: run[name] for name in costs},
        }
        rows.append(row)
    return rows


def variant_rows(study: Study) -> list[dict[str, Any]]:
    """Return one flat record per variant for CSV and JSON; AP is 0 to 1."""
    rows = []
    for variant in study.variants():
        found, aps = study.verdict(variant), study.values(variant, "metrics", "ap")
        statistics_names = ("difference", "low", "high", "p", "p_holm", "further_seeds")
        costs = ("parameters", "macs", "seconds", "memory_mib")
        row = {
            "variant": variant,
            "verdict": verdict_of(study, variant),
            "text": found.get("text"),
            **{name: found.get(name) for name in statistics_names},
            "runs": len(aps),
            "ap": statistics.fmean(aps) if aps else None,
            "ap_sd": statistics.stdev(aps) if len(aps) > 1 else None,
            **{name: study.mean(variant, name) for name in costs},
            **{
                f"{runtime}_ms": value_at(by_variant, variant, "median_ms")
                for runtime, by_variant in study.latency().items()
            },
        }
        rows.append(row)
    return rows
