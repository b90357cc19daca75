"""Base class of attention blocks: named gates, and a map multiplied by them.

Letters: N images in the batch, C channels, H rows and W columns of the feature map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from attendet.errors import ConfigError


class AttentionBlock(nn.Module, ABC):
    """A module that multiplies its input by gates and keeps shape, dtype and memory format.

    A mechanism writes ``gates``; ``forward`` stands here. What ``gates`` returns is therefore what
    was applied, and an image of the gates shows what the network did.

    A mechanism that makes its gates by ``squash`` and names its ``last_layers`` can start as the
    exact identity by itself; others do so through `attendet.attention.init.GateMix`. A mechanism
    that is no product of gates sets ``is_gated`` to False and writes ``forward`` instead.

    Args:
        channels: C of the maps that the block will see.

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
    """``paper``: gates as published, of most blocks sigmoids near 1/2 at first. ``identity``: at
    first every gate is exactly 1 and the map passes bit for bit."""

    paper: str = ""
    """First author, year and address of the paper, such as ``Hu 2018, arXiv:1709.01507``."""

    is_gated: bool = True
    """Whether the output is the map times the gates. If not, ``forward`` does something else."""

    sigmoid_gates: bool = True
    """Whether the gates of init ``paper`` lie between 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check_positive("channels", channels)

    def last_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers whose outputs ``squash`` makes gates of; none if it is not used.

        All their parameters zero must mean that all logits are zero.
        """
        return ()

    def squash(self, logits: Tensor) -> Tensor:
        """Return the gate of logits: their sigmoid, and twice that if the block starts as identity.

        Logits of zero then make a gate of exactly 1 in any floating dtype.
        """
        gate = torch.sigmoid(logits)
        return 2 * gate if self.init == "identity" else gate

    @abstractmethod
    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gates for a map, by name, in the order in which they are applied.

        Args:
            x: the feature map, (N, C, H, W).

        Returns:
            Tensors that broadcast to ``x``. Names in use: ``channel`` (N, C, 1, 1), ``spatial``
            (N, 1, H, W), ``height`` (N, C, H, 1), ``width`` (N, C, 1, W), ``element``
            (N, C, H, W). A block with two gates of every element puts a word before each.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Return the map times each of its gates, (N, C, H, W)."""
        out = x
        for gate in self.gates(x).values():
            out = apply_gate(out, gate, may_overwrite=out is not x)
        return out

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the brackets."""
        start = "" if self.init == "paper" else f", init={self.init}"
        return f"channels={self.channels}{start}"


def apply_gate(x: Tensor, gate: Tensor, *, may_overwrite: bool = False) -> Tensor:
    """Return ``x * gate`` with the memory format of ``x``, quickly in both formats.

    The backward pass sums the gradient over the axes along which the gate was broadcast. In an
    (N, C, H, W) view of channels_last memory a sum over one axis strides through it with every
    channel; seen as the (N, H, W, C) that it is, the same sum takes less than half the time.

    Args:
        x: the map, (N, C, H, W).
        gate: broadcasts to ``x``; four axes.
        may_overwrite: the product may overwrite ``x`` if no gradient is
            recorded, which saves a map's worth of fresh memory.
    """
    gate = gate.to(x.dtype)  # autocast computes some layers in float32
    channels_last = is_channels_last(x)
    if channels_last:
        x, gate = x.permute(0, 2, 3, 1), gate.permute(0, 2, 3, 1)
    product = x.mul_(gate) if may_overwrite and not torch.is_grad_enabled() else x * gate
    return product.permute(0, 3, 1, 2) if channels_last else product


def is_channels_last(x: Tensor) -> bool:
    """Return whether a map lies channels_last in memory, and cannot pass for contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def reduced_channels(channels: int, reduction: int, *, at_least: int = 1) -> int:
    """Return the width of a bottleneck: ``max(at_least, channels // reduction)``.

    Args:
        channels: width outside the bottleneck.
        reduction: how many times narrower the bottleneck is.
        at_least: the floor.

    Returns:
        A width of one channel or more.

    Raises:
        ConfigError: if ``reduction`` is not a positive whole number.

    Example:
        >>> reduced_channels(256, 16), reduced_channels(64, 16, at_least=8)
        (16, 8)
    """
    return max(at_least, channels // check_positive("reduction", reduction))


def equal_groups(channels: int, groups: int) -> int:
    """Return the number of equal groups that channels are split into, at most ``groups``.

    Args:
        channels: how many there are.
        groups: how many groups the mechanism wants.

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
    """Return a gate per group as one per channel: (N, G, H, W) becomes (N, C, H, W)."""
    size = channels // gate.shape[1]
    return gate.unsqueeze(2).expand(-1, -1, size, -1, -1).flatten(1, 2)


def pool_to_grid(x: Tensor, side: int) -> Tensor:
    """Return the means of a map's parts on a square grid, (N, C, side, side).

    The parts are those of adaptive average pooling, which exports to a fixed map size only; here
    they are two matrix products.

    Args:
        x: the map, (N, C, H, W), of any size.
        side: rows and columns of the grid.

    Example:
        >>> pool_to_grid(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 2)
        tensor([[[[1.5000, 2.5000],
                  [1.5000, 2.5000]]]])
    """
    down, across = _part_weights(x, 2, side), _part_weights(x, 3, side)
    return down @ (x.contiguous() @ across.T)  # channels_last takes twice as long


def _part_weights(x: Tensor, axis: int, parts: int) -> Tensor:
    """Return the weight of each position of an axis in the mean of each part, (parts, length)."""
    length = x.shape[axis]
    position = torch.arange(length, device=x.device)
    part = torch.arange(parts, device=x.device)[:, None]
    start, stop = part * length // parts, ((part + 1) * length + parts - 1) // parts
    inside = ((position >= start) & (position < stop)).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)


class GroupNorm(nn.GroupNorm):
    """Group normalization in at most ``num_groups`` equal groups, of maps of any size.

    A group of a single value, which PyTorch's layer refuses, is normalized to zero like any other
    without variation.

    Args:
        num_groups: how many groups are wanted; see `equal_groups`.
        num_channels: C.
        affine: scale and shift each channel.

    Example:
        >>> GroupNorm(16, 24)(torch.ones(1, 24, 1, 1)).abs().max().item()
        0.0
    """

    def __init__(self, num_groups: int, num_channels: int, *, affine: bool = True) -> None:
        super().__init__(equal_groups(num_channels, num_groups), num_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized map."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


FEW_HIDDEN = 8
"""Hidden channels from which all of them are hardly ever closed at once: one time in 256."""


@torch.no_grad()
def open_bottleneck(layer: nn.Linear) -> None:
    """Make sure, by its initial weights, that a narrow bottleneck of ReLUs is not closed for good.

    A ReLU whose input is below zero for all data gets no gradient, ever (Lu et al. 2019, "Dying
    ReLU and Initialization", arXiv:1903.06733). Global means differ little between images, so of
    h hidden channels all are closed about once in 2^h draws. Here the second row is the negative of
    the first, as all rows are in Balduzzi et al. 2017 (arXiv:1702.08591, section 4): whatever comes
    in, one of the two is open. A single channel takes the absolute values of its row, which opens
    it for all means above zero, as behind a ReLU. The size of the weights is as drawn.

    Args:
        layer: before the ReLU, without bias, newly initialized; from 8 hidden channels on it stays
            as it is.
    """
    hidden = len(layer.weight)
    if hidden == 1:
        layer.weight.abs_()
    elif hidden < FEW_HIDDEN:
        layer.weight[1] = -layer.weight[0]


def check_positive(name: str, value: int) -> int:
    """Return the value of an option if it is a positive whole number.

    Args:
        name: what the option is called, for the message.
        value: what was given.

    Raises:
        ConfigError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be a positive whole number; got {value!r}. Give 1 or more.")
    return value


def check_odd(name: str, value: int) -> int:
    """Return the side of a kernel if it is odd and positive.

    Args:
        name: what the option is called, for the message.
        value: what was given.

    Raises:
        ConfigError: if it is not.
    """
    if check_positive(name, value) % 2 == 0:
        raise ConfigError(f"{name} must be odd and positive; got {value!r}.")
    return value
