"""Detection of boxes that are written in another unit or order than their format requires.

A YOLO file may hold pixels, and a COCO file corners instead of sizes. Such numbers are never
converted, since a wrong guess would produce wrong boxes. The error names the unit and order that
fit. n is the number of boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from attendet.data.sample import Format, RawSample
from attendet.errors import DataError, ImageError
from attendet.images import read_image_hw

Floats = NDArray[np.floating]

EDGE_TOLERANCE = 1.0
"""Pixels by which a box may leave the image without an issue; it is clipped in any case."""

_ROUNDING = 0.01
"""Tolerance above 1 for a coordinate that is a fraction of the image."""

_FEWEST_BOXES = 10
_FAR_OUTSIDE = 0.05
_FAR_OUTSIDE_BOXES = 0.25
"""Signs of another order of the numbers: of 10 or more boxes, a quarter have a negative size or
leave the image by more than 5 % of a side. In five real data sets, where corners were read as
another order or another order as corners, 28 % or more do."""

_FITTING_BOXES = 0.95
"""Fraction of the boxes that must fit in a unit and order for it to be named."""

_FIT_ALIKE = 0.005
"""Fractions of fitting boxes that differ by less than this are treated as equal."""

_CORNERS = "x_min, y_min, x_max, y_max"
_XYWH = "x_min, y_min, width, height"
_CXCYWH = "center_x, center_y, width, height"
_LAYOUTS = (_CORNERS, _XYWH, _CXCYWH)
_UNITS = ("pixels", "fractions of the image", "percent of the image")
_OF_FORMAT: dict[Format, tuple[str, str]] = {
    "voc": (_CORNERS, _UNITS[0]),
    "coco": (_XYWH, _UNITS[0]),
    "yolo": (_CXCYWH, _UNITS[1]),
}


def is_wrong_unit(boxes_xyxy: Floats, relative: bool) -> NDArray[np.bool_]:
    """Return which boxes are certainly in another unit, shape (n,).

    Fractions of the image are at most 1. A box within the first pixel whose numbers have decimal
    places is not in pixels.

    Args:
        boxes_xyxy: shape (n, 4), as written.
        relative: whether the boxes should be fractions of the image, else pixels.

    Example:
        >>> is_wrong_unit(np.array([[0.0, -10, 60, 50], [0.2, 0.2, 0.9, 1.005]]), True).tolist()
        [True, False]
    """
    if relative:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.abs(xyxy_to_cxcywh(boxes_xyxy))
        return np.asarray(((values > 1 + _ROUNDING) & np.isfinite(values)).any(axis=1))
    with np.errstate(invalid="ignore"):  # infinity has no decimal places
        has_decimals = (boxes_xyxy % 1 != 0).any(axis=1)
    fractions = (boxes_xyxy > -_ROUNDING) & (boxes_xyxy < 1 + _ROUNDING)
    return np.asarray(fractions.all(axis=1) & has_decimals)


def _as_written(boxes_xyxy: Floats, layout: str) -> Floats:
    if layout == _CORNERS:
        return boxes_xyxy
    return xyxy_to_xywh(boxes_xyxy) if layout == _XYWH else xyxy_to_cxcywh(boxes_xyxy)


def _norm_corners(numbers: Floats, layout: str, side: Floats | float) -> Floats:
    """Return the corners as fractions of the image, from numbers in a layout.

    Args:
        numbers: shape (n, 4).
        layout: order of the numbers.
        side: lengths of the image's sides in the unit of the numbers.
    """
    first, last = numbers[:, :2], numbers[:, 2:]
    if layout == _XYWH:
        last = first + last
    elif layout == _CXCYWH:
        first, last = first - last / 2, first + last / 2
    return np.concatenate([first, last], axis=1) / side


def _sides(image_wh: Floats) -> dict[str, Floats | float]:
    """Return the lengths of the sides of images in each unit."""
    return {_UNITS[0]: np.tile(image_wh, 2), _UNITS[1]: 1.0, _UNITS[2]: 100.0}


def _fits(corners_norm: Floats, slack: Floats | float) -> NDArray[np.bool_]:
    """Return which boxes have a size and leave the image by at most the fraction ``slack``."""
    inside = (corners_norm >= -slack) & (corners_norm <= 1 + slack)
    has_size = (corners_norm[:, 2:] > corners_norm[:, :2]).all(axis=1)
    return np.asarray(inside.all(axis=1) & has_size)


def fitting_coordinates(
    boxes_xyxy: Floats, image_wh: Floats, format: Format, stated_wh: Floats | None = None
) -> str:
    """Return the unit and order of numbers that fits the boxes best; empty if none fits.

    Several are named if they fit equally well. A unit in which all boxes would be in the same
    corner of their images, as with percent read as pixels, is ignored.

    Args:
        boxes_xyxy: shape (n, 4), as read in the order of the format.
        image_wh: width and height of each box's image, shape (n, 2), pixels.
        format: format of the labels.
        stated_wh: image sizes that the labels state, if they differ from `image_wh`.
    """
    sides = _sides(image_wh)
    if stated_wh is not None:
        sides["pixels of the image size that the labels state"] = np.tile(stated_wh, 2)
    numbers = _as_written(boxes_xyxy, _OF_FORMAT[format][0])
    slack = np.tile(EDGE_TOLERANCE / image_wh, 2)
    fit_of, reach_of = {}, {}
    for form in itertools.product(_LAYOUTS, sides):
        corners_norm = _norm_corners(numbers, form[0], sides[form[1]])
        fit = _fits(corners_norm, slack)
        if fit.mean() >= _FITTING_BOXES:
            fit_of[form], reach_of[form] = fit.mean(), corners_norm[fit].max()
    found = [form for form, reach in reach_of.items() if reach >= max(reach_of.values()) / 2]
    best = max((fit_of[form] for form in found), default=0)
    found = [form for form in found if fit_of[form] > best - _FIT_ALIKE]
    units = " or ".join(dict.fromkeys(unit for _, unit in found))
    layouts = dict.fromkeys(layout for layout, _ in found)
    own = _OF_FORMAT[format][0] in layouts
    return units if own or not found else f"{' or '.join(layouts)} in {units}"


def _image_wh(source: RawSample) -> tuple[int, int] | None:
    """Return the image size that the labels refer to; None if the image cannot be read."""
    try:
        height, width = read_image_hw(source.image)
    except ImageError:
        return None
    is_turned = source.declared_hw == (width, height)  # as stored, before the EXIF rotation
    return (height, width) if is_turned else (width, height)


def require_coordinates(images: Iterable[RawSample], format: Format) -> None:
    """Raise an error if the boxes are in another unit than the format's, or in another order.

    The unit is wrong if more than half of the boxes are certainly in another one. The order is
    wrong if many boxes do not fit their images, and another order, unit or image size fits them.

    Args:
        images: the labels of a file or data set.
        format: format of the labels.

    Raises:
        DataError: with the unit and order that fit, if any do.
    """
    sizes = ((each, _image_wh(each)) for each in images if each.boxes)
    rows = [(each, box, wh) for each, wh in sizes if wh for box in each.boxes]
    boxes_xyxy = np.array([box.xyxy for _, box, _ in rows], dtype=np.float64).reshape(-1, 4)
    image_wh = np.array([wh for *_, wh in rows], dtype=np.float64).reshape(-1, 2)
    finite = np.flatnonzero(np.isfinite(boxes_xyxy).all(axis=1))
    boxes_xyxy, image_wh = boxes_xyxy[finite], image_wh[finite]
    layout, unit = _OF_FORMAT[format]
    with np.errstate(over="ignore", invalid="ignore"):
        other_unit = is_wrong_unit(boxes_xyxy, relative=unit != _UNITS[0])
        numbers = _as_written(boxes_xyxy, layout)
        corners_norm = _norm_corners(numbers, layout, _sides(image_wh)[unit])
        empty = (corners_norm[:, 2:] == corners_norm[:, :2]).any(axis=1)  # a mistake in any order
        bad = other_unit | ~(empty | _fits(corners_norm, _FAR_OUTSIDE))
        of_unit = 2 * other_unit.sum() > len(bad)
        of_order = len(bad) >= _FEWEST_BOXES and bad.mean() >= _FAR_OUTSIDE_BOXES
        if not (of_unit or of_order):
            return
        stated = [(each.declared_hw or wh[::-1])[::-1] for each, _, wh in rows]
        stated_wh = np.array(stated, dtype=np.float64)[finite]
        other_size = bool((stated_wh != image_wh).any())
        fitting = fitting_coordinates(
            boxes_xyxy, image_wh, format, stated_wh if other_size else None
        )
    if not (of_unit or fitting):
        return
    source, box, _ = rows[finite[int(np.argmax(other_unit if of_unit else bad))]]
    file = box.file or source.labels
    where = f"{file}:{box.line}" if box.line else str(file)
    kind = "wrong-unit, " if of_unit else ""
    cause = f" The values match {fitting}." if fitting else ""
    raise DataError(
        f"boxes must be {layout} in {unit}; got {bad.sum()} of {len(bad)} boxes that do not fit "
        f"their image ({kind}such as {where}).{cause} Export the labels again, or convert them."
    )
