"""Named attention sites of a darknet network, found from its graph.

The names are those of the reference network: ``stage1`` and so on in the backbone, ``p3``, ``p4``,
``p5`` on the backbone's maps that the neck reads, ``up`` after the upsample. Every layer is also a
site by its number, such as ``layer14``, counted from 0 as in the configuration file.

The backbone consists of the layer that returns its last map and the ancestors of that layer; all
other layers are the neck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from attendet.models.graph import (
    LARGEST_STRIDE,
    Graph,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
)


@dataclass(frozen=True)
class Site:
    """Point in a graph where a block can be inserted."""

    layer: int
    """The block gates the output of this layer."""

    readers: frozenset[int] | None = None
    """Layers that read the gated map instead of the map; None: all that read it."""


def graph_sites(graph: Graph) -> dict[str, Site]:
    """Return the sites of a graph: named sites first, then ``layer0`` and so on.

    Both are in the order of the layers. The raw maps before the outputs are not sites.

    Example:
        >>> from attendet.models.graph import Convolutional, Yolo
        >>> layers = (Convolutional(8, 3, 4, 1), Convolutional(6, 3, 1, 1), Yolo())
        >>> graph_sites(Graph(layers))
        {'stage1': Site(layer=0, readers=None), 'layer0': Site(layer=0, readers=None)}
    """
    raw = {source for index in graph.outputs for source in graph.layers[index].sources(index)}
    layers = {
        f"layer{index}": Site(index)
        for index in range(len(graph.layers))
        if index not in raw and index not in graph.outputs
    }
    named = {
        name: site
        for name, site in _Paths(graph).named_sites().items()
        if f"layer{site.layer}" in layers
    }
    return dict(sorted(named.items(), key=lambda item: item[1].layer)) | layers


def default_sites(sites: Mapping[str, Site]) -> tuple[str, ...]:
    """Return the default sites: those of the neck, such as ``p4``, ``p5`` and ``up``."""
    return tuple(name for name in sites if name.startswith(("p", "up")))


def backbone_layers(graph: Graph) -> frozenset[int]:
    """Return the last layer of the backbone and its ancestors; empty without an upsample."""
    return _Paths(graph).backbone


def describe_sites(graph: Graph) -> dict[str, dict[str, int]]:
    """Return layer, channels and stride (pixels per cell) of the named sites of a graph."""
    side = 32 * LARGEST_STRIDE
    shapes = graph.shapes((side, side))
    return {
        name: {
            "layer": site.layer,
            "channels": shapes[site.layer][0],
            "stride": side // shapes[site.layer][1],
        }
        for name, site in graph_sites(graph).items()
        if not name.startswith("layer")
    }


def dominators(graph: Graph) -> list[frozenset[int]]:
    """Return the dominators of each layer: layers on every path from the image, and itself."""
    found: list[frozenset[int]] = []
    for index, layer in enumerate(graph.layers):
        sources = layer.sources(index)
        above = [found[source] if source >= 0 else frozenset[int]() for source in sources]
        common = frozenset.intersection(*above) if above else frozenset[int]()
        found.append(common | {index})
    return found


class _Paths:
    """Ancestors, dominators and strides of the layers of a graph; layer -1 is the image."""

    def __init__(self, graph: Graph) -> None:
        self.layers = graph.layers
        self.outputs = tuple(graph.outputs)
        self.dominators = dominators(graph)
        self.sources = [layer.sources(index) for index, layer in enumerate(graph.layers)]
        side = 32 * LARGEST_STRIDE
        self.strides = [side // height for _, height, _ in graph.shapes((side, side))]
        self.readers: dict[int, set[int]] = {}
        for index, sources in enumerate(self.sources):
            for source in sources:
                self.readers.setdefault(source, set()).add(index)

    @cached_property
    def ancestors(self) -> list[frozenset[int]]:
        """Layers that each layer depends on, including itself."""
        found: list[frozenset[int]] = []
        for index, sources in enumerate(self.sources):
            inherited = (found[source] for source in sources if source >= 0)
            found.append(frozenset({index}).union(*inherited))
        return found

    @cached_property
    def upsamples(self) -> list[int]:
        return [i for i, layer in enumerate(self.layers) if isinstance(layer, Upsample)]

    @cached_property
    def backbone(self) -> frozenset[int]:
        last = self._last_of_backbone(self.upsamples[0]) if self.upsamples else -1
        return self.ancestors[last] if last >= 0 else frozenset()

    def named_sites(self) -> dict[str, Site]:
        if not self.backbone:
            end = self.sources[self.outputs[0] - 1][0]
            return self._stages(end) if end >= 0 and not self.upsamples else {}
        sites = self._stages(max(self.backbone))
        for number, upsample in enumerate(self.upsamples, start=1):
            sites[f"up{number}" if number > 1 else "up"] = Site(upsample)
            for lateral in self._laterals(upsample):
                shared = self.ancestors[lateral] & self.backbone
                if shared:
                    self._add_level(sites, max(shared))
        self._add_level(sites, max(self.backbone))
        return sites

    def _stages(self, last: int) -> dict[str, Site]:
        """Return the last block of each backbone stage from stride 4 on.

        The last map of the backbone is a stage only in a network with one output.
        """
        on_path = self.dominators[last]
        sites = {}
        for stride in sorted({self.strides[index] for index in on_path} - {1, 2}):
            end = self._end_of_block([i for i in on_path if self.strides[i] == stride])
            if end != last or len(self.outputs) == 1:
                sites[f"stage{int(math.log2(stride)) - 1}"] = Site(end)
        return sites

    def _add_level(self, sites: dict[str, Site], layer: int) -> None:
        level = f"p{int(math.log2(self.strides[layer]))}"
        sites.setdefault(level, Site(layer, frozenset(self.readers[layer] - self.backbone)))

    def _end_of_block(self, path: Sequence[int]) -> int:
        """Return the last layer of a path that ends a residual or cross-stage block, else the last.

        In MobileNetV2 a block ends before the convolution that expands the channels for the next
        strided convolution.
        """
        return max((index for index in path if self._joins(index)), default=max(path))

    def _joins(self, index: int) -> bool:
        layer = self.layers[index]
        several = isinstance(layer, Route) and len(set(self.sources[index])) > 1
        return isinstance(layer, Shortcut) or (several and not self._pools(index))

    def _pools(self, index: int) -> bool:
        """Return whether a concatenation is spatial pyramid pooling of one map (He 2015, SPP)."""
        return len({self._before_pooling(source) for source in self.sources[index]}) == 1

    def _before_pooling(self, index: int) -> int:
        while index >= 0 and len(self.sources[index]) == 1:
            layer = self.layers[index]
            keeps_size = isinstance(layer, MaxPool) and layer.stride == 1
            if not keeps_size and not isinstance(layer, Route):
                break
            index = self.sources[index][0]
        return index

    def _last_of_backbone(self, upsample: int) -> int:
        """Return the last layer of the backbone, searched from the first upsample to the image.

        The search begins at the layer whose output is read both by the path to the upsample and by
        other layers.
        """
        path = self.ancestors[upsample]
        index = self.sources[upsample][0]
        while index >= 0 and len(self.sources[index]) == 1 and self.readers[index] <= path:
            index = self.sources[index][0]
        if index < 0:
            return index
        deepest = self.strides[index]
        above = [i for i in self.dominators[index] - {index} if self.strides[i] == deepest]
        if not above:
            return index
        joins = [i for i in above if self._joins(i)]
        return max(joins) if joins else self._before_pooling(max(above))

    def _laterals(self, upsample: int) -> list[int]:
        """Return the other inputs of the layer that merges an upsampled map."""
        path = {upsample}
        for index in range(upsample + 1, len(self.layers)):
            sources = self.sources[index]
            if not path & set(sources):
                continue
            if len(sources) > 1:
                return [source for source in sources if source not in path and source >= 0]
            path.add(index)
        return []
