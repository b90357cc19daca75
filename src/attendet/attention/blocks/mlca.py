"""MLCA: weighted mean of ECA over the whole map and ECA over the cells of a grid."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from attendet.attention.base import AttentionBlock, check_odd, check_positive, pool_to_grid
from attendet.attention.blocks.eca import eca_kernel_size
from attendet.errors import ConfigError


class MixedLocalChannelAttention(AttentionBlock):
    """Mixed local channel attention: channel gates per grid cell from local and global means.

    Wan, Lu, Yuan, Zhang, Zhang, "Mixed local channel attention for object detection", Engineering
    Applications of Artificial Intelligence 123, 2023. The means over k x k cells pass through a
    convolution across the channels, as in ECA, and a sigmoid: the local gate. The mean of the cells
    passes through another convolution and a sigmoid: the global gate. The weighted mean of the two
    is resized to the map. Differences: the convolution runs over the channels of each cell
    separately (in the authors' code it runs over all cells in one row, so that the last channels of
    a cell are neighbors of the first channels of the next), and the resize is nearest-neighbor,
    without blending at the edges of the cells.

    Memory traffic: reads the map twice (means, product); writes it, and the gate of the same size,
    once.

    Args:
        channels: C.
        grid: k.
        kernel_size: number of neighboring channels per gate, odd; None derives it from C as in ECA.
        local_weight: weight of the local gate, 0 to 1.

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

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the convolutions that compute the logits."""
        return (self.local, self.whole)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``element``, (N, C, H, W)."""
        means = pool_to_grid(x, self.grid).flatten(2).unsqueeze(1)  # (N, 1, C, parts)
        local = self.gate_from_logits(self.local(means))
        whole = self.gate_from_logits(self.whole(means.mean(3, keepdim=True)))
        gate = (local - whole) * self.local_weight + whole
        gate = gate.reshape(-1, self.channels, self.grid, self.grid)
        return {"element": interpolate(gate, size=x.shape[2:], mode="nearest")}
