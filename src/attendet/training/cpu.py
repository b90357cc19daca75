"""Layers that train faster on CPUs: convolutions and dropout.

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
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: _Pair,
        padding: _Pair,
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(features, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        to_features = None
        to_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
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
        to_weight = to_weight.contiguous(memory_format=torch.channels_last)
        return to_features, to_weight, to_bias, None, None


class MixedLayoutConv2d(nn.Conv2d):
    """A 3x3 convolution without bias that computes its weight gradient on NCHW copies.

    On CPUs with AVX2, oneDNN's weight gradient takes up to three times as long in channels_last as
    in NCHW, while everything else is as fast or faster in channels_last. The cost of the copies is
    small: forward and backward of the reference network became 1.14 times as fast on one core (3.12
    to 3.56 images/s, measured by ``benchmarks/training_step.py``).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution, bit for bit as ``nn.Conv2d`` does."""
        out: Tensor
        if torch.is_grad_enabled():
            out = _MixedLayout.apply(input, weight, bias, self.stride, self.padding)
        else:
            out = super()._conv_forward(input, weight, bias)
        return out


class Float32DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that runs in float32 within bfloat16 autocast.

    oneDNN has no fast bfloat16 gradients of depthwise convolutions with stride 2 or with 5x5
    kernels. Forward and backward on a batch of 8 maps of 80 x 80, with 64 channels, 3x3 and stride
    2, took 13.2 ms in bfloat16 and 4.2 ms in float32 with the casts; on 20 x 20, with 144 channels
    and 5x5, 5.7 and 2.6 ms (2 cores with AVX-512 and bfloat16, torch 2.14).
    ``benchmarks/training_step.py --precision bf16 --weights FILE`` measures a training step of
    Yolo-Fastest 1.1-xl.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution in the dtype of the input, computed in float32."""
        with torch.autocast(input.device.type, enabled=False):
            out: Tensor = super()._conv_forward(input.float(), weight, bias)
        return out.to(input.dtype)


class WordDropout(nn.Dropout):
    """Dropout with a mask of 16-bit words, four from each 64-bit random number.

    The probability is rounded to a multiple of 1 / 65536. PyTorch draws a random number per value
    on one core, which took a tenth of a training step of Yolo-Fastest 1.1-xl.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the features; in training, a random part is set to 0 and the rest is scaled."""
        if not self.training or self.p == 0:
            return features
        count = features.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[:count] >= round(self.p * 2**16) - 2**15
        scale = torch.empty_like(features)  # in the memory layout of the features
        scale.as_strided((count,), (1,)).copy_(kept).div_(1 - self.p)
        return features * scale


def replace_slow_layers(network: nn.Module, precision: str) -> None:
    """Replace layers of a network with ones that train faster on this CPU, in place.

    Module names and parameters do not change.

    Args:
        network: network on the CPU.
        precision: Lightning Fabric's name of the precision, such as ``32-true``.
    """
    layouts = precision == "32-true" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    for module in network.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = WordDropout
        if type(module) is not nn.Conv2d or module.bias is not None:
            continue
        padded = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        one_group = module.groups == 1 and module.dilation == (1, 1)
        plain = module.kernel_size == (3, 3) and one_group and padded
        depthwise = module.groups == module.in_channels > 1
        slow = max(module.stride) > 1 or max(module.kernel_size) > 3
        if layouts and plain:
            module.__class__ = MixedLayoutConv2d
        if precision == "bf16-mixed" and depthwise and slow:
            module.__class__ = Float32DepthwiseConv2d
