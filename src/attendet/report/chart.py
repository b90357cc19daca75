"""Charts as SVG that take the colors of the page they stand in, light or dark.

Each function returns the text of an ``<svg>``. Inside a `attendet.report.Page` its colors are
those of the page; `standalone` makes a file of it that follows the reader's preference by itself.
Values are in data units; what is None or not finite is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attendet.report.chart_axes import (
    LETTER,
    LETTER_WIDTH,
    TONES,
    Canvas,
    Range,
    extent,
    known,
    standalone,
)

__all__ = [
    "Dot",
    "Interval",
    "Series",
    "interval_chart",
    "line_chart",
    "pareto_front",
    "scatter_chart",
    "standalone",
]


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    """Its name in the legend."""

    points: Sequence[tuple[float, float | None]]
    """x and y; a y of None is a gap that the line crosses."""

    band: Sequence[tuple[float, float, float]] = ()
    """x, low and high of a band behind the line."""

    tone: int = 0
    """Number of its color."""

    dashed: bool = False
    """Whether the line is dashed."""


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart."""

    label: str
    """Its name."""

    value: float | None
    """Where its mark stands."""

    low: float | None = None
    """Where its bar begins."""

    high: float | None = None
    """Where its bar ends."""

    dots: Sequence[float] = ()
    """Single values, drawn small."""

    note: str = ""
    """Written at the right edge."""

    tone: int = 0
    """Number of its color."""


@dataclass(frozen=True)
class Dot:
    """One point of a scatter chart."""

    label: str
    """Written beside it."""

    x: float
    """Along."""

    y: float
    """Up."""

    x_span: Range | None = None
    """A horizontal bar through it."""

    y_span: Range | None = None
    """A vertical bar through it."""

    tone: int = 0
    """Number of its color."""

    hint: str = ""
    """Shown when pointed at."""


def line_chart(
    series: Sequence[Series],
    *,
    alt: str,
    x_label: str,
    y_label: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    width: int = 900,
    height: int = 320,
) -> str:
    """Return lines, with bands behind them and a legend above.

    Args:
        series: at most seven look different.
        alt: what the chart shows, in words.
        x_label: under the axis.
        y_label: beside the axis.
        x_range: of the axis; that of the data if left out.
        y_range: of the axis; that of the data, with a margin, if left out.
        width: pixels.
        height: pixels.

    Example:
        >>> chart = line_chart(
        ...     [Series("AP", [(1, 0.2), (2, 0.4)])], alt="AP", x_label="epoch", y_label="AP")
        >>> chart.count("<polyline"), chart.startswith("<svg class=")
        (1, True)
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points if known(y)]
    ys += [edge for one in series for _, low, high in one.band for edge in (low, high)]
    rows = _legend_rows([one.label for one in series], width - 72) if len(series) > 1 else []
    padded = Canvas(
        width,
        height,
        x_range or extent(xs, 0),
        y_range or extent(ys, 0.06),
        top=14 + 20 * len(rows),
    )
    padded.x_axis(x_label)
    padded.y_axis(y_label)
    for one in series:
        tone = one.tone % TONES
        edges = [(x, low, high) for x, low, high in one.band if known(low) and known(high)]
        outline = [(x, high) for x, _, high in edges] + [(x, low) for x, low, _ in edges[::-1]]
        if len(edges) > 1:
            padded.add("polygon", f"band{tone}", points=padded.path(outline))
    for one in series:
        tone = one.tone % TONES
        seen = [(x, y) for x, y in one.points if y is not None and known(y)]
        if len(seen) == 1:
            padded.add(
                "circle",
                f"dot{tone}",
                one.label,
                cx=padded.x(seen[0][0]),
                cy=padded.y(seen[0][1]),
                r=4,
            )
        elif seen:
            dashed = " dashed" if one.dashed else ""
            points = padded.path(seen)
            padded.add("polyline", f"line{tone}{dashed}", one.label, points=points)
    _draw_legend(padded, series, rows)
    return padded.to_svg(alt)


def interval_chart(
    rows: Sequence[Interval],
    *,
    alt: str,
    x_label: str,
    zone: Range | None = None,
    zero: bool = True,
    width: int = 900,
) -> str:
    """Return one row an interval: a mark, a bar from low to high, small dots of single values.

    Args:
        rows: from top to bottom.
        alt: what the chart shows, in words.
        x_label: under the axis.
        zone: a range that is shaded, such as differences that do not matter.
        zero: whether zero is on the axis, with a line.
        width: pixels.

    Example:
        >>> chart = interval_chart([Interval("ca", 0.8, 0.2, 1.4)], alt="", x_label="points")
        >>> chart.count("<circle")
        1
    """
    values = [v for row in rows for v in (row.value, row.low, row.high, *row.dots) if known(v)]
    values += [0.0] if zero else []
    values += list(zone or ())
    most = int(width / 2 / LETTER_WIDTH)  # else long names leave no room to draw in
    rows = [replace(row, label=_shortened(row.label, most)) for row in rows]
    names = max((len(row.label) for row in rows), default=4)
    notes = max((len(row.note) for row in rows), default=0)
    step = 30
    padded = Canvas(
        width,
        step * len(rows) + 62,
        extent(values, 0.06),
        (0, 1),
        left=24 + names * LETTER_WIDTH,
        right=16 + notes * LETTER_WIDTH,
        top=8,
        bottom=48,
    )
    floor = padded.height - padded.bottom
    if zone is not None:
        span = padded.x(zone[1]) - padded.x(zone[0])
        padded.add(
            "rect", "zone", x=padded.x(zone[0]), y=padded.top, width=span, height=floor - padded.top
        )
    padded.x_axis(x_label)
    if zero:
        padded.line("zero", padded.x(0), padded.top, padded.x(0), floor)
    for place, row in enumerate(rows):
        _draw_interval(padded, row, padded.top + step * (place + 0.5))
    return padded.to_svg(alt)


def _shortened(label: str, most: int) -> str:
    """Return a label of at most so many letters, its middle left out."""
    if len(label) <= most:
        return label
    head = (most - 1) // 2
    return f"{label[:head]}…{label[len(label) - (most - 1 - head) :]}"


def _draw_interval(padded: Canvas, row: Interval, middle: float) -> None:
    tone = row.tone % TONES
    padded.text(row.label, padded.left - 12, middle + 4, anchor="end")
    if known(row.low) and known(row.high):
        low, high = padded.x(row.low or 0), padded.x(row.high or 0)
        padded.line(f"bar{tone}", low, middle, high, middle)
        for edge in (low, high):
            padded.line(f"bar{tone}", edge, middle - 5, edge, middle + 5)
    for value in row.dots:
        if known(value):
            padded.add("circle", f"seed{tone}", f"{value:+.2f}", cx=padded.x(value), cy=middle, r=4)
    if row.value is not None and known(row.value):
        hint = f"{row.label}: {row.value:+.2f}"
        padded.add("circle", f"dot{tone}", hint, cx=padded.x(row.value), cy=middle, r=6)
    if row.note:
        padded.text(row.note, padded.width - 8, middle + 4, anchor="end", cls="soft")


def scatter_chart(
    dots: Sequence[Dot],
    *,
    alt: str,
    x_label: str,
    y_label: str,
    front: bool = True,
    width: int = 900,
    height: int = 380,
) -> str:
    """Return named points, with the front of those that none beats in both: small x, great y.

    Args:
        dots: the points.
        alt: what the chart shows, in words.
        x_label: under the axis.
        y_label: beside the axis.
        front: whether the Pareto front is drawn.
        width: pixels.
        height: pixels.

    Example:
        >>> dots = [Dot("none", 1, 0.5), Dot("ca", 2, 0.6), Dot("se", 2, 0.4)]
        >>> scatter_chart(dots, alt="", x_label="ms", y_label="AP").count("<circle")
        3
    """
    xs = [value for dot in dots for value in (dot.x, *(dot.x_span or ()))]
    ys = [value for dot in dots for value in (dot.y, *(dot.y_span or ()))]
    padded = Canvas(width, height, extent(xs, 0.12), extent(ys, 0.12), right=28)
    padded.x_axis(x_label)
    padded.y_axis(y_label)
    best = pareto_front(dots)
    if front and len(best) > 1:
        steps: list[tuple[float, float]] = []
        for dot in best:
            steps += [(dot.x, steps[-1][1])] if steps else []
            steps.append((dot.x, dot.y))
        padded.add("polyline", "front", points=padded.path(steps))
    taken: list[tuple[float, float, float]] = []
    for dot in dots:
        tone = dot.tone % TONES
        x, y = padded.x(dot.x), padded.y(dot.y)
        if dot.x_span:
            padded.line(f"bar{tone}", padded.x(dot.x_span[0]), y, padded.x(dot.x_span[1]), y)
        if dot.y_span:
            padded.line(f"bar{tone}", x, padded.y(dot.y_span[0]), x, padded.y(dot.y_span[1]))
        padded.add("circle", f"dot{tone}", dot.hint or dot.label, cx=x, cy=y, r=6)
        _label_dot(padded, dot, x, y, taken, strong=dot in best)
    return padded.to_svg(alt)


def _label_dot(
    padded: Canvas,
    dot: Dot,
    x: float,
    y: float,
    taken: list[tuple[float, float, float]],
    *,
    strong: bool,
) -> None:
    """Write a label beside its dot where no other label stands."""
    length = len(dot.label) * LETTER_WIDTH
    to_left = x + 12 + length > padded.width - 4
    left = x - 12 - length if to_left else x + 12
    for shift in (-8, 16, -22, 30, -36, 44):
        height = y + shift
        if all(abs(height - h) > LETTER or left > r or left + length < a for a, r, h in taken):
            break
    taken.append((left, left + length, height))
    padded.text(dot.label, left, height, cls="strong" if strong else "soft")


def pareto_front(dots: Sequence[Dot]) -> list[Dot]:
    """Return the points that no other beats in both: smaller x and greater y, by growing x.

    Example:
        >>> dots = [Dot("a", 1, 0.5), Dot("b", 2, 0.6), Dot("c", 3, 0.55)]
        >>> [dot.label for dot in pareto_front(dots)]
        ['a', 'b']
    """
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda one: (one.x, -one.y)):
        if not best or dot.y > best[-1].y:
            best.append(dot)
    return best


def _legend_rows(labels: Sequence[str], width: float) -> list[list[int]]:
    """Return the numbers of the labels that stand in each row of a legend."""
    rows: list[list[int]] = [[]]
    used = 0.0
    for index, label in enumerate(labels):
        length = 40 + len(label) * LETTER_WIDTH
        if rows[-1] and used + length > width:
            rows.append([])
            used = 0.0
        rows[-1].append(index)
        used += length
    return rows


def _draw_legend(padded: Canvas, series: Sequence[Series], rows: Sequence[Sequence[int]]) -> None:
    for number, row in enumerate(rows):
        x, y = padded.left, 14.0 + 20 * number
        for index in row:
            one = series[index]
            dashed = " dashed" if one.dashed else ""
            padded.line(f"line{one.tone % TONES}{dashed}", x, y, x + 22, y)
            padded.text(one.label, x + 28, y + 4)
            x += 40 + len(one.label) * LETTER_WIDTH
