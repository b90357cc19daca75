"""Global context: squeeze-and-excitation with a learned weighted mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, GroupNorm, reduced_channels


class GlobalContext(AttentionBlock):
    """Global context: channel gates from a mean over positions with learned weights.

    Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
    2019, arXiv:1904.11492: the weights of the mean are a softmax over all positions of a 1x1
    convolution; then C -> C/r, layer normalization, ReLU, C/r -> C. Differences: the sigmoid of the
    result multiplies the map, a variant ("scale") in the paper's comparison. The paper prefers to
    add the result to the map, which `timm:gca` does. The 1x1 convolution has no bias, because a
    softmax cancels it.

    Memory traffic: reads the map three times (1x1 convolution, weighted mean, product), writes it
    once.

    Args:
        channels: C.
        reduction: r; the bottleneck has C // r channels, at least 8, because normalization over one
            channel would return the same value for every map.
    """

    paper = "Cao 2019, arXiv:1904.11492"

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__(channels)
        hidden = reduced_channels(channels, reduction, at_least=8)
        self.weigh = nn.Conv2d(channels, 1, 1, bias=False)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.norm = GroupNorm(1, hidden)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layer that computes the logits."""
        return (self.expand,)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``channel``, (N, C, 1, 1)."""
        weights = torch.softmax(self.weigh(x).flatten(2), dim=2)  # (N, 1, H W)
        context = (x.flatten(2) @ weights.transpose(1, 2))[..., None]  # (N, C, 1, 1)
        hidden = torch.relu(self.norm(self.reduce(context)))
        return {"channel": self.gate_from_logits(self.expand(hidden))}
