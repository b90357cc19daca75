"""One scene of the digits sample set: handwritten digits scattered over a photograph."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from attendet.images import ImageArray

Floats = NDArray[np.float32]

_DIGITS_A_IMAGE = (3, 8)
_HEIGHT_RANGE = (0.15, 0.42)
_MAX_DEGREES = 14.0
_MAX_COVERED = 0.15
"""Maximum fraction of the smaller box that another may cover; keeps their IoU under 0.09."""
_MIN_CONTRAST = 100.0
"""Luma difference (of 255) that a digit's color should have from most pixels that it covers."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """Composed image and its ground truth.

    Attributes:
        image: uint8, shape (H, W, 3), RGB.
        boxes_xyxy: float32, shape (n, 4): tight boxes of the ink, pixels.
        class_ids: int64, shape (n,): the digits.
    """

    image: ImageArray
    boxes_xyxy: Floats
    class_ids: NDArray[np.int64]


def compose_scene(
    rng: np.random.Generator,
    photograph: ImageArray,
    glyphs: list[Floats],
    image_hw: tuple[int, int],
) -> Scene:
    """Return a scene: a few digits on a crop of a photograph.

    Args:
        rng: source of all random choices.
        photograph: uint8, shape (h, w, 3), RGB.
        glyphs: for each of the ten digits, handwritten samples, shape (k, 28, 28), ink 0 to 1.
        image_hw: height and width of the scene, pixels.
    """
    image = _background(rng, photograph, image_hw)
    boxes: list[NDArray[np.float32]] = []
    class_ids: list[int] = []
    wanted = int(rng.integers(_DIGITS_A_IMAGE[0], _DIGITS_A_IMAGE[1] + 1))
    for _ in range(wanted):
        digit = int(rng.integers(10))
        low, high = np.log(_HEIGHT_RANGE)
        height = float(np.exp(rng.uniform(low, high))) * image_hw[0]
        ink = _draw_ink(rng, glyphs[digit][rng.integers(len(glyphs[digit]))], height)
        corner = _free_corner(rng, ink.shape, boxes, image_hw)
        if corner is None:
            continue
        top, left = corner
        _paint(rng, image, ink, top, left)
        boxes.append(
            np.array([left, top, left + ink.shape[1], top + ink.shape[0]], dtype=np.float32)
        )
        class_ids.append(digit)
    return Scene(
        image, np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(class_ids, dtype=np.int64)
    )


def _background(
    rng: np.random.Generator, photograph: ImageArray, image_hw: tuple[int, int]
) -> ImageArray:
    """Return a random crop, mirrored and recolored, uint8 of shape (*image_hw, 3)."""
    height, width = photograph.shape[:2]
    fraction = rng.uniform(0.65, 1.0) * min(height / image_hw[0], width / image_hw[1])
    crop_h, crop_w = int(image_hw[0] * fraction), int(image_hw[1] * fraction)
    top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
    crop = photograph[top : top + crop_h, left : left + crop_w]
    method = cv2.INTER_AREA if fraction > 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(crop, image_hw[::-1], interpolation=method)
    if rng.random() < 0.5:
        scaled = cv2.flip(scaled, 1)
    tint = rng.uniform(0.85, 1.15, size=3) * rng.uniform(0.8, 1.15)
    levels = (np.arange(256)[:, None] * tint).clip(0, 255).round().astype(np.uint8)
    return cv2.LUT(scaled, levels[None]).astype(np.uint8, copy=False)


def _draw_ink(rng: np.random.Generator, writing: Floats, height: float) -> Floats:
    """Return a digit's ink (0 to 1), about ``height`` pixels high, slightly rotated, cropped."""
    rows = np.flatnonzero((writing > 0.5).any(axis=1))
    scale = height / (rows[-1] - rows[0] + 1)
    degrees = float(rng.uniform(-_MAX_DEGREES, _MAX_DEGREES))
    stretch = float(rng.uniform(0.9, 1.15))
    size = int(np.ceil(28 * scale * 1.25))
    matrix = np.asarray(cv2.getRotationMatrix2D((13.5, 13.5), degrees, scale), dtype=np.float64)
    matrix[0] *= stretch
    matrix[:, 2] = (size - 1) / 2 - matrix[:, :2] @ (13.5, 13.5)
    gray = cv2.warpAffine(writing, matrix, (size, size), flags=cv2.INTER_CUBIC)
    # Digits enlarged from 28 pixels are blurred: smooth and steepen edges, as of pen strokes.
    gray = cv2.GaussianBlur(gray, (0, 0), max(0.3, 0.35 * scale))
    ink = np.clip((gray - 0.4) * max(1.0, 1.2 * scale) + 0.5, 0, 1)
    ink = _without_specks(ink)
    solid = ink > 0.3
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    cropped: Floats = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cropped.astype(np.float32)


def _without_specks(ink: Floats) -> Floats:
    """Return ink without blobs under 3 % of its area: scan noise that would enlarge the box."""
    count, blobs, stats, _ = cv2.connectedComponentsWithStats((ink > 0.05).astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    kept = np.concatenate([[False], areas >= 0.03 * areas.sum()])
    return np.where(kept[blobs], ink, np.float32(0))


def _free_corner(
    rng: np.random.Generator,
    ink_hw: tuple[int, ...],
    boxes: list[NDArray[np.float32]],
    image_hw: tuple[int, int],
) -> tuple[int, int] | None:
    """Return top and left of a position that barely overlaps other boxes; None if not found."""
    height, width = ink_hw
    if height >= image_hw[0] or width >= image_hw[1]:
        return None
    for _ in range(50):
        top = int(rng.integers(image_hw[0] - height))
        left = int(rng.integers(image_hw[1] - width))
        if all(_barely_overlaps((left, top, left + width, top + height), box) for box in boxes):
            return top, left
    return None


def _barely_overlaps(box: tuple[int, ...], other: NDArray[np.float32]) -> bool:
    """Return whether the overlap of two boxes is at most `_MAX_COVERED` of the smaller one."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min(
        (box[2] - box[0]) * (box[3] - box[1]), (other[2] - other[0]) * (other[3] - other[1])
    )
    return bool(max(across, 0) * max(down, 0) <= _MAX_COVERED * smaller)


def _paint(rng: np.random.Generator, image: ImageArray, ink: Floats, top: int, left: int) -> None:
    """Paint ink into an image, in a color that contrasts with the pixels under it."""
    under = image[top : top + ink.shape[0], left : left + ink.shape[1]]
    color = _contrasting_color(rng, _some(under[ink > 0.5], 200) @ _LUMA)
    alpha = ink[..., None] * np.float32(rng.uniform(0.82, 1.0))
    under[:] = (under + alpha * (color - under)).round()


def _some(rows: ImageArray, count: int) -> ImageArray:
    """Return evenly spaced rows, fewer than twice ``count``."""
    return rows[:: max(1, len(rows) // count)]


def _contrasting_color(rng: np.random.Generator, lumas: Floats) -> Floats:
    """Return an RGB color whose luma differs from three quarters of the pixels it will cover.

    Args:
        rng: draws the candidate colors.
        lumas: luma of the pixels, shape (n,), 0 to 255.
    """
    hsv = rng.uniform((0, 0.25, 0.1), (360, 1.0, 1.0), size=(24, 3)).astype(np.float32)
    colors: Floats = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32) * 255
    quarter = len(lumas) // 4
    apart = np.abs((colors @ _LUMA)[:, None] - lumas)
    contrast = np.partition(apart, quarter, axis=1)[:, quarter]
    good = np.flatnonzero(contrast >= _MIN_CONTRAST)
    best = good[0] if len(good) else contrast.argmax()
    chosen: Floats = colors[best]
    return chosen
