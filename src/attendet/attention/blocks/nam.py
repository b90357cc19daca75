"""NAM: a gate for every element, weighted by the scales of batch normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock


class NormalizationAttention(AttentionBlock):
    """Normalization-based attention: element gates from batch normalization and its scales.

    Liu, Shao, Teng, Hoffmann, "NAM: Normalization-based Attention Module", 2021, arXiv:2111.12419,
    the channel submodule: ``sigmoid(w BN(x))`` with ``w = |g| / sum |g|`` and g the scales of the
    batch normalization. With all scales equal w is 1 / C, so the gates of a new block are near
    1/2 everywhere. Differences: the spatial submodule is not implemented, because it has one scale
    per position and works only for one map size; in the authors' code it is off by default. The
    paper's loss has an L1 penalty on the scales (factor 1e-4); ours has none. The authors' code
    detaches w; here gradients flow through it.

    Memory traffic: reads the map twice (normalization, product), writes it three times (normalized,
    gate, product); in training the statistics take two more passes.

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
