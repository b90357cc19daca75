"""NAM: a gate for every element, weighted by the scales of a batch normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock


class NormalizationAttention(AttentionBlock):
    """Gate every element by its normalized value, weighted by the channel's part of all scales.

    Liu, Shao, Teng, Hoffmann, "NAM: Normalization-based Attention Module", 2021, arXiv:2111.12419,
    the channel submodule: ``sigmoid(w BN(x))`` with ``w = |g| / sum |g|`` and g the scales of the
    batch normalization. With all scales equal w is 1 / C, so a new block's gates are near 1/2
    everywhere. Where we differ: there is no spatial submodule, which has a scale for every position
    and so works for one map size alone; the authors' code has it, off by default. The paper's loss
    has an L1 penalty on the scales (factor 1e-4); ours has none. The authors' code detaches w; here
    gradients flow through it.

    Reads the map twice (normalization, product) and writes it three times (normalized, gate,
    product); in training the statistics take two passes more.

    Args:
        channels: C.
    """

    paper = "Liu 2021, arXiv:2111.12419"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W)."""
        scales = self.norm.weight.abs()
        return {"element": torch.sigmoid(self.norm(x) * (scales / scales.sum())[:, None, None])}
