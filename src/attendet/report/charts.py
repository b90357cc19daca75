"""Charts as matplotlib figures: lines, intervals, scatter, training curves, detection quality.

Each function returns a new figure and uses no global state of matplotlib. `to_png`, `to_svg` and
`save_figure` render it.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

from attendet.errors import ConfigError
from attendet.files import write_atomically
from attendet.report.draw import INK, MUTED, PALETTE, to_hex
from attendet.report.fonts import FontFile, drawable_name, font_files
from attendet.report.pages import Image
from attendet.system import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


MAX_NAMED_CURVES = 10
MAX_NUMBERED_CELLS, MAX_NUMBERED_NARROW = 16, 12
"""Maximum classes of a confusion matrix with numbers in its cells, in wide and narrow charts."""

MAX_LABEL = 60
MAX_CLASS_LABEL = 30
"""Maximum characters of a label in wide and small charts; longer labels are cut in the middle."""

MAX_SHORT_LABEL = 16
"""Maximum characters of a label in a two-column legend of a narrow chart."""

LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP"
COLORS = [to_hex(color) for color in PALETTE]
DARK, GRAY, GRID = to_hex(INK), to_hex(MUTED), "#d1d9e0"
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""

WIDTH = 9.4
"""Width of a chart on a page, inches."""

NARROW = 3.8
"""Width of a chart on a phone, inches: legends below, panels stacked, rows without notes."""

Range = tuple[float, float]
Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class Line:
    """One line of a line chart.

    Attributes:
        label: Name in the legend.
        x: Horizontal values.
        y: Vertical values; NaN is a gap.
        band: Lower and upper edge of a band behind the line.
        style: Index of its color and dash pattern.
    """

    label: str
    x: Values
    y: Values
    band: tuple[Values, Values] | None = None
    style: int = 0


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart.

    Attributes:
        label: Name at the left.
        value: Position of the marker.
        low: Lower end of the interval.
        high: Upper end of the interval.
        dots: Single values, drawn as small dots.
        note: Text at the right edge.
        style: Index of its color.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    dots: Sequence[float] = ()
    note: str = ""
    style: int = 0


@dataclass(frozen=True)
class Point:
    """One point of a scatter chart.

    Attributes:
        label: Name in the legend.
        x: Horizontal value, such as a cost.
        y: Vertical value, such as AP.
        x_range: Ends of the horizontal error bar.
        y_range: Ends of the vertical error bar.
        style: Index of its color and marker.
    """

    label: str
    x: float
    y: float
    x_range: Range | None = None
    y_range: Range | None = None
    style: int = 0


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure; width and height are in inches."""
    module = require("matplotlib.figure", extra="train", purpose="drawing charts")
    agg = require("matplotlib.backends.backend_agg", extra="train", purpose="drawing charts")
    figure: Figure = module.Figure(figsize=(width, height), dpi=144, layout="constrained")
    figure.set_facecolor("white")
    agg.FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Set title, axis labels and the common look of all charts."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=DARK)
    axes.set_xlabel(_plain(xlabel), fontsize=10, color=DARK)
    axes.set_ylabel(_plain(ylabel), fontsize=10, color=DARK)
    axes.tick_params(labelsize=9, colors=DARK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def label_rows(axes: Axes, labels: Sequence[str], notes: Sequence[str]) -> None:
    """Label the rows of a chart from top to bottom: names at the left, notes at the right."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    beside = axes.get_yaxis_transform()  # x in axes, y in data units
    for index, note in enumerate(notes):
        axes.text(1.01, index, note, transform=beside, va="center", fontsize=9, color=GRAY)


def _line_style(index: int) -> dict[str, Any]:
    rounds, color = divmod(index, len(COLORS))
    return {"color": COLORS[color], "linestyle": LINE_STYLES[rounds % len(LINE_STYLES)]}


def _plain(text: str) -> str:
    """Return a text with ``$`` escaped, so that matplotlib does not parse it as math."""
    return text.replace("$", r"\$")


def _label(text: str, limit: int = MAX_LABEL) -> str:
    """Return a label of limited length that matplotlib shows literally."""
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"
    return _plain(f" {text}" if text.startswith("_") else text)  # a leading "_" hides it in legends


def _legend_beside(axes: Axes) -> Legend:
    return axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))


def _legend_of_width(figure: Figure, axes: Axes, width: float) -> Legend:
    """Return a legend to the right of the axes, or below a narrow chart."""
    if width >= WIDTH:
        return _legend_beside(axes)
    labels = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, labels), default=0) <= MAX_SHORT_LABEL else 1
    return figure.legend(fontsize=9, frameon=False, loc="outside lower left", ncols=columns)


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_range: Range | None = None,
    height: float = 3.4,
    width: float = WIDTH,
) -> Figure:
    """Return a chart of lines with bands, and a legend for two or more lines.

    Args:
        lines: the lines.
        x_label: label of the x axis.
        y_label: label of the y axis.
        x_range: limits of the x axis; the limits of the data if None.
        height: inches.
        width: inches, such as `NARROW`.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure(width, height)
    axes = figure.subplots()
    for line in lines:
        style = _line_style(line.style)
        if line.band is not None:
            axes.fill_between(line.x, *line.band, color=style["color"], alpha=0.2, linewidth=0)
        marker = "o" if len(line.x) == 1 else ""
        axes.plot(line.x, line.y, label=_label(line.label), marker=marker, linewidth=1.8, **style)
    style_axes(axes, xlabel=x_label, ylabel=y_label)
    if x_range is not None:
        axes.set_xlim(x_range)
    if len(lines) > 1:
        _legend_of_width(figure, axes, width)
    return figure


def interval_chart(
    rows: Sequence[Interval], *, x_label: str, zone: Range | None = None, width: float = WIDTH
) -> Figure:
    """Return a chart with one row per interval: marker, bar from low to high, small dots.

    Args:
        rows: from top to bottom.
        x_label: label of the x axis, which includes zero.
        zone: range to shade, such as differences that do not matter.
        width: inches, such as `NARROW`.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure(width, 0.9 + 0.32 * len(rows))
    axes = figure.subplots()
    if zone is not None:
        axes.axvspan(*zone, color=GRAY, alpha=0.15, linewidth=0)
    axes.axvline(0, color=DARK, linewidth=1.2)
    for index, row in enumerate(rows):
        color = COLORS[row.style % len(COLORS)]
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [index] * 2, "|-", color=color, ms=9, linewidth=2)
        axes.plot(row.dots, [index] * len(row.dots), "o", mfc="white", mec=color, ms=5)
        axes.plot(row.value, index, "o", color=color, ms=9)
    style_axes(axes, xlabel=x_label)
    if width >= WIDTH:
        label_rows(axes, [_label(row.label) for row in rows], [row.note for row in rows])
    else:
        label_rows(axes, [_label(row.label, MAX_CLASS_LABEL) for row in rows], [])
        axes.set_xlabel(axes.get_xlabel(), loc="right")
    return figure


def scatter_chart(
    points: Sequence[Point], *, x_label: str, y_label: str, width: float = WIDTH
) -> Figure:
    """Return a chart of points with error bars and their Pareto front: small x, large y is better.

    The legend names the points; points of the front are bold.

    Args:
        points: the points.
        x_label: label of the x axis.
        y_label: label of the y axis.
        width: inches, such as `NARROW`.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure(width, max(3.8, 1 + 0.24 * len(points)))
    axes = figure.subplots()
    front = pareto_front(points)
    x, y = [point.x for point in front], [point.y for point in front]
    axes.step(x, y, where="post", color=GRAY, linestyle="--", linewidth=1.5, zorder=3)
    for point in points:
        color, marker = COLORS[point.style % len(COLORS)], MARKERS[point.style % len(MARKERS)]
        if point.x_range is not None:
            axes.plot(point.x_range, [point.y] * 2, color=color, linewidth=1.5)
        if point.y_range is not None:
            axes.plot([point.x] * 2, point.y_range, color=color, linewidth=1.5)
        label = _label(point.label)
        axes.plot(point.x, point.y, marker, color=color, ms=9, linestyle="", label=label)
    style_axes(axes, xlabel=x_label, ylabel=y_label)
    axes.margins(0.08)
    legend = _legend_of_width(figure, axes, width)
    for point, text in zip(points, legend.get_texts(), strict=True):
        text.set_fontweight("bold" if point in front else "normal")
    return figure


def heat_map(
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    bold: Collection[tuple[int, int]] = (),
    width: float = WIDTH,
) -> Figure:
    """Return a heat map of differences: purple above zero, orange below, white at zero.

    Args:
        values: (rows, columns); None is an empty cell.
        rows: names from top to bottom.
        columns: names from left to right.
        bold: cells with a bold number, as row and column from 0.
        width: inches, such as `NARROW`.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    table = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    narrow = width < WIDTH
    figure = new_figure(min(width, 2.8 + 1.1 * len(columns)), 0.8 + 0.34 * len(rows))
    axes = figure.subplots()
    limit = (float(np.nanmax(np.abs(table))) if np.isfinite(table).any() else 0.0) or 1.0
    image = axes.imshow(table, vmin=-limit, vmax=limit, cmap="PuOr", aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            text = f"{round(value, 1) + 0.0:+.1f}".replace("-", "\u2212")
            axes.text(
                *(column, row, text),
                ha="center",
                va="center",
                fontsize=7 if narrow else 9,
                color="white" if np.dot(image.to_rgba(value)[:3], LUMINANCE) < 0.52 else DARK,
                fontweight="bold" if (row, column) in bold else "normal",
            )
    style_axes(axes)
    axes.grid(visible=False)
    axes.xaxis.tick_top()
    limits = (MAX_SHORT_LABEL, MAX_SHORT_LABEL) if narrow else (MAX_CLASS_LABEL, MAX_LABEL)
    axes.set_xticks(range(len(columns)), [_label(name, limits[0]) for name in columns])
    axes.set_yticks(range(len(rows)), [_label(name, limits[1]) for name in rows])
    if narrow:
        axes.tick_params(axis="x", rotation=90)
    return figure


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both x (smaller) and y (larger), by x.

    Example:
        >>> points = [Point("a", 1, 0.5), Point("b", 2, 0.6), Point("c", 3, 0.55)]
        >>> [point.label for point in pareto_front(points)]
        ['a', 'b']
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (one.x, -one.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def training_figure(epochs: Sequence[Mapping[str, Any]], *, width: float = 10.5) -> Figure:
    """Return loss terms, average precision and learning rate of a training run by epoch.

    Args:
        epochs: one record per epoch: ``epoch`` (int), ``losses`` (name to value), and optionally
            ``ap``, ``ap50`` (0 to 1 or None), ``learning_rate`` and ``muon_lr``.
        width: inches, such as `NARROW`.

    Raises:
        ConfigError: if there is no record.
        MissingExtraError: if matplotlib is not installed.
    """
    if not epochs:
        raise ConfigError.must("epochs", "at least one record", 0, advice="Train an epoch first.")
    if width < WIDTH:
        figure = new_figure(width, 7.0)
        losses, quality, rate = figure.subplots(3, 1, height_ratios=(1.15, 1.15, 0.8))
    else:
        figure = new_figure(width, 3.4)
        losses, quality, rate = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.8))
    numbers = [record["epoch"] for record in epochs]
    look = {"linewidth": 1.8, "marker": "o" if len(epochs) < 40 else "", "markersize": 3}
    names = dict.fromkeys(name for record in epochs for name in record.get("losses", {}))
    for index, name in enumerate(names):
        values = [record.get("losses", {}).get(name) for record in epochs]
        losses.plot(numbers, values, label=_label(name), **look, **_line_style(index))
    for index, (name, label) in enumerate((("ap50", "AP50"), ("ap", "AP (0.50:0.95)"))):
        points = [(r["epoch"], r[name]) for r in epochs if r.get(name) is not None]
        if points:
            quality.plot(*zip(*points, strict=True), label=label, **look, **_line_style(index))
    for index, (name, label) in enumerate((("learning_rate", "lr"), ("muon_lr", "muon_lr"))):
        if any(name in record for record in epochs):
            rates = [record.get(name) for record in epochs]
            rate.plot(numbers, rates, label=label, **look, **_line_style(index))
    style_axes(losses, title="Loss terms", xlabel="epoch", ylabel="loss")
    style_axes(quality, title="Average precision, validation", xlabel="epoch")
    style_axes(rate, title="Learning rate", xlabel="epoch")
    losses.set_ylim(bottom=0)
    quality.set_ylim(0, 1)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")
    for axes in (losses, quality, rate):
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=9, frameon=False)
    return figure


def precision_recall_figure(record: Mapping[str, Any]) -> Figure:
    """Return the precision-recall curves of an evaluation record.

    Up to ten classes have a named curve each. More classes have thin gray curves behind their mean.

    Args:
        record: from `attendet.evaluation.compute_metrics`, with curves.

    Raises:
        ConfigError: if the record has no curves.
        MissingExtraError: if matplotlib is not installed.
    """
    if "precision_recall" not in record:
        raise ConfigError("record must contain precision_recall. Evaluate with curves=True.")
    curves = record["precision_recall"]["per_class"]
    title = f"Precision and recall at IoU {record['precision_recall']['iou']:.2f}"
    figure = new_figure(6.2, 4.4)
    axes = figure.subplots()
    few = len(curves) <= MAX_NAMED_CURVES
    class_ids = {name: class_id for class_id, name in enumerate(record["confusion"]["labels"])}
    for index, (name, curve) in enumerate(curves.items()):
        label = _label(drawable_name(name, class_ids[name]), MAX_CLASS_LABEL)
        look = (
            {**_line_style(index), "linewidth": 1.8, "label": label}
            if few
            else {"color": GRAY, "linewidth": 0.5, "alpha": 0.5}
        )
        axes.plot(curve["recall"], curve["precision"], **look)
    if len(curves) > 1:
        mean = np.mean([curve["precision"] for curve in curves.values()], axis=0)
        recall = next(iter(curves.values()))["recall"]
        label = "mean" if few else f"mean of {len(curves)} classes"
        axes.plot(recall, mean, color=DARK, linewidth=2.6, label=label)
    style_axes(axes, title=title, xlabel="recall", ylabel="precision")
    axes.set_xlim(0, 1.005)
    axes.set_ylim(0, 1.02)
    axes.set_aspect("equal")
    if curves:
        _legend_beside(axes)
    return figure


def confusion_figure(record: Mapping[str, Any], *, width: float = WIDTH) -> Figure:
    """Return the confusion matrix of an evaluation record: counts and fractions of each row.

    Args:
        record: from `attendet.evaluation.compute_metrics`, with curves.
        width: inches. A figure narrower than `WIDTH` has only percentages in its cells and no color
            bar; otherwise, the width depends on the number of classes instead.

    Raises:
        ConfigError: if the record has no confusion matrix.
        MissingExtraError: if matplotlib is not installed.
    """
    if "confusion" not in record:
        raise ConfigError("record must contain confusion. Evaluate with curves=True.")
    confusion = record["confusion"]
    narrow = width < WIDTH
    limit = MAX_SHORT_LABEL if narrow else MAX_CLASS_LABEL
    labels = [
        _label(drawable_name(name, class_id), limit)
        for class_id, name in enumerate(confusion["labels"])
    ]
    counts = np.array(confusion["matrix"], dtype=np.int64)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = width if narrow else float(np.clip(2.4 + 0.62 * len(labels), 4.6, 14))
    figure = new_figure(side + (0 if narrow else 0.9), side)
    axes = figure.subplots()
    image = axes.imshow(fractions, vmin=0, vmax=1, cmap="Blues")
    last = len(labels) - 1  # background detected as background is not counted
    most = MAX_NUMBERED_NARROW if narrow else MAX_NUMBERED_CELLS
    for row, column in itertools.product(range(len(labels)), repeat=2):
        if len(labels) > most or (row, column) == (last, last):
            continue
        count, fraction = counts[row, column], fractions[row, column]
        percent = f"{fraction:.0%}" if fraction >= 0.005 else "<1%"
        text = (percent if narrow else f"{count}\n{percent}") if count else "0"
        color = GRAY if not count else "white" if fraction > 0.55 else DARK
        look: dict[str, Any] = {"fontsize": 6 if narrow else 9, "color": color}
        axes.text(column, row, text, ha="center", va="center", **look)
    title = f"Confusions\nat confidence {confusion['confidence']:.2f}, IoU {confusion['iou']:.2f}"
    style_axes(axes, title=title, xlabel="detected as", ylabel="ground truth")
    axes.grid(False)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.spines[:].set_visible(False)
    if narrow:
        axes.tick_params(labelsize=min(9, 9 * MAX_NUMBERED_NARROW / len(labels)))
        return figure
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("fraction of the row", fontsize=10, color=DARK)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    return figure


def _set_fonts(figure: Figure) -> None:
    """Add fallback fonts to each text for the characters that the default font lacks."""
    for axes in figure.axes:  # matplotlib creates tick labels on access
        axes.get_xticklabels(), axes.get_yticklabels()
    module = require("matplotlib.text", extra="train", purpose="drawing charts")
    for text in figure.findobj(module.Text):
        families = [_family(file) for file in font_files(text.get_text())]
        if families:
            text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *families])))


@cache
def _family(file: FontFile) -> str:
    """Register a font with matplotlib and return the name of its family."""
    module = require("matplotlib.font_manager", extra="train", purpose="drawing charts")
    known = module.fontManager.ttflist
    count = len(known)
    module.fontManager.addfont(file.path)
    added = known[count:]
    for weight in (400, 700):  # else matplotlib warns that a weight is missing
        known.extend(replace(font, weight=weight) for font in added)
    names: list[str] = [font.name for font in added]
    own, _ = ImageFont.truetype(file.path, index=file.face).getname()
    return own if own in names else names[0]  # matplotlib before 3.11 reads only the first face


def _save(figure: Figure, kind: str) -> bytes:
    matplotlib = require("matplotlib", extra="train", purpose="drawing charts")
    _set_fonts(figure)
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    buffer = io.BytesIO()
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.hashsalt": "attendet", "svg.fonttype": "none"}),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # class names in any script
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    return _save(figure, "png")


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG text. The same figure always gives the same text."""
    return _save(figure, "svg").decode()


def chart_image(
    name: str,
    chart: Callable[..., Figure],
    content: Any,
    caption: str,
    alt: str,
    **settings: Any,
) -> Image:
    """Return a chart for a page in two widths: for a wide window and for a phone.

    Args:
        name: file name without suffix.
        chart: function with the argument ``width``, such as `line_chart`.
        content: first argument of the function, such as the lines.
        caption: text below the chart.
        alt: description for screen readers.
        settings: further arguments of the function, such as ``x_label``.
    """
    wide, narrow = (
        to_svg(chart(content, width=width, **settings)).encode() for width in (WIDTH, NARROW)
    )
    return Image(f"{name}.svg", wide, caption, alt, narrow)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically: SVG if the file name ends in .svg, else PNG."""
    path = Path(path)
    kind = "svg" if path.suffix.lower() == ".svg" else "png"
    return write_atomically(path, _save(figure, kind))
