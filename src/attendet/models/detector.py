"""Base class of detection networks: raw maps and their decoding.

N is the batch size, A the number of anchors of a level, B of boxes of all levels, K of classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from attendet.attention import AttentionBlock, AttentionInit, create_attention
from attendet.errors import ConfigError
from attendet.models.backbone import LEAKY_SLOPE
from attendet.models.decode import decode_maps
from attendet.models.graph import Coding

OBJECT_PRIOR = 0.01
"""Prior probability of an object, to which the objectness biases are initialized (Lin et al. 2017,
Focal Loss, arXiv:1708.02002, section 4.1)."""


class DetectionNetwork(nn.Module, ABC):
    """Base class of detectors whose `forward` returns one raw map per level.

    Args:
        num_classes: K.
        anchors: widths and heights of the anchors of each level, pixels.
        strides: pixels per cell of each level.
        scale_x_y: stretch of the center's sigmoid, one for all levels or one per level.
        codings: coding of boxes and scores, one for all levels or one per level.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        *,
        strides: tuple[int, ...],
        scale_x_y: float | tuple[float, ...],
        codings: Coding | tuple[Coding, ...] = "yolo",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = strides
        self.scale_x_y = scale_x_y
        self.codings = codings
        for level, level_anchors in enumerate(anchors):
            tensor = torch.tensor(level_anchors, dtype=torch.float32)
            self.register_buffer(f"anchors{level}", tensor, persistent=False)

    def _initialize(self) -> None:
        """Initialize the convolutions, and the objectness biases to the prior of an object."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, a=LEAKY_SLOPE, mode="fan_out", nonlinearity="leaky_relu"
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name in self.output_layers():
            layer = self.get_submodule(name)
            head = getattr(layer, "conv", layer)
            if isinstance(head, nn.Conv2d) and head.bias is not None:
                nn.init.normal_(head.weight, std=0.01)
                prior = -math.log((1 - OBJECT_PRIOR) / OBJECT_PRIOR)
                head.bias.data.view(-1, 5 + self.num_classes)[:, 4] = prior

    attention: nn.ModuleDict
    """The block of each site that has one."""

    def _add_attention(
        self,
        spec: Mapping[str, str],
        channels: Mapping[str, int],
        init: AttentionInit | Mapping[str, AttentionInit],
    ) -> None:
        """Create a block at each site of a spec; call this last in the initialization.

        Args:
            spec: site to name of a block, in the order of the initialization.
            channels: C of the map at each site.
            init: init of all blocks, or of each site.
        """
        if not isinstance(init, str) and set(init) != set(spec):
            raise ConfigError(
                f"attention_init must have one init for each site with attention "
                f"({', '.join(spec) or 'none'}); got {dict(init)!r}."
            )
        self.attention = nn.ModuleDict(
            {
                site: create_attention(
                    name, channels[site], init=init if isinstance(init, str) else init[site]
                )
                for site, name in spec.items()
            }
        )

    def _attend(self, site: str, features: Tensor) -> Tensor:
        """Return the map of a site, (N, C, H, W), after the site's block if it has one."""
        if site in self.attention:
            attended: Tensor = self.attention[site](features)
            return attended
        return features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the network; its anchors are moved but stay float32."""
        exact = self.level_anchors
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for level, anchors in enumerate(exact):
            moved = getattr(self, f"anchors{level}")
            if moved.dtype != anchors.dtype:
                setattr(self, f"anchors{level}", anchors.to(moved.device))
        return self

    @property
    def level_anchors(self) -> list[Tensor]:
        """Widths and heights in pixels of each level's anchors, (A, 2) each."""
        return [getattr(self, f"anchors{level}") for level in range(len(self.strides))]

    def attention_blocks(self) -> dict[str, AttentionBlock]:
        """Return the attention block of each site that has one, in the order of the sites."""
        return {
            site: block
            for site, block in self.attention.items()
            if isinstance(block, AttentionBlock)
        }

    @property
    def attention_init(self) -> AttentionInit | dict[str, AttentionInit]:
        """Init of the attention blocks: one for all, or by site if they differ."""
        return common_init(
            {site: cast(AttentionInit, b.init) for site, b in self.attention_blocks().items()}
        )

    @abstractmethod
    def output_layers(self) -> tuple[str, ...]:
        """Return the names of the convolutions that return the raw maps, in that order."""

    @abstractmethod
    def _forward(self, images: Tensor, record: dict[str, Tensor] | None) -> list[Tensor]:
        """Return the raw maps; store the map before each site's attention in ``record``."""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the map at each site, before the site's attention.

        Args:
            images: shape (N, 3, H, W), 0 to 1; H and W multiples of 32.

        Returns:
            Site to map (N, C, H, W), in the order of computation. The reference network returns
            all sites, with and without attention; a `GraphDetector` the sites with attention.
        """
        maps: dict[str, Tensor] = {}
        self._forward(images, maps)
        return maps

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the raw maps, one (N, A (5 + K), H / stride, W / stride) per level.

        Args:
            images: shape (N, 3, H, W), 0 to 1; H and W multiples of 32.

        Returns:
            In the order of `output_layers`: stride 32 first in the reference network.
        """
        return self._forward(images, None)

    def decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return boxes and scores of raw maps, always in float32.

        Args:
            raw_maps: output of `forward`.

        Returns:
            Boxes (N, B, 4), left, top, right, bottom in network input pixels, and scores (N, B,
            K), 0 to 1; see `attendet.models.decode_maps`.
        """
        return decode_maps(raw_maps, self.level_anchors, self.strides, self.scale_x_y, self.codings)


def common_init(
    inits: Mapping[str, AttentionInit],
) -> AttentionInit | dict[str, AttentionInit]:
    """Return the init that all sites have in common, or the init by site if they differ.

    Example:
        >>> common_init({"p4": "paper", "up": "paper"})
        'paper'
        >>> common_init({"p4": "paper", "up": "identity"})
        {'p4': 'paper', 'up': 'identity'}
    """
    distinct = set(inits.values())
    if len(distinct) > 1:
        return dict(inits)
    return distinct.pop() if distinct else "paper"
