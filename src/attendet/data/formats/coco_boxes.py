"""The box of one COCO annotation: its ``bbox``, or the box around its ``segmentation``.

A segmentation is a list of polygons (x, y in turn, pixels), or a mask as run lengths: counts of
pixels, column after column, of background and object by turns; as numbers or packed into text.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["read_crowd", "read_xyxy"]

Corners = tuple[float, float, float, float]


def _shown(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def _around_polygons(polygons: list[Any]) -> Corners:
    numbers = [[float(number) for number in polygon] for polygon in polygons]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in numbers):
        raise ValueError("a polygon must hold x and y of 3 or more points")
    columns = [x for polygon in numbers for x in polygon[0::2]]
    rows = [y for polygon in numbers for y in polygon[1::2]]
    if any(map(math.isnan, columns + rows)):
        return math.nan, math.nan, math.nan, math.nan
    return min(columns), min(rows), max(columns), max(rows)


def _unpacked(text: str) -> list[int]:
    """Return run lengths from COCO's text: 5 bits a character, the lowest first; bit 6: more.

    From the third on, a number is the difference to the last but one before it.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("run lengths of the segmentation are broken")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def _around_mask(mask: dict[str, Any]) -> Corners:
    counts = mask["counts"]
    counts = _unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
    height, width = (int(side) for side in mask["size"])
    if height < 1 or width < 1 or min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError("run lengths of the segmentation do not fill its size")
    columns: list[int] = []
    rows: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        if index % 2 and count:
            last = start + count - 1
            columns += [start // height, last // height]
            one_column = start // height == last // height
            rows += [start % height, last % height] if one_column else [0, height - 1]
        start += count
    if not columns:
        raise ValueError("mask of the segmentation is empty")
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def read_xyxy(row: dict[str, Any]) -> Corners:
    """Return the corners of an annotation's box, pixels.

    Example:
        >>> read_xyxy({"bbox": [4, 5, 16, 20]})
        (4.0, 5.0, 20.0, 25.0)
        >>> read_xyxy({"segmentation": [[4, 5, 20, 5, 20, 25]]})
        (4.0, 5.0, 20.0, 25.0)

    Raises:
        ValueError: if there is neither a box nor a segmentation, or it cannot be read.
    """
    box, shape = row.get("bbox"), row.get("segmentation")
    try:
        if box:
            left, top, width, height = (float(number) for number in box)
            return left, top, left + width, top + height
        if shape:
            return _around_mask(shape) if isinstance(shape, dict) else _around_polygons(shape)
    except KeyError as error:
        raise ValueError(f"segmentation has no {error.args[0]!r}") from None
    except TypeError:
        pass
    except OverflowError:
        raise ValueError("numbers of the box are too large") from None
    except ValueError as error:
        if not box:
            raise ValueError(f"segmentation cannot be read: {error}") from None
    raise ValueError(f"bbox must be 4 numbers, or segmentation polygons; got bbox {_shown(box)}")


def read_crowd(row: dict[str, Any]) -> bool:
    """Return whether an annotation is a crowd, from ``iscrowd``; no where that is left out.

    Raises:
        ValueError: if it is neither 0 nor 1.
    """
    written = row.get("iscrowd") or 0
    try:
        number = int(written)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number not in (0, 1):
        raise ValueError(f"iscrowd must be 0 or 1; got {_shown(written)}")
    return bool(number)
