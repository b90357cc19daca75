"""Training with frozen statistics of batch normalization, folded into the convolutions.

N, C, H, W are batch, channels, height and width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from attendet.models.backbone import ConvBlock
from attendet.models.graph_detector import DarknetConvolution


class _FrozenStatistics(nn.Module):
    """A convolution block with batch normalization statistics that do not change in training.

    Weights and biases of the normalization are trained. Each step folds the normalization into the
    weights of the convolution. This saves the pass of the normalization over the feature map, which
    takes a quarter to a third of a training step of a depthwise network on a CPU.
    """

    conv: Any
    bn: Any
    act: Any

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, out_channels, H / stride, W / stride)."""
        out: Tensor
        if self.training:
            out = self.act(self._normalized(features))
        else:
            out = self.act(self.bn(self.conv(features)))
        return out

    def _normalized(self, features: Tensor) -> Tensor:
        """Return the result of convolution and normalization, computed as one convolution."""
        conv, bn = self.conv, self.bn
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        bias = bn.bias - bn.running_mean * scale
        weight = conv.weight * scale[:, None, None, None]
        out: Tensor = conv._conv_forward(features, weight, bias)
        return out


class FrozenConvBlock(_FrozenStatistics, ConvBlock):
    """`ConvBlock` with frozen statistics."""


class FrozenDarknetConvolution(_FrozenStatistics, DarknetConvolution):
    """`DarknetConvolution` with frozen statistics."""


_FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    ConvBlock: FrozenConvBlock,
    DarknetConvolution: FrozenDarknetConvolution,
}


def freeze_statistics(network: nn.Module, names: Collection[str]) -> None:
    """Freeze the statistics of some batch normalization layers in training, in place.

    Args:
        network: a detection network; its module names and parameters do not change.
        names: names of convolution blocks with batch normalization, such as ``backbone.conv1``.
    """
    for name in names:
        module = network.get_submodule(name)
        module.__class__ = _FROZEN[type(module)]


def pretrained_blocks(network: nn.Module, copied: Collection[str]) -> list[str]:
    """Return the names of the convolution blocks with statistics from pretrained weights.

    Blocks with initial statistics are not included, because they were never trained.

    Args:
        network: network with the pretrained weights.
        copied: names of the tensors that were copied from the pretrained weights.
    """
    there = set(copied)
    return [
        name
        for name, module in network.named_modules()
        if type(module) in _FROZEN
        and isinstance(module.bn, nn.BatchNorm2d)
        and {f"{name}.bn.running_mean", f"{name}.bn.running_var"} <= there
        and not _is_initial(module.bn)
    ]


def _is_initial(bn: nn.BatchNorm2d) -> bool:
    if bn.running_mean is None or bn.running_var is None:
        return True
    return bool((bn.running_mean == 0).all() and (bn.running_var == 1).all())
