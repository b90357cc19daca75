"""GAM: two gates per element, from the channels at its position and from its neighborhood."""

from __future__ import annotations

from torch import Tensor, nn

from attendet.attention.base import AttentionBlock, apply_gate, check_odd, reduced_channels


class GlobalAttention(AttentionBlock):
    """Global attention mechanism: channel gates, then spatial gates, per element without pooling.

    Liu, Shao, Hoffmann, "Global Attention Mechanism: Retain Information to Enhance Channel-Spatial
    Interactions", 2021, arXiv:2112.05561. Channel gate: a two-layer perceptron C -> C/r -> C at
    each position, sigmoid. Spatial gate: a 7x7 convolution C -> C/r, batch norm, ReLU, a 7x7
    convolution back to C, batch norm, sigmoid. No differences from the paper; the perceptron is
    implemented as 1x1 convolutions. Most public copies have no sigmoid on the channel gate. Note
    the size: two dense 7x7 convolutions at C = 512 have 6.4 million weights, more than YOLOv4-tiny.

    Compute-bound. Memory traffic besides the convolutions: reads the map four times, writes it
    twice.

    Args:
        channels: C.
        reduction: r; the bottlenecks have C // r channels, at least one.
        kernel_size: side of the spatial convolutions; odd.

    Raises:
        ConfigError: if ``kernel_size`` is even or not positive.
    """

    paper = "Liu 2021, arXiv:2112.05561"

    def __init__(self, channels: int, *, reduction: int = 4, kernel_size: int = 7) -> None:
        super().__init__(channels)
        hidden = reduced_channels(channels, reduction)
        pad = check_odd("kernel_size", kernel_size) // 2
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size, padding=pad, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, kernel_size, padding=pad, bias=False),
            nn.BatchNorm2d(channels),
        )

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers that compute the logits of the two gates."""
        return (self.channel[-1], self.spatial[-1])

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``channel_element``, then ``spatial_element``, both (N, C, H, W).

        The second gate is computed from the map times the first gate.
        """
        channel = self.gate_from_logits(self.channel(x))
        spatial = self.gate_from_logits(self.spatial(apply_gate(x, channel)))
        return {"channel_element": channel, "spatial_element": spatial}
