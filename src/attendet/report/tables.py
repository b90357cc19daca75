"""Tables as aligned text or Markdown, and the table of an evaluation record."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

TextTable = tuple[list[str], list[list[str]]]
"""Header and rows."""

MISSING = "-"
"""Text of a cell without a value."""


def format_value(value: object) -> str:
    """Return the text of a table cell: floats with three digits, "-" for None.

    Example:
        >>> format_value(0.53821), format_value(1137), format_value(None)
        ('0.538', '1137', '-')
    """
    if value is None:
        return MISSING
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def class_table(record: Mapping[str, Any]) -> TextTable:
    """Return the table of an evaluation record: all classes together, then each class.

    Columns: counts, COCO's AP and AR, and VOC's every-point and 11-point AP.
    """
    voc = record["voc"]
    voc_name = f"VOC AP{round(100 * voc['iou'])}"
    header = ["class", "objects", "detections", "AP", "AP50", "AP75", "AR100"]
    header += [voc_name, f"{voc_name} 11-pt"]
    together = {
        **record,
        **record["counts"],
        "voc_every_point": voc["every_point"],
        "voc_11_point": voc["eleven_point"],
    }
    columns = ["gt", "detections", "ap", "ap50", "ap75", "ar_100"]
    columns += ["voc_every_point", "voc_11_point"]
    rows = [
        [name, *(format_value(row[column]) for column in columns)]
        for name, row in {"all": together, **record["per_class"]}.items()
    ]
    return header, rows


def _align(
    cells: Sequence[str], widths: Sequence[int], separator: str, text_columns: Collection[int] = ()
) -> str:
    return separator.join(
        cell.ljust(width) if not column or column in text_columns else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: Collection[int] = ()
) -> str:
    """Return a Markdown table. The first column is aligned left, the others right.

    Args:
        header: one text per column.
        rows: one text per cell.
        text_columns: indices of further columns to align left.

    Example:
        >>> print(markdown_table(["class", "AP"], [["cat", "0.5"]]))
        | class |  AP |
        |-------|----:|
        | cat   | 0.5 |
    """
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = _widths(cells)
    rule = [
        "-" * (width + 2) if not column or column in text_columns else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    ]
    lines = [f"| {_align(line, widths, ' | ', text_columns)} |" for line in cells]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n".join(lines)


def plain_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: Collection[int] = ()
) -> str:
    """Return a table with aligned columns and a line under the header.

    Args:
        header: names of the columns.
        rows: cells; the first column is text, the others are numbers.
        text_columns: indices of further text columns, aligned left.

    Example:
        >>> print(plain_table(["class", "AP"], [["cat", "0.5"]]))
        class   AP
        ----------
        cat    0.5
    """
    widths = _widths((header, *rows))
    lines = [_align(line, widths, "  ", text_columns).rstrip() for line in (header, *rows)]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as names and texts.

    Example:
        >>> flat({"a": {"b": True}, "c": [1, 2], "d": [{"e": 3, "f": None}, {"e": 4}]})
        [('a b', 'yes'), ('c', '1, 2'), ('d', 'e 3, f -; e 4')]
    """
    facts = []
    for key, value in settings.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            facts += flat(value, name)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            each = (", ".join(map(" ".join, flat(settings))) for settings in value)
            facts.append((name, "; ".join(each)))
        elif isinstance(value, list):
            facts.append((name, ", ".join(map(str, value)) or MISSING))
        elif isinstance(value, bool):
            facts.append((name, "yes" if value else "no"))
        elif isinstance(value, float):
            facts.append((name, f"{value:.6g}"))
        else:
            facts.append((name, "-" if value is None else str(value)))
    return facts
