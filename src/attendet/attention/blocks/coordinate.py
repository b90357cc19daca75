"""Coordinate Attention: one gate per row and one per column of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attendet.attention.base import (
    AttentionBlock,
    check_positive,
    is_channels_last,
    reduced_channels,
)
from attendet.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class _Preset:
    reduction: int
    activation: type[nn.Module]
    bias: bool


_PRESETS = {
    "yolo": _Preset(reduction=16, activation=nn.ReLU, bias=False),
    "authors": _Preset(reduction=32, activation=nn.Hardswish, bias=True),
}


class CoordinateAttention(AttentionBlock):
    """Coordinate attention: row and column gates, which keep positions along each axis.

    Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
    arXiv:2103.02907, equations 4-9: the means over W and over H are concatenated (length
    H + W) and pass through one 1x1 convolution, batch norm and a non-linearity. They are split
    again, and each passes through its own 1x1 convolution and a sigmoid:
    ``y = x * height * width``. Preset ``authors`` is the authors' code (r = 32, h-swish, biases).
    Difference: the default ``yolo`` is the common variant in YOLO networks (r = 16, ReLU, no
    biases).

    Memory traffic: reads the map four times (two means, two products), writes it twice. Eager
    PyTorch has no operation that computes both means, or the product of three tensors, in one pass.
    Both means as one matrix product read the map once but take longer; ``x * (height * width)``
    moves as much memory. Without gradients the second product overwrites the first. A channels_last
    map is pooled and gated in its (N, H, W, C) view.

    Args:
        channels: C.
        preset: ``yolo`` or ``authors``.
        reduction: r; the bottleneck has C // r channels, at least 8; None: r of the preset.
        hidden_channels: channels of the bottleneck, instead of ``reduction``.

    Raises:
        ConfigError: if the preset is unknown, or ``reduction`` and ``hidden_channels`` are both
            given.
    """

    paper = "Hou 2021, arXiv:2103.02907"

    def __init__(
        self,
        channels: int,
        *,
        preset: str = "yolo",
        reduction: int | None = None,
        hidden_channels: int | None = None,
    ) -> None:
        super().__init__(channels)
        if preset not in _PRESETS:
            raise ConfigError(
                f"preset must be one of the presets of Coordinate Attention; got {preset!r}. "
                f"{did_you_mean(preset, _PRESETS)}"
            )
        chosen = _PRESETS[preset]
        if reduction is not None and hidden_channels is not None:
            raise ConfigError(
                f"reduction must not be combined with hidden_channels; got {reduction!r}. "
                "Give one of the two."
            )
        if hidden_channels is None:
            ratio = chosen.reduction if reduction is None else reduction
            hidden = reduced_channels(channels, ratio, at_least=8)
        else:
            hidden = check_positive("hidden_channels", hidden_channels)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=chosen.bias)
        self.norm = nn.BatchNorm2d(hidden)
        self.activation = chosen.activation()
        self.height = nn.Conv2d(hidden, channels, 1, bias=chosen.bias)
        self.width = nn.Conv2d(hidden, channels, 1, bias=chosen.bias)

    def logit_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers that compute the logits of the rows and of the columns."""
        return (self.height, self.width)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``height``, (N, C, H, 1), and ``width``, (N, C, 1, W)."""
        rows, columns = x.shape[2:]
        hidden = self.activation(self.norm(self.squeeze(_axis_means(x))))
        along_height, along_width = hidden.split([rows, columns], dim=2)
        return {
            "height": self.gate_from_logits(self.height(along_height)),
            "width": self.gate_from_logits(self.width(along_width.mT)),
        }


def _axis_means(x: Tensor) -> Tensor:
    """Return the means over W and the means over H, concatenated: (N, C, H + W, 1)."""
    if is_channels_last(x):
        nhwc = x.permute(0, 2, 3, 1)
        means = torch.cat([nhwc.mean(2), nhwc.mean(1)], dim=1)
        return means.unsqueeze(2).permute(0, 3, 1, 2)
    return torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).mT], dim=2)
