"""One line of a YOLO label file: a box, a box with keypoints, or the points of a polygon."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attendet.data.sample import Box

__all__ = ["read_box"]

Corners = tuple[float, float, float, float]


def _corners_of_box(numbers: list[float]) -> Corners:
    x, y, width, height = numbers
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _corners(numbers: list[float], keypoint_fields: int) -> Corners:
    """Return the corners of a box, alone or before keypoints, or of the box around a polygon."""
    if keypoint_fields:
        if len(numbers) == 4 + keypoint_fields:
            return _corners_of_box(numbers[:4])
        raise ValueError(
            f"line must hold {5 + keypoint_fields} fields (a class, 4 numbers, and "
            f"{keypoint_fields} of keypoints as kpt_shape says); got {len(numbers) + 1} fields"
        )
    if len(numbers) == 4:
        return _corners_of_box(numbers)
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        columns, rows = numbers[0::2], numbers[1::2]
        if not all(map(math.isfinite, numbers)):
            return math.nan, math.nan, math.nan, math.nan
        return min(columns), min(rows), max(columns), max(rows)
    raise ValueError(
        f"line must hold a class and 4 numbers, or points; got {len(numbers) + 1} fields"
    )


def read_box(
    text: str, line: int, names: Mapping[int, str] | None, keypoint_fields: int = 0
) -> Box:
    """Return the box of one line, corners as shares of the image.

    Args:
        text: the line.
        line: its number.
        names: class id to name; an id that is not in it stays a number. None where the set has no
            names: every id stays a number.
        keypoint_fields: numbers that follow the box, 0 where the set has no keypoints.

    Raises:
        ValueError: if the line is none of these.
        OverflowError: if the class id is infinite.
    """
    words = text.split()
    number = float(words[0])
    if not number.is_integer():
        raise ValueError(f"class id must be a whole number; got {words[0]!r}")
    xyxy = _corners([float(word) for word in words[1:]], keypoint_fields)
    class_id = int(number)
    label = class_id if names is None else names.get(class_id, class_id)
    return Box(xyxy, label, line)
