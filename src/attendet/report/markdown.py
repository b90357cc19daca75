"""A report as Markdown with its figures beside it; the same methods as `attendet.report.Page`."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from html import unescape
from pathlib import Path

from attendet.files import write_atomically
from attendet.report.chart_axes import standalone
from attendet.report.html import Cell
from attendet.report.tables import markdown_table

__all__ = ["MarkdownPage"]

FIGURES = "figures"
"""Folder of the figures, beside the page."""


class MarkdownPage:
    """A page built from top to bottom; each method adds a part and returns the page.

    Args:
        title: heading of the page.

    Example:
        >>> page = MarkdownPage("Cells").add_section("Result").add_text("AP is *not* 1.")
        >>> print(page.to_markdown())
        # Cells
        <BLANKLINE>
        ## Result
        <BLANKLINE>
        AP is \\*not\\* 1.
        <BLANKLINE>
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = [f"# {_plain(title)}"]
        self._section = "page"
        self._files: dict[str, bytes] = {}

    def add_section(self, heading: str) -> MarkdownPage:
        """Begin a section."""
        self._section = _slug(heading)
        return self._add(f"## {_plain(heading)}")

    def add_heading(self, heading: str) -> MarkdownPage:
        """Begin a part of a section."""
        return self._add(f"### {_plain(heading)}")

    def add_text(self, text: str) -> MarkdownPage:
        """Add paragraphs; an empty line parts them."""
        for paragraph in text.strip().split("\n\n"):
            self._add(_plain(paragraph.strip()))
        return self

    def add_lead(self, text: str) -> MarkdownPage:
        """Add a paragraph that stands out."""
        return self._add(f"**{_plain(text)}**")

    def add_list(self, lines: Sequence[str]) -> MarkdownPage:
        """Add a list of sentences."""
        return self._add("\n".join(f"- {_plain(line)}" for line in lines))

    def add_code(self, text: str) -> MarkdownPage:
        """Add lines that are shown as they are."""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
        return self._add(f"{fence}\n{text}\n{fence}")

    def add_facts(self, facts: Sequence[tuple[str, str]]) -> MarkdownPage:
        """Add names and what they are."""
        rows = [[_plain(name), _plain(value)] for name, value in facts]
        return self._add(markdown_table(["", ""], rows, words={1}))

    def add_table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        caption: str = "",
        words: Collection[int] = (),
        sortable: bool = False,
    ) -> MarkdownPage:
        """Add a table; ``sortable`` matters to a page alone."""
        del sortable
        if caption:
            self._add(_plain(caption))
        texts = [[_plain(_text(cell)) for cell in row] for row in rows]
        return self._add(markdown_table([_plain(cell) for cell in header], texts, words=words))

    def add_chart(self, svg: str, caption: str = "") -> MarkdownPage:
        """Add a chart as an SVG file of its own."""
        alt = re.search(r'aria-label="([^"]*)"', svg)
        return self._add_file(
            standalone(svg).encode(), "svg", caption, alt=unescape(alt[1]) if alt else ""
        )

    def add_figure(self, image: bytes | str, caption: str = "", *, alt: str = "") -> MarkdownPage:
        """Add an image as a file of its own."""
        if isinstance(image, str):
            return self._add_file(image.encode(), "svg", caption, alt=alt)
        suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
        return self._add_file(image, suffix, caption, alt=alt)

    def add_gallery(
        self, images: Sequence[tuple[bytes, str]], *, least_width: int = 300
    ) -> MarkdownPage:
        """Add images, one below the other."""
        del least_width
        for image, caption in images:
            self.add_figure(image, caption)
        return self

    def to_markdown(self) -> str:
        """Return the text of the page."""
        return "\n\n".join(self._parts) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the figures, then the page, each whole or not at all; return the page's path."""
        path = Path(path)
        for name, content in self._files.items():
            write_atomically(path.parent / FIGURES / name, content)
        return write_atomically(path, self.to_markdown())

    def _add_file(
        self, content: bytes, suffix: str, caption: str, *, alt: str = ""
    ) -> MarkdownPage:
        number = 1 + sum(name.startswith(f"{self._section}-") for name in self._files)
        name = f"{self._section}-{number}.{suffix}"
        self._files[name] = content
        self._add(f"![{_plain(alt or caption)}]({FIGURES}/{name})")
        return self._add(f"*{_plain(caption)}*") if caption else self

    def _add(self, part: str) -> MarkdownPage:
        self._parts.append(part)
        return self


def _text(cell: object) -> str:
    return cell.text if isinstance(cell, Cell) else str(cell)


def _plain(text: str) -> str:
    """Return a text in which no character has a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", text)


def _slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "section"
