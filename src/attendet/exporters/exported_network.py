"""The exported form of a network: pixels in, boxes and scores out, in a graph that runs fast.

N, C, H, W are batch, channels, height and width; B the boxes of one image, K the classes.
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


class ExportedNetwork(nn.Module):
    """Normalization, network and decode in one module, on the CPU, ready to be traced.

    Args:
        network: a network of `attendet.models`; it is copied.
        fold_scale: fold the division of pixels by 255 into the weights of the first convolutions,
            if no other layer takes the image. Not for weights in float16, which lose precision
            when they are that small.
        channels_last: keep feature maps in channels-last order, which is faster in PyTorch.
        clip: clip boxes to the network input.

    Example:
        >>> from attendet.models import build
        >>> network = build(classes=["cat", "dog"], width_mult=0.125).eval()
        >>> boxes_xyxy, scores = ExportedNetwork(network)(torch.zeros(1, 64, 96, 3).byte())
        >>> tuple(boxes_xyxy.shape), tuple(scores.shape)
        ((1, 90, 4), (1, 90, 2))
    """

    def __init__(
        self,
        network: DetectionNetwork,
        *,
        fold_scale: bool = True,
        channels_last: bool = False,
        clip: bool = False,
    ) -> None:
        super().__init__()
        self.network = optimize_for_inference(network).float()
        first = first_convolutions(self.network) if fold_scale else ()
        for convolution in first:
            convolution.weight.div_(255)
        self.divide = not first
        self.channels_last = channels_last
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.clip = clip
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, B, 4), network input pixels, and scores (N, B, K), 0 to 1.

        Args:
            images: uint8, shape (N, H, W, 3), H and W multiples of 32.
        """
        planes = images.permute(0, 3, 1, 2)
        if not self.channels_last:
            planes = planes.contiguous()
        return self.detect(planes.float())

    def detect(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores of float images (N, 3, H, W), 0 to 255."""
        if self.divide:
            planes = planes / 255
        boxes_xyxy, scores = self.network.decode(self.network(planes))
        if self.clip:
            height, width = planes.shape[2], planes.shape[3]
            edges = boxes_xyxy.unbind(-1)
            limits = (width, height, width, height)
            clipped = [edge.clamp(0, limit) for edge, limit in zip(edges, limits, strict=True)]
            boxes_xyxy = torch.stack(clipped, dim=-1)
        return boxes_xyxy, scores


class PlanarNetwork(ExportedNetwork):
    """`ExportedNetwork` for runtimes that take images as planes of float pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, B, 4), network input pixels, and scores (N, B, K), 0 to 1.

        Args:
            images: float, shape (N, 3, H, W), 0 to 255, H and W multiples of 32.
        """
        return self.detect(images)


def optimize_for_inference(network: DetectionNetwork) -> DetectionNetwork:
    """Return an equivalent copy of a network that runs faster in other runtimes.

    Batch normalization is folded; Coordinate Attention and CSP blocks are split. Blocks with
    attention inside stay as they are.

    Args:
        network: a network of `attendet.models`, with or without attention.

    Returns:
        The copy, on the CPU, in eval mode, without gradients.
    """
    optimized = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    fold_batch_norm(optimized)
    _split_blocks(optimized)
    return optimized


def _split_blocks(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        # Modules with inserted attention have a subclass as type, and are not changed.
        if type(child) is CoordinateAttention:
            setattr(module, name, SplitCoordinateAttention(child).eval().requires_grad_(False))
            continue
        if type(child) is CSPBlock and type(child.pool) is nn.MaxPool2d and _is_plain(child.conv1):
            child = SplitCSP(child).eval().requires_grad_(False)
            setattr(module, name, child)
        _split_blocks(child)


def _is_plain(block: nn.Module) -> bool:
    return (
        type(block) is ConvBlock
        and not inserted_blocks(block)
        and isinstance(block.bn, nn.Identity)
        and block.conv.bias is not None
    )


class SplitCoordinateAttention(AttentionBlock):
    """Coordinate Attention that computes the gates of the two axes separately.

    Concatenating the two means saves a call in eager PyTorch, but adds a transpose, a
    concatenation, a split and another transpose to an exported graph. A 1x1 convolution gives the
    same result on each part, and batch normalization is folded into it, so each axis becomes mean,
    convolution with activation, convolution with sigmoid.

    Args:
        block: block to convert, in eval mode; its layers are reused, its normalization is folded.
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
            "height": self.gate_from_logits(self.height(along_height)),
            "width": self.gate_from_logits(self.width(along_width)),
        }


class SplitCSP(nn.Module):
    """A CSP block whose first convolution is split, and whose maps are pooled before concatenation.

    A slice of channels prevents runtimes from using blocked memory layouts. Max pooling gives the
    same result before and after concatenation; before it, a quarter of the values is copied.

    Args:
        block: block to convert, in eval mode, with batch normalization folded; its other layers
            are reused.
    """

    def __init__(self, block: CSPBlock) -> None:
        super().__init__()
        half = block.half_channels
        self.kept = _filters_of(block.conv1, slice(None, -half))
        self.second_half = _filters_of(block.conv1, slice(-half, None))
        self.conv2, self.conv3, self.conv4 = block.conv2, block.conv3, block.conv4
        self.pool = block.pool

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled output (N, 2 C, H/2, W/2) and the 1x1 output (N, C, H, W)."""
        kept, second_half = self.kept(features), self.second_half(features)
        first = self.conv2(second_half)
        second = self.conv3(first)
        merged = self.conv4(torch.cat([second, first], dim=1))
        pooled = [self.pool(part) for part in (kept, second_half, merged)]
        return torch.cat(pooled, dim=1), merged


def _filters_of(block: ConvBlock, chosen: slice) -> nn.Sequential:
    part = copy.deepcopy(block.conv)
    part.weight = nn.Parameter(block.conv.weight[chosen].clone(), requires_grad=False)
    part.bias = nn.Parameter(block.conv.bias[chosen].clone(), requires_grad=False)  # type: ignore[index]
    part.out_channels = len(part.weight)
    return nn.Sequential(part, block.act)


def first_convolutions(network: DetectionNetwork) -> tuple[nn.Conv2d, ...]:
    """Return the convolutions that take the image; empty if another layer takes it as well.

    Scaling their weights is equivalent to scaling the image.

    Args:
        network: a network of `attendet.models`.
    """
    found: list[nn.Module] = []
    if isinstance(network, YoloV4Tiny):
        found = [network.backbone.conv1.conv]
    elif isinstance(network, GraphDetector):
        layers = zip(network.graph.layers, network.layers, strict=True)
        found = [
            getattr(module, "conv", module)
            for index, (layer, module) in enumerate(layers)
            if -1 in layer.sources(index)
        ]
    convolutions = tuple(module for module in found if isinstance(module, nn.Conv2d))
    return convolutions if len(convolutions) == len(found) else ()
