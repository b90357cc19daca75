"""Base class of attention blocks, which multiply a feature map by named gates.

N is the batch size; C, H and W are channels, rows and columns of the feature map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from attendet.errors import ConfigError


class AttentionBlock(nn.Module, ABC):
    """Module that multiplies its input by gates and keeps shape, dtype and memory format.

    A subclass implements ``gates``; ``forward`` is implemented here. ``gates`` therefore returns
    exactly the gates that are applied.

    A subclass that computes its gates with ``gate_from_logits`` and returns its ``logit_layers``
    can be initialized as the exact identity; other subclasses are wrapped in
    `attendet.attention.init.GateMix`. A subclass that does not multiply its input by gates sets
    ``is_gated`` to False and implements ``forward``.

    Args:
        channels: C of the feature maps.

    Raises:
        ConfigError: if ``channels`` is not a positive whole number.

    Example:
        >>> import torch
        >>> class Halve(AttentionBlock):
        ...     def gates(self, x):
        ...         return {"channel": x.new_full((x.shape[0], self.channels, 1, 1), 0.5)}
        >>> Halve(channels=1)(torch.tensor([[[[4.0]]]])).item()
        2.0
    """

    init: str = "paper"
    """``paper``: as published; the initial gates of most blocks are sigmoids near 1/2.
    ``identity``: every initial gate is exactly 1, so the output equals the input bit for bit."""

    paper: str = ""
    """First author, year and address of the paper, such as ``Hu 2018, arXiv:1709.01507``."""

    is_gated: bool = True
    """Whether the output is the map times the gates. If not, ``forward`` does something else."""

    sigmoid_gates: bool = True
    """Whether the gates of init ``paper`` lie between 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers whose outputs go to ``gate_from_logits``; empty if it is not used.

        If all their parameters are zero, all logits must be zero.
        """
        return ()

    def gate_from_logits(self, logits: Tensor) -> Tensor:
        """Return the gate for logits: their sigmoid, or twice the sigmoid with init ``identity``.

        With init ``identity``, zero logits give a gate of exactly 1 in any floating dtype.
        """
        gate = torch.sigmoid(logits)
        return 2 * gate if self.init == "identity" else gate

    @abstractmethod
    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates for a feature map, by name, in the order in which they are applied.

        Args:
            x: the feature map, (N, C, H, W).

        Returns:
            Tensors that broadcast to ``x``. Names in use: ``channel`` (N, C, 1, 1), ``spatial``
            (N, 1, H, W), ``height`` (N, C, H, 1), ``width`` (N, C, 1, W), ``element``
            (N, C, H, W). A block with two ``element`` gates adds a prefix to each name.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map times each of its gates, (N, C, H, W)."""
        out = x
        for gate in self.gates(x).values():
            out = apply_gate(out, gate, may_overwrite=out is not x)
        return out

    def extra_repr(self) -> str:
        """Return the text between the parentheses of ``repr``."""
        start = "" if self.init == "paper" else f", init={self.init}"
        return f"channels={self.channels}{start}"


def apply_gate(x: Tensor, gate: Tensor, *, may_overwrite: bool = False) -> Tensor:
    """Return ``x * gate`` in the memory format of ``x``; fast for both memory formats.

    The backward pass sums the gradient over the axes along which the gate was broadcast. On an
    (N, C, H, W) view of channels_last memory such a sum has strided access. On the (N, H, W, C)
    view the same sum takes less than half the time.

    Args:
        x: feature map, (N, C, H, W).
        gate: four axes, broadcasts to ``x``.
        may_overwrite: allow the product to overwrite ``x`` if no gradient is recorded, which saves
            the allocation of another feature map.
    """
    gate = gate.to(x.dtype)  # autocast computes some layers in float32
    channels_last = is_channels_last(x)
    if channels_last:
        x, gate = x.permute(0, 2, 3, 1), gate.permute(0, 2, 3, 1)
    product = x.mul_(gate) if may_overwrite and not torch.is_grad_enabled() else x * gate
    return product.permute(0, 3, 1, 2) if channels_last else product


def is_channels_last(x: Tensor) -> bool:
    """Return whether a feature map is channels_last in memory and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def reduced_channels(channels: int, reduction: int, *, at_least: int = 1) -> int:
    """Return the channels of a bottleneck: ``max(at_least, channels // reduction)``.

    Args:
        channels: channels outside the bottleneck.
        reduction: ratio of the channels outside to those of the bottleneck.
        at_least: smallest result.

    Returns:
        One channel or more.

    Raises:
        ConfigError: if ``reduction`` is not a positive whole number.

    Example:
        >>> reduced_channels(256, 16), reduced_channels(64, 16, at_least=8)
        (16, 8)
    """
    return max(at_least, channels // check_positive("reduction", reduction))


def equal_groups(channels: int, groups: int) -> int:
    """Return the number of equal groups into which channels are split, at most ``groups``.

    Args:
        channels: number of channels.
        groups: requested number of groups.

    Returns:
        The greatest common divisor of the two.

    Raises:
        ConfigError: if ``groups`` is not a positive whole number.

    Example:
        >>> equal_groups(256, 32), equal_groups(30, 32), equal_groups(7, 32)
        (32, 2, 1)
    """
    return math.gcd(channels, check_positive("groups", groups))


def repeat_for_groups(gate: Tensor, channels: int) -> Tensor:
    """Repeat a gate per group for the channels of the group: (N, G, H, W) to (N, C, H, W)."""
    size = channels // gate.shape[1]
    return gate.unsqueeze(2).expand(-1, -1, size, -1, -1).flatten(1, 2)


def pool_to_grid(x: Tensor, side: int) -> Tensor:
    """Return the means of a feature map over the cells of a square grid, (N, C, side, side).

    Same result as adaptive average pooling, which can only be exported for a fixed size of the
    feature map; here computed by two matrix products.

    Args:
        x: feature map, (N, C, H, W), of any size.
        side: rows and columns of the grid.

    Example:
        >>> pool_to_grid(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 2)
        tensor([[[[1.5000, 2.5000],
                  [1.5000, 2.5000]]]])
    """
    down, across = _part_weights(x, 2, side), _part_weights(x, 3, side)
    return down @ (x.contiguous() @ across.T)  # channels_last takes twice as long


def _part_weights(x: Tensor, axis: int, parts: int) -> Tensor:
    """Return the weight of each position along an axis in each grid cell, (parts, length)."""
    length = x.shape[axis]
    position = torch.arange(length, device=x.device)
    part = torch.arange(parts, device=x.device)[:, None]
    start, stop = part * length // parts, ((part + 1) * length + parts - 1) // parts
    inside = ((position >= start) & (position < stop)).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)


class GroupNorm(nn.GroupNorm):
    """Group normalization with at most ``num_groups`` equal groups, for feature maps of any size.

    A group of a single value, for which PyTorch's layer raises an error, is normalized to zero.

    Args:
        num_groups: requested number of groups; see `equal_groups`.
        num_channels: C.
        affine: scale and shift each channel.

    Example:
        >>> GroupNorm(16, 24)(torch.ones(1, 24, 1, 1)).abs().max().item()
        0.0
    """

    def __init__(self, num_groups: int, num_channels: int, *, affine: bool = True) -> None:
        super().__init__(equal_groups(num_channels, num_groups), num_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized feature map."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


MIN_SAFE_HIDDEN = 8
"""Number of hidden channels from which all ReLUs are rarely dead at init: once in 256 times."""


@torch.no_grad()
def prevent_dead_relus(layer: nn.Linear) -> None:
    """Change the initial weights of a narrow bottleneck so that not all its ReLUs are dead.

    A ReLU whose input is below zero for all data never gets a gradient (Lu et al. 2019, "Dying
    ReLU and Initialization", arXiv:1903.06733). Global means differ little between images, so all
    of h hidden channels are dead about once in 2^h initializations. Here the second row of weights
    is the negative of the first, as all rows are in Balduzzi et al. 2017 (arXiv:1702.08591,
    section 4): for any input, one of the two is active. With a single hidden channel the weights
    become their absolute values, so it is active for all means above zero, such as those after a
    ReLU. The magnitudes of the weights do not change.

    Args:
        layer: layer before the ReLU, without bias, newly initialized; unchanged if it has 8 or
            more hidden channels.
    """
    hidden = len(layer.weight)
    if hidden == 1:
        layer.weight.abs_()
    elif hidden < MIN_SAFE_HIDDEN:
        layer.weight[1] = -layer.weight[0]


def check_positive(name: str, value: int) -> int:
    """Return the value of an option if it is a positive whole number.

    Args:
        name: name of the option, for the message.
        value: value of the option.

    Raises:
        ConfigError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a positive whole number; got {value!r}. Give 1 or more.")
    return value


def check_odd(name: str, value: int) -> int:
    """Return the value of an option if it is odd and positive.

    Args:
        name: name of the option, for the message.
        value: value of the option, such as the side of a kernel.

    Raises:
        ConfigError: if it is not.
    """
    if check_positive(name, value) % 2 == 0:
        raise ConfigError(f"{name} must be odd and positive; got {value!r}.")
    return value
