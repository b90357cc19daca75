"""One HTML page that stands alone: no script, no request, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from attendet.files import write_atomically

__all__ = ["Page"]

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #59636e; --paper: #ffffff;
  --card: #f6f8fa; --line: #d1d9e0; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --muted: #9198a1; --paper: #0d1117;
  --card: #161b22; --line: #3d444d; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; padding-bottom: .6rem;
  border-bottom: 3px solid var(--accent); }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; }
p { margin: .6rem 0; max-width: 46rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { text-align: left; color: var(--muted); padding-bottom: .4rem; }
th, td { padding: .4rem .85rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
tbody tr:nth-child(even) { background: var(--card); }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; padding: .5rem;
  border: 1px solid var(--line); border-radius: 8px; }
figcaption { color: var(--muted); font-size: .93rem; margin-top: .45rem; max-width: 46rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; overflow-x: auto;
  font: .88rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
"""

MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def _data_uri(picture: bytes | str) -> str:
    """Return a PNG, JPEG or SVG as the address of itself."""
    if isinstance(picture, str):
        kind, data = "image/svg+xml", picture.encode("utf-8")
    else:
        data = picture
        kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "image/png")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


class Page:
    """A page built from top to bottom; each method adds a part and returns the page.

    All texts are escaped, and figures are embedded as pictures, so nothing given can run.

    Args:
        title: heading of the page.
        language: of the texts, a BCP 47 code.

    Example:
        >>> page = Page("Blood cells").add_section("Result").add_text("AP is < 1.")
        >>> "<p>AP is &lt; 1.</p>" in page.to_html()
        True
    """

    def __init__(self, title: str, *, language: str = "en") -> None:
        self.title = title
        self.language = language
        self._parts: list[str] = []

    def add_section(self, heading: str) -> Page:
        """Begin a section."""
        return self._add(f"<h2>{escape(heading)}</h2>")

    def add_text(self, text: str) -> Page:
        """Add paragraphs; an empty line parts them."""
        for paragraph in text.strip().split("\n\n"):
            self._add(f"<p>{escape(paragraph.strip())}</p>")
        return self

    def add_code(self, text: str) -> Page:
        """Add lines that are shown as they are, such as a command."""
        return self._add(f"<pre>{escape(text)}</pre>")

    def add_table(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = ""
    ) -> Page:
        """Add a table; the first column is a name, the others numbers."""
        head = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in header)
        body = "\n".join(
            f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        return self._add(
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>"
        )

    def add_figure(self, picture: bytes | str, caption: str = "", *, alt: str = "") -> Page:
        """Add a figure.

        Args:
            picture: bytes of a PNG or JPEG file, or the text of an SVG.
            caption: shown under it.
            alt: what it shows, for who cannot see it; the caption if left out.
        """
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return self._add(
            f'<figure><img src="{_data_uri(picture)}" alt="{escape(alt or caption)}">'
            f"{below}</figure>"
        )

    def to_html(self) -> str:
        """Return the whole page."""
        body = "\n".join(self._parts)
        return (
            f'<!DOCTYPE html>\n<html lang="{escape(self.language)}">\n<head>\n'
            '<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n"
            f"<body>\n<h1>{escape(self.title)}</h1>\n{body}\n</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, and return its path."""
        return write_atomically(path, self.to_html())

    def _add(self, part: str) -> Page:
        self._parts.append(part)
        return self
