"""SCSA: gates of rows and columns at four scales, then channel gates from self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import (
    AttentionBlock,
    GroupNorm,
    apply_gate,
    check_positive,
    pool_to_grid,
)

_KERNELS = (3, 5, 7, 9)


class SpatialChannelSynergy(AttentionBlock):
    """Spatial and channel synergistic attention: row and column gates, then channel gates.

    Si, Xu, Zhu, Zhang, Dong, Chen, Li, "SCSA: Exploring the Synergistic Effects between Spatial and
    Channel Attention", 2024, arXiv:2407.05128. Spatial part: the means over W and over H; each
    quarter of the channels passes through a depthwise convolution along the axis, with kernel 3, 5,
    7 or 9 and the same weights for both axes; group normalization in four groups; sigmoid. Channel
    part: the gated map is pooled and normalized; query, key and value are this map times one scale
    per channel; attention between the channels, ``softmax(q k^T / sqrt(C)) v``; mean over the
    positions; sigmoid.

    Differences: the map is pooled to 7x7 cells (the paper pools windows of 7x7, so that a 13x13 map
    becomes one position and a map below 7x7 none); one head, as in the paper's second version.

    Memory traffic: reads the map seven times (two means, two products, pooling, two for the last
    product), writes it three times; the attention is C x C.

    Args:
        channels: C.
        grid: side of the pooled map.
    """

    paper = "Si 2024, arXiv:2407.05128"

    def __init__(self, channels: int, *, grid: int = 7) -> None:
        super().__init__(channels)
        self.grid = check_positive("grid", grid)
        quarters = [channels * (i + 1) // 4 - channels * i // 4 for i in range(4)]
        self.parts = [part for part in quarters if part]
        self.local = nn.ModuleList(
            nn.Conv1d(part, part, kernel, padding=kernel // 2, groups=part)
            for part, kernel in zip(quarters, _KERNELS, strict=True)
            if part
        )
        self.height, self.width = GroupNorm(4, channels), GroupNorm(4, channels)
        self.norm = GroupNorm(1, channels)
        self.query, self.key, self.value = (_Scale(channels) for _ in range(3))

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers that compute the logits of rows, columns and channels."""
        return (self.height, self.width, self.value)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``height``, (N, C, H, 1), ``width``, (N, C, 1, W), ``channel``, (N, C, 1, 1)."""
        height = self.gate_from_logits(self.height(self._convolve(x.mean(3))))[..., None]
        width = self.gate_from_logits(self.width(self._convolve(x.mean(2))))[:, :, None]
        gated = apply_gate(apply_gate(x, height), width)
        pooled = self.norm(pool_to_grid(gated, self.grid)).flatten(2)  # (N, C, positions)
        query, key, value = self.query(pooled), self.key(pooled), self.value(pooled)
        likeness = query @ key.transpose(1, 2) / self.channels**0.5  # (N, C, C)
        attention = torch.softmax(likeness, dim=2)
        channel = self.gate_from_logits((attention @ value).mean(2))[:, :, None, None]
        return {"height": height, "width": width, "channel": channel}

    def _convolve(self, means: Tensor) -> Tensor:
        parts = torch.split(means, self.parts, dim=1)
        return torch.cat([layer(part) for layer, part in zip(self.local, parts, strict=True)], 1)


class _Scale(nn.Module):
    """One trained scale per channel: a depthwise 1x1 convolution without bias, but faster."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map, (N, C, positions), times the scale of each channel."""
        return x * self.weight
