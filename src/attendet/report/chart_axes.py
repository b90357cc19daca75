"""What charts are drawn on: a plot area with scales and axes, and the colors of all charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["CHART_DARK", "CHART_LIGHT", "CHART_STYLE", "Canvas", "extent", "known", "standalone"]

Range = tuple[float, float]

TONES = 7
LETTER = 12
"""Height of letters in pixels."""

LETTER_WIDTH = 7.2
"""Width of a letter that room is left for, pixels."""

CHART_LIGHT = (
    "--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8578f;--c4:#b87d00;--c5:#3a93c4;--c6:#7a7300;"
    "--ink:#1f2328;--muted:#59636e;--line:#d1d9e0;--paper:#ffffff;"
)
CHART_DARK = (
    "--c0:#56b4e9;--c1:#ff9a4d;--c2:#3fcf9f;--c3:#e59cc6;--c4:#f0b429;--c5:#8ecdf2;--c6:#f0e442;"
    "--ink:#e6edf3;--muted:#9198a1;--line:#3d444d;--paper:#0d1117;"
)
"""The colors of Okabe and Ito 2008, darker or lighter until they read well on the paper."""

CHART_STYLE = (
    "svg.chart{display:block;max-width:100%;height:auto;min-width:42rem;"
    "font-family:system-ui,sans-serif;font-size:12px}"
    "svg.chart text{fill:var(--ink);stroke:var(--paper);stroke-width:3px;"
    "stroke-linejoin:round;paint-order:stroke}"
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
        f"svg.chart .seed{i}{{fill:var(--c{i});opacity:.5}}"
        f"svg.chart .dot{i}{{fill:var(--c{i})}}"
        f"svg.chart .bar{i}{{stroke:var(--c{i});stroke-width:2}}"
        for i in range(TONES)
    )
    + "svg.chart .dashed{stroke-dasharray:6 4}"
)


@dataclass
class Canvas:
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
        """Return the pixel column of a value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Return the pixel row of a value."""
        low, high = self.y_range
        room = self.height - self.top - self.bottom
        return self.height - self.bottom - (value - low) / (high - low) * room

    def add(self, tag: str, cls: str, hint: str = "", **attributes: float | str) -> None:
        """Add an element; a hint is shown when it is pointed at."""
        inner = f"<title>{escape(hint)}</title>" if hint else ""
        shown = " ".join(
            f'{name.replace("_", "-")}="{_number(value)}"' for name, value in attributes.items()
        )
        self.parts.append(f'<{tag} class="{cls}" {shown}>{inner}</{tag}>')

    def text(self, words: str, x: float, y: float, *, anchor: str = "start", cls: str = "") -> None:
        """Add words at a pixel."""
        self.parts.append(
            f'<text class="{cls}" x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def line(self, cls: str, x1: float, y1: float, x2: float, y2: float) -> None:
        """Add a straight line between two pixels."""
        self.add("line", cls, x1=x1, y1=y1, x2=x2, y2=y2)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """Return the pixels of values, as polygons and polylines take them."""
        return " ".join(f"{_number(self.x(x))},{_number(self.y(y))}" for x, y in points)

    def x_axis(self, label: str) -> None:
        """Draw grid, numbers and name of the axis below."""
        floor = self.height - self.bottom
        for tick in _ticks(self.x_range, max(2, int((self.width - self.left) // 80))):
            self.line("grid", self.x(tick), self.top, self.x(tick), floor)
            self.text(_tick_text(tick), self.x(tick), floor + 17, anchor="middle", cls="soft")
        self.line("axis", self.left, floor, self.width - self.right, floor)
        middle = (self.left + self.width - self.right) / 2
        self.text(label, middle, floor + 36, anchor="middle")

    def y_axis(self, label: str) -> None:
        """Draw grid, numbers and name of the axis at the left."""
        for tick in _ticks(self.y_range, max(2, int((self.height - self.top) // 48))):
            self.line("grid", self.left, self.y(tick), self.width - self.right, self.y(tick))
            self.text(_tick_text(tick), self.left - 8, self.y(tick) + 4, anchor="end", cls="soft")
        middle = (self.top + self.height - self.bottom) / 2
        self.parts.append(
            f'<text class="" text-anchor="middle" transform="translate(14 {_number(middle)}) '
            f'rotate(-90)">{escape(label)}</text>'
        )

    def to_svg(self, alt: str) -> str:
        """Return what was drawn; ``alt`` says what it shows, for who cannot see it."""
        body = "".join(self.parts)
        return (
            f'<svg class="chart" viewBox="0 0 {_number(self.width)} {_number(self.height)}" '
            f'width="{_number(self.width)}" height="{_number(self.height)}" role="img" '
            f'aria-label="{escape(alt)}">{body}</svg>'
        )


def standalone(svg: str) -> str:
    """Return a chart as the text of an SVG file, light or dark as its reader prefers."""
    style = (
        f"svg.chart{{{CHART_LIGHT}background:var(--paper)}}"
        f"@media (prefers-color-scheme: dark){{svg.chart{{{CHART_DARK}}}}}{CHART_STYLE}"
    )
    head, _, body = svg.partition(">")
    named = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{named}><style>{style}</style>{body}\n"


def known(value: float | None) -> bool:
    """Return whether a value can be drawn."""
    return value is not None and math.isfinite(value)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def extent(values: Sequence[float | None], margin: float) -> Range:
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
