"""Large separable kernel attention: a factor for every element, from strip convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from attendet.attention.base import AttentionBlock
from attendet.errors import ConfigError

_DILATIONS = {7: 2, 11: 2, 23: 3, 35: 3, 41: 3, 53: 3}


class LargeSeparableKernelAttention(AttentionBlock):
    """Large separable kernel attention: a linear function of a large neighborhood as the factor.

    Lau, Po, Rehman, "Large Separable Kernel Attention: Rethinking the Large Kernel Attention Design
    in CNN", 2023, arXiv:2309.01439. The depthwise kernel of side k in the large kernel attention of
    VAN (Guo 2022, arXiv:2202.09741) is approximated by four depthwise strips: 1 x (2d - 1) and
    (2d - 1) x 1, then 1 x (k // d) and (k // d) x 1 with dilation d. A 1x1 convolution returns the
    factor, without a sigmoid. The attention is the same as in the paper; VAN's projections around
    it are not part of the block.

    The factor is not limited to 0 to 1: it can be negative or large.

    Memory traffic besides the layers: reads the map twice (first strip, product), writes it once.

    Args:
        channels: C.
        kernel_size: k: 7, 11, 23, 35, 41 or 53, the paper's sizes.

    Raises:
        ConfigError: if ``kernel_size`` is not one of these.
    """

    paper = "Lau 2023, arXiv:2309.01439"
    sigmoid_gates = False

    def __init__(self, channels: int, *, kernel_size: int = 23) -> None:
        super().__init__(channels)
        if kernel_size not in _DILATIONS:
            rule = f"one of {', '.join(map(str, _DILATIONS))}"
            raise ConfigError.must("kernel_size", rule, kernel_size)
        dilation = _DILATIONS[kernel_size]

        def strips(length: int, dilation: int) -> tuple[nn.Conv2d, nn.Conv2d]:
            pad = dilation * (length // 2)
            return (
                nn.Conv2d(channels, channels, (1, length), 1, (0, pad), dilation, channels),
                nn.Conv2d(channels, channels, (length, 1), 1, (pad, 0), dilation, channels),
            )

        self.near = nn.Sequential(*strips(2 * dilation - 1, 1))
        self.far = nn.Sequential(*strips(kernel_size // dilation, dilation))
        self.mix = nn.Conv2d(channels, channels, 1)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the convolution that computes the factor."""
        return (self.mix,)

    def gate_from_logits(self, logits: Tensor) -> Tensor:
        """Return the factor: the logits, or 1 + logits with init ``identity``."""
        return 1 + logits if self.init == "identity" else logits

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W), of any sign and size."""
        return {"element": self.gate_from_logits(self.mix(self.far(self.near(x))))}
