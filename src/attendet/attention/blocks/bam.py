"""BAM: one plus the sigmoid of the sum of a logit per channel and a logit per position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import (
    AttentionBlock,
    check_positive,
    prevent_dead_relus,
    reduced_channels,
)


class BAM(AttentionBlock):
    """Bottleneck attention module: gates between 1 and 2 from channel and position logits.

    Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018, arXiv:1807.06514:
    ``x + x sigmoid(c + s)``, so the gate lies between 1 and 2. Channel logit c: the global mean
    through a two-layer perceptron C -> C/r -> C. Spatial logit s: a 1x1 convolution C -> C/r, two
    dilated 3x3 convolutions, each with batch norm and ReLU, and a 1x1 convolution to one channel
    with batch norm. Differences: c has no batch norm, which would normalize over the images of a
    batch only and fail on a batch of one. The first layer of c has no bias, and special initial
    weights if it is very narrow (see `attendet.attention.base.prevent_dead_relus`). The authors'
    code multiplies c by s and has no last batch norm; here, as in the paper, c and s are added and
    s has the last batch norm.

    Memory traffic: reads the map three times (mean, 1x1 convolution, product); writes it and the
    gate of the same size once.

    Args:
        channels: C.
        reduction: r; the bottlenecks have C // r channels, at least one.
        dilation: dilation of the 3x3 convolutions.
    """

    paper = "Park 2018, arXiv:1807.06514"
    sigmoid_gates = False

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4) -> None:
        super().__init__(channels)
        hidden = reduced_channels(channels, reduction)
        pad = check_positive("dilation", dilation)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        prevent_dead_relus(self.reduce)
        self.expand = nn.Linear(hidden, channels)
        self.spatial = nn.Sequential(
            *_normalized(nn.Conv2d(channels, hidden, 1, bias=False)),
            *_normalized(nn.Conv2d(hidden, hidden, 3, 1, pad, dilation, bias=False)),
            *_normalized(nn.Conv2d(hidden, hidden, 3, 1, pad, dilation, bias=False)),
            nn.Conv2d(hidden, 1, 1, bias=False),
            nn.BatchNorm2d(1),
        )

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W), between 1 and 2."""
        channel = self.expand(torch.relu(self.reduce(x.mean((2, 3)))))[:, :, None, None]
        return {"element": 1 + torch.sigmoid(channel + self.spatial(x))}


def _normalized(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()
