"""Tables from evaluation records: rows, and the same rows as Markdown or plain text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = [
    "class_table",
    "format_value",
    "markdown_table",
    "plain_table",
    "summary_table",
]

Table = tuple[list[str], list[list[str]]]

NOTHING = "-"


def format_value(value: object, digits: int = 3) -> str:
    """Return a cell's text: averages with three digits, counts as they are, "-" for None.

    Example:
        >>> format_value(0.53821), format_value(1137), format_value(None)
        ('0.538', '1137', '-')
    """
    if value is None:
        return NOTHING
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def class_table(record: Mapping[str, Any]) -> Table:
    """Return header and rows of the classes of an evaluation record, the mean of all first.

    Columns: counts, COCO's averages, and VOC's every-point and 11-point averages.
    """
    voc = record["voc"]
    voc_name = f"VOC AP{round(100 * voc['iou'])}"
    header = ["class", "gts", "found", "AP", "AP50", "AP75", "AR100"]
    header += [voc_name, f"{voc_name} 11-pt"]
    columns = ("ap", "ap50", "ap75", "ar_100")
    counts = record["counts"]
    first = ["all", counts["gts"], counts["detections"], *(record[name] for name in columns)]
    rows = [[*first, voc["every_point"], voc["eleven_point"]]]
    for name, row in record["per_class"].items():
        ends = [row["voc_every_point"], row["voc_11_point"]]
        rows.append([name, row["gts"], row["detections"], *(row[key] for key in columns), *ends])
    return header, [[format_value(cell) for cell in row] for row in rows]


def summary_table(record: Mapping[str, Any]) -> Table:
    """Return header and rows of the numbers of an evaluation record that are over all classes."""
    sizes = ("small", "medium", "large")
    rows: list[tuple[str, object]] = [
        ("AP (IoU 0.50:0.95)", record["ap"]),
        ("AP at IoU 0.50", record["ap50"]),
        ("AP at IoU 0.75", record["ap75"]),
        *((f"AP, {size} objects", record[f"ap_{size}"]) for size in sizes),
        *((f"AR, {count} an image", record[f"ar_{count}"]) for count in (1, 10, 100)),
        *((f"AR, {size} objects", record[f"ar_{size}"]) for size in sizes),
    ]
    best = record.get("best_f1")
    if best is not None:
        rows.append(("best mean F1", best["f1"]))
        rows.append(("... at confidence", best["confidence"]))
    return ["number", "value"], [[name, format_value(value)] for name, value in rows]


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]


def _line(
    cells: Sequence[str], widths: Sequence[int], between: str, words: Collection[int] = ()
) -> str:
    return between.join(
        cell.ljust(width) if not column or column in words else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[int] = ()
) -> str:
    """Return a Markdown table, first column to the left, the others to the right.

    Args:
        header: a text a column.
        rows: a text a cell.
        words: numbers of further columns that stand to the left.

    Example:
        >>> print(markdown_table(["class", "AP"], [["cat", "0.5"]]))
        | class |  AP |
        |-------|----:|
        | cat   | 0.5 |
    """
    safe = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = _widths(safe[0], safe[1:])
    rule = [
        "-" * (width + 2) if not column or column in words else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    ]
    lines = [f"| {_line(line, widths, ' | ', words)} |" for line in safe]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n".join(lines)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of aligned columns, a line under the header.

    Example:
        >>> print(plain_table(["class", "AP"], [["cat", "0.5"]]))
        class   AP
        ----------
        cat    0.5
    """
    widths = _widths(header, rows)
    lines = [_line(line, widths, "  ").rstrip() for line in (header, *rows)]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
