"""Layers of a darknet network as dataclasses that compute shapes, and their graph. No torch.

The inputs of a layer are outputs of earlier layers, numbered from 0 as in the configuration file;
-1 is the image. Shapes are (channels, height, width); A anchors per level, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from attendet.config import from_mapping
from attendet.errors import ConfigError, did_you_mean

Shape = tuple[int, int, int]
Coding = Literal["yolo", "new_coords", "region"]
"""Coding of an output's boxes and scores; see `attendet.models.decode`."""

Activation = Literal["leaky", "linear", "relu", "mish", "swish", "logistic"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def _check(name: str, value: object, good: bool, rule: str) -> None:
    ConfigError.check(good, name, rule, value)


@dataclass(frozen=True)
class Layer:
    """Base class of layers: their input layers and output shape."""

    kind: ClassVar[str]
    takes_previous: ClassVar[bool] = True

    def sources(self, index: int) -> tuple[int, ...]:
        """Return the numbers of the input layers, if this layer has number ``index``."""
        return (
            (index - 1, *self.explicit_inputs()) if self.takes_previous else self.explicit_inputs()
        )

    def explicit_inputs(self) -> tuple[int, ...]:
        """Return the numbers of the input layers that the layer names itself."""
        return ()

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the output; by default, the shape of the first input.

        Raises:
            ConfigError: if the layer does not accept inputs of these shapes.
        """
        return inputs[0]

    def to_mapping(self) -> dict[str, Any]:
        """Return the layer as a mapping for JSON."""
        values = dataclasses.asdict(self)
        lists = {name: list(one) for name, one in values.items() if isinstance(one, tuple)}
        return {"kind": self.kind, **values, **lists}


@dataclass(frozen=True)
class Convolutional(Layer):
    """Convolution, optional batch normalization, and an activation."""

    kind: ClassVar[str] = "convolutional"

    filters: int = 1
    size: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    batch_normalize: bool = False
    activation: Activation = "logistic"

    def __post_init__(self) -> None:
        for name in ("filters", "size", "stride", "groups"):
            value = getattr(self, name)
            _check(name, value, value >= 1, "at least 1")
        _check("padding", self.padding, self.padding >= 0, "at least 0")
        whole = self.filters % self.groups == 0
        _check("groups", self.groups, whole, f"a divisor of the {self.filters} filters")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (filters, ...)."""
        channels, *sides = inputs[0]
        _check(
            "groups",
            self.groups,
            channels % self.groups == 0,
            f"a divisor of the {channels} channels",
        )
        height, width = ((side + 2 * self.padding - self.size) // self.stride + 1 for side in sides)
        _check(
            "size", self.size, min(height, width) >= 1, f"at most the padded map, {sides} unpadded"
        )
        return self.filters, height, width

    def parameters(self, in_channels: int) -> int:
        """Return the number of values of this layer in a darknet weights file."""
        per_filter = 4 if self.batch_normalize else 1
        return self.filters * (per_filter + in_channels // self.groups * self.size**2)


@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over windows.

    ``padding`` is the sum of both sides, the smaller half first. Padded positions are ignored: the
    maximum is over the part of the window inside the map.
    """

    kind: ClassVar[str] = "maxpool"

    size: int = 1
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "stride"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        most = 2 * (self.size - 1)
        _check("padding", self.padding, 0 <= self.padding <= most, f"from 0 to {most}")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape, with the channels of the input."""
        channels, *sides = inputs[0]
        height, width = ((side + self.padding - self.size) // self.stride + 1 for side in sides)
        _check(
            "size", self.size, min(height, width) >= 1, f"at most the padded map, {sides} unpadded"
        )
        return channels, height, width


@dataclass(frozen=True)
class AvgPool(Layer):
    """Mean of each channel over the whole map."""

    kind: ClassVar[str] = "avgpool"

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (C, 1, 1)."""
        return inputs[0][0], 1, 1


@dataclass(frozen=True)
class Route(Layer):
    """Concatenation of maps, or of one of ``groups`` equal channel groups of each map."""

    kind: ClassVar[str] = "route"
    takes_previous: ClassVar[bool] = False

    layers: tuple[int, ...] = ()
    groups: int = 1
    group_id: int = 0

    def __post_init__(self) -> None:
        _check("layers", list(self.layers), bool(self.layers), "at least one layer")
        _check("groups", self.groups, self.groups >= 1, "at least 1")
        known = 0 <= self.group_id < self.groups
        _check("group_id", self.group_id, known, f"at least 0 and below groups, {self.groups}")

    def explicit_inputs(self) -> tuple[int, ...]:
        """Return the layers that are concatenated."""
        return self.layers

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape, with the sum of the inputs' channels divided by ``groups``."""
        for channels, height, width in inputs:
            _check(
                "groups",
                self.groups,
                channels % self.groups == 0,
                f"a divisor of the {channels} channels",
            )
            same = (height, width) == inputs[0][1:]
            _check("layers", [one[1:] for one in inputs], same, "layers with maps of one size")
        return sum(one[0] // self.groups for one in inputs), *inputs[0][1:]


@dataclass(frozen=True)
class Shortcut(Layer):
    """Sum of the previous map and the maps of other layers, and an activation.

    If another map has more channels, its first ones are added; if it has fewer, it is added to the
    first channels.
    """

    kind: ClassVar[str] = "shortcut"

    layers: tuple[int, ...] = ()
    activation: Activation = "linear"

    def __post_init__(self) -> None:
        _check("from", list(self.layers), bool(self.layers), "at least one layer")

    def explicit_inputs(self) -> tuple[int, ...]:
        """Return the layers that are added."""
        return self.layers

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the previous map."""
        sides = inputs[0][1:]
        same = all(one[1:] == sides for one in inputs)
        _check("from", list(inputs[1:]), same, f"layers with maps of size {sides}")
        return inputs[0]


@dataclass(frozen=True)
class Upsample(Layer):
    """Nearest-neighbor upsampling: each value repeated ``stride`` times along both axes."""

    kind: ClassVar[str] = "upsample"

    stride: int = 2

    def __post_init__(self) -> None:
        _check("stride", self.stride, 1 <= self.stride <= 32, "from 1 to 32")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape, with height and width times the stride."""
        channels, height, width = inputs[0]
        return channels, height * self.stride, width * self.stride


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout: in training, each value is set to zero with a probability."""

    kind: ClassVar[str] = "dropout"

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check("probability", self.probability, 0 <= self.probability < 1, "from 0 to below 1")


@dataclass(frozen=True)
class ScaleChannels(Layer):
    """Map of another layer times the previous output, a (C, 1, 1) gate, and an activation."""

    kind: ClassVar[str] = "scale_channels"

    layer: int = 0
    activation: Activation = "linear"

    def explicit_inputs(self) -> tuple[int, ...]:
        """Return the layer whose map is multiplied."""
        return (self.layer,)

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return the shape of the map that is multiplied."""
        gate, features = inputs
        rule = f"a layer whose gate, the previous output, is ({features[0]}, 1, 1)"
        _check("from", gate, gate == (features[0], 1, 1), rule)
        return features


@dataclass(frozen=True)
class Reorg(Layer):
    """Space to depth: blocks of ``stride`` x ``stride`` cells to channels; ``reverse`` undoes it.

    The order of the channels is darknet's: block offset first, channel last. Without ``reverse``
    darknet first reinterprets the values as a map of shape (C / stride^2, H stride, W stride).
    """

    kind: ClassVar[str] = "reorg"

    stride: int = 1
    reverse: bool = False

    def __post_init__(self) -> None:
        _check("stride", self.stride, 1 <= self.stride <= 32, "from 1 to 32")

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Return (C stride^2, H / stride, W / stride); (C / stride^2, ...) with ``reverse``."""
        (channels, height, width), s = inputs[0], self.stride
        whole = channels % s**2 == 0
        _check("stride", s, whole, f"such that its square divides the {channels} channels")
        if self.reverse:
            return channels // s**2, height * s, width * s
        whole = height % s == width % s == 0
        _check("stride", s, whole, f"a divisor of height and width, {[height, width]}")
        return channels * s**2, height // s, width // s


@dataclass(frozen=True)
class Yolo(Layer):
    """Output of the network: the previous map is the raw map of one level.

    Classes, anchors and masks of the levels are in `attendet.models.WeightsMetadata`.
    """

    kind: ClassVar[str] = "yolo"

    scale_x_y: float | None = None
    """Stretch of the center's sigmoid in this level; None: the value of the network."""

    new_coords: bool = False
    """Whether boxes are coded as ``new_coords``; the convolution before it must be logistic."""

    @property
    def coding(self) -> Coding:
        """Coding of the boxes and scores."""
        return "new_coords" if self.new_coords else "yolo"

    def __post_init__(self) -> None:
        good = self.scale_x_y is None or 0 < self.scale_x_y <= 10
        _check("scale_x_y", self.scale_x_y, good, "above 0, at most 10")


@dataclass(frozen=True)
class Region(Layer):
    """Output of YOLOv2; see `Yolo`."""

    kind: ClassVar[str] = "region"
    scale_x_y: ClassVar[float] = 1.0
    coding: ClassVar[Coding] = "region"


Output: TypeAlias = Yolo | Region
"""Output layers, whose input is a raw map of the network."""

LAYERS: Mapping[str, type[Layer]] = {
    layer.kind: layer
    for layer in (
        Convolutional,
        MaxPool,
        AvgPool,
        Route,
        Shortcut,
        Upsample,
        Dropout,
        ScaleChannels,
        Reorg,
        Yolo,
        Region,
    )
}
"""Name of a section of the configuration file to its layer class."""


def layer_from_mapping(values: Mapping[str, Any], *, source: str) -> Layer:
    """Return the layer of a mapping that `Layer.to_mapping` returned.

    Args:
        values: ``kind`` and the fields.
        source: origin of the values, for errors.

    Raises:
        ConfigError: if the kind or a field is unknown, or a value is invalid.

    Example:
        >>> layer_from_mapping({"kind": "upsample", "stride": 2}, source="here")
        Upsample(stride=2)
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in LAYERS:
        raise ConfigError(
            f"kind of a layer must be a known name; got {kind!r} ({source}). "
            f"{did_you_mean(str(kind), LAYERS)}"
        )
    return from_mapping(LAYERS[kind], fields, source=source)


ARCHITECTURE = "darknet-graph"
"""Name of the architecture in a weights file that holds a `Graph`."""

LARGEST_STRIDE = 32
"""Input sides are multiples of this, pixels."""

LayerNamer = Callable[[int], str]


def _layer_number(index: int) -> str:
    return f"layer {index}"


@dataclass(frozen=True)
class Graph:
    """Layers of a network, in order."""

    layers: tuple[Layer, ...]

    @classmethod
    def from_mappings(cls, mappings: Sequence[Mapping[str, Any]]) -> Graph:
        """Return the graph of mappings that `to_mappings` returned.

        Raises:
            ConfigError: if a layer is wrong; names the layer.
        """
        return cls(
            tuple(
                layer_from_mapping(values, source=f"graph, layer {index}")
                for index, values in enumerate(mappings)
            )
        )

    def to_mappings(self) -> tuple[dict[str, Any], ...]:
        """Return the layers as mappings for JSON."""
        return tuple(layer.to_mapping() for layer in self.layers)

    @property
    def outputs(self) -> dict[int, Output]:
        """Output layers by their number."""
        return {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Output)}

    def shapes(
        self, input_hw: tuple[int, int], *, where: LayerNamer = _layer_number
    ) -> list[Shape]:
        """Return the shape of every layer's output.

        Args:
            input_hw: height and width of the image, pixels.
            where: returns the name of a layer for its number, for errors.

        Raises:
            ConfigError: if a layer does not fit its inputs, or there is no output; names the layer.
        """
        shapes: list[Shape] = []
        for index, layer in enumerate(self.layers):
            for source in layer.explicit_inputs():
                if not 0 <= source < index:
                    raise ConfigError(
                        f"[{layer.kind}] must read layers before it, 0 to {index - 1}; "
                        f"got {source} ({where(index)})."
                    )
            sources = layer.sources(index)
            for source in sources:
                if source >= 0 and isinstance(before := self.layers[source], Output):
                    raise ConfigError(
                        f"[{layer.kind}] must not read the output of [{before.kind}], layer "
                        f"{source} ({where(index)}). Add a [route] to another layer before it."
                    )
            if isinstance(layer, Yolo) and layer.new_coords:
                self._check_logistic(index - 1, where(index))
            inputs = [shapes[source] if source >= 0 else (3, *input_hw) for source in sources]
            try:
                shapes.append(layer.shape(inputs))
            except ConfigError as error:
                reason = str(error).rstrip(".")
                raise ConfigError(f"[{layer.kind}] {reason} ({where(index)}).") from None
        if not self.outputs:
            raise ConfigError("network must have an output, [yolo] or [region]; got none.")
        return shapes

    def _check_logistic(self, index: int, where: str) -> None:
        """Raise unless a layer is a logistic convolution that only the next layer reads."""
        head = self.layers[index] if index >= 0 else None
        got = getattr(head, "activation", "another layer")
        readers = [
            number for number, layer in enumerate(self.layers) if index in layer.sources(number)
        ]
        if not isinstance(head, Convolutional) or got != "logistic" or len(readers) > 1:
            raise ConfigError(
                f"[yolo] new_coords=1 must follow a [convolutional] layer with activation=logistic "
                f"that no other layer reads; got {got}, read by {len(readers)} ({where})."
            )

    def strides(
        self, input_hw: tuple[int, int], *, where: LayerNamer = _layer_number
    ) -> tuple[int, ...]:
        """Return the pixels per cell of each output, in the order of the layers.

        Raises:
            ConfigError: if the layers do not fit each other, or the cells of an output are not
                squares of 1 to 32 pixels (a power of two) for every size of the network input.
        """
        found: list[tuple[int, ...]] = []
        for height, width in (input_hw, (input_hw[0] + LARGEST_STRIDE, input_hw[1])):
            shapes = self.shapes((height, width), where=where)
            strides = []
            for index, layer in self.outputs.items():
                _, rows, columns = shapes[index]
                stride = height // rows
                if (rows * stride, columns * stride) != (height, width) or LARGEST_STRIDE % stride:
                    raise ConfigError(
                        f"[{layer.kind}] must have cells of 1, 2, 4, 8, 16 or {LARGEST_STRIDE} "
                        f"pixels; got {columns} x {rows} cells for {width} x {height} pixels "
                        f"({where(index)})."
                    )
                strides.append(stride)
            found.append(tuple(strides))
        if found[0] != found[1]:
            raise ConfigError(
                f"outputs must have the same cell size for every input size; got {found[0]} and "
                f"{found[1]} pixels."
            )
        return found[0]

    def parameters(self) -> tuple[int, ...]:
        """Return the number of values of each layer in a darknet weights file."""
        channels = self.input_channels()
        return tuple(
            layer.parameters(channels[index]) if isinstance(layer, Convolutional) else 0
            for index, layer in enumerate(self.layers)
        )

    def input_channels(self) -> tuple[int, ...]:
        """Return the channels of the first input of each layer."""
        side = 32 * LARGEST_STRIDE
        shapes = self.shapes((side, side))
        first = (layer.sources(index)[0] for index, layer in enumerate(self.layers))
        return tuple(shapes[source][0] if source >= 0 else 3 for source in first)

    def with_classes(self, num_classes: int, anchor_counts: Sequence[int]) -> Graph:
        """Return the graph with the convolutions before its outputs changed to K classes.

        Args:
            num_classes: K.
            anchor_counts: A of each output.

        Raises:
            ConfigError: if the layer before an output is not a convolution.
        """
        layers = list(self.layers)
        for index, anchors in zip(self.outputs, anchor_counts, strict=True):
            head = layers[index - 1]
            if not isinstance(head, Convolutional):
                raise ConfigError(
                    f"[{layers[index].kind}] must follow a [convolutional] layer to change the "
                    f"number of classes; got [{head.kind}] (layer {index - 1})."
                )
            filters = anchors * (5 + num_classes)
            layers[index - 1] = dataclasses.replace(head, filters=filters)
        return Graph(tuple(layers))
