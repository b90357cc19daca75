"""MLCA: ECA over the whole map and over a grid of its parts, averaged."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from attendet.attention.base import AttentionBlock, check_odd, check_positive, pool_to_grid
from attendet.attention.blocks.eca import eca_kernel_size
from attendet.errors import ConfigError


class MixedLocalChannelAttention(AttentionBlock):
    """Gate the channels of each part of a grid by its own means and by the global ones.

    Wan, Lu, Yuan, Zhang, Zhang, "Mixed local channel attention for object detection", Engineering
    Applications of Artificial Intelligence 123, 2023. The means of k x k parts go through a
    convolution across the channels, as in ECA, and a sigmoid; their mean through another one; the
    gate is the weighted mean of the two, brought back to the map's size. Where we differ: each part
    has its own row of channels in the convolution (the authors' code chains the parts to one row,
    where the last channels of a part see the first of the next), and values are repeated over their
    part without blending at its edges.

    Reads the map twice (means, product); writes it, and the gate of the same size, once.

    Args:
        channels: C.
        grid: k.
        kernel_size: how many channels a gate sees, odd; None derives it from C as ECA does.
        local_weight: weight of the parts' gate, 0 to 1.

    Raises:
        ConfigError: if ``grid`` is not positive, ``kernel_size`` even or not positive, or
            ``local_weight`` outside its range.
    """

    paper = "Wan 2023, EAAI 123"

    def __init__(
        self,
        channels: int,
        *,
        grid: int = 5,
        kernel_size: int | None = None,
        local_weight: float = 0.5,
    ) -> None:
        super().__init__(channels)
        good = 0 <= local_weight <= 1
        ConfigError.check(good, "local_weight", "from 0 to 1", local_weight)
        self.grid, self.local_weight = check_positive("grid", grid), local_weight
        size = eca_kernel_size(channels) if kernel_size is None else kernel_size
        pad = check_odd("kernel_size", size) // 2
        self.local = nn.Conv2d(1, 1, (size, 1), padding=(pad, 0), bias=False)
        self.whole = nn.Conv2d(1, 1, (size, 1), padding=(pad, 0), bias=False)

    def last_layers(self) -> tuple[nn.Module, ...]:
        """Return the convolutions that make the logits."""
        return (self.local, self.whole)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W)."""
        means = pool_to_grid(x, self.grid).flatten(2).unsqueeze(1)  # (N, 1, C, parts)
        local = self.squash(self.local(means))
        whole = self.squash(self.whole(means.mean(3, keepdim=True)))
        gate = (local - whole) * self.local_weight + whole
        gate = gate.reshape(-1, self.channels, self.grid, self.grid)
        return {"element": interpolate(gate, size=x.shape[2:], mode="nearest")}
