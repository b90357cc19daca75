"""One HTML page that stands alone: no request, light and dark, a script only to sort tables.

The page forbids by a content security policy whatever is not inside it.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Literal

from attendet.files import write_atomically
from attendet.report.chart_axes import CHART_DARK, CHART_LIGHT, CHART_STYLE

__all__ = ["Cell", "Page"]

MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}

LIGHT = CHART_LIGHT + "--card:#f6f8fa;--accent:#0072b2;--good:#1a7f37;--bad:#b42318;--warn:#8a5a00;"
DARK = CHART_DARK + "--card:#161b22;--accent:#56b4e9;--good:#4ac26b;--bad:#ff8177;--warn:#e3b341;"

LONG = 30
"""Letters from which words in a table may stand in several lines."""

Tone = Literal["", "good", "bad", "warn", "quiet"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table with more than its text."""

    text: str
    """What is shown."""

    key: float | str | None = None
    """What the column is sorted by; the text if None. NaN comes last."""

    tone: Tone = ""
    """Shows the text as a badge: good, bad, warn or quiet."""

    hint: str = ""
    """Shown when pointed at."""


def _data_uri(image: bytes | str) -> str:
    """Return a PNG, JPEG or SVG as the address of itself."""
    if isinstance(image, str):
        kind, data = "image/svg+xml", image.encode("utf-8")
    else:
        data = image
        kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "image/png")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


class Page:
    """A page built from top to bottom; each method adds a part and returns the page.

    All texts are escaped, and figures are embedded as images, so nothing given can run.

    Args:
        title: heading of the page.
        language: of the texts, a BCP 47 code.
        contents: whether a list of the sections stands at the top.

    Example:
        >>> page = Page("Blood cells").add_section("Result").add_text("AP is < 1.")
        >>> "<p>AP is &lt; 1.</p>" in page.to_html()
        True
    """

    def __init__(self, title: str, *, language: str = "en", contents: bool = False) -> None:
        self.title = title
        self.language = language
        self.contents = contents
        self._parts: list[str] = []
        self._sections: list[str] = []
        self._sorts = False

    def add_section(self, heading: str) -> Page:
        """Begin a section."""
        self._sections.append(heading)
        return self._add(f'<h2 id="s{len(self._sections)}">{escape(heading)}</h2>')

    def add_heading(self, heading: str) -> Page:
        """Begin a part of a section."""
        return self._add(f"<h3>{escape(heading)}</h3>")

    def add_text(self, text: str) -> Page:
        """Add paragraphs; an empty line parts them."""
        for paragraph in text.strip().split("\n\n"):
            self._add(f"<p>{escape(paragraph.strip())}</p>")
        return self

    def add_lead(self, text: str) -> Page:
        """Add a paragraph that stands out: what the page has to say."""
        return self._add(f'<p class="lead">{escape(text)}</p>')

    def add_list(self, lines: Sequence[str]) -> Page:
        """Add a list of sentences."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        return self._add(f"<ul>{items}</ul>")

    def add_code(self, text: str) -> Page:
        """Add lines that are shown as they are, such as a command."""
        return self._add(f"<pre>{escape(text)}</pre>")

    def add_facts(self, facts: Sequence[tuple[str, str]]) -> Page:
        """Add names and what they are, one under the other."""
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
        )
        return self._add(f"<dl>{rows}</dl>")

    def add_table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        caption: str = "",
        words: Collection[int] = (),
        sortable: bool = False,
    ) -> Page:
        """Add a table; the first column is a name, the others numbers.

        Args:
            header: a text a column.
            rows: texts or `Cell` s.
            caption: stands above.
            words: numbers of further columns that hold words.
            sortable: a click on a column's heading sorts by it, another one the other way round.
        """
        self._sorts |= sortable
        head = "".join(_heading(cell, sortable, i in words) for i, cell in enumerate(header))
        body = "\n".join(
            f"<tr>{''.join(_cell(cell, i in words) for i, cell in enumerate(row))}</tr>"
            for row in rows
        )
        title = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
        kind = ' class="sortable"' if sortable else ""
        return self._add(
            f'<div class="scroll" tabindex="0"><table{kind}>{title}<thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>"
        )

    def add_figure(self, image: bytes | str, caption: str = "", *, alt: str = "") -> Page:
        """Add a figure.

        Args:
            image: bytes of a PNG or JPEG file, or the text of an SVG.
            caption: shown under it.
            alt: what it shows, for who cannot see it; the caption if left out.
        """
        return self._add(_figure(image, caption, alt))

    def add_chart(self, svg: str, caption: str = "") -> Page:
        """Add a chart in the colors of the page.

        Args:
            svg: as a function of `attendet.report.chart` returned it.
            caption: shown under it.
        """
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return self._add(
            f'<figure class="chart"><div class="scroll" tabindex="0">{svg}</div>{below}</figure>'
        )

    def add_gallery(self, images: Sequence[tuple[bytes, str]], *, least_width: int = 300) -> Page:
        """Add images side by side, as many a row as there is room for.

        Args:
            images: bytes of a PNG or JPEG file, and a caption.
            least_width: of an image, pixels.
        """
        inner = "".join(_figure(image, caption, "") for image, caption in images)
        columns = f"repeat(auto-fill,minmax(min(100%,{least_width}px),1fr))"
        return self._add(
            f'<div class="gallery" style="grid-template-columns:{columns}">{inner}</div>'
        )

    def to_html(self) -> str:
        """Return the whole page."""
        body = "\n".join(self._parts)
        script = _asset("page.js") if self._sorts else ""
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        run = f"; script-src 'sha256-{digest}'" if script else ""
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{run}"
        tail = f"<script>{script}</script>\n" if script else ""
        return (
            f'<!DOCTYPE html>\n<html lang="{escape(self.language)}">\n<head>\n'
            '<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_style()}</style>\n</head>\n"
            f"<body>\n<h1>{escape(self.title)}</h1>\n{self._list()}{body}\n{tail}</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, and return its path."""
        return write_atomically(path, self.to_html())

    def _list(self) -> str:
        if not self.contents:
            return ""
        links = "".join(
            f'<a href="#s{number}">{escape(heading)}</a>'
            for number, heading in enumerate(self._sections, start=1)
        )
        return f'<nav aria-label="Contents">{links}</nav>\n'

    def _add(self, part: str) -> Page:
        self._parts.append(part)
        return self


def _figure(image: bytes | str, caption: str, alt: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = _data_uri(image)
    return f'<figure><img src="{source}" alt="{escape(alt or caption)}">{below}</figure>'


def _heading(text: str, sortable: bool, words: bool) -> str:
    kind = ' class="words"' if words else ""
    shown = escape(str(text))
    inner = f'<button type="button">{shown}</button>' if sortable and shown else shown
    return f'<th scope="col"{kind}>{inner}</th>'


def _cell(cell: object, words: bool) -> str:
    text = cell.text if isinstance(cell, Cell) else str(cell)
    kind = f' class="words{" long" if len(text) > LONG else ""}"' if words else ""
    if not isinstance(cell, Cell):
        return f"<td{kind}>{escape(str(cell))}</td>"
    key = ""
    if cell.key is not None:
        absent = isinstance(cell.key, float) and math.isnan(cell.key)
        key = f' data-key="{"" if absent else escape(str(cell.key))}"'
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    shown = escape(cell.text)
    if cell.tone:
        shown = f'<span class="badge {cell.tone}">{shown}</span>'
    return f"<td{kind}{key}{hint}>{shown}</td>"


def _asset(name: str) -> str:
    return files("attendet.report").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    themes = (
        f":root{{color-scheme:light dark;{LIGHT}}}\n"
        "@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) {"
        f"{DARK}}} }}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{DARK}}}\n"
        ":root[data-theme=light]{color-scheme:light}\n"
    )
    return themes + _asset("page.css") + CHART_STYLE
