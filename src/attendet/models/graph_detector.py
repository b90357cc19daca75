"""A network that runs the layers of a darknet configuration.

N, C, H, W are batch, channels, height and width; A anchors per level, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from attendet.attention import AttentionInit
from attendet.errors import ConfigError
from attendet.models.backbone import LEAKY_SLOPE
from attendet.models.detector import DetectionNetwork
from attendet.models.graph import (
    Convolutional,
    Dropout,
    Graph,
    Layer,
    MaxPool,
    Output,
    Region,
    Reorg,
    Route,
    ScaleChannels,
    Shortcut,
    Upsample,
    Yolo,
)
from attendet.models.graph_sites import backbone_layers, graph_sites

_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    "linear": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
}


class DarknetConvolution(nn.Module):
    """Convolution with batch normalization or bias, and an activation.

    Args:
        layer: settings of the layer.
        in_channels: C of the input.
        bn_eps: epsilon of batch normalization.
    """

    def __init__(self, layer: Convolutional, in_channels: int, *, bn_eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            layer.filters,
            layer.size,
            layer.stride,
            layer.padding,
            groups=layer.groups,
            bias=not layer.batch_normalize,
        )
        self.bn = (
            nn.BatchNorm2d(layer.filters, eps=bn_eps, momentum=0.03)
            if layer.batch_normalize
            else nn.Identity()
        )
        self.act = _ACTIVATIONS[layer.activation]()

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, filters, ...)."""
        out: Tensor = self.act(self.bn(self.conv(features)))
        return out


class _MaxPool(nn.Module):
    def __init__(self, layer: MaxPool) -> None:
        super().__init__()
        self.size, self.stride = layer.size, layer.stride
        self.before = layer.padding // 2
        self.after = layer.padding - self.before

    def forward(self, features: Tensor) -> Tensor:
        if self.before == self.after <= self.size // 2:  # torch allows no more padding
            return functional.max_pool2d(features, self.size, self.stride, self.before)
        if self.size == self.stride == 2:  # padding after only: ceil_mode instead
            return functional.max_pool2d(features, 2, 2, ceil_mode=True)
        if self.stride == 1 and self.after == self.size // 2:  # without a separate padding step
            pooled = functional.max_pool2d(features, self.size, 1, self.after)
            start = self.after - self.before
            return pooled[:, :, start:, start:]
        sides = (self.before, self.after) * 2
        padded = functional.pad(features, sides, value=float("-inf"))
        return functional.max_pool2d(padded, self.size, self.stride)


class _AvgPool(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


class _Route(nn.Module):
    def __init__(self, layer: Route) -> None:
        super().__init__()
        self.groups, self.group_id = layer.groups, layer.group_id

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(one.chunk(self.groups, dim=1)[self.group_id] for one in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class _Shortcut(nn.Module):
    def __init__(self, layer: Shortcut) -> None:
        super().__init__()
        self.act = _ACTIVATIONS[layer.activation]()

    def forward(self, total: Tensor, *others: Tensor) -> Tensor:
        channels = total.shape[1]
        for one in others:
            lacking = channels - one.shape[1]
            fitting = functional.pad(one, (0, 0, 0, 0, 0, lacking)) if lacking else one
            total = total + fitting
        out: Tensor = self.act(total)
        return out


class _ScaleChannels(nn.Module):
    def __init__(self, layer: ScaleChannels) -> None:
        super().__init__()
        self.act = _ACTIVATIONS[layer.activation]()

    def forward(self, gate: Tensor, features: Tensor) -> Tensor:
        out: Tensor = self.act(features * gate)
        return out


class _Reorg(nn.Module):
    def __init__(self, layer: Reorg) -> None:
        super().__init__()
        self.stride, self.reverse = layer.stride, layer.reverse

    def forward(self, features: Tensor) -> Tensor:
        n, channels, height, width = features.shape
        s, few = self.stride, channels // self.stride**2
        if self.reverse:
            return functional.pixel_shuffle(_swap_channels(features, s**2), s)
        blocks = functional.pixel_unshuffle(features.reshape(n, few, height * s, width * s), s)
        return _swap_channels(blocks, few).reshape(n, channels * s**2, height // s, width // s)


def _swap_channels(features: Tensor, groups: int) -> Tensor:
    """Reorder channels: the first channel of each group, then the second of each, and so on."""
    n, channels, height, width = features.shape
    parts = features.reshape(n, groups, channels // groups, height * width)
    return parts.transpose(1, 2).reshape(n, channels, height, width)


def _module(layer: Layer, in_channels: int, bn_eps: float) -> nn.Module:
    match layer:
        case Convolutional():
            return DarknetConvolution(layer, in_channels, bn_eps=bn_eps)
        case MaxPool():
            return _MaxPool(layer)
        case Route():
            return _Route(layer)
        case Shortcut():
            return _Shortcut(layer)
        case ScaleChannels():
            return _ScaleChannels(layer)
        case Upsample():
            return nn.Upsample(scale_factor=float(layer.stride), mode="nearest")
        case Dropout():
            return nn.Dropout(layer.probability)
        case Reorg():
            return _Reorg(layer)
        case Yolo() | Region():
            return nn.Identity()
    return _AvgPool()


class GraphDetector(DetectionNetwork):
    """Detector with the layers of a darknet configuration.

    Args:
        graph: the layers.
        num_classes: K.
        anchors: widths and heights of the anchors of each output, pixels.
        input_hw: height and width of a network input, pixels, to compute the strides.
        attention: site to name of a block; for sites see `attendet.models.graph_sites`.
        attention_init: ``paper`` or ``identity``, for all sites or for each that has a block.
        scale_x_y: stretch of the center's sigmoid, for outputs that have none of their own.
        bn_eps: epsilon of batch normalization.

    Raises:
        ConfigError: if the layers do not fit each other, the anchors or the classes.

    Example:
        >>> graph = Graph((Convolutional(6, 3, 2, 1), MaxPool(2, 2, 1), Yolo()))
        >>> network = GraphDetector(graph, 1, [[(10, 20)]], input_hw=(64, 64))
        >>> network.strides, tuple(network(torch.zeros(1, 3, 64, 96))[0].shape)
        ((4,), (1, 6, 16, 24))
    """

    def __init__(
        self,
        graph: Graph,
        num_classes: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        *,
        input_hw: tuple[int, int],
        attention: Mapping[str, str] | None = None,
        attention_init: AttentionInit | Mapping[str, AttentionInit] = "paper",
        scale_x_y: float = 1.0,
        bn_eps: float = 1e-5,
    ) -> None:
        outputs = graph.outputs
        own = [layer.scale_x_y for layer in outputs.values()]
        _check_levels(graph, num_classes, anchors, input_hw)
        super().__init__(
            num_classes,
            anchors,
            strides=graph.strides(input_hw),
            scale_x_y=tuple(scale_x_y if scale is None else scale for scale in own),
            codings=tuple(layer.coding for layer in outputs.values()),
        )
        self.graph = graph
        channels = graph.input_channels()
        self.layers = nn.ModuleList(
            _module(layer, channels[index], bn_eps) for index, layer in enumerate(graph.layers)
        )
        for index, layer in outputs.items():
            if layer.coding == "new_coords":
                self.layers[index - 1].act = nn.Identity()  # raw maps are logits
        self._sources = [layer.sources(index) for index, layer in enumerate(graph.layers)]
        self._last_use = {
            source: index for index, sources in enumerate(self._sources) for source in sources
        }
        self._initialize()
        sites = graph_sites(graph)
        widths = [shape[0] for shape in graph.shapes(input_hw)]
        by_site = {name: widths[site.layer] for name, site in sites.items()}
        self._add_attention(attention or {}, by_site, attention_init)
        self._sites = {  # sites for all readers of a layer before sites for some readers
            name: sites[name]
            for name in sorted(self.attention, key=lambda name: sites[name].readers is not None)
        }

    @property
    def backbone(self) -> nn.ModuleList:
        """Layers of the backbone; see `backbone_layers`."""
        return nn.ModuleList(self.layers[index] for index in sorted(backbone_layers(self.graph)))

    def output_layers(self) -> tuple[str, ...]:
        """Return the names of the layers before the outputs."""
        return tuple(f"layers.{index - 1}" for index in self.graph.outputs)

    def _forward(self, images: Tensor, record: dict[str, Tensor] | None) -> list[Tensor]:
        maps = {-1: images}
        gated: dict[tuple[int, int], Tensor] = {}  # by layer and reader
        raw_maps = []
        for index, (layer, module) in enumerate(zip(self.graph.layers, self.layers, strict=True)):
            sources = self._sources[index]
            inputs = [gated.pop((source, index), maps[source]) for source in sources]
            if isinstance(layer, Output):
                raw_maps.append(inputs[0])
            elif index in self._last_use:
                maps[index] = module(*inputs)
                self._attend_layer(index, maps, gated, record)
            for source in sources:
                if self._last_use[source] == index:
                    maps.pop(source, None)
        return raw_maps

    def _attend_layer(
        self,
        index: int,
        maps: dict[int, Tensor],
        gated: dict[tuple[int, int], Tensor],
        record: dict[str, Tensor] | None,
    ) -> None:
        """Apply the blocks at the sites of a layer, for all layers that read it or for some."""
        for name, site in self._sites.items():
            if site.layer != index:
                continue
            if record is not None:
                record[name] = maps[index]
            made = self._attend(name, maps[index])
            if site.readers is None:
                maps[index] = made
            else:
                gated |= {(index, reader): made for reader in site.readers}


def _check_levels(
    graph: Graph,
    num_classes: int,
    anchors: Sequence[Sequence[Sequence[float]]],
    input_hw: tuple[int, int],
) -> None:
    shapes = graph.shapes(input_hw)
    outputs = graph.outputs
    if len(anchors) != len(outputs):
        raise ConfigError(
            f"anchors must be given for each of the {len(outputs)} outputs; got {len(anchors)}."
        )
    for (index, layer), level in zip(outputs.items(), anchors, strict=True):
        wanted = len(level) * (5 + num_classes)
        if shapes[index][0] != wanted:
            raise ConfigError(
                f"[{layer.kind}] with {len(level)} anchors and {num_classes} classes must follow "
                f"a layer with {wanted} channels; got {shapes[index][0]} (layer {index})."
            )
