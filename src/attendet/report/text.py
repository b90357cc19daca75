"""Lettering on images: text as a coverage mask, laid on with any color."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["fit_text", "lay_text", "text_mask"]


@lru_cache(maxsize=32)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=height)


@lru_cache(maxsize=1024)
def text_mask(text: str, height: int) -> NDArray[np.float32]:
    """Return how much each pixel of one line of text is covered.

    Args:
        text: one line.
        height: size of the lettering, pixels; a little less than the mask's height.

    Returns:
        float32, shape (mask height, text width), 0 to 1; not to be written to.
    """
    font = _font(height)
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ágjpq|")
    size = (max(1, round(right - left)), max(1, round(bottom - top)))
    pil_image = Image.new("L", size)
    ImageDraw.Draw(pil_image).text((-left, -top), text, font=font, fill=255)
    mask = np.asarray(pil_image, dtype=np.float32) / np.float32(255)
    mask.flags.writeable = False
    return mask


def fit_text(text: str, height: int, width: int) -> str:
    """Return a text, cut with "..." where it is wider than ``width`` pixels; "" if nothing fits."""
    if text_mask(text, height).shape[1] <= width:
        return text
    for end in range(len(text) - 1, 0, -1):
        shorter = f"{text[:end].rstrip()}..."
        if text_mask(shorter, height).shape[1] <= width:
            return shorter
    return ""


def lay_text(
    image: NDArray[np.uint8],
    text: str,
    *,
    left: int,
    top: int,
    height: int,
    color: tuple[int, int, int],
) -> None:
    """Write one line of text into an image, in place; what would lie outside is cut.

    Args:
        image: uint8 RGB, shape (H, W, 3); changed.
        text: one line.
        left: column of the first letter, 0 or more.
        top: row of the highest letters, 0 or more.
        height: size of the lettering, pixels.
        color: RGB.
    """
    region = image[top:, left:]
    mask = text_mask(text, height)[: region.shape[0], : region.shape[1], None]
    region = region[: mask.shape[0], : mask.shape[1]]
    region[:] = (region * (1 - mask) + np.array(color, dtype=np.float32) * mask).round()
