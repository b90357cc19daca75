"""Table and figure of a record that `attendet bench` wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attendet.errors import ConfigError
from attendet.report.figures import COLORS, _dress, _figure
from attendet.report.palette import INK, MUTED, to_hex
from attendet.report.tables import NOTHING, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bench_figure", "bench_table", "bench_verdicts"]


CANDIDATE = ("weights", "runtime", "precision", "threads", "mode")
"""What rows that differ in the batch alone have in common."""


def _ms(spread: Mapping[str, Any]) -> str:
    return f"{spread['median']:.1f} ({spread['q1']:.1f} to {spread['q3']:.1f})"


def bench_table(record: Mapping[str, Any]) -> Table:
    """Return header and rows: medians, quartiles in brackets, a row a candidate and batch.

    ``of the network`` is the rate of the stream over that of the bare network at its best batch.
    """
    header = ["file", "runtime", "precision", "threads", "mode", "batch", "whole path, ms"]
    header += ["network, ms", "around, ms", "images/s", "of the network", "cold start, s"]
    header += ["memory, MiB", "file, MiB", "AP"]
    rows = []
    for row, used in zip(record["rows"], _shares(record["rows"]), strict=True):
        whole, network = row["whole_ms"], row["network_ms"]
        memory = row["memory_mib"]
        rows.append(
            [
                row["file"],
                row["runtime"],
                row["precision"],
                str(row["threads"]),
                row["mode"],
                str(row["batch"]),
                _ms(whole),
                _ms(network),
                f"{row['around_ms']['median']:.1f}",
                f"{row['images_per_s']['median']:.1f}",
                f"{100 * used:.0f} %",
                f"{row['cold_start_s']['median']:.2f}",
                NOTHING if memory is None else str(memory),
                f"{row['file_mib']:.1f}",
                NOTHING if row["ap"] is None else f"{row['ap']:.3f}",
            ]
        )
    return header, rows


def _shares(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return for each row its images a second over the rate of its network at its best batch."""
    same = [tuple(row[key] for key in CANDIDATE) for row in rows]
    best: dict[tuple[Any, ...], float] = {}
    for who, row in zip(same, rows, strict=True):
        best[who] = min(_median(row, "network_ms"), best.get(who, float("inf")))
    return [
        _median(row, "images_per_s") * best[who] / 1e3 for who, row in zip(same, rows, strict=True)
    ]


def bench_verdicts(record: Mapping[str, Any]) -> list[str]:
    """Return a sentence each on who is the fastest for one image and for many."""
    loss = record["settings"]["max_ap_loss"]
    measured = any(row["ap"] is not None for row in record["rows"])
    within = f" within {100 * loss:g} points of the best AP" if measured else ", AP not measured"
    questions = (("latency", "one image at a time"), ("throughput", "many images"))
    lines = []
    for key, question in questions:
        verdict = record["verdicts"][key]
        if verdict["fastest"] is not None:
            ahead = verdict["ahead"]
            lead = "" if ahead is None else f", {ahead:.2f} times as fast as the next"
            lines.append(f"fastest for {question}{within}: {verdict['fastest']}{lead}")
        elif verdict["tied"]:
            tied = " | ".join(verdict["tied"])
            lines.append(f"fastest for {question}{within}: {verdict['reason']}: {tied}")
        else:
            why = record["noise"]["reason"] or verdict["reason"]
            lines.append(f"fastest for {question}: not named, because {why}")
    return lines


def bench_figure(record: Mapping[str, Any]) -> Figure:
    """Return bars: times of one image, and rates of many where modes or batches were compared.

    The times are those of batch 1 in mode ``latency``, what is not the network set apart; the rates
    are those of every row, that of the network alone as a stroke. Best on top, quartiles as a line.

    Raises:
        ConfigError: if the record has no row.
        MissingExtraError: if matplotlib is not installed.
    """
    rows: Sequence[Mapping[str, Any]] = record["rows"]
    if not rows:
        raise ConfigError("record must hold a row; it holds none.")
    single = [row for row in rows if row["batch"] == 1 and row["mode"] == "latency"]
    panels: list[tuple[Callable[[Axes, Any], None], Sequence[Mapping[str, Any]]]] = []
    if single:
        panels.append((_draw_times, sorted(single, key=lambda row: _median(row, "whole_ms"))))
    if len(single) < len(rows):
        panels.append((_draw_rates, sorted(rows, key=lambda row: -_median(row, "images_per_s"))))
    counts = [len(shown) for _, shown in panels]
    figure = _figure(8.4, 1.3 * len(panels) + 0.42 * sum(counts))
    grid = figure.subplots(len(panels), squeeze=False, gridspec_kw={"height_ratios": counts})
    for axes, (draw, shown) in zip(grid[:, 0], panels, strict=True):
        draw(axes, shown)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.legend(fontsize=9, frameon=False, loc="best")
    if record["noise"]["too_noisy"]:
        note = textwrap.fill(f"too noisy to compare: {record['noise']['reason']}", 100)
        figure.supxlabel(note, fontsize=9, color=to_hex(MUTED))
    return figure


def _draw_times(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    whole = [_median(row, "whole_ms") for row in rows]
    around = [min(_median(row, "around_ms"), total) for row, total in zip(rows, whole, strict=True)]
    network = [total - part for total, part in zip(whole, around, strict=True)]
    places = range(len(rows))
    axes.barh(places, network, color=COLORS[0], height=0.62, label="network")
    axes.barh(places, around, left=network, color=COLORS[1], height=0.62, label="around it")
    _finish_bars(axes, rows, "whole_ms", [row["whole_ms"]["q3"] for row in rows])
    _dress(axes, title="From an image file to detections", xlabel="ms, median and quartiles")
    axes.set_yticks(list(places), [_label(row) for row in rows])


def _draw_rates(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    rates = [_median(row, "images_per_s") for row in rows]
    alone = [1e3 / _median(row, "network_ms") for row in rows]
    axes.barh(places, rates, color=COLORS[0], height=0.62, label="stream")
    axes.plot(alone, places, "|", color=COLORS[1], ms=13, mew=2.5, label="network alone")
    ends = [max(row["images_per_s"]["q3"], rate) for row, rate in zip(rows, alone, strict=True)]
    _finish_bars(axes, rows, "images_per_s", ends)
    _dress(axes, title="Many images", xlabel="images/s, median and quartiles")
    labels = [f"{_label(row)}, {row['mode']}, batch {row['batch']}" for row in rows]
    axes.set_yticks(list(places), labels)


def _finish_bars(
    axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, ends: Sequence[float]
) -> None:
    """Draw quartiles, and behind the end of each row the median and the AP."""
    spreads = [row[name] for row in rows]
    errors = [
        [spread["median"] - spread["q1"] for spread in spreads],
        [spread["q3"] - spread["median"] for spread in spreads],
    ]
    medians = [spread["median"] for spread in spreads]
    axes.errorbar(medians, range(len(rows)), xerr=errors, fmt="none", ecolor=to_hex(INK), capsize=3)
    for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
        quality = "" if row["ap"] is None else f", AP {row['ap']:.3f}"
        axes.annotate(
            f"{row[name]['median']:.1f}{quality}",
            (end, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=to_hex(INK),
        )
    axes.set_xlim(0, 1.25 * max(ends))
    axes.set_ylim(-0.6, len(rows) - 0.4)


def _median(row: Mapping[str, Any], name: str) -> float:
    return float(row[name]["median"])


def _label(row: Mapping[str, Any]) -> str:
    threads = f"{row['threads']} thread{'s' * (row['threads'] != 1)}"
    return f"{row['file']}\n{row['runtime']}, {row['precision']}, {threads}"
