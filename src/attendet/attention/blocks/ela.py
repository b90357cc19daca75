"""Efficient Local Attention: one gate per row and one per column of each channel."""

from __future__ import annotations

from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, GroupNorm, check_odd, equal_groups


class EfficientLocalAttention(AttentionBlock):
    """Efficient local attention: row and column gates from neighbors, without a bottleneck.

    Xu, Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024,
    arXiv:2403.01123: the means over W and over H each go through a convolution along their axis,
    group normalization and a sigmoid: ``y = x * height * width``. The paper's versions: ELA-T
    (kernel 5, 32 groups in the norm), ELA-B (7, 16: the default here), both depthwise; ELA-S (5,
    16) and ELA-L (7, 16) with ``conv_groups = C // 8``. Differences: a number of groups that does
    not divide C is replaced by the greatest common divisor of the two. Rows and columns have
    separate weights (18 C parameters at kernel 7); public implementations have one convolution and
    one normalization for both (9 C).

    Memory traffic: reads the map four times (two means, two products), writes it twice.

    Args:
        channels: C.
        kernel_size: number of rows or columns per gate, odd.
        groups: groups of the normalization.
        conv_groups: groups of the convolutions; None: depthwise.

    Raises:
        ConfigError: if ``kernel_size`` is even or not positive.
    """

    paper = "Xu 2024, arXiv:2403.01123"

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        groups: int = 16,
        conv_groups: int | None = None,
    ) -> None:
        super().__init__(channels)
        pad = check_odd("kernel_size", kernel_size) // 2
        split = channels if conv_groups is None else equal_groups(channels, conv_groups)

        def along(kernel_hw: tuple[int, int], padding_hw: tuple[int, int]) -> nn.Sequential:
            conv = nn.Conv2d(
                channels, channels, kernel_hw, padding=padding_hw, groups=split, bias=False
            )
            return nn.Sequential(conv, GroupNorm(groups, channels))

        self.height = along((kernel_size, 1), (pad, 0))
        self.width = along((1, kernel_size), (0, pad))

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the normalizations, which compute the logits of the rows and of the columns."""
        return (self.height[1], self.width[1])

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``height``, (N, C, H, 1), and ``width``, (N, C, 1, W)."""
        return {
            "height": self.gate_from_logits(self.height(x.mean(3, keepdim=True))),
            "width": self.gate_from_logits(self.width(x.mean(2, keepdim=True))),
        }
