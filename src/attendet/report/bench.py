"""Table and figure of a record that `attendet bench` wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from attendet.errors import ConfigError
from attendet.report.figures import COLOURS, _dress, _figure
from attendet.report.palette import INK, MUTED, to_hex
from attendet.report.tables import NOTHING, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bench_figure", "bench_table", "bench_verdicts"]


def _ms(spread: Mapping[str, Any]) -> str:
    return f"{spread['median']:.1f} ({spread['q1']:.1f} to {spread['q3']:.1f})"


def bench_table(record: Mapping[str, Any]) -> Table:
    """Return header and rows: medians, quartiles in brackets, a row a contender and batch."""
    header = ["file", "runtime", "precision", "threads", "mode", "batch", "whole path, ms"]
    header += ["network, ms", "around, ms", "pictures/s", "cold start, s", "memory, MiB"]
    header += ["file, MiB", "AP"]
    rows = []
    for row in record["rows"]:
        whole, network = row["whole_ms"], row["network_ms"]
        memory = row["memory_mib"]
        rows.append(
            [
                PurePath(row["weights"]).name,
                row["runtime"],
                row["precision"],
                str(row["threads"]),
                row["mode"],
                str(row["batch"]),
                _ms(whole),
                _ms(network),
                f"{row['around_ms']['median']:.1f}",
                f"{row['pictures_per_s']['median']:.1f}",
                f"{row['cold_start_s']['median']:.2f}",
                NOTHING if memory is None else str(memory),
                f"{row['file_mib']:.1f}",
                NOTHING if row["ap"] is None else f"{row['ap']:.3f}",
            ]
        )
    return header, rows


def bench_verdicts(record: Mapping[str, Any]) -> list[str]:
    """Return a sentence each on who is the fastest for one picture and for many."""
    loss = record["settings"]["max_loss"]
    measured = any(row["ap"] is not None for row in record["rows"])
    within = f" within {100 * loss:g} points of the best AP" if measured else ", AP not measured"
    questions = (("latency", "one picture at a time"), ("throughput", "many pictures"))
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
    """Return bars of the whole path, what is not the network set apart, quartiles as a line.

    Rows of batch 1 in mode ``latency`` are drawn, the fastest on top.

    Raises:
        ConfigError: if the record has no such row.
        MissingExtraError: if matplotlib is not installed.
    """
    rows: Sequence[Mapping[str, Any]] = sorted(
        (row for row in record["rows"] if row["batch"] == 1 and row["mode"] == "latency"),
        key=lambda row: float(row["whole_ms"]["median"]),
    )
    if not rows:
        raise ConfigError("record must hold rows of batch 1 in mode latency. Measure these too.")
    figure = _figure(8.4, 1.3 + 0.42 * len(rows))
    axes = figure.subplots()
    places = range(len(rows))
    whole = [row["whole_ms"]["median"] for row in rows]
    around = [min(row["around_ms"]["median"], row["whole_ms"]["median"]) for row in rows]
    network = [total - part for total, part in zip(whole, around, strict=True)]
    errors = [
        [row["whole_ms"]["median"] - row["whole_ms"]["q1"] for row in rows],
        [row["whole_ms"]["q3"] - row["whole_ms"]["median"] for row in rows],
    ]
    axes.barh(places, network, color=COLOURS[0], height=0.62, label="network")
    axes.barh(places, around, left=network, color=COLOURS[1], height=0.62, label="around it")
    axes.errorbar(whole, places, xerr=errors, fmt="none", ecolor=to_hex(INK), capsize=3)
    for place, row in zip(places, rows, strict=True):
        quality = "" if row["ap"] is None else f", AP {row['ap']:.3f}"
        axes.annotate(
            f"{row['whole_ms']['median']:.1f}{quality}",
            (row["whole_ms"]["q3"], place),
            xytext=(6, 0), textcoords="offset points", va="center", fontsize=9,
            color=to_hex(INK),
        )  # fmt: skip
    _dress(axes, title="From a picture file to detections", xlabel="ms, median and quartiles")
    axes.set_yticks(list(places), [_label(row) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.25 * max(row["whole_ms"]["q3"] for row in rows))
    axes.legend(fontsize=9, frameon=False, loc="upper right")
    if record["noise"]["too_noisy"]:
        note = textwrap.fill(f"too noisy to compare: {record['noise']['reason']}", 100)
        figure.supxlabel(note, fontsize=9, color=to_hex(MUTED))
    return figure


def _label(row: Mapping[str, Any]) -> str:
    threads = f"{row['threads']} thread{'s' * (row['threads'] != 1)}"
    return f"{PurePath(row['weights']).name}\n{row['runtime']}, {row['precision']}, {threads}"
