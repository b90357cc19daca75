"""How a block starts: as published, or as the exact identity.

As published, gates start near 1/2: a block in a trained network shrinks its features two- to
fourfold, and what the network knew is lost until it is trained again. A block that starts as the
identity changes nothing until it is trained, and nothing is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention.base import AttentionBlock

__all__ = ["GateMix", "begin"]


def begin(block: AttentionBlock, init: str) -> AttentionBlock:
    """Return a new block that starts as asked.

    ``identity`` doubles the gates (2 sigmoid(0) = 1 exactly) and zeroes the layers that make their
    logits, as Goyal et al. 2017 (arXiv:1706.02677, section 5.1) zero the last scale of a residual
    branch. The gradient reaches the zeroed layers from the first step on. A block that does not say
    which layers those are is put into a `GateMix`; ``residual`` puts every block into one.

    Args:
        block: newly made, in the ``paper`` start; it is changed in place.
        start: ``paper``, ``identity`` or ``residual``.
    """
    if init == "paper":
        return block
    layers = block.last_layers() if _speaks_for_its_gates(block) else ()
    if init == "residual" or not layers:
        block = GateMix(block)
    for layer in layers if init == "identity" else ():
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    block.init = init
    return block


def _speaks_for_its_gates(block: AttentionBlock) -> bool:
    """Return whether ``last_layers`` is no older than ``gates``: a subclass may change these."""
    line = type(block).__mro__
    last_layers, gates = (
        next(age for age, cls in enumerate(line) if name in vars(cls))
        for name in ("last_layers", "gates")
    )
    return last_layers <= gates


class GateMix(AttentionBlock):
    """Any block as the exact identity: each gate is mixed with 1 by a share that starts at 0.

    ``gate' = 1 + share (gate - 1)``, hence for one gate ``x gate' = x + share (x gate - x)``: the
    gated map as a residual branch whose scale starts at 0, as in Bachlechner et al. 2020, "ReZero
    is All You Need", arXiv:2003.04887. In the first step the share alone learns; the block's own
    layers follow.

    Args:
        block: whose gates are mixed; in the ``paper`` start.

    Example:
        >>> from attendet.attention import SqueezeExcite
        >>> x = torch.randn(1, 8, 4, 4)
        >>> torch.equal(GateMix(SqueezeExcite(8))(x), x)
        True
    """

    def __init__(self, block: AttentionBlock) -> None:
        super().__init__(block.channels)
        self.block = block
        # A scalar takes part in arithmetic without changing the gate's dtype.
        self.share = nn.Parameter(torch.zeros(()))

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates of the block, mixed with 1."""
        return {name: 1 + self.share * (gate - 1) for name, gate in self.block.gates(x).items()}
