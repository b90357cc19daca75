"""Boxes, labels and gates drawn on images. Images are uint8 RGB of shape (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.report.palette import INK, color_of, ink_on
from attendet.report.text import fit_text, lay_text, text_mask

__all__ = [
    "draw_detections",
    "draw_gate_profiles",
    "draw_sorted_gates",
    "draw_side_by_side",
    "gate_overlay",
    "image_grid",
    "to_jpeg",
]

ImageArray = NDArray[np.uint8]
Floats = NDArray[np.floating]

PAPER = 255
SUBPIXEL_BITS = 4
"""OpenCV takes coordinates in sixteenths of a pixel."""


def _line_and_letter(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return line width and letter height in pixels that suit an image: 2 and 14 at 640 x 480."""
    scale = (image_hw[0] * image_hw[1]) ** 0.5 / 554
    return max(1, round(2 * scale)), max(10, round(14 * scale))


def draw_detections(
    image: ImageArray,
    boxes_xyxy: Floats,
    labels: Sequence[str] | None,
    class_ids: Sequence[int] | NDArray[np.integer],
    scores: Floats | None = None,
) -> ImageArray:
    """Return a copy of an image with boxes and, on request, a tag at each.

    Lines and letters grow with the image. Tags stand above their box, or inside where there is no
    room, and never leave the image; a label too long for the image is cut.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        boxes_xyxy: shape (n, 4), pixels; parts outside the image are not drawn.
        labels: n texts; no tags if None.
        class_ids: n numbers that choose the colors.
        scores: shape (n,), 0 to 1, written behind the label; the best is drawn on top. Without
            scores the first is.

    Returns:
        uint8 RGB, shape (H, W, 3).

    Raises:
        ConfigError: if the lengths differ.
    """
    lengths = {len(part) for part in (boxes_xyxy, class_ids, labels, scores) if part is not None}
    if len(lengths) > 1:
        raise ConfigError(
            f"boxes, class_ids, labels and scores must be as many; got {sorted(lengths)}."
        )
    padded = np.ascontiguousarray(image).copy()
    line, letter = _line_and_letter(padded.shape[:2])
    best_last = np.arange(len(boxes_xyxy))[::-1]
    if scores is not None:
        best_last = np.argsort(scores, kind="stable")
    for index in best_last.tolist():
        _rectangle(padded, boxes_xyxy[index], color_of(int(class_ids[index])), line)
    if labels is not None:
        for index in best_last.tolist():
            text = labels[index] if scores is None else f"{labels[index]} {scores[index]:.2f}"
            color = color_of(int(class_ids[index]))
            _tag(padded, text, boxes_xyxy[index], color, line, letter)
    return padded


def _rectangle(padded: ImageArray, box: Floats, color: tuple[int, int, int], line: int) -> None:
    """Draw the outline of a box, snapped to whole pixels so that it stays crisp."""
    height, width = padded.shape[:2]
    reach = np.array([-line, -line, line, line]) / 2
    limits = [width + line, height + line] * 2
    outer = np.clip(np.floor(np.asarray(box, dtype=np.float64) + reach + 0.5), -line, limits)
    left, top, right, bottom = outer.astype(int).tolist()
    for rows in ((top, top + line), (bottom - line, bottom)):
        padded[_inside(*rows), _inside(left, right)] = color
    for columns in ((left, left + line), (right - line, right)):
        padded[_inside(top, bottom), _inside(*columns)] = color


def _inside(start: int, stop: int) -> slice:
    return slice(max(start, 0), max(stop, 0))


def _tag(
    padded: ImageArray, text: str, box: Floats, color: tuple[int, int, int], line: int, letter: int
) -> None:
    """Draw a filled tag with text at the top left corner of a box, inside the image."""
    height, width = padded.shape[:2]
    side = max(2, letter // 4)
    text = fit_text(text, letter, width - 2 * side)
    if not text:
        return
    mask = text_mask(text, letter)
    tag_h, tag_w = mask.shape[0] + 2, mask.shape[1] + 2 * side
    if tag_h > height:
        return
    left = int(np.clip(round(float(box[0]) - line / 2), 0, width - tag_w))
    top = round(float(box[1]) - tag_h)
    if top < 0:
        top = int(np.clip(round(float(box[1])), 0, height - tag_h))
    top = min(top, height - tag_h)
    padded[top : top + tag_h, left : left + tag_w] = color
    lay_text(padded, text, left=left + side, top=top + 1, height=letter, color=ink_on(color))


def draw_side_by_side(
    image: ImageArray,
    gt_boxes_xyxy: Floats,
    gt_class_ids: NDArray[np.integer],
    detections: Detections,
    *,
    confidence: float = 0.25,
) -> ImageArray:
    """Return the ground truth of an image on the left and its detections on the right.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        gt_boxes_xyxy: shape (n, 4), pixels.
        gt_class_ids: shape (n,), indices into ``detections.classes``.
        detections: boxes in pixels of this image.
        confidence: detections with a lower score are left out.
    """
    names = [detections.classes[class_id] for class_id in gt_class_ids]
    gt = draw_detections(image, gt_boxes_xyxy, names, gt_class_ids)
    shown = detections[detections.scores >= confidence]
    found = draw_detections(image, shown.boxes_xyxy, shown.names, shown.class_ids, shown.scores)
    captions = (
        f"ground truth: {len(names)}",
        f"detections: {len(shown)} (score {confidence:.2f} and up)",
    )
    return image_grid([gt, found], 2, captions=captions)


def image_grid(
    images: Sequence[ImageArray],
    columns: int,
    *,
    captions: Sequence[str] | None = None,
    cell_width: int | None = None,
    gap: int = 8,
) -> ImageArray:
    """Return images side by side on white, row after row, each scaled to one width.

    Args:
        images: uint8 RGB, sizes may differ; at least one.
        columns: images a row.
        captions: a text above each image.
        cell_width: width of an image in the grid, pixels; that of the widest if None.
        gap: white between images, pixels.

    Raises:
        ConfigError: if there is no image, no column, or another number of captions.
    """
    if not images or columns < 1:
        raise ConfigError(
            f"a grid must have an image and a column; got {len(images)} images "
            f"and columns={columns}."
        )
    if captions is not None and len(captions) != len(images):
        raise ConfigError(
            f"captions must be one an image; got {len(captions)} for {len(images)} images."
        )
    columns = min(columns, len(images))
    width = cell_width or max(image.shape[1] for image in images)
    cells = [_scale_to_width(image, width) for image in images]
    letter = max(11, min(width // 26, 22))
    head = letter + letter // 2 if captions is not None else 0
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [head + max(cell.shape[0] for cell in row) for row in rows]
    sheet = np.full(
        (sum(heights) + gap * (len(rows) + 1), columns * width + gap * (columns + 1), 3),
        PAPER,
        dtype=np.uint8,
    )
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        top = gap + sum(heights[:row]) + gap * row
        left = gap + column * (width + gap)
        if captions is not None:
            text = fit_text(captions[index], letter, width)
            if text:
                lay_text(sheet, text, left=left, top=top, height=letter, color=INK)
        sheet[top + head : top + head + cell.shape[0], left : left + width] = cell
    return sheet


def _scale_to_width(image: ImageArray, width: int) -> ImageArray:
    if image.shape[1] == width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _unit(values: Floats, value_range: tuple[float, float] | None) -> Floats:
    """Return values scaled so that the range, or their own, becomes 0 to 1; a constant gives 0."""
    values = np.asarray(values, dtype=np.float64)
    low, high = value_range or (float(values.min()), float(values.max()))
    if high <= low:
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1)


def gate_overlay(
    image: ImageArray,
    gate_hw: Floats,
    *,
    value_range: tuple[float, float] | None = None,
    opacity: float = 0.6,
) -> ImageArray:
    """Return an image, grayed, under the colors of a gate: dark blue closed, yellow open.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        gate_hw: shape (h, w) of any size that covers the same view, such as the product of the row
            and column gates of Coordinate Attention, averaged over channels.
        value_range: gate values that are drawn darkest and brightest; the map's own if None.
        opacity: of the colors, 0 to 1.
    """
    height, width = image.shape[:2]
    unit = (_unit(gate_hw, value_range) * 255).astype(np.float32)
    smooth = cv2.resize(unit, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = np.asarray(smooth).round().clip(0, 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(heat, opacity, gray, 1 - opacity, 0)
    return np.asarray(mixed, dtype=np.uint8)


def draw_gate_profiles(
    image: ImageArray,
    row_gate: Floats,
    column_gate: Floats,
    *,
    row_range: tuple[float, float] | None = None,
    column_range: tuple[float, float] | None = None,
) -> ImageArray:
    """Return an image with its row gate drawn along the right edge, its column gate below.

    Each profile fills its margin from its least to its greatest value; the corner names them.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        row_gate: shape (h,), one value a row of the feature map, such as Coordinate Attention's
            gate along the height, averaged over channels.
        column_gate: shape (w,), one value a column.
        row_range: values of the row gate that empty and fill its margin; its own if None.
        column_range: the same of the column gate.
    """
    height, width = image.shape[:2]
    _, letter = _line_and_letter((height, width))
    band = max(round(0.16 * min(height, width)), 6 * letter)
    gap = max(2, band // 12)
    sheet = np.full((height + gap + band, width + gap + band, 3), PAPER, dtype=np.uint8)
    sheet[:height, :width] = image
    sheet[height + gap :, :width] = _profile(column_gate, width, band, column_range)
    beside = _profile(row_gate, height, band, row_range)
    sheet[:height, width + gap :] = beside.transpose(1, 0, 2)
    words = ["rows", _range(row_gate), "columns", _range(column_gate)]
    for place, word in enumerate(words):
        text = fit_text(word, letter, band - letter // 2)
        if text:
            top = height + gap + place * (letter + 2) + (letter // 2 if place > 1 else 0)
            left = width + gap + letter // 4
            lay_text(sheet, text, left=left, top=top, height=letter, color=INK)
    return sheet


def _range(gate: Floats) -> str:
    return f"{np.min(gate):.2f} - {np.max(gate):.2f}"


def draw_sorted_gates(gates: Floats, width: int, height: int, *, top: float = 1.0) -> ImageArray:
    """Return the gates of all channels, the greatest first, as a filled curve on white.

    Args:
        gates: shape (C,), one value a channel.
        width: pixels.
        height: pixels.
        top: the value at the upper edge; 0 is at the lower one, and a line marks 1 where it is
            between them.
    """
    ranked = np.sort(np.asarray(gates, dtype=np.float64))[::-1]
    strip = _profile(ranked, width, height, (0.0, top))[::-1].copy()
    if top > 1:
        row = round(height * (1 - 1 / top))
        strip[row : row + 1, ::4] = INK
    letter = max(10, min(height // 12, 14))
    words = f"{len(ranked)} channels, {ranked[-1]:.3f} - {ranked[0]:.3f}"
    text = fit_text(words, letter, width - letter)
    if text:
        lay_text(strip, text, left=letter // 2, top=height - 2 * letter, height=letter, color=INK)
    return strip


def _profile(
    gate: Floats, length: int, band: int, value_range: tuple[float, float] | None
) -> ImageArray:
    """Return a white strip of shape (band, length, 3) with the profile of a gate hanging in it."""
    unit = _unit(gate, value_range)
    middles = (np.arange(len(unit)) + 0.5) * length / len(unit)
    along = np.arange(length + 1)
    outline = np.stack([along, np.interp(along, middles, unit) * (band - 3) + 1], axis=1)
    closed = np.concatenate([[[0.0, 0.0]], outline, [[float(length), 0.0]]])
    points = (closed * 2**SUBPIXEL_BITS).round().astype(np.int32)
    strip = np.full((band, length, 3), PAPER, dtype=np.uint8)
    cv2.fillPoly(strip, [points], (178, 208, 228), cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.polylines(strip, [points[1:-1]], False, color_of(0), 1, cv2.LINE_AA, SUBPIXEL_BITS)
    return strip


def to_jpeg(image: ImageArray, quality: int = 90) -> bytes:
    """Return an image as the bytes of a JPEG file.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        quality: 0 to 100.

    Example:
        >>> to_jpeg(np.zeros((8, 8, 3), dtype=np.uint8))[:3].hex()
        'ffd8ff'
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()
