"""Triplet attention: the mean of a gate per position, per row and per column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, check_odd


class TripletAttention(AttentionBlock):
    """Triplet attention: gates from each pair of the axes channels, rows and columns.

    Misra, Nalamada, Arasanipalai, Hou, "Rotate to Attend: Convolutional Triplet Attention Module",
    WACV 2021, arXiv:2010.03045: three times, maximum and mean over one of the axes C, H, W go
    through a convolution over the other two axes, batch norm and a sigmoid; the output is the mean
    of the three gated maps. Here the gates are averaged before a single product, with the same
    result. Difference: the batch norms have momentum 0.1; in the authors' code, 0.01.

    Memory traffic: reads the map seven times (three maxima, three means, product); writes it, and
    the mean gate of the same size, once.

    Args:
        channels: C.
        kernel_size: side of the convolutions; odd.

    Raises:
        ConfigError: if ``kernel_size`` is even or not positive.
    """

    paper = "Misra 2021, arXiv:2010.03045"

    def __init__(self, channels: int, *, kernel_size: int = 7) -> None:
        super().__init__(channels)
        pad = check_odd("kernel_size", kernel_size) // 2

        def branch() -> nn.Sequential:
            conv = nn.Conv2d(2, 1, kernel_size, padding=pad, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(1))

        self.spatial, self.width, self.height = branch(), branch(), branch()

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the normalizations, which compute the logits."""
        return (self.spatial[1], self.width[1], self.height[1])

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W)."""
        spatial = self.gate_from_logits(self.spatial(_extremes(x, 1)))  # (N, 1, H, W)
        width = self.gate_from_logits(self.width(_extremes(x, 2))).transpose(
            1, 2
        )  # from (N, 1, C, W)
        height = self.gate_from_logits(self.height(_extremes(x, 3))).permute(
            0, 2, 3, 1
        )  # from (N, 1, C, H)
        return {"element": (spatial + width + height) / 3}


def _extremes(x: Tensor, axis: int) -> Tensor:
    """Return maximum and mean over an axis: (N, 2, the other two axes)."""
    return torch.stack([x.amax(axis), x.mean(axis)], dim=1)
