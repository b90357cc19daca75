"""Resize images to the network input, and map boxes back to the image.

The resize mode is part of the weights file (`attendet.models.metadata.Preprocess`): ``rect`` and
``letterbox`` use the letterbox of `attendet.images`, with the smallest or the full network input;
``stretch`` ignores the aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from attendet.images import ImageArray, Letterbox, letterbox, stretched

STRIDE = 32
"""Sides of a network input are multiples of this many pixels."""


@dataclass(frozen=True)
class Stretch:
    """Transform of an image that is scaled to fill its network input, each side by its own factor.

    Attributes:
        image_hw: size of the image, pixels.
        input_hw: size of the network input, pixels.

    Example:
        >>> transform = Stretch((200, 100), (400, 400))
        >>> transform.to_image(np.array([[0.0, 200.0, 400.0, 400.0]])).tolist()
        [[0.0, 100.0, 100.0, 200.0]]
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]

    def to_image(self, boxes_xyxy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, 4) boxes of the network input in image pixels (not clipped)."""
        scale_y = self.image_hw[0] / self.input_hw[0]
        scale_x = self.image_hw[1] / self.input_hw[1]
        return boxes_xyxy * np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)


ResizeTransform: TypeAlias = Letterbox | Stretch
"""Transform from network input pixels to image pixels."""


def input_hw_for(
    image_hw: tuple[int, int], input_hw: tuple[int, int], resize: str = "rect"
) -> tuple[int, int]:
    """Return the size of the network input for an image.

    Args:
        image_hw: height and width of the image, pixels.
        input_hw: height and width of the network's input, pixels, multiples of 32.
        resize: ``rect``: the long side of the image is scaled to that of the input, and the network
            input is the smallest rectangle of multiples of 32 that holds the image; ``letterbox``
            and ``stretch``: the input size.

    Returns:
        Height and width, pixels, multiples of 32.

    Example:
        >>> input_hw_for((480, 640), (416, 416))
        (320, 416)
        >>> input_hw_for((480, 640), (416, 416), "letterbox")
        (416, 416)
    """
    if resize != "rect":
        return input_hw
    scale = max(input_hw) / max(image_hw)
    height, width = (max(1, round(side * scale)) for side in image_hw)
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def resize_to_input(
    image: ImageArray, input_hw: tuple[int, int], resize: str = "rect", color: str = "rgb"
) -> tuple[ImageArray, ResizeTransform]:
    """Return the network input of an image, and the transform from the input to the image.

    Args:
        image: uint8 RGB, shape (H, W, 3).
        input_hw: height and width of the network's input, pixels, multiples of 32.
        resize: see `input_hw_for`.
        color: order of the channels of the network input, ``rgb`` or ``bgr``.

    Returns:
        The network input, uint8, shape (input height, input width, 3), and the transform.
    """
    image_hw = (image.shape[0], image.shape[1])
    padded_hw = input_hw_for(image_hw, input_hw, resize)
    transform: ResizeTransform
    if resize == "stretch":
        padded, transform = stretched(image, padded_hw), Stretch(image_hw, padded_hw)
    else:
        padded, transform = letterbox(image, padded_hw)
    if color == "bgr":
        padded = np.ascontiguousarray(padded[..., ::-1])
    return padded, transform
