"""What a runtime is: the part of a detector that differs between torch and exported files.

N is the batch, B the boxes of one picture before any selection, K the classes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attendet.models.metadata import WeightsMetadata

__all__ = ["Runtime"]


class Runtime(Protocol):
    """A network that is ready to run, whatever library runs it."""

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weights file says about itself."""
        ...

    def run(self, canvases: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return every box of each canvas with its scores, decoded and not selected.

        Args:
            canvases: uint8, shape (N, H, W, 3), H and W multiples of 32, channels in the order
                that the metadata names.

        Returns:
            Boxes, float32 of shape (N, B, 4), left, top, right, bottom in canvas pixels, and
            scores, float32 of shape (N, B, K), 0 to 1.
        """
        ...
