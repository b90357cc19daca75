"""A darknet network as a list of layers that are checked against each other. Needs no torch.

Shapes are channels, height, width; A the anchors of a level, K the classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attendet.errors import ConfigError
from attendet.models.graph_layers import Convolutional, Layer, Shape, Yolo, layer_from_mapping

__all__ = ["ARCHITECTURE", "Graph"]

ARCHITECTURE = "darknet-graph"
"""Name of the architecture in a weights file that holds a `Graph`."""

LARGEST_STRIDE = 32
"""Canvases are multiples of this many pixels."""

Where = Callable[[int], str]


def _layer_number(index: int) -> str:
    return f"layer {index}"


@dataclass(frozen=True)
class Graph:
    """The layers, in order."""

    layers: tuple[Layer, ...]

    @classmethod
    def from_mappings(cls, mappings: Sequence[Mapping[str, Any]]) -> Graph:
        """Return the graph that `to_mappings` wrote.

        Raises:
            ConfigError: naming the layer that is wrong.
        """
        return cls(
            tuple(
                layer_from_mapping(values, source=f"graph, layer {index}")
                for index, values in enumerate(mappings)
            )
        )

    def to_mappings(self) -> tuple[dict[str, Any], ...]:
        """Return the layers as JSON takes them."""
        return tuple(layer.to_mapping() for layer in self.layers)

    @property
    def yolo_layers(self) -> tuple[int, ...]:
        """Numbers of the output layers."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, Yolo))

    def sites(self) -> tuple[str, ...]:
        """Return where attention may stand: behind the layers, ``layer0`` and so on.

        The raw maps themselves, before the [yolo] layers, are no such place.
        """
        outputs = self.yolo_layers
        raw = {source for index in outputs for source in self.layers[index].sources(index)}
        return tuple(
            f"layer{index}"
            for index in range(len(self.layers))
            if index not in raw and index not in outputs
        )

    def shapes(
        self, input_hw: tuple[int, int], *, channels: int = 3, where: Where = _layer_number
    ) -> list[Shape]:
        """Return the shape of every layer's output.

        Args:
            input_hw: height and width of the image, pixels.
            channels: of the image.
            where: names a layer by its number, for errors.

        Raises:
            ConfigError: naming the first layer that does not fit those before it.
        """
        shapes: list[Shape] = []
        for index, layer in enumerate(self.layers):
            for source in layer.others():
                if not 0 <= source < index:
                    raise ConfigError(
                        f"[{layer.kind}] must take layers before it, 0 to {index - 1}; "
                        f"got {source} ({where(index)})."
                    )
            sources = layer.sources(index)
            for source in sources:
                if source >= 0 and isinstance(self.layers[source], Yolo):
                    raise ConfigError(
                        f"[{layer.kind}] must not take the output of [yolo], layer {source} "
                        f"({where(index)}). Begin what follows it with a [route]."
                    )
            inputs = [
                shapes[source] if source >= 0 else (channels, *input_hw) for source in sources
            ]
            try:
                shapes.append(layer.shape(inputs))
            except ConfigError as error:
                reason = str(error).rstrip(".")
                raise ConfigError(f"[{layer.kind}] {reason} ({where(index)}).") from None
        if not self.yolo_layers:
            raise ConfigError("network must have a [yolo] layer, the detector's output; got none.")
        return shapes

    def strides(
        self, input_hw: tuple[int, int], *, where: Where = _layer_number
    ) -> tuple[int, ...]:
        """Return the pixels per cell of each output, in the order of the layers.

        Raises:
            ConfigError: if the layers do not fit, or an output's cells are not squares of 1 to 32
                pixels (a power of two) on every network input.
        """
        found: list[tuple[int, ...]] = []
        for height, width in (input_hw, (input_hw[0] + LARGEST_STRIDE, input_hw[1])):
            shapes = self.shapes((height, width), where=where)
            strides = []
            for index in self.yolo_layers:
                _, rows, columns = shapes[index]
                stride = height // rows
                if (rows * stride, columns * stride) != (height, width) or LARGEST_STRIDE % stride:
                    raise ConfigError(
                        f"[yolo] must have cells of 1, 2, 4, 8, 16 or {LARGEST_STRIDE} pixels; got "
                        f"{columns} x {rows} cells for {width} x {height} pixels ({where(index)})."
                    )
                strides.append(stride)
            found.append(tuple(strides))
        if found[0] != found[1]:
            raise ConfigError(
                f"[yolo] must have cells of one size on every network input; got {found[0]} and "
                f"{found[1]} pixels."
            )
        return found[0]

    def parameters(self) -> tuple[int, ...]:
        """Return how many values a weights file holds for each layer."""
        channels = self.input_channels()
        return tuple(
            layer.parameters(channels[index]) if isinstance(layer, Convolutional) else 0
            for index, layer in enumerate(self.layers)
        )

    def input_channels(self) -> tuple[int, ...]:
        """Return the channels of the first map that each layer takes."""
        side = 32 * LARGEST_STRIDE
        shapes = self.shapes((side, side))
        first = (layer.sources(index)[0] for index, layer in enumerate(self.layers))
        return tuple(shapes[source][0] if source >= 0 else 3 for source in first)

    def with_classes(self, num_classes: int, anchor_counts: Sequence[int]) -> Graph:
        """Return the graph with the convolutions before its outputs made for K classes.

        Args:
            num_classes: K.
            anchor_counts: A of each output.

        Raises:
            ConfigError: if something else than a convolution stands before an output.
        """
        layers = list(self.layers)
        for index, anchors in zip(self.yolo_layers, anchor_counts, strict=True):
            head = layers[index - 1]
            if not isinstance(head, Convolutional):
                raise ConfigError(
                    f"[yolo] must follow a [convolutional] layer for other classes; got "
                    f"[{head.kind}] (layer {index - 1})."
                )
            filters = anchors * (5 + num_classes)
            layers[index - 1] = dataclasses.replace(head, filters=filters)
        return Graph(tuple(layers))
