"""SimAM: a gate for every element, from its distance to the mean of its channel."""

from __future__ import annotations

import torch
from torch import Tensor

from attendet.attention.base import AttentionBlock
from attendet.errors import ConfigError


class SimAM(AttentionBlock):
    """Simple attention module: element gates from an energy function, without parameters.

    Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural
    Networks", ICML 2021. Each element's smallest energy has the closed form
    ``e = 4 (v + l) / ((x - m)^2 + 2 v + 2 l)`` with m and v the mean and variance of its channel
    over H and W; the gate is ``sigmoid(1 / e) = sigmoid((x - m)^2 / (4 (v + l)) + 1/2)``, never
    below 0.62. As in the paper v is divided by H W; the authors' code divides by H W - 1, which is
    0 for a 1x1 map.

    Memory traffic: reads the map four times (mean, deviation, its square and mean, product), writes
    it three times, because eager PyTorch writes a map in each step.

    Args:
        channels: C.
        regularization: l, above 0.

    Raises:
        ConfigError: if ``regularization`` is not above 0.
    """

    paper = "Yang 2021, ICML"

    def __init__(self, channels: int, *, regularization: float = 1e-4) -> None:
        super().__init__(channels)
        if not regularization > 0:
            raise ConfigError.must("regularization", "above 0", regularization)
        self.regularization = regularization

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W)."""
        if x.dtype == torch.float16:  # squares above 65504 overflow
            return {name: gate.half() for name, gate in self.gates(x.float()).items()}
        squares = (x - x.mean((2, 3), keepdim=True)).square()
        variance = squares.mean((2, 3), keepdim=True)
        return {"element": torch.sigmoid(squares / (4 * (variance + self.regularization)) + 0.5)}
