"""Context Anchor Attention: a gate for every element, from strip convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from attendet.attention.base import AttentionBlock, check_odd


class ContextAnchorAttention(AttentionBlock):
    """Context anchor attention: element gates from long strips along both axes.

    Cai, Lai, Wang, Wang, Sun, Yao, "Poly Kernel Inception Network for Remote Sensing Detection",
    CVPR 2024, arXiv:2403.06258: a 7x7 mean pooling, a 1x1 convolution, a depthwise 1 x k and a
    depthwise k x 1 convolution, a 1x1 convolution, a sigmoid. In the paper k is 11 in the
    first block of each stage and grows by two with each block. Difference: PKINet computes the
    gates from the input of its multi-kernel convolutions and multiplies their output; here the
    gates multiply the map from which they are computed. The layers are those of the authors' code.

    Compute-bound, by two dense 1x1 convolutions. Memory traffic besides the layers: reads the map
    twice (pooling, product), writes it once.

    Args:
        channels: C.
        kernel_size: k, length of the strips; odd.

    Raises:
        ConfigError: if ``kernel_size`` is even or not positive.
    """

    paper = "Cai 2024, arXiv:2403.06258"

    def __init__(self, channels: int, *, kernel_size: int = 11) -> None:
        super().__init__(channels)
        pad = check_odd("kernel_size", kernel_size) // 2
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.across = nn.Conv2d(
            channels, channels, (1, kernel_size), padding=(0, pad), groups=channels
        )
        self.down = nn.Conv2d(
            channels, channels, (kernel_size, 1), padding=(pad, 0), groups=channels
        )
        self.expand = nn.Conv2d(channels, channels, 1)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the convolution that computes the logits."""
        return (self.expand,)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W)."""
        context = self.reduce(avg_pool2d(x, 7, stride=1, padding=3))
        return {"element": self.gate_from_logits(self.expand(self.down(self.across(context))))}
