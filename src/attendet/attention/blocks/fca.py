"""FcaNet: squeeze-and-excitation with frequency components instead of means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attendet.attention.base import check_positive
from attendet.attention.blocks.se import SqueezeExcite


class FrequencyChannelAttention(SqueezeExcite):
    """Frequency channel attention: channel gates from one frequency component per channel.

    Qin, Zhang, Wu, Li, "FcaNet: Frequency Channel Attention Networks", ICCV 2021, arXiv:2012.11879.
    SE reduces each channel to its mean, the lowest component of its discrete cosine transform.
    Here each of k equal groups of channels is reduced to a different one of the k lowest
    components, ``cos(pi u (i + 1/2) / H) cos(pi v (j + 1/2) / W)`` (the paper's FcaNet-LF). The
    rest is SE; with k = 1 the block is SE.

    Differences: the authors' cosines have 56, 28, 14 or 7 cells by stage, and maps of another size
    are pooled to that; here the cosines have the size of the map, without pooling. The authors
    multiply u and v by cells / 7: on a map of 14x14 their component (1, 0) has 2 half-waves, ours
    has 1. The cosines are the same only at 7x7. Their default is 16 components selected by accuracy
    (FcaNet-TS), other ones; the 16 lowest are those of their FcaNet-LF. Their components are sums
    divided by sqrt(H W), times sqrt(2) for each of u and v that is not 0; ours are means over the
    positions, so they do not grow with the map.

    Memory traffic: reads the map three times (product with the cosines, its mean, product with the
    gate), writes it twice.

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
    """Return the ``count`` lowest pairs of half-waves along H and W, ordered by their sum."""
    side = range(count)
    return sorted(((u, v) for u in side for v in side), key=lambda uv: (sum(uv), uv))[:count]


def _cosines(half_waves: Tensor, length: int) -> Tensor:
    """Return a cosine with each number of half-waves, at ``length`` positions: (C, length)."""
    positions = torch.arange(length, device=half_waves.device) + 0.5
    return torch.cos(half_waves[:, None] * positions * (math.pi / length))
