"""The same network in a form that runtimes run faster: nothing here changes what it computes.

N, C, H, W are batch, channels, height and width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attendet.attention import AttentionBlock, CoordinateAttention, inserted_blocks
from attendet.inference.runtimes.torch_runtime import fold_batch_norm
from attendet.models.backbone import ConvBlock, CSPBlock
from attendet.models.detector import DetectionNetwork
from attendet.models.graph_detector import GraphDetector
from attendet.models.yolov4_tiny import YoloV4Tiny

__all__ = ["AxesApart", "SplitCSP", "first_convolutions", "inference_form"]


class AxesApart(AttentionBlock):
    """Coordinate Attention with each axis on its own from the means to the gate.

    Laying the two means end to end saves a call in eager PyTorch and costs an exported graph a
    transpose, a concatenation, a split and another transpose. A 1x1 convolution does not care, and
    batch normalization is folded into it, so that each axis becomes mean, convolution with its
    activation, convolution with its sigmoid.

    Args:
        block: in eval mode; its layers are shared, the normalization folded.
    """

    def __init__(self, block: CoordinateAttention) -> None:
        super().__init__(block.channels)
        self.init = block.init
        self.squeeze = fuse_conv_bn_eval(block.squeeze, block.norm)
        self.activation = block.activation
        self.height, self.width = block.height, block.width

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``height``, (N, C, H, 1), and ``width``, (N, C, 1, W)."""
        along_height = self.activation(self.squeeze(x.mean(3, keepdim=True)))
        along_width = self.activation(self.squeeze(x.mean(2, keepdim=True)))
        return {
            "height": self.squash(self.height(along_height)),
            "width": self.squash(self.width(along_width)),
        }


class SplitCSP(nn.Module):
    """A CSP block whose first convolution is two, and whose maps are pooled before they are joined.

    A slice of channels stops runtimes from keeping their blocked layouts, and a maximum over a
    window does not care whether its channels have been joined yet: joined afterwards, a quarter of
    the values is moved.

    Args:
        block: in eval mode, batch normalization folded; its other layers are shared.
    """

    def __init__(self, block: CSPBlock) -> None:
        super().__init__()
        whole, half = block.conv1, block.detour
        self.kept = _some_filters(whole, slice(None, -half))
        self.detour = _some_filters(whole, slice(-half, None))
        self.conv2, self.conv3, self.conv4 = block.conv2, block.conv3, block.conv4
        self.pool = block.pool

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled output (N, 2 C, H/2, W/2) and the 1x1 output (N, C, H, W)."""
        kept, detour = self.kept(features), self.detour(features)
        first = self.conv2(detour)
        second = self.conv3(first)
        merged = self.conv4(torch.cat([second, first], dim=1))
        pooled = [self.pool(part) for part in (kept, detour, merged)]
        return torch.cat(pooled, dim=1), merged


def _some_filters(block: ConvBlock, chosen: slice) -> nn.Sequential:
    whole = block.conv
    weight = whole.weight[chosen].clone()
    part = nn.Conv2d(
        whole.in_channels,
        len(weight),
        whole.kernel_size,  # type: ignore[arg-type]
        whole.stride,  # type: ignore[arg-type]
        whole.padding,  # type: ignore[arg-type]
    )
    part.weight = nn.Parameter(weight, requires_grad=False)
    part.bias = nn.Parameter(whole.bias[chosen].clone(), requires_grad=False)  # type: ignore[index]
    return nn.Sequential(part, block.act)


def inference_form(network: DetectionNetwork) -> DetectionNetwork:
    """Return a copy of a network in the form in which it is exported; the network stays as it is.

    Batch normalization is folded, Coordinate Attention takes its axes apart, CSP blocks are split.
    What attention was put into stays as it is.

    Args:
        network: a network of `attendet.models`, attended anywhere or not.

    Returns:
        On the CPU, in eval mode, without gradients.
    """
    made = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    fold_batch_norm(made)
    _replace(made)
    return made


def _replace(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        # Attended modules are of subclasses: an exact type is the module as we know it.
        if type(child) is CoordinateAttention:
            setattr(module, name, AxesApart(child).eval().requires_grad_(False))
        elif type(child) is CSPBlock and _is_plain(child.conv1):
            setattr(module, name, SplitCSP(child).eval().requires_grad_(False))
            _replace(getattr(module, name))
        else:
            _replace(child)


def _is_plain(block: nn.Module) -> bool:
    return (
        type(block) is ConvBlock
        and not inserted_blocks(block)
        and isinstance(block.bn, nn.Identity)
        and block.conv.bias is not None
    )


def first_convolutions(network: DetectionNetwork) -> tuple[nn.Conv2d, ...]:
    """Return the convolutions that take the image; none if something else takes it as well.

    Scaling their weights is scaling the image.

    Args:
        network: a network of `attendet.models`.
    """
    found: list[nn.Module] = []
    if isinstance(network, YoloV4Tiny):
        found = [network.backbone.conv1.conv]
    elif isinstance(network, GraphDetector):
        takers = [
            module
            for index, (layer, module) in enumerate(
                zip(network.graph.layers, network.layers, strict=True)
            )
            if -1 in layer.sources(index)
        ]
        found = [getattr(module, "conv", module) for module in takers]
    convolutions = tuple(module for module in found if isinstance(module, nn.Conv2d))
    return convolutions if len(convolutions) == len(found) else ()
