"""Boxes, labels and gates drawn on images, and the colors of drawings and charts.

Images are uint8 RGB of shape (H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.images import ImageArray
from attendet.report.fonts import drawable_name, load_font, split_by_font

Floats = NDArray[np.floating]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
"""RGB: blue, vermilion, green, purple, orange, sky, yellow (Okabe and Ito 2008). People with any
type of color vision can distinguish them."""

INK: Color = (31, 35, 40)
MUTED: Color = (110, 118, 129)
PAPER = 255
SUBPIXEL_BITS = 4
"""Fractional bits of the coordinates passed to OpenCV: sixteenths of a pixel."""

MIN_SCORE = 0.25
"""Lowest score of the detections drawn next to the ground truth."""

GAP = 8
"""White space between the images of a grid, pixels."""


def color_of(class_id: int) -> Color:
    """Return the RGB color of a class: 7 colors, 7 darker shades, 7 lighter shades, repeated.

    Example:
        >>> color_of(0), color_of(7)
        ((0, 114, 178), (0, 74, 116))
    """
    shade, index = divmod(class_id, len(PALETTE))
    red, green, blue = PALETTE[index]
    if shade % 3 == 1:
        return round(red * 0.65), round(green * 0.65), round(blue * 0.65)
    if shade % 3 == 2:
        return tuple(round(255 - (255 - part) * 0.55) for part in (red, green, blue))  # type: ignore[return-value]
    return red, green, blue


def text_color_on(color: Color) -> Color:
    """Return the text color on an RGB color: white if its contrast ratio is above 4.5, else black.

    Example:
        >>> text_color_on((0, 114, 178)), text_color_on((240, 228, 66))
        ((255, 255, 255), (0, 0, 0))
    """
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in color)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) > 4.5 else (0, 0, 0)


def to_hex(color: Color) -> str:
    """Return an RGB color as ``#rrggbb``.

    Example:
        >>> to_hex((0, 114, 178))
        '#0072b2'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)


@lru_cache(maxsize=1024)
def text_mask(text: str, height: int) -> NDArray[np.float32]:
    """Return the coverage of each pixel by one line of text, as an alpha mask.

    Args:
        text: one line in any script; a character that no font has becomes "?".
        height: font size, pixels; the mask is slightly higher.

    Returns:
        float32, shape (mask height, text width), 0 to 1, read-only.
    """
    _, top, _, bottom = load_font(None, height).getbbox("Ágjpq|", anchor="ls")
    start, left, right = 0.0, np.inf, -np.inf
    placed = []
    for part, file in split_by_font(text):
        font = load_font(file, height)
        box = font.getbbox(part, anchor="ls")
        left, right = min(left, start + box[0]), max(right, start + box[2])
        if file is not None:  # glyphs of this font may be taller than Latin glyphs
            top, bottom = min(top, box[1]), max(bottom, box[3])
        placed.append((start, part, font))
        start += font.getlength(part)
    pil_image = Image.new("L", (max(1, round(right - left)), max(1, round(bottom - top))))
    pen = ImageDraw.Draw(pil_image)
    for start, part, font in placed:
        pen.text((start - left, -top), part, font=font, fill=255, anchor="ls")
    mask = np.asarray(pil_image, dtype=np.float32) / np.float32(255)
    mask.flags.writeable = False
    return mask


def fit_text(text: str, height: int, width: int) -> str:
    """Return a text, cut with "..." if it is wider than ``width`` pixels; "" if nothing fits."""
    if text_mask(text, height).shape[1] <= width:
        return text
    for end in range(len(text) - 1, 0, -1):
        shorter = f"{text[:end].rstrip()}..."
        if text_mask(shorter, height).shape[1] <= width:
            return shorter
    return ""


def draw_text(
    image: NDArray[np.uint8], text: str, *, left: int, top: int, height: int, color: Color
) -> None:
    """Draw one line of text into an image, in place. Parts outside the image are cut.

    Args:
        image: uint8 RGB, shape (H, W, 3); changed.
        text: one line.
        left: first column of the text, 0 or more.
        top: first row of the text, 0 or more.
        height: font size, pixels.
        color: RGB.
    """
    region = image[top:, left:]
    mask = text_mask(text, height)[: region.shape[0], : region.shape[1], None]
    region = region[: mask.shape[0], : mask.shape[1]]
    region[:] = (region * (1 - mask) + np.array(color, dtype=np.float32) * mask).round()


def _line_and_font(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return line width and font size in pixels for an image size: 2 and 14 at 640 x 480."""
    scale = (image_hw[0] * image_hw[1]) ** 0.5 / 554
    return max(1, round(2 * scale)), max(10, round(14 * scale))


def draw_detections(
    image: ImageArray,
    boxes_xyxy: Floats,
    labels: Sequence[str] | None,
    class_ids: Sequence[int] | NDArray[np.integer],
    scores: Floats | None = None,
) -> ImageArray:
    """Return a copy of an image with boxes and, if ``labels`` are passed, a tag on each box.

    Line width and font size grow with the image. A tag is above its box, or inside it if there is
    no space above. A label wider than the image is shortened.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        boxes_xyxy: shape (n, 4), pixels; parts outside the image are not drawn.
        labels: n texts; no tags if None. If no font has a label's characters, the tag is
            ``class`` and its number.
        class_ids: n class numbers, which set the colors.
        scores: shape (n,), 0 to 1, written after the label. The box with the best score is drawn
            on top; without scores, the first box.

    Raises:
        ConfigError: if the lengths differ.
    """
    lengths = {len(part) for part in (boxes_xyxy, class_ids, labels, scores) if part is not None}
    if len(lengths) > 1:
        raise ConfigError.must(
            "boxes, class_ids, labels and scores", "of one length", sorted(lengths)
        )
    drawn = np.ascontiguousarray(image).copy()
    line, font = _line_and_font(drawn.shape[:2])
    best_last = np.arange(len(boxes_xyxy))[::-1]
    if scores is not None:
        best_last = np.argsort(scores, kind="stable")
    for index in best_last.tolist():
        _draw_box(drawn, boxes_xyxy[index], color_of(int(class_ids[index])), line)
    for index in best_last.tolist():
        if labels is None:
            break
        class_id = int(class_ids[index])
        text = drawable_name(labels[index], class_id)
        if scores is not None:
            text = f"{text} {scores[index]:.2f}"
        _draw_tag(drawn, text, boxes_xyxy[index], color_of(class_id), line, font)
    return drawn


def _draw_box(drawn: ImageArray, box: Floats, color: Color, line: int) -> None:
    """Draw the outline of a box, rounded to whole pixels so that it is sharp."""
    height, width = drawn.shape[:2]
    reach = np.array([-line, -line, line, line]) / 2
    limits = [width + line, height + line] * 2
    outer = np.clip(np.floor(np.asarray(box, dtype=np.float64) + reach + 0.5), -line, limits)
    left, top, right, bottom = outer.astype(int).tolist()
    for rows in ((top, top + line), (bottom - line, bottom)):
        drawn[_clipped(*rows), _clipped(left, right)] = color
    for columns in ((left, left + line), (right - line, right)):
        drawn[_clipped(top, bottom), _clipped(*columns)] = color


def _clipped(start: int, stop: int) -> slice:
    return slice(max(start, 0), max(stop, 0))


def _draw_tag(
    drawn: ImageArray, text: str, box: Floats, color: Color, line: int, font: int
) -> None:
    """Draw a filled tag with text at the top left corner of a box, inside the image."""
    height, width = drawn.shape[:2]
    margin = max(2, font // 4)
    text = fit_text(text, font, width - 2 * margin)
    if not text:
        return
    mask_h, mask_w = text_mask(text, font).shape
    tag_h, tag_w = mask_h + 2, mask_w + 2 * margin
    if tag_h > height:
        return
    left = int(np.clip(round(float(box[0]) - line / 2), 0, width - tag_w))
    above, inside = round(float(box[1]) - tag_h), round(float(box[1]))
    top = int(np.clip(above if above >= 0 else inside, 0, height - tag_h))
    drawn[top : top + tag_h, left : left + tag_w] = color
    draw_text(drawn, text, left=left + margin, top=top + 1, height=font, color=text_color_on(color))


def draw_side_by_side(
    image: ImageArray,
    gt_boxes_xyxy: Floats,
    gt_class_ids: NDArray[np.integer],
    detections: Detections,
) -> ImageArray:
    """Return an image twice: with its ground truth (left) and with its detections (right).

    Args:
        image: uint8 RGB, shape (H, W, 3).
        gt_boxes_xyxy: shape (n, 4), pixels.
        gt_class_ids: shape (n,), indices into ``detections.classes``.
        detections: boxes in pixels of this image; those below `MIN_SCORE` are not drawn.
    """
    names = [detections.classes[class_id] for class_id in gt_class_ids]
    gt = draw_detections(image, gt_boxes_xyxy, names, gt_class_ids)
    shown = detections[detections.scores >= MIN_SCORE]
    found = draw_detections(image, shown.boxes_xyxy, shown.names, shown.class_ids, shown.scores)
    captions = (
        f"ground truth: {len(names)}",
        f"detections: {len(shown)} (score {MIN_SCORE:.2f} and up)",
    )
    return image_grid([gt, found], 2, captions=captions)


def image_grid(
    images: Sequence[ImageArray],
    columns: int,
    *,
    captions: Sequence[str] | None = None,
    cell_width: int | None = None,
) -> ImageArray:
    """Return images in rows on white, each scaled to the same width.

    Args:
        images: uint8 RGB of any sizes; at least one.
        columns: images per row.
        captions: a text above each image.
        cell_width: width of each image in the grid, pixels; the width of the widest if None.

    Raises:
        ConfigError: if there is no image, or not one caption per image.
    """
    ConfigError.check(len(images) > 0, "images", "at least one", len(images))
    if captions is not None and len(captions) != len(images):
        raise ConfigError.must("captions", f"one per image ({len(images)})", len(captions))
    columns = min(columns, len(images))
    width = cell_width or max(image.shape[1] for image in images)
    cells = [scale_to_width(image, width) for image in images]
    font = max(11, min(width // 26, 22))
    head = font + font // 2 if captions is not None else 0
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [head + max(cell.shape[0] for cell in row) for row in rows]
    sheet = np.full(
        (sum(heights) + GAP * (len(rows) + 1), columns * width + GAP * (columns + 1), 3),
        PAPER,
        dtype=np.uint8,
    )
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        top = GAP + sum(heights[:row]) + GAP * row
        left = GAP + column * (width + GAP)
        if captions is not None:
            _draw_fitted(sheet, captions[index], left, top, font, width)
        sheet[top + head : top + head + cell.shape[0], left : left + width] = cell
    return sheet


def _draw_fitted(image: ImageArray, text: str, left: int, top: int, font: int, width: int) -> None:
    """Draw a text in dark gray, shortened to a width."""
    fitted = fit_text(text, font, width)
    if fitted:
        draw_text(image, fitted, left=left, top=top, height=font, color=INK)


def scale_to_width(image: ImageArray, width: int) -> ImageArray:
    """Return an image scaled to a width in pixels, with its aspect ratio."""
    if image.shape[1] == width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _normalized(values: Floats, value_range: tuple[float, float] | None) -> Floats:
    """Return values scaled from a range (default: their own) to 0 to 1; an empty range gives 0."""
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
    """Return a gray image with a gate map as a color overlay: low is dark blue, high is yellow.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        gate_hw: shape (h, w), scaled to the image; for example the product of the row and column
            gates of Coordinate Attention, averaged over channels.
        value_range: gate values of the darkest and the brightest color; minimum and maximum of the
            map if None.
        opacity: opacity of the colors, 0 to 1.
    """
    height, width = image.shape[:2]
    unit = (_normalized(gate_hw, value_range) * 255).astype(np.float32)
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
    """Return an image with its row gate plotted at the right and its column gate below.

    The corner shows the minimum and maximum of each gate.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        row_gate: shape (h,), one value per row of the feature map, such as Coordinate Attention's
            gate along the height, averaged over channels.
        column_gate: shape (w,), one value per column.
        row_range: lowest and highest value on the axis of the row gate; minimum and maximum of the
            gate if None.
        column_range: the same for the column gate.
    """
    height, width = image.shape[:2]
    _, font = _line_and_font((height, width))
    band = max(round(0.16 * min(height, width)), 6 * font)
    gap = max(2, band // 12)
    sheet = np.full((height + gap + band, width + gap + band, 3), PAPER, dtype=np.uint8)
    sheet[:height, :width] = image
    sheet[height + gap :, :width] = _profile(column_gate, width, band, column_range)
    beside = _profile(row_gate, height, band, row_range)
    sheet[:height, width + gap :] = beside.transpose(1, 0, 2)
    left, text_width = width + gap + font // 4, band - font // 2
    for index, (name, gate) in enumerate((("rows", row_gate), ("columns", column_gate))):
        top = height + gap + index * (2 * font + 4 + font // 2)
        value_range = f"{np.min(gate):.2f} - {np.max(gate):.2f}"
        _draw_fitted(sheet, name, left, top, font, text_width)
        _draw_fitted(sheet, value_range, left, top + font + 2, font, text_width)
    return sheet


def draw_sorted_gates(gates: Floats, width: int, height: int, *, top: float = 1.0) -> ImageArray:
    """Return the gates of all channels, highest first, as a filled curve on white.

    Args:
        gates: shape (C,), one value per channel.
        width: pixels.
        height: pixels.
        top: value at the upper edge; the lower edge is 0. If above 1, a dashed line marks 1.
    """
    ranked = np.sort(np.asarray(gates, dtype=np.float64))[::-1]
    strip = _profile(ranked, width, height, (0.0, top))[::-1].copy()
    if top > 1:
        row = round(height * (1 - 1 / top))
        strip[row : row + 1, ::4] = INK
    font = max(10, min(height // 12, 14))
    label = f"{len(ranked)} channels, {ranked[-1]:.3f} - {ranked[0]:.3f}"
    _draw_fitted(strip, label, font // 2, height - 2 * font, font, width - font)
    return strip


def _profile(
    gate: Floats, length: int, band: int, value_range: tuple[float, float] | None
) -> ImageArray:
    """Return a gate as a filled curve on white, (band, length, 3); low values are at the top."""
    unit = _normalized(gate, value_range)
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
        quality: JPEG quality, 0 to 100.

    Example:
        >>> to_jpeg(np.zeros((8, 8, 3), dtype=np.uint8))[:3].hex()
        'ffd8ff'
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()
