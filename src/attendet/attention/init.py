"""Initialization of a block: as published, or as the exact identity.

As published, the initial gates of most blocks are near 1/2. Inserted into a trained network, such a
block divides the features by 2 to 4, and the network must be trained again to recover. A block that
is initialized as the identity changes nothing until it is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock


def initialize(block: AttentionBlock, init: str) -> AttentionBlock:
    """Apply an init to a new block and return the block.

    ``identity`` doubles the gates (2 sigmoid(0) = 1 exactly) and zeroes the layers that compute
    their logits, as Goyal et al. 2017 (arXiv:1706.02677, section 5.1) zero the last scale of a
    residual branch. The zeroed layers get a gradient from the first step on. A block without
    ``logit_layers`` is wrapped in a `GateMix`.

    Args:
        block: new block with init ``paper``; changed in place.
        init: ``paper`` or ``identity``.
    """
    if init == "paper":
        return block
    layers = block.logit_layers() if block.is_gated and _names_its_logit_layers(block) else ()
    if not layers:
        block = GateMix(block)
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    block.init = init
    return block


def _names_its_logit_layers(block: AttentionBlock) -> bool:
    """Return whether ``logit_layers`` is valid: False if a subclass overrides ``gates`` only."""
    line = type(block).__mro__
    logit_layers, gates = (
        next(age for age, cls in enumerate(line) if name in vars(cls))
        for name in ("logit_layers", "gates")
    )
    return logit_layers <= gates


class GateMix(AttentionBlock):
    """Wrapper that makes any block the identity at init by interpolating its gates with 1.

    ``gate' = 1 + mix (gate - 1)`` with a trained scalar ``mix`` that starts at 0. For one gate
    ``x gate' = x + mix (x gate - x)``, a residual branch whose scale starts at 0, as in Bachlechner
    et al. 2020, "ReZero is All You Need", arXiv:2003.04887. In the first step only ``mix`` gets a
    gradient; the layers of the block get one after that.

    For a block that is no product of gates the output is ``x + mix (block(x) - x)``. At init it
    equals the input, except that the sign of zeros can differ.

    Args:
        block: block with init ``paper``.

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
        # A 0-dim tensor does not change the dtype of the gate in type promotion.
        self.mix = nn.Parameter(torch.zeros(()))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates of the block, interpolated with 1."""
        return {name: 1 + self.mix * (gate - 1) for name, gate in self.block.gates(x).items()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the map times the gates, or interpolated with the output of the block."""
        if self.is_gated:
            return super().forward(x)
        change: Tensor = self.block(x) - x
        return x + self.mix * change
