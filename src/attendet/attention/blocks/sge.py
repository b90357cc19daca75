"""Spatial Group-wise Enhance: a gate per position and group, from likeness to its mean."""

from __future__ import annotations

from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, GroupNorm, equal_groups, repeat_for_groups


class SpatialGroupEnhance(AttentionBlock):
    """Gate every position of each group of channels by its likeness to the group's global mean.

    Li, Hu, Yang, "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
    Networks", 2019, arXiv:1905.09646: the scalar product of a position's channels with their means
    over H and W, normalized over the positions; per group a scale (0 at first) and a shift (1 at
    first); sigmoid. Where we differ: the number of groups is the greatest divisor that C and
    ``groups`` have in common, and the normalization divides by the root of the variance plus 1e-5.

    Reads the map three times (mean, scalar product, product) and writes it once, and the gate,
    repeated for the channels of a group, once.

    Args:
        channels: C.
        groups: G, at most; the paper's ResNets have 64.
    """

    paper = "Li 2019, arXiv:1905.09646"

    def __init__(self, channels: int, *, groups: int = 64) -> None:
        super().__init__(channels)
        self.groups = equal_groups(channels, groups)
        self.norm = GroupNorm(self.groups, self.groups)
        nn.init.zeros_(self.norm.weight)
        nn.init.ones_(self.norm.bias)

    def last_layers(self) -> tuple[nn.Module, ...]:
        """Return the normalization, which makes the logits."""
        return (self.norm,)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W), the same for all channels of a group."""
        product = x * x.mean((2, 3), keepdim=True)
        likeness = product.reshape(-1, self.groups, self.channels // self.groups, *x.shape[2:]).sum(
            2
        )
        return {"element": repeat_for_groups(self.squash(self.norm(likeness)), self.channels)}
