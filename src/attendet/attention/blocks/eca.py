"""Efficient Channel Attention: one gate per channel, from the means of neighboring channels."""

from __future__ import annotations

import math

from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, check_odd


class EfficientChannelAttention(AttentionBlock):
    """Efficient channel attention: channel gates from the means of a few neighboring channels.

    Wang, Wu, Zhu, Li, Zuo, Hu, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
    Networks", CVPR 2020, arXiv:1910.03151, equations 5-12: ``sigmoid(conv1d(z))`` along the
    channels, with z the mean over H and W; without bias, padded with zeros. The kernel size is
    ``|(log2 C + 1) / 2|`` rounded down, plus 1 if that is even, as in the authors' code (the paper
    says "nearest odd").

    Memory traffic: reads the map twice (mean, product), writes it once.

    Args:
        channels: C.
        kernel_size: number of neighboring channels per gate, odd; None derives it from C.

    Raises:
        ConfigError: if ``kernel_size`` is even or not positive.

    Example:
        >>> EfficientChannelAttention(256).conv.kernel_size
        (5,)
    """

    paper = "Wang 2020, arXiv:1910.03151"

    def __init__(self, channels: int, *, kernel_size: int | None = None) -> None:
        super().__init__(channels)
        size = eca_kernel_size(channels) if kernel_size is None else kernel_size
        check_odd("kernel_size", size)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the convolution that computes the logits."""
        return (self.conv,)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``channel``, (N, C, 1, 1)."""
        logits = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return {"channel": self.gate_from_logits(logits)[:, :, None, None]}


def eca_kernel_size(channels: int) -> int:
    """Return the kernel size of ECA: the number of neighboring channels per gate."""
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1
