"""HTML pages and Markdown reports from the Jinja templates in the folder ``templates``.

Each page has one template with its text, such as ``study``, ``sets``, ``explain``, ``demo`` or
``bench``. Templates show tables and images with the macros of ``parts.html`` or ``parts.md``, so
that one template serves both formats. All values are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from attendet import __version__
from attendet.report.tables import markdown_table, plain_table
from attendet.system import require

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


MIME_TYPES = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg"}

Tone = Literal["", "good", "bad", "warn", "quiet"]


@dataclass(frozen=True)
class Cell:
    """A table cell with a sort key, a badge and a tooltip.

    Attributes:
        text: Displayed text.
        key: Sort key of the cell; None if the text is a number or ``-``.
        tone: Color of the badge around the text; no badge if empty.
        hint: Tooltip.
    """

    text: str
    key: float | None = None
    tone: Tone = ""
    hint: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table with a caption, sorted by a click on a column heading.

    Attributes:
        header: One heading per column.
        rows: The first column holds names.
        caption: Text above the table.
        text_columns: Headings of further columns that hold text; all others hold numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    text_columns: Collection[str] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Cell | str]],
        caption: str = "",
        text_columns: Collection[str] = (),
    ) -> Table:
        """Return the table of rows that map each heading to a cell."""
        header = list(rows[0]) if rows else []
        return cls(header, [list(row.values()) for row in rows], caption, text_columns)

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with every entry as a `Cell`."""
        return [
            [cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows
        ]

    def as_text(self) -> str:
        """Return the table without its caption as aligned text."""
        columns = [self.header.index(heading) for heading in self.text_columns]
        # Not every console can show the minus sign.
        rows = [[str(cell).replace("\u2212", "-") for cell in row] for row in self.rows]
        return plain_table(self.header, rows, text_columns=columns)


@dataclass(frozen=True)
class Image:
    """An image of a page, inside the HTML page or a file next to the Markdown report.

    Attributes:
        name: File name; its suffix is svg, png or jpg.
        data: Content of the file.
        caption: Text below the image.
        alt: Description for screen readers; the caption if empty.
        narrow: Content for a narrow window, of the same format; ``data`` if empty.
    """

    name: str
    data: bytes
    caption: str = ""
    alt: str = ""
    narrow: bytes = b""

    @property
    def uri(self) -> str:
        """The image as a ``data:`` address."""
        return self._uri(self.data)

    @property
    def narrow_uri(self) -> str:
        """The content for a narrow window as a ``data:`` address."""
        return self._uri(self.narrow)

    def _uri(self, data: bytes) -> str:
        mime_type = MIME_TYPES[self.name.rpartition(".")[2]]
        return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"


def render_html(template: str, title: str, **context: Any) -> str:
    """Return one HTML page that includes its styles, script and images.

    Its content security policy blocks everything from outside the page.

    Args:
        template: name of the page template, such as ``study``.
        title: heading of the page.
        context: values that the page template uses.

    Raises:
        MissingExtraError: if Jinja2 is not installed.
    """
    environment = _environment("html")
    body = environment.get_template(f"{template}.jinja").render(context)
    sections = [map(_safe, found) for found in re.findall('<h2 id="(.*?)">(.*)</h2>', body)]
    script = environment.get_template("page.js").render()
    return environment.get_template("page.html").render(
        title=title,
        body=_safe(body),
        sections=sections,
        script=_safe(script),
        version=__version__,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_markdown(template: str, title: str, **context: Any) -> str:
    """Return a Markdown report; its images are files in the folder ``figures`` next to it.

    Args:
        template: name of the page template, such as ``study``.
        title: heading of the report.
        context: values that the page template uses.
    """
    body = _environment("md").get_template(f"{template}.jinja").render(context)
    return re.sub(r"\n{3,}", "\n\n", f"# {_escape_markdown(title)}\n\n{body.strip()}\n")


@cache
def _environment(kind: Literal["html", "md"]) -> Environment:
    jinja2 = require("jinja2", extra="train", purpose="writing report pages")
    environment: Environment = jinja2.Environment(
        loader=jinja2.PackageLoader("attendet.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_markdown if kind == "md" else None,
    )
    environment.filters["one_line"] = lambda text: _safe(" ".join(text.split()))
    environment.filters["markdown_table"] = _markdown_table
    environment.filters["as_table"] = lambda facts: Table(("", ""), facts, text_columns=[""])
    environment.globals["show"] = environment.get_template(f"parts.{kind}").module
    return environment


def _safe(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _escape_markdown(value: object) -> Markup:
    """Return a text with Markdown's special characters escaped; markup stays as it is."""
    if hasattr(value, "__html__"):
        return _safe(str(value))
    return _safe(re.sub(r"([\\`*_\[\]<>#])", r"\\\1", str(value)))


def _markdown_table(table: Table) -> Markup:
    header, *rows = (
        [_escape_markdown(cell) for cell in row] for row in (table.header, *table.rows)
    )
    text_columns = [i for i, name in enumerate(table.header) if name in table.text_columns]
    return _safe(markdown_table(header, rows, text_columns=text_columns))
