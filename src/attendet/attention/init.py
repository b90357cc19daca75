"""Initialization of a block: as published, or as the exact identity.

As published, the gates of most blocks are near 1/2 at first: such a block in a trained network
shrinks its features by 2 to 4, and what the network has learned is lost until it is trained again.
A block that is the identity at first changes nothing until it is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock


def initialize(block: AttentionBlock, init: str) -> AttentionBlock:
    """Return a new block with the given init.

    ``identity`` doubles the gates (2 sigmoid(0) = 1 exactly) and zeroes the layers that make their
    logits, as Goyal et al. 2017 (arXiv:1706.02677, section 5.1) zero the last scale of a residual
    branch. The gradient reaches the zeroed layers from the first step on. A block that does not
    name these layers is wrapped in a `GateMix`.

    Args:
        block: new, with init ``paper``; changed in place.
        init: ``paper`` or ``identity``.
    """
    if init == "paper":
        return block
    layers = block.last_layers() if block.is_gated and _names_its_last_layers(block) else ()
    if not layers:
        block = GateMix(block)
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    block.init = init
    return block


def _names_its_last_layers(block: AttentionBlock) -> bool:
    """Return whether ``last_layers`` still applies: a subclass may have changed ``gates``."""
    line = type(block).__mro__
    last_layers, gates = (
        next(age for age, cls in enumerate(line) if name in vars(cls))
        for name in ("last_layers", "gates")
    )
    return last_layers <= gates


class GateMix(AttentionBlock):
    """Any block as the exact identity: each gate is mixed with 1 by a weight that starts at 0.

    ``gate' = 1 + mix (gate - 1)``, hence for one gate ``x gate' = x + mix (x gate - x)``: the
    gated map as a residual branch whose scale starts at 0, as in Bachlechner et al. 2020, "ReZero
    is All You Need", arXiv:2003.04887. In the first step only the weight learns; the block's own
    layers follow.

    A block that is no product of gates is the residual branch itself: ``x + mix (block(x) - x)``.
    The map then passes up to the sign of zeros.

    Args:
        block: whose gates are mixed; with init ``paper``.

    Example:
        >>> from attendet.attention import SqueezeExcite
        >>> x = torch.randn(1, 8, 4, 4)
        >>> torch.equal(GateMix(SqueezeExcite(8))(x), x)
        True
    """

    def __init__(self, block: AttentionBlock) -> None:
        super().__init__(block.channels)
        self.block = block
        self.paper, self.is_gated, self.sigmoid_gates = block.paper, block.is_gated, False
        # A scalar takes part in arithmetic without changing the gate's dtype.
        self.mix = nn.Parameter(torch.zeros(()))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates of the block, mixed with 1."""
        return {name: 1 + self.mix * (gate - 1) for name, gate in self.block.gates(x).items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the map times the mixed gates, or mixed with the output of the block."""
        if self.is_gated:
            return super().forward(x)
        change: Tensor = self.block(x) - x
        return x + self.mix * change
