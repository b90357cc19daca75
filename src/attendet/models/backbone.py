"""CSPDarknet-tiny: the backbone of YOLOv4-tiny.

N, C, H, W are batch, channels, height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAKY_SLOPE = 0.1


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalization and leaky ReLU with slope 0.1.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel: side of the square kernel; the padding keeps the size at stride 1.
        stride: 1 or 2.
        bn_eps: epsilon of batch normalization.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=0.03)
        self.act = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, out_channels, H / stride, W / stride)."""
        out: Tensor = self.act(self.bn(self.conv(features)))
        return out


class CSPBlock(nn.Module):
    """Cross-stage partial block, followed by 2x2 max pooling.

    Half of the channels pass through extra convolutions and are concatenated with all channels:
    Wang et al. 2020, CSPNet, arXiv:1911.11929, in the version of darknet's yolov4-tiny.cfg.

    Args:
        channels: C of the input; the output has 2 C.
        bn_eps: epsilon of batch normalization.
    """

    def __init__(self, channels: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        half = channels // 2
        self.half_channels = half
        self.conv1 = ConvBlock(channels, channels, 3, bn_eps=bn_eps)
        self.conv2 = ConvBlock(half, half, 3, bn_eps=bn_eps)
        self.conv3 = ConvBlock(half, half, 3, bn_eps=bn_eps)
        self.conv4 = ConvBlock(channels, channels, 1, bn_eps=bn_eps)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled output (N, 2 C, H/2, W/2) and the 1x1 output (N, C, H, W)."""
        whole = self.conv1(features)
        first = self.conv2(whole[:, -self.half_channels :])
        second = self.conv3(first)
        merged = self.conv4(torch.cat([second, first], dim=1))
        return self.pool(torch.cat([whole, merged], dim=1)), merged


class CSPDarknetTiny(nn.Module):
    """Backbone of YOLOv4-tiny: two strided convolutions, three CSP blocks and a convolution.

    Args:
        width_mult: multiplier of the channels, which stay multiples of 8 (of 4 in the first layer).
        bn_eps: epsilon of batch normalization.
    """

    def __init__(self, *, width_mult: float = 1.0, bn_eps: float = 1e-5) -> None:
        super().__init__()
        base = max(8, round(64 * width_mult / 8) * 8)
        self.conv1 = ConvBlock(3, base // 2, 3, stride=2, bn_eps=bn_eps)
        self.conv2 = ConvBlock(base // 2, base, 3, stride=2, bn_eps=bn_eps)
        self.csp1 = CSPBlock(base, bn_eps=bn_eps)
        self.csp2 = CSPBlock(2 * base, bn_eps=bn_eps)
        self.csp3 = CSPBlock(4 * base, bn_eps=bn_eps)
        self.conv3 = ConvBlock(8 * base, 8 * base, 3, bn_eps=bn_eps)
        self.site_channels = {
            "stage1": 2 * base,
            "stage2": 4 * base,
            "stage3": 8 * base,
            "p4": 4 * base,
            "p5": 8 * base,
            "up": 2 * base,
            "p3": 2 * base,
            "up2": base,
        }
