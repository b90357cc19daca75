"""FcaNet: squeeze-and-excitation of frequency components instead of means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attendet.attention.base import check_positive
from attendet.attention.blocks.se import SqueezeExcite


class FrequencyChannelAttention(SqueezeExcite):
    """Gate every channel by one frequency component of each channel.

    Qin, Zhang, Wu, Li, "FcaNet: Frequency Channel Attention Networks", ICCV 2021, arXiv:2012.11879.
    The mean that SE squeezes a channel to is the lowest component of its discrete cosine transform.
    Here each of k equal groups of channels is squeezed by another of the k lowest components,
    ``cos(pi u (i + 1/2) / H) cos(pi v (j + 1/2) / W)`` (the paper's FcaNet-LF); the rest is SE.
    With k = 1 it is SE.

    Where we differ: the authors make the cosines for 56, 28, 14 or 7 cells by stage, and pool only
    a map of another size to that; here they are made for the map's own size, without pooling. The
    authors multiply u and v by cells / 7: over a map of 14x14 their component (1, 0) has 2
    half-waves, and ours has 1. The cosines are the same at 7x7 alone. Their default is 16
    components chosen by accuracy (FcaNet-TS); the 16 lowest are the same set as theirs. Their
    components are sums divided by sqrt(H W), times sqrt(2) for each of u and v that is not 0; ours
    are means over the positions, so that they do not grow with the map.

    Reads the map three times (product with the cosines, its mean, product with the gate) and writes
    it twice.

    Args:
        channels: C.
        reduction: r; the bottleneck has C // r channels, at least one.
        components: k.
    """

    paper = "Qin 2021, arXiv:2012.11879"

    def __init__(self, channels: int, *, reduction: int = 16, components: int = 16) -> None:
        super().__init__(channels, reduction=reduction)
        lowest = _lowest_frequencies(check_positive("components", components))
        waves = [lowest[channel * components // channels] for channel in range(channels)]
        self.register_buffer("frequencies", torch.tensor(waves).float().T, persistent=False)

    def pool(self, x: Tensor) -> Tensor:
        """Return the frequency component of each channel, (N, C)."""
        down, across = self.get_buffer("frequencies")
        waves = _cosines(down, x.shape[2])[:, :, None] * _cosines(across, x.shape[3])[:, None]
        return (x * waves.to(x.dtype)).mean((2, 3))


def _lowest_frequencies(count: int) -> list[tuple[int, int]]:
    """Return the first half-waves down and across an image, ordered by their sum."""
    side = range(count)
    return sorted(((u, v) for u in side for v in side), key=lambda uv: (sum(uv), uv))[:count]


def _cosines(half_waves: Tensor, length: int) -> Tensor:
    """Return the cosine of each number of half-waves at ``length`` positions, (C, length)."""
    positions = torch.arange(length, device=half_waves.device) + 0.5
    return torch.cos(half_waves[:, None] * positions * (math.pi / length))
