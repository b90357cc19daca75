"""CBAM: a gate per channel, then a gate per position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import (
    AttentionBlock,
    apply_gate,
    check_odd,
    prevent_dead_relus,
    reduced_channels,
)


class CBAM(AttentionBlock):
    """Convolutional block attention module: channel gates, then spatial gates.

    Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018,
    arXiv:1807.06521, equations 1-3. Channel gate: the global mean and the global maximum go through
    one shared two-layer perceptron; the sigmoid of their sum is the gate. Spatial gate: mean and
    maximum over the channels, a convolution, a sigmoid. Differences: r is 8 by default (the paper:
    16), as in the YOLO variants; the spatial convolution has neither bias nor batch norm; very
    narrow bottlenecks have special initial weights (see
    `attendet.attention.base.prevent_dead_relus`).

    The second layer of the perceptron has no bias, so the two hidden vectors are summed before it.
    The result is the same, with one matrix product less.

    Memory traffic: reads the map six times (mean, maximum, product; the same three for the gated
    map), writes it twice.

    Args:
        channels: C.
        reduction: r; the bottleneck has C // r channels, at least one.
        kernel_size: side of the spatial convolution; odd.

    Raises:
        ConfigError: if ``kernel_size`` is even or not positive.
    """

    paper = "Woo 2018, arXiv:1807.06521"

    def __init__(self, channels: int, *, reduction: int = 8, kernel_size: int = 7) -> None:
        super().__init__(channels)
        check_odd("kernel_size", kernel_size)
        hidden = reduced_channels(channels, reduction)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        prevent_dead_relus(self.reduce)
        self.expand = nn.Linear(hidden, channels, bias=False)
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers that compute the logits of each channel and of each position."""
        return (self.expand, self.spatial)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``channel``, (N, C, 1, 1), and ``spatial``, (N, 1, H, W).

        The spatial gate is computed from the channel-gated map.
        """
        channel = self._channel_gate(x)
        return {"channel": channel, "spatial": self._spatial_gate(apply_gate(x, channel))}

    def forward(self, x: Tensor) -> Tensor:
        """Return the map times both gates, (N, C, H, W), without gating the channels twice."""
        gated = apply_gate(x, self._channel_gate(x))
        return apply_gate(gated, self._spatial_gate(gated), may_overwrite=True)

    def _channel_gate(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.reduce(x.mean((2, 3)))) + torch.relu(self.reduce(x.amax((2, 3))))
        return self.gate_from_logits(self.expand(hidden))[:, :, None, None]

    def _spatial_gate(self, gated: Tensor) -> Tensor:
        pooled = torch.cat([gated.mean(1, keepdim=True), gated.amax(1, keepdim=True)], dim=1)
        return self.gate_from_logits(self.spatial(pooled))
