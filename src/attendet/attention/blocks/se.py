"""Squeeze-and-Excitation: one gate per channel, from the global means of all channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, prevent_dead_relus, reduced_channels


class SqueezeExcite(AttentionBlock):
    """Squeeze-and-excitation: channel gates from the global means of all channels.

    Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507, equations 2-4:
    ``s = sigmoid(W2 relu(W1 z))`` with z the mean over H and W. As in the paper's ablations there
    are no biases; its published models have biases. The only other difference: the initial weights
    of very narrow bottlenecks (see `attendet.attention.base.prevent_dead_relus`).

    Memory traffic: reads the map twice (mean, product), writes it once.

    Args:
        channels: C.
        reduction: r; the bottleneck has C // r channels, at least one.
    """

    paper = "Hu 2018, arXiv:1709.01507"

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__(channels)
        hidden = reduced_channels(channels, reduction)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        prevent_dead_relus(self.reduce)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layer that computes the logits."""
        return (self.expand,)

    def pool(self, x: Tensor) -> Tensor:
        """Return one value per channel, (N, C): the mean over H and W."""
        return x.mean((2, 3))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``channel``, (N, C, 1, 1)."""
        logits = self.expand(torch.relu(self.reduce(self.pool(x))))
        return {"channel": self.gate_from_logits(logits)[:, :, None, None]}
