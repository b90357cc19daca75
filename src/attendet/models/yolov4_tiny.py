"""YOLOv4-tiny with attention at named sites: the reference network.

N, C, H, W are batch, channels, height and width; A anchors per level, K classes, B boxes in total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from attendet.attention import AttentionInit
from attendet.errors import ConfigError, did_you_mean
from attendet.models.backbone import ConvBlock, CSPDarknetTiny
from attendet.models.detector import DetectionNetwork

SITES = ("stage1", "stage2", "stage3", "p4", "p5", "up")
"""Sites of attention. stage1..3: after each CSP block, inside the backbone. p4, p5: on the
backbone's two outputs, where the neck reads them. up: after the neck's upsample."""

NECK_SITES = ("p4", "p5", "up")
"""Default sites, all in the neck: the features inside the backbone are not changed."""

STRIDES = (32, 16)
"""Pixels per cell of the two levels."""

SMALL_OBJECT_SITES = ("p3", "up2")
"""Additional sites of a network with three levels, both in its neck: the backbone's output of
stride 8, and the map after the second upsample."""

SMALL_OBJECT_STRIDE = 8
"""Pixels per cell of the third level."""


def neck_sites(levels: int) -> tuple[str, ...]:
    """Return the default sites of a network with two or three levels.

    Example:
        >>> neck_sites(2), neck_sites(3)
        (('p4', 'p5', 'up'), ('p4', 'p5', 'up', 'p3', 'up2'))
    """
    return NECK_SITES + (SMALL_OBJECT_SITES if levels == 3 else ())


def reference_sites(levels: int) -> tuple[str, ...]:
    """Return all sites of a network with two or three levels; the sites of two come first."""
    return SITES + (SMALL_OBJECT_SITES if levels == 3 else ())


class YoloV4Tiny(DetectionNetwork):
    """YOLOv4-tiny (Bochkovskiy et al. 2020, arXiv:2004.10934; layer table of darknet's cfg).

    With K = 80 and no attention it has 6,056,606 parameters. With a third level of anchors it is
    darknet's yolov4-tiny-3l: a level of stride 8 for small objects, 6,327,453 parameters.

    Args:
        num_classes: K.
        anchors: widths and heights of the anchors of each level, stride 32 first, pixels.
        attention: site to name of a block; see `SITES`.
        attention_init: ``paper`` or ``identity``, for all sites or for each that has a block; see
            `create_attention`.
        scale_x_y: stretch of the center's sigmoid.
        width_mult: multiplier of all channels.
        bn_eps: epsilon of batch normalization.

    Raises:
        ConfigError: if there are not two or three levels of anchors, or attention names an unknown
            site or block.

    Example:
        >>> network = YoloV4Tiny(80, [[(81, 82)] * 3, [(23, 27)] * 3], {"p5": "ca"})
        >>> [tuple(raw_map.shape) for raw_map in network(torch.zeros(1, 3, 64, 96))]
        [(1, 255, 2, 3), (1, 255, 4, 6)]
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[Sequence[float]]],
        attention: Mapping[str, str] | None = None,
        *,
        attention_init: AttentionInit | Mapping[str, AttentionInit] = "paper",
        scale_x_y: float = 1.05,
        width_mult: float = 1.0,
        bn_eps: float = 1e-5,
    ) -> None:
        spec = dict(attention or {})
        _check_layout(anchors, spec)
        strides = (*STRIDES, SMALL_OBJECT_STRIDE)[: len(anchors)]
        super().__init__(num_classes, anchors, strides=strides, scale_x_y=scale_x_y)
        self.backbone = CSPDarknetTiny(width_mult=width_mult, bn_eps=bn_eps)
        channels = self.backbone.site_channels
        p4, p5, up = channels["p4"], channels["p5"], channels["up"]
        terms = 5 + num_classes
        self.conv_p5 = ConvBlock(p5, p5 // 2, 1, bn_eps=bn_eps)
        self.head_p5 = ConvBlock(p5 // 2, p5, 3, bn_eps=bn_eps)
        self.out_p5 = nn.Conv2d(p5, terms * len(anchors[0]), 1)
        self.conv_up = ConvBlock(p5 // 2, up, 1, bn_eps=bn_eps)
        self.head_p4 = ConvBlock(up + p4, p4, 3, bn_eps=bn_eps)
        self.out_p4 = nn.Conv2d(p4, terms * len(anchors[1]), 1)
        if len(strides) == 3:
            p3, up2 = channels["p3"], channels["up2"]
            self.conv_up2 = ConvBlock(p4, up2, 1, bn_eps=bn_eps)
            self.head_p3 = ConvBlock(up2 + p3, p3, 3, bn_eps=bn_eps)
            self.out_p3 = nn.Conv2d(p3, terms * len(anchors[2]), 1)
        self._initialize()
        in_order = {site: spec[site] for site in reference_sites(len(strides)) if site in spec}
        self._add_attention(in_order, channels, attention_init)

    def output_layers(self) -> tuple[str, ...]:
        """Return the names of the convolutions that return the raw maps, stride 32 first."""
        return ("out_p5", "out_p4", "out_p3")[: len(self.strides)]

    def _forward(self, images: Tensor, record: dict[str, Tensor] | None) -> list[Tensor]:
        def site(name: str, features: Tensor) -> Tensor:
            if record is not None:
                record[name] = features
            return self._attend(name, features)

        backbone = self.backbone
        stage1, _ = backbone.csp1(backbone.conv2(backbone.conv1(images)))
        stage2, p3 = backbone.csp2(site("stage1", stage1))
        stage3, merged = backbone.csp3(site("stage2", stage2))
        p5 = site("p5", backbone.conv3(site("stage3", stage3)))
        p4 = site("p4", merged)
        squeezed = self.conv_p5(p5)
        up = functional.interpolate(self.conv_up(squeezed), scale_factor=2.0, mode="nearest")
        fused = torch.cat([site("up", up), p4], dim=1)
        merged_p4 = self.head_p4(fused)
        raw_maps = [self.out_p5(self.head_p5(squeezed)), self.out_p4(merged_p4)]
        if len(self.strides) == 3:
            up2 = functional.interpolate(self.conv_up2(merged_p4), scale_factor=2.0, mode="nearest")
            fused = torch.cat([site("up2", up2), site("p3", p3)], dim=1)
            raw_maps.append(self.out_p3(self.head_p3(fused)))
        return raw_maps


def _check_layout(
    anchors: Sequence[Sequence[Sequence[float]]], attention: Mapping[str, str]
) -> None:
    if len(anchors) not in (2, 3):
        raise ConfigError(
            f"anchors must be given for 2 or 3 levels, stride 32 first; got {len(anchors)}."
        )
    known = reference_sites(len(anchors))
    for site in attention:
        if site not in known:
            raise ConfigError(
                f"attention must be at a site of the network; got {site!r}. "
                f"{did_you_mean(site, known)}"
            )
