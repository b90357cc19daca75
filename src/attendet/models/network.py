"""What every detection network is: raw maps, and the one decode of them.

N is the batch, A the anchors of a level, B the boxes of all levels, K the classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from attendet.attention import AttentionBlock
from attendet.models.decode import decode_maps

__all__ = ["DetectionNetwork"]

Self = TypeVar("Self", bound="DetectionNetwork")


class DetectionNetwork(nn.Module, ABC):
    """A network whose `forward` gives the raw maps of its levels.

    Args:
        num_classes: K.
        anchors: of each level: widths and heights in pixels.
        strides: pixels per cell of each level.
        scale_x_y: stretch of the centre's sigmoid, one for all levels or one a level.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        *,
        strides: tuple[int, ...],
        scale_x_y: float | tuple[float, ...],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = strides
        self.scale_x_y = scale_x_y
        for level, level_anchors in enumerate(anchors):
            tensor = torch.tensor(level_anchors, dtype=torch.float32)
            self.register_buffer(f"anchors{level}", tensor, persistent=False)

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the network; its anchors move along but stay float32."""
        exact = self.level_anchors
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for level, anchors in enumerate(exact):
            moved = getattr(self, f"anchors{level}")
            if moved.dtype != anchors.dtype:
                setattr(self, f"anchors{level}", anchors.to(moved.device))
        return self

    @property
    def level_anchors(self) -> list[Tensor]:
        """Widths and heights in pixels of each level's anchors, (A, 2) each."""
        return [getattr(self, f"anchors{level}") for level in range(len(self.strides))]

    def attention_blocks(self) -> dict[str, AttentionBlock]:
        """Return the attention block of each site that has one."""
        return {}

    def features(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the map at each named site, before the site's attention.

        Args:
            pictures: shape (N, 3, H, W), 0 to 1; H and W multiples of 32.

        Returns:
            Site to map (N, C, H, W), in the order of computation; empty without named sites.
        """
        del pictures
        return {}

    @abstractmethod
    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return the raw maps, one (N, A (5 + K), H / stride, W / stride) a level.

        Args:
            pictures: shape (N, 3, H, W), 0 to 1; H and W multiples of 32.
        """

    def decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return boxes and scores of raw maps, in float32 whatever the maps are in.

        Args:
            raw_maps: what `forward` returned.

        Returns:
            Boxes (N, B, 4), left, top, right, bottom in canvas pixels, and scores (N, B, K), 0 to
            1; see `attendet.models.decode_maps`.
        """
        return decode_maps(raw_maps, self.level_anchors, self.strides, self.scale_x_y)
