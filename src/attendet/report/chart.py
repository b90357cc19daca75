"""Charts as SVG that take the colours of the page they stand in, light or dark.

Each function returns the text of an ``<svg>``. Inside a `attendet.report.Page` its colours are
those of the page; `standalone` makes a file of it that follows the reader's preference by itself.
Values are in data units; what is None or not finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = [
    "CHART_STYLE",
    "Dot",
    "Interval",
    "Series",
    "interval_chart",
    "line_chart",
    "scatter_chart",
    "standalone",
]

Range = tuple[float, float]

TONES = 7
LETTER = 12
"""Height of letters in pixels."""

LETTER_WIDTH = 6.6
"""Width of a letter that room is left for, pixels."""

CHART_LIGHT = (
    "--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8578f;--c4:#b87d00;--c5:#3a93c4;--c6:#7a7300;"
    "--ink:#1f2328;--muted:#59636e;--line:#d1d9e0;--paper:#ffffff;"
)
CHART_DARK = (
    "--c0:#56b4e9;--c1:#ff9a4d;--c2:#3fcf9f;--c3:#e59cc6;--c4:#f0b429;--c5:#8ecdf2;--c6:#f0e442;"
    "--ink:#e6edf3;--muted:#9198a1;--line:#3d444d;--paper:#0d1117;"
)
"""The colours of Okabe and Ito 2008, darker or lighter until they read well on the paper."""

CHART_STYLE = (
    "svg.chart{display:block;font-family:system-ui,sans-serif;font-size:12px}"
    "svg.chart text{fill:var(--ink)}"
    "svg.chart .soft{fill:var(--muted)}"
    "svg.chart .strong{font-weight:600}"
    "svg.chart .grid{stroke:var(--line);stroke-width:1}"
    "svg.chart .axis{stroke:var(--muted);stroke-width:1}"
    "svg.chart .zero{stroke:var(--ink);stroke-width:1.5}"
    "svg.chart .zone{fill:var(--muted);opacity:.13}"
    "svg.chart .front{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:5 4;fill:none}"
    + "".join(
        f"svg.chart .line{i}{{stroke:var(--c{i});fill:none;stroke-width:2;stroke-linejoin:round}}"
        f"svg.chart .band{i}{{fill:var(--c{i});opacity:.2}}"
        f"svg.chart .dot{i}{{fill:var(--c{i})}}"
        f"svg.chart .bar{i}{{stroke:var(--c{i});stroke-width:2}}"
        for i in range(TONES)
    )
    + "svg.chart .dashed{stroke-dasharray:6 4}"
)


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
    """Number of its colour."""

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
    """Number of its colour."""


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
    """Number of its colour."""

    hint: str = ""
    """Shown when pointed at."""


@dataclass
class _Canvas:
    """A plot area with scales, and what has been drawn so far."""

    width: float
    height: float
    x_range: Range
    y_range: Range
    left: float = 56
    right: float = 16
    top: float = 12
    bottom: float = 44
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        room = self.height - self.top - self.bottom
        return self.height - self.bottom - (value - low) / (high - low) * room

    def add(self, tag: str, cls: str, hint: str = "", **attributes: float | str) -> None:
        inner = f"<title>{escape(hint)}</title>" if hint else ""
        shown = " ".join(
            f'{name.replace("_", "-")}="{_number(value)}"' for name, value in attributes.items()
        )
        self.parts.append(f'<{tag} class="{cls}" {shown}>{inner}</{tag}>')

    def text(self, words: str, x: float, y: float, *, anchor: str = "start", cls: str = "") -> None:
        self.parts.append(
            f'<text class="{cls}" x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def line(self, cls: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.add("line", cls, x1=x1, y1=y1, x2=x2, y2=y2)

    def x_axis(self, label: str) -> None:
        floor = self.height - self.bottom
        for tick in _ticks(self.x_range, max(2, int((self.width - self.left) // 80))):
            self.line("grid", self.x(tick), self.top, self.x(tick), floor)
            self.text(_tick_text(tick), self.x(tick), floor + 17, anchor="middle", cls="soft")
        self.line("axis", self.left, floor, self.width - self.right, floor)
        middle = (self.left + self.width - self.right) / 2
        self.text(label, middle, floor + 36, anchor="middle")

    def y_axis(self, label: str) -> None:
        for tick in _ticks(self.y_range, max(2, int((self.height - self.top) // 48))):
            self.line("grid", self.left, self.y(tick), self.width - self.right, self.y(tick))
            self.text(_tick_text(tick), self.left - 8, self.y(tick) + 4, anchor="end", cls="soft")
        middle = (self.top + self.height - self.bottom) / 2
        self.parts.append(
            f'<text class="" text-anchor="middle" transform="translate(14 {_number(middle)}) '
            f'rotate(-90)">{escape(label)}</text>'
        )

    def to_svg(self, alt: str) -> str:
        body = "".join(self.parts)
        return (
            f'<svg class="chart" viewBox="0 0 {_number(self.width)} {_number(self.height)}" '
            f'width="{_number(self.width)}" height="{_number(self.height)}" role="img" '
            f'aria-label="{escape(alt)}">{body}</svg>'
        )


def line_chart(
    series: Sequence[Series],
    *,
    alt: str,
    x_label: str,
    y_label: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    width: int = 720,
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
    ys = [y for one in series for _, y in one.points if _known(y)]
    ys += [edge for one in series for _, low, high in one.band for edge in (low, high)]
    rows = _legend_rows([one.label for one in series], width - 72) if len(series) > 1 else []
    canvas = _Canvas(
        width, height, x_range or _extent(xs, 0), y_range or _extent(ys, 0.06),
        top=14 + 20 * len(rows),
    )  # fmt: skip
    canvas.x_axis(x_label)
    canvas.y_axis(y_label)
    for one in series:
        tone = one.tone % TONES
        edges = [(x, low, high) for x, low, high in one.band if _known(low) and _known(high)]
        outline = [(x, high) for x, _, high in edges] + [(x, low) for x, low, _ in edges[::-1]]
        if len(edges) > 1:
            canvas.add("polygon", f"band{tone}", points=_points(canvas, outline))
    for one in series:
        tone = one.tone % TONES
        seen = [(x, y) for x, y in one.points if y is not None and _known(y)]
        if len(seen) == 1:
            canvas.add("circle", f"dot{tone}", one.label, cx=canvas.x(seen[0][0]),
                       cy=canvas.y(seen[0][1]), r=4)  # fmt: skip
        elif seen:
            dashed = " dashed" if one.dashed else ""
            points = _points(canvas, seen)
            canvas.add("polyline", f"line{tone}{dashed}", one.label, points=points)
    _draw_legend(canvas, series, rows)
    return canvas.to_svg(alt)


def interval_chart(
    rows: Sequence[Interval],
    *,
    alt: str,
    x_label: str,
    zone: Range | None = None,
    zero: bool = True,
    width: int = 720,
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
    values = [v for row in rows for v in (row.value, row.low, row.high, *row.dots) if _known(v)]
    values += [0.0] if zero else []
    values += list(zone or ())
    names = max((len(row.label) for row in rows), default=4)
    notes = max((len(row.note) for row in rows), default=0)
    step = 30
    canvas = _Canvas(
        width, step * len(rows) + 62, _extent(values, 0.06), (0, 1),
        left=24 + names * LETTER_WIDTH, right=16 + notes * LETTER_WIDTH, top=8, bottom=48,
    )  # fmt: skip
    floor = canvas.height - canvas.bottom
    if zone is not None:
        span = canvas.x(zone[1]) - canvas.x(zone[0])
        canvas.add("rect", "zone", x=canvas.x(zone[0]), y=canvas.top, width=span,
                   height=floor - canvas.top)  # fmt: skip
    canvas.x_axis(x_label)
    if zero:
        canvas.line("zero", canvas.x(0), canvas.top, canvas.x(0), floor)
    for place, row in enumerate(rows):
        _draw_interval(canvas, row, canvas.top + step * (place + 0.5))
    return canvas.to_svg(alt)


def _draw_interval(canvas: _Canvas, row: Interval, middle: float) -> None:
    tone = row.tone % TONES
    canvas.text(row.label, canvas.left - 12, middle + 4, anchor="end")
    if _known(row.low) and _known(row.high):
        low, high = canvas.x(row.low or 0), canvas.x(row.high or 0)
        canvas.line(f"bar{tone}", low, middle, high, middle)
        for edge in (low, high):
            canvas.line(f"bar{tone}", edge, middle - 5, edge, middle + 5)
    for value in row.dots:
        if _known(value):
            canvas.add("circle", f"band{tone}", f"{value:+.2f}", cx=canvas.x(value), cy=middle, r=4)
    if row.value is not None and _known(row.value):
        hint = f"{row.label}: {row.value:+.2f}"
        canvas.add("circle", f"dot{tone}", hint, cx=canvas.x(row.value), cy=middle, r=6)
    if row.note:
        canvas.text(row.note, canvas.width - 8, middle + 4, anchor="end", cls="soft")


def scatter_chart(
    dots: Sequence[Dot],
    *,
    alt: str,
    x_label: str,
    y_label: str,
    front: bool = True,
    width: int = 720,
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
    canvas = _Canvas(width, height, _extent(xs, 0.12), _extent(ys, 0.12), right=28)
    canvas.x_axis(x_label)
    canvas.y_axis(y_label)
    best = pareto_front(dots)
    if front and len(best) > 1:
        steps: list[tuple[float, float]] = []
        for dot in best:
            steps += [(dot.x, steps[-1][1])] if steps else []
            steps.append((dot.x, dot.y))
        canvas.add("polyline", "front", points=_points(canvas, steps))
    taken: list[tuple[float, float, float]] = []
    for dot in dots:
        tone = dot.tone % TONES
        x, y = canvas.x(dot.x), canvas.y(dot.y)
        if dot.x_span:
            canvas.line(f"bar{tone}", canvas.x(dot.x_span[0]), y, canvas.x(dot.x_span[1]), y)
        if dot.y_span:
            canvas.line(f"bar{tone}", x, canvas.y(dot.y_span[0]), x, canvas.y(dot.y_span[1]))
        canvas.add("circle", f"dot{tone}", dot.hint or dot.label, cx=x, cy=y, r=6)
        _label_dot(canvas, dot, x, y, taken, strong=dot in best)
    return canvas.to_svg(alt)


def _label_dot(
    canvas: _Canvas,
    dot: Dot,
    x: float,
    y: float,
    taken: list[tuple[float, float, float]],
    *,
    strong: bool,
) -> None:
    """Write a label beside its dot where no other label stands."""
    length = len(dot.label) * LETTER_WIDTH
    to_left = x + 12 + length > canvas.width - 4
    left = x - 12 - length if to_left else x + 12
    for shift in (-8, 16, -22, 30, -36, 44):
        height = y + shift
        if all(abs(height - h) > LETTER or left > r or left + length < a for a, r, h in taken):
            break
    taken.append((left, left + length, height))
    canvas.text(dot.label, left, height, cls="strong" if strong else "soft")


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


def standalone(svg: str) -> str:
    """Return a chart as the text of an SVG file, light or dark as its reader prefers."""
    style = (
        f"svg.chart{{{CHART_LIGHT}background:var(--paper)}}"
        f"@media (prefers-color-scheme: dark){{svg.chart{{{CHART_DARK}}}}}{CHART_STYLE}"
    )
    head, _, body = svg.partition(">")
    named = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{named}><style>{style}</style>{body}\n"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _points(canvas: _Canvas, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(canvas.x(x))},{_number(canvas.y(y))}" for x, y in points)


def _extent(values: Sequence[float | None], margin: float) -> Range:
    """Return least and greatest, a share of their distance wider; never an empty range."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(1.0, abs(high)):
        half = abs(high) * 0.1 or 0.5
        return low - half, high + half
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(span: Range, count: int) -> list[float]:
    """Return about ``count`` round numbers inside a range.

    Example:
        >>> _ticks((0, 1), 5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    low, high = span
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _tick_text(value: float) -> str:
    return f"{value:.6g}"


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


def _draw_legend(canvas: _Canvas, series: Sequence[Series], rows: Sequence[Sequence[int]]) -> None:
    for number, row in enumerate(rows):
        x, y = canvas.left, 14.0 + 20 * number
        for index in row:
            one = series[index]
            dashed = " dashed" if one.dashed else ""
            canvas.line(f"line{one.tone % TONES}{dashed}", x, y, x + 22, y)
            canvas.text(one.label, x + 28, y + 4)
            x += 40 + len(one.label) * LETTER_WIDTH
