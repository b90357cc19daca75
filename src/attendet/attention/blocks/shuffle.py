"""Shuffle attention: channel gates for half of each channel group, spatial for the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import channel_shuffle

from attendet.attention.base import AttentionBlock, GroupNorm, equal_groups
from attendet.errors import ConfigError


class ShuffleAttention(AttentionBlock):
    """Shuffle attention: channel gates for half of each channel group, element gates for the rest.

    Zhang, Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021,
    arXiv:2102.00240. A channel of the first half has the gate ``sigmoid(w z + b)`` with z its mean
    over H and W; a channel of the second half has ``sigmoid(w n + b)`` with n the normalized
    channel. Scales w and shifts b are the same in all groups, initially 0 and 1, as in the authors'
    code.

    Differences: the paper's channel shuffle after the gates is an option, off by default. It mixes
    the halves for the next block of this kind. A dense convolution after the block can learn any
    order of its inputs, and in a trained network another order of channels would break the next
    layer. The normalization has no scale and shift, because w and b have the same effect.

    Both scales are applied to all channels, with one of them 0 in each half: this is faster than to
    split and concatenate the halves. Memory traffic: reads the map four times (mean, normalization,
    product); writes it, the normalized map and the gate of the same size once.

    Args:
        channels: C, even.
        groups: maximum number of groups; see `equal_groups`.
        shuffle: interleave the two halves of all channels at the end, as in the paper.

    Raises:
        ConfigError: if ``channels`` is odd.
    """

    paper = "Zhang 2021, arXiv:2102.00240"

    def __init__(self, channels: int, *, groups: int = 64, shuffle: bool = False) -> None:
        super().__init__(channels)
        if channels % 2:
            raise ConfigError.must("channels", "even for shuffle attention", channels)
        self.groups = equal_groups(channels // 2, groups)
        self.shuffle, self.is_gated = shuffle, not shuffle
        half = channels // self.groups // 2
        self.norm = GroupNorm(channels, channels, affine=False)
        self.channel, self.spatial = _Scale(half), _Scale(half)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the scales and shifts that compute the logits."""
        return (self.channel, self.spatial)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W), before the shuffle."""
        none = torch.zeros_like(self.channel.weight)
        of_mean = self._of_all_groups(self.channel.weight, none)
        of_value = self._of_all_groups(none, self.spatial.weight)
        shift = self._of_all_groups(self.channel.bias, self.spatial.bias)
        logits = self.norm(x) * of_value + (x.mean((2, 3), keepdim=True) * of_mean + shift)
        return {"element": self.gate_from_logits(logits)}

    def _of_all_groups(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second]).repeat(self.groups)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Return the map times its gates, (N, C, H, W), with channels shuffled if requested."""
        gated = super().forward(x)
        return channel_shuffle(gated, 2) if self.shuffle else gated


class _Scale(nn.Module):
    """Scale (initially 0) and shift (initially 1) of each channel of half a group."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.ones(channels))
