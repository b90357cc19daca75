"""Efficient Multi-scale Attention: a gate per position and group, from two branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, GroupNorm, equal_groups, repeat_for_groups


class EfficientMultiScaleAttention(AttentionBlock):
    """Efficient multi-scale attention: gates per position and group from a 1x1 and a 3x3 branch.

    Ouyang, He, Zhang, Luo, Guo, Zhan, Huang, "Efficient Multi-Scale Attention Module with
    Cross-Spatial Learning", ICASSP 2023, arXiv:2305.13563. Within a group, the means over W and
    over H go through one 1x1 convolution, and their sigmoids gate the group, which is normalized:
    branch a. A 3x3 convolution of the group is branch b. The gate is
    ``sigmoid(softmax(mean a) . b + softmax(mean b) . a)``, the products over the channels.

    The normalization has one group per channel, so the mean of each channel of a equals its bias.
    Using the bias saves a pass. Difference: the number of groups is the greatest common divisor of
    C and ``groups``, so that any C works.

    The groups are processed as images of a batch. ncnn has no batches, so this block cannot be
    exported to ncnn.

    Memory traffic: reads the map four times (two means, product, 3x3 convolution) and intermediate
    maps of the same size seven times; writes five maps. It is the slowest of the small blocks.

    Args:
        channels: C.
        groups: maximum number of groups; the authors' code has 32.
    """

    paper = "Ouyang 2023, arXiv:2305.13563"

    def __init__(self, channels: int, *, groups: int = 32) -> None:
        super().__init__(channels)
        self.groups = equal_groups(channels, groups)
        width = channels // self.groups
        self.pointwise = nn.Conv2d(width, width, 1)
        self.norm = GroupNorm(width, width)
        self.local = nn.Conv2d(width, width, 3, padding=1)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the last layers of the two branches."""
        return (self.norm, self.local)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W), the same for all channels of a group."""
        rows, columns = x.shape[2:]
        group = x.reshape(-1, self.channels // self.groups, rows, columns)
        means = torch.cat(
            [group.mean(3, keepdim=True), group.mean(2, keepdim=True).transpose(2, 3)], dim=2
        )
        height, width = torch.split(torch.sigmoid(self.pointwise(means)), [rows, columns], dim=2)
        gated = self.norm(group * height * width.transpose(2, 3))
        local = self.local(group)
        logits = torch.softmax(self.norm.bias, 0)[:, None, None] * local
        logits = logits + torch.softmax(local.mean((2, 3), keepdim=True), 1) * gated
        gate = self.gate_from_logits(logits.sum(1)).reshape(-1, self.groups, rows, columns)
        return {"element": repeat_for_groups(gate, self.channels)}
