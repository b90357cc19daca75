"""Faster training steps on CPUs: memory layouts of weight gradients.

N, C, H, W are batch, channels, height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

_Pair = tuple[int, int]


class _MixedLayout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, stride: _Pair, padding: _Pair
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(features, weight, None, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        features, weight = ctx.saved_tensors
        to_features = None
        if ctx.needs_input_grad[0]:
            to_features = conv2d_input(  # type: ignore[no-untyped-call]
                features.shape, weight, gradient, stride=ctx.stride, padding=ctx.padding
            )
        to_weight: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            features.contiguous(),
            weight.shape,
            gradient.contiguous(),
            stride=ctx.stride,
            padding=ctx.padding,
        )
        return to_features, to_weight.contiguous(memory_format=torch.channels_last), None, None


class MixedLayoutConv2d(nn.Conv2d):
    """A 3x3 convolution without bias that computes its weight gradient on NCHW copies.

    On CPUs with AVX2 oneDNN's weight gradient of channels_last maps takes up to three times as
    long as that of NCHW maps, while all else is as fast or faster on channels_last. The copies
    cost little: forward and backward of the reference network were 1.14 times as fast on one core
    (3.12 to 3.56 images/s, measured by ``benchmarks/training_step.py``).
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution, as ``nn.Conv2d`` does bit for bit."""
        if not torch.is_grad_enabled():
            return super().forward(features)
        out: Tensor = _MixedLayout.apply(features, self.weight, self.stride, self.padding)
        return out


def mix_layouts(network: nn.Module) -> nn.Module:
    """Return the network with its 3x3 convolutions computing gradients in mixed layouts, in place.

    Only where it pays: float32 on CPUs with AVX2 but without AVX-512. Names and parameters stay.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return network
    for module in network.modules():
        plain = type(module) is nn.Conv2d and module.bias is None and module.groups == 1
        if plain and module.kernel_size == (3, 3) and module.dilation == (1, 1):
            module.__class__ = MixedLayoutConv2d
    return network
