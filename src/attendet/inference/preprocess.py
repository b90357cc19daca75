"""How a picture becomes the network's input, and how boxes find back.

The rule stands in the weights file (`attendet.models.metadata.Preprocess`): ``rect`` and ``square``
are the letterbox of `attendet.pictures` on two kinds of canvas, ``stretch`` gives up the aspect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attendet.pictures import Letterbox, Picture, letterbox, stretched

__all__ = ["STRIDE", "Fit", "Stretch", "canvas_hw_for", "lay_on_canvas"]

STRIDE = 32
"""Sides of a canvas are multiples of this many pixels."""


class Fit(Protocol):
    """How a picture lies in its canvas: a `attendet.pictures.Letterbox` or a `Stretch`."""

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the picture, pixels."""
        ...

    def to_picture(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the canvas in picture pixels (not clipped)."""
        ...


@dataclass(frozen=True)
class Stretch:
    """A picture scaled to fill its canvas, each side by its own factor.

    Attributes:
        image_hw: size of the picture, pixels.
        canvas_hw: size of the canvas, pixels.

    Example:
        >>> fit = Stretch((200, 100), (400, 400))
        >>> fit.to_picture(np.array([[0.0, 200.0, 400.0, 400.0]])).tolist()
        [[0.0, 100.0, 100.0, 200.0]]
    """

    image_hw: tuple[int, int]
    canvas_hw: tuple[int, int]

    def to_picture(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the canvas in picture pixels (not clipped)."""
        scale_y = self.image_hw[0] / self.canvas_hw[0]
        scale_x = self.image_hw[1] / self.canvas_hw[1]
        return boxes_xyxy * np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)


def canvas_hw_for(
    image_hw: tuple[int, int], input_hw: tuple[int, int], fit: str = "rect"
) -> tuple[int, int]:
    """Return the size of the canvas that a picture is laid into.

    Args:
        image_hw: height and width of the picture, pixels.
        input_hw: height and width of the network's input, pixels, multiples of 32.
        fit: ``rect``: the picture's long side is scaled to the input's, and the canvas is the
            smallest rectangle of multiples of 32 that holds it; ``square`` and ``stretch``: the
            input size.

    Returns:
        Height and width, pixels, multiples of 32.

    Example:
        >>> canvas_hw_for((480, 640), (416, 416))
        (320, 416)
        >>> canvas_hw_for((480, 640), (416, 416), "square")
        (416, 416)
    """
    if fit != "rect":
        return input_hw
    scale = max(input_hw) / max(image_hw)
    height, width = (max(1, round(side * scale)) for side in image_hw)
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def lay_on_canvas(
    picture: Picture, input_hw: tuple[int, int], fit: str = "rect"
) -> tuple[Picture, Fit]:
    """Return a picture on its canvas, and how it lies there.

    Args:
        picture: uint8, shape (H, W, 3).
        input_hw: height and width of the network's input, pixels, multiples of 32.
        fit: see `canvas_hw_for`.

    Returns:
        The canvas, uint8 of shape (canvas height, canvas width, 3), and the fit.
    """
    image_hw = (picture.shape[0], picture.shape[1])
    canvas_hw = canvas_hw_for(image_hw, input_hw, fit)
    if fit != "stretch":
        laid: tuple[Picture, Letterbox] = letterbox(picture, canvas_hw)
        return laid
    return stretched(picture, canvas_hw), Stretch(image_hw, canvas_hw)
