"""Table, verdicts, chart and page of a record that `attendet bench` wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attendet.errors import ConfigError
from attendet.report.charts import (
    COLORS,
    DARK,
    GRAY,
    WIDTH,
    chart_image,
    label_rows,
    new_figure,
    style_axes,
)
from attendet.report.fonts import printable
from attendet.report.pages import Cell, Table, render_html
from attendet.report.tables import MISSING, TextTable, format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CANDIDATE_KEYS = ("weights", "runtime", "precision", "threads", "mode")
"""Keys that are the same in all rows of a candidate; only the batch size differs."""

NAMES = ("file", "runtime", "precision", "threads", "mode", "batch")
TIME_COLUMNS = (*NAMES, "whole path, ms", "network, ms", "around, ms", "images/s", "of the network")
OTHER_COLUMNS = (*NAMES, "cold start, s", "memory, MiB", "file, MiB", "AP")
"""Columns of the two tables of the page. Together they have all columns of `bench_table`."""

BAR = {False: 0.62, True: 0.34}
"""Height of a bar in a wide (False) and a narrow figure (True); bars are at a distance of 1."""

Row = Mapping[str, Any]


def _median(row: Row, name: str) -> float:
    return float(row[name]["median"])


def _with_quartiles(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.1f} ({spread['q1']:.1f} to {spread['q3']:.1f})"


def bench_table(record: Mapping[str, Any]) -> TextTable:
    """Return header and rows, one row per candidate and batch size: medians (and quartiles).

    ``of the network`` is the throughput of the stream as a percentage of the throughput of the
    network alone at its best batch size.
    """
    fastest: dict[tuple[Any, ...], float] = {}  # network time of each candidate, best batch
    for row in record["rows"]:
        key = tuple(row[name] for name in CANDIDATE_KEYS)
        fastest[key] = min(_median(row, "network_ms"), fastest.get(key, float("inf")))
    rows = []
    for row in record["rows"]:
        network_ms = fastest[tuple(row[name] for name in CANDIDATE_KEYS)]
        columns = {
            "file": row["file"],
            "runtime": row["runtime"],
            "precision": row["precision"],
            "threads": str(row["threads"]),
            "mode": row["mode"],
            "batch": str(row["batch"]),
            "whole path, ms": _with_quartiles(row["whole_ms"]),
            "network, ms": _with_quartiles(row["network_ms"]),
            "around, ms": f"{_median(row, 'around_ms'):.1f}",
            "images/s": f"{_median(row, 'images_per_s'):.1f}",
            "of the network": f"{_median(row, 'images_per_s') * network_ms / 10:.0f} %",
            "cold start, s": f"{_median(row, 'cold_start_s'):.2f}",
            "memory, MiB": MISSING if row["memory_mib"] is None else str(row["memory_mib"]),
            "file, MiB": f"{row['file_mib']:.1f}",
            "AP": format_value(row["ap"]),
        }
        rows.append(columns)
    header = list(rows[0]) if rows else []
    return header, [list(columns.values()) for columns in rows]


def bench_verdicts(record: Mapping[str, Any]) -> list[str]:
    """Return two sentences: the fastest candidate for one image at a time and for many images."""
    loss = record["settings"]["max_ap_loss"]
    measured = any(row["ap"] is not None for row in record["rows"])
    within = f" within {loss:g} points of the best AP" if measured else ", AP not measured"
    lines = []
    for key, use in (("latency", "one image at a time"), ("throughput", "many images")):
        verdict = record["verdicts"][key]
        if verdict["fastest"] is not None:
            ahead = verdict["ahead"]
            lead = "" if ahead is None else f", {ahead:.2f} times as fast as the next"
            lines.append(f"fastest for {use}{within}: {verdict['fastest']}{lead}")
        elif verdict["tied"]:
            tied = " | ".join(verdict["tied"])
            lines.append(f"fastest for {use}{within}: {verdict['reason']}: {tied}")
        else:
            reason = record["noise"]["reason"] or verdict["reason"]
            lines.append(f"fastest for {use}: not determined, because {reason}")
    return lines


def bench_page(record: Mapping[str, Any], *, command: str = "") -> str:
    """Return the HTML page of a record: verdicts, table, chart and settings.

    Args:
        record: from `attendet.bench.run_bench`, with at least one row.
        command: command line to show on the page.

    Raises:
        ConfigError: if the record has no row.
        MissingExtraError: if matplotlib or Jinja2 is not installed.
    """
    alt = "Times of one image, and images per second, as bars"
    noise, machine = record["noise"], record.get("machine") or {}
    facts = [("probe spread", f"{100 * noise['probe_spread']:.1f} %")]
    if noise["other_load"] is not None:
        facts.append(("load of other programs", f"{100 * noise['other_load']:.0f} %"))
    if record.get("data"):
        facts.append(("data", f"{Path(record['data']['root']).name}, {record['data']['split']}"))
    for name, value in {**record["settings"], **machine}.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        facts.append((name.replace("_", " "), text))
    return render_html(
        "bench",
        "Speed of the detectors",
        answers=[f"{line[:1].upper()}{line[1:]}." for line in bench_verdicts(record)],
        too_noisy=noise["reason"] if noise["too_noisy"] else "",
        times=_part_of_table(record, TIME_COLUMNS),
        others=_part_of_table(record, OTHER_COLUMNS),
        failures=[f"{one['name']}: {one['reason']}" for one in record.get("failed") or ()],
        chart=chart_image("bench", bench_figure, record, "", alt),
        command=command,
        facts=facts,
    )


def _part_of_table(record: Mapping[str, Any], columns: Collection[str]) -> Table:
    """Return some columns of the table; medians with quartiles sort by the median.

    Settings that are the same in all rows are in the caption.
    """
    header, rows = bench_table(record)
    same = {
        name: texts[0]
        for name, *texts in zip(header, *rows, strict=True)
        if name in NAMES[1:] and len(texts) > 1 and len(set(texts)) == 1
    }
    caption = ", ".join(f"{name} {text}" for name, text in same.items())
    medians = {"whole path, ms": "whole_ms", "network, ms": "network_ms"}
    found = [
        {
            name: Cell(text, _median(row, medians[name])) if name in medians else text
            for name, text in zip(header, texts, strict=True)
            if name in columns and name not in same
        }
        for row, texts in zip(record["rows"], rows, strict=True)
    ]
    caption = f"All rows: {caption}." if same else ""
    return Table.of(found, caption, text_columns=["runtime", "precision", "mode"])


def bench_figure(record: Mapping[str, Any], *, width: float = WIDTH) -> Figure:
    """Return bars: latency of one image, and throughput if modes or batch sizes were compared.

    The latency panel shows batch 1 in mode ``latency``, split into the network and the rest. The
    throughput panel shows all rows; a mark shows the rate of the network alone. The best row is on
    top. Error bars are quartiles.

    Args:
        record: from `attendet.bench.run_bench`, with at least one row.
        width: inches; in a figure narrower than `WIDTH`, labels are above the bars.

    Raises:
        ConfigError: if the record has no row.
        MissingExtraError: if matplotlib is not installed.
    """
    rows: Sequence[Row] = record["rows"]
    if not rows:
        raise ConfigError.must("record", "one with at least one row", 0)
    single = [row for row in rows if row["batch"] == 1 and row["mode"] == "latency"]
    panels: list[tuple[Callable[[Axes, Sequence[Row], bool], None], Sequence[Row]]] = []
    if single:
        panels.append((_draw_latency, sorted(single, key=lambda row: _median(row, "whole_ms"))))
    if len(single) < len(rows):
        by_rate = sorted(rows, key=lambda row: -_median(row, "images_per_s"))
        panels.append((_draw_throughput, by_rate))
    counts = [len(shown) for _, shown in panels]
    narrow = width < WIDTH
    row_height, edge_height = (0.72, 1.5) if narrow else (0.42, 1.3)
    figure = new_figure(width, edge_height * len(panels) + row_height * sum(counts))
    grid = figure.subplots(len(panels), squeeze=False, gridspec_kw={"height_ratios": counts})
    for axes, (draw, shown) in zip(grid[:, 0], panels, strict=True):
        draw(axes, shown, narrow)
    if record["noise"]["too_noisy"]:
        note = f"too noisy to compare: {record['noise']['reason']}"
        figure.supxlabel(textwrap.fill(note, 45 if narrow else 100), fontsize=9, color=GRAY)
    return figure


def _draw_latency(axes: Axes, rows: Sequence[Row], narrow: bool) -> None:
    whole = [_median(row, "whole_ms") for row in rows]
    around = [min(_median(row, "around_ms"), total) for row, total in zip(rows, whole, strict=True)]
    network = [total - part for total, part in zip(whole, around, strict=True)]
    ys, height = range(len(rows)), BAR[narrow]
    axes.barh(ys, network, color=COLORS[0], height=height, label="network")
    axes.barh(ys, around, left=network, color=COLORS[1], height=height, label="everything else")
    style_axes(axes, title="From an image file to detections", xlabel="ms, median and quartiles")
    _finish_bars(axes, rows, "whole_ms", [_row_label(row) for row in rows], narrow)


def _draw_throughput(axes: Axes, rows: Sequence[Row], narrow: bool) -> None:
    rates = [_median(row, "images_per_s") for row in rows]
    alone = [1e3 / _median(row, "network_ms") for row in rows]
    ys = range(len(rows))
    axes.barh(ys, rates, color=COLORS[0], height=BAR[narrow], label="stream")
    mark: dict[str, Any] = {"color": COLORS[1], "ms": 20 * BAR[narrow], "mew": 2.5}
    axes.plot(alone, ys, "|", label="network alone", **mark)
    style_axes(axes, title="Many images", xlabel="images/s, median and quartiles")
    labels = [f"{_row_label(row)}, {row['mode']}, batch {row['batch']}" for row in rows]
    _finish_bars(axes, rows, "images_per_s", labels, narrow)


def _finish_bars(
    axes: Axes, rows: Sequence[Row], name: str, labels: Sequence[str], narrow: bool
) -> None:
    """Draw quartiles as error bars, and write label, median and AP next to or above each bar."""
    medians = [_median(row, name) for row in rows]
    below = [_median(row, name) - row[name]["q1"] for row in rows]
    above = [row[name]["q3"] - _median(row, name) for row in rows]
    axes.errorbar(
        medians, range(len(rows)), xerr=[below, above], fmt="none", ecolor=DARK, capsize=3
    )
    quality = ["" if row["ap"] is None else f", AP {row['ap']:.3f}" for row in rows]
    notes = [f"{median:.1f}{ap}" for median, ap in zip(medians, quality, strict=True)]
    axes.set_xlim(left=0)
    if not narrow:
        label_rows(axes, labels, notes)
        axes.legend(fontsize=9, frameon=False, loc="best")
        return
    axes.set_yticks([])
    axes.set_ylim(len(rows), -0.9)
    inside = axes.get_yaxis_transform()  # x in axes, y in data units
    for index, (label, note) in enumerate(zip(labels, notes, strict=True)):
        text = label.replace("\n", f": {note}\n")
        look: dict[str, Any] = {"transform": inside, "va": "bottom", "fontsize": 8, "color": DARK}
        axes.text(0, index - BAR[narrow] / 2 - 0.02, text, **look)
    axes.legend(fontsize=9, frameon=False, loc="lower right", ncols=2)


def _row_label(row: Row) -> str:
    threads = f"{row['threads']} thread{'s' * (row['threads'] != 1)}"
    return f"{printable(row['file'])}\n{row['runtime']}, {row['precision']}, {threads}"
