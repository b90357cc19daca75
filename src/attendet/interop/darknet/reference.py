"""The reference network as a darknet graph, and where its convolutions stand in it."""

from __future__ import annotations

from typing import TypeAlias

from torch import nn

from attendet.models.backbone import ConvBlock, CSPBlock
from attendet.models.detector import DetectionNetwork
from attendet.models.graph import Graph
from attendet.models.graph_detector import DarknetConvolution, GraphDetector
from attendet.models.graph_layers import Convolutional, Layer, MaxPool, Route, Upsample, Yolo
from attendet.models.yolov4_tiny import YoloV4Tiny

__all__ = ["Convolutions", "convolutions_of", "graph_of", "reference_graph", "reference_width"]

Convolutions: TypeAlias = dict[int, tuple[nn.Conv2d, nn.BatchNorm2d | None]]
"""Layer number to convolution and batch normalization."""


def _conv(filters: int, size: int, stride: int = 1) -> Convolutional:
    return Convolutional(filters, size, stride, size // 2, batch_normalize=True, activation="leaky")


def reference_graph(base: int, outputs: tuple[int, int]) -> Graph:
    """Return the layers of YOLOv4-tiny.

    Args:
        base: channels of the second convolution: 64 times the width multiplier.
        outputs: channels of the raw maps, A (5 + K), stride 32 first.
    """
    layers: list[Layer] = [_conv(base // 2, 3, 2), _conv(base, 3, 2)]
    for channels in (base, 2 * base, 4 * base):
        first = len(layers)
        layers += [
            _conv(channels, 3),
            Route((first,), groups=2, group_id=1),
            _conv(channels // 2, 3),
            _conv(channels // 2, 3),
            Route((first + 3, first + 2)),
            _conv(channels, 1),
            Route((first, first + 5)),
            MaxPool(2, 2, 1),
        ]
    merged = len(layers) - 3
    layers += [_conv(8 * base, 3), _conv(4 * base, 1)]
    squeezed = len(layers) - 1
    layers += [_conv(8 * base, 3), Convolutional(outputs[0], activation="linear"), Yolo()]
    layers += [Route((squeezed,)), _conv(2 * base, 1), Upsample(2)]
    layers += [Route((len(layers) - 1, merged)), _conv(4 * base, 3)]
    layers += [Convolutional(outputs[1], activation="linear"), Yolo()]
    return Graph(tuple(layers))


def reference_width(graph: Graph) -> float | None:
    """Return the width multiplier of the reference network with these layers, if it has them.

    Example:
        >>> reference_width(reference_graph(64, (255, 255)))
        1.0
    """
    layers = graph.layers
    heads = [layers[index - 1] for index in graph.yolo_layers]
    if len(heads) != 2 or len(layers) < 2:
        return None
    second, *outputs = layers[1], *heads
    if not isinstance(second, Convolutional) or second.filters % 8:
        return None
    filters = tuple(one.filters for one in outputs if isinstance(one, Convolutional))
    if len(filters) != 2:
        return None
    same = reference_graph(second.filters, (filters[0], filters[1])) == graph
    return second.filters / 64 if same else None


def graph_of(network: DetectionNetwork) -> Graph:
    """Return the layers of a network, less its attention blocks.

    Raises:
        TypeError: if it is neither the reference network nor a `GraphDetector`.
    """
    if isinstance(network, GraphDetector):
        return network.graph
    if isinstance(network, YoloV4Tiny):
        outputs = (network.out_p5.out_channels, network.out_p4.out_channels)
        return reference_graph(network.backbone.conv2.conv.out_channels, outputs)
    raise TypeError(f"no darknet layers are known for {type(network).__name__}")


def convolutions_of(network: DetectionNetwork) -> Convolutions:
    """Return the convolutions of a network by their layer in `graph_of`."""
    if isinstance(network, YoloV4Tiny):
        numbers = (
            index
            for index, layer in enumerate(graph_of(network).layers)
            if isinstance(layer, Convolutional)
        )
        return dict(zip(numbers, _in_order(network), strict=True))
    found: Convolutions = {}
    if isinstance(network, GraphDetector):
        for index, module in enumerate(network.layers):
            if isinstance(module, DarknetConvolution):
                bn = module.bn if isinstance(module.bn, nn.BatchNorm2d) else None
                found[index] = (module.conv, bn)
    return found


def _in_order(network: YoloV4Tiny) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    backbone = network.backbone
    blocks: list[ConvBlock | nn.Conv2d] = [backbone.conv1, backbone.conv2]
    csp: CSPBlock
    for csp in (backbone.csp1, backbone.csp2, backbone.csp3):
        blocks += [csp.conv1, csp.conv2, csp.conv3, csp.conv4]
    blocks += [backbone.conv3, network.conv_p5, network.head_p5, network.out_p5]
    blocks += [network.conv_up, network.head_p4, network.out_p4]
    return [(one, None) if isinstance(one, nn.Conv2d) else (one.conv, one.bn) for one in blocks]
