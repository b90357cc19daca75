"""Spatial Group-wise Enhance: a gate per position and group, from similarity to the mean."""

from __future__ import annotations

from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, GroupNorm, equal_groups, repeat_for_groups


class SpatialGroupEnhance(AttentionBlock):
    """Spatial group-wise enhance: gates from the similarity of a position to its group's mean.

    Li, Hu, Yang, "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
    Networks", 2019, arXiv:1905.09646: the dot product of a position's channels with their means
    over H and W, normalized over the positions; per group a scale (initially 0) and a shift
    (initially 1); sigmoid. Differences: the number of groups is the greatest common divisor of C
    and ``groups``, and the normalization divides by the root of the variance plus 1e-5.

    Memory traffic: reads the map three times (mean, dot product, product with the gate); writes it,
    and the gate repeated for the channels of a group, once.

    Args:
        channels: C.
        groups: maximum number of groups; the paper's ResNets have 64.
    """

    paper = "Li 2019, arXiv:1905.09646"

    def __init__(self, channels: int, *, groups: int = 64) -> None:
        super().__init__(channels)
        self.groups = equal_groups(channels, groups)
        self.norm = GroupNorm(self.groups, self.groups)
        nn.init.zeros_(self.norm.weight)
        nn.init.ones_(self.norm.bias)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the normalization, which computes the logits."""
        return (self.norm,)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W), the same for all channels of a group."""
        product = x * x.mean((2, 3), keepdim=True)
        likeness = product.reshape(-1, self.groups, self.channels // self.groups, *x.shape[2:]).sum(
            2
        )
        return {
            "element": repeat_for_groups(self.gate_from_logits(self.norm(likeness)), self.channels)
        }
