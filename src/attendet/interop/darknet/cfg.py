"""Darknet configuration files, read. Needs no torch.

Only what the forward pass depends on is kept; options of training are passed over. What would
change the network and is not computed here is an error that names section and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attendet.errors import ConfigError, did_you_mean
from attendet.interop.darknet.sections import Section, SectionError, parse_sections, read_text
from attendet.models.graph import Graph
from attendet.models.graph_layers import (
    ACTIVATIONS,
    AvgPool,
    Convolutional,
    Dropout,
    Layer,
    MaxPool,
    Route,
    ScaleChannels,
    Shortcut,
    Upsample,
    Yolo,
)

__all__ = ["DarknetConfig", "parse_config", "read_config"]

Anchors = tuple[tuple[float, float], ...]

HARMLESS: Mapping[str, frozenset[str]] = {
    kind: frozenset(words.split())
    for kind, words in {
        "net": """
            adam angle aspect attention augment_speed b1 b2 badlabels_rejection_percentage batch
            blur burn_in contrastive crop cutmix decay dynamic_minibatch ema_alpha eps
            equidistant_point
            exposure flip gamma gaussian_noise hue label_smooth_eps learning_rate letter_box
            loss_scale max_batches max_chart_loss max_crop min_crop mixup momentum mosaic
            mosaic_bound num_sigmas_reject_badlabels optimized_memory policy power rate resize
            saturation scale scales sequential_subdivisions show_receptive_field step steps
            subdivisions time_steps track try_fix_nan unsupervised weights_reject_freq
            workspace_size_limit_mb
        """,
        "convolutional": """
            burnin_update dont_update dontloadscales grad_centr learning_rate learning_rate_scale
            wait_stream
        """,
        "yolo": """
            beta_nms class_weights cls_normalizer counters_per_class delta_normalizer focal_loss
            ignore_thresh iou_loss iou_normalizer iou_thresh iou_thresh_kind jitter
            label_smooth_eps map max max_delta nms_kind num obj_normalizer objectness_smooth random
            resize show_details gt_thresh uc_normalizer
        """,
    }.items()
}
"""Options that the forward pass does not depend on, by section."""

NOT_COMPUTED = (
    *("antialiasing", "assisted_excitation", "bin_output", "binary", "deform", "dot", "flipped"),
    *("rotate", "stretch", "stretch_sway", "sway", "transpose", "xnor"),
)
"""Options of [convolutional] that change the forward pass when they are not 0."""

NOT_SHARED = "-1000000000"
"""What darknet takes for a layer with weights of its own; 0 would be those of the first layer."""

COMMON_HARMLESS = frozenset({"dontload", "onlyforward", "smooth", "stopbackward", "train_only_bn"})


@dataclass(frozen=True)
class DarknetConfig:
    """What a configuration file says about a network."""

    graph: Graph
    """The layers."""

    input_hw: tuple[int, int]
    """Height and width of the input, pixels."""

    num_classes: int
    """K."""

    anchors: Anchors
    """Widths and heights of all anchors, pixels."""

    anchor_masks: tuple[tuple[int, ...], ...]
    """Numbers of the anchors of each level, in the order of the [yolo] layers."""

    scale_x_y: float
    """Stretch of the center's sigmoid, where a level does not state its own."""

    letter_box: bool | None = None
    """Whether prediction keeps the aspect; None if the file does not say."""

    lines: tuple[int, ...] = ()
    """Line of each layer's section."""

    unread: tuple[str, ...] = ()
    """Options that are unknown here, with their lines."""


@dataclass(frozen=True)
class _Level:
    """What one [yolo] section says."""

    section: Section
    num_classes: int
    anchors: Anchors
    mask: tuple[int, ...]
    scale_x_y: float


def read_config(path: str | Path) -> DarknetConfig:
    """Return the network that a configuration file describes.

    Raises:
        ConfigError: naming file, line and section of what is wrong or not computed here.
    """
    return parse_config(read_text(path), source=str(path))


def parse_config(text: str, *, source: str) -> DarknetConfig:
    """Return the network that a configuration describes.

    Args:
        text: the whole configuration.
        source: name of the file, for errors.

    Raises:
        ConfigError: naming file, line and section of what is wrong or not computed here.
    """
    sections = parse_sections(text, source=source)
    if not sections or sections[0].kind not in ("net", "network"):
        got = f"[{sections[0].kind}] ({sections[0].where()})" if sections else f"none ({source})"
        raise ConfigError(f"configuration must begin with section [net]; got {got}.")
    net, *rest = sections
    input_hw, letter_box = _read_net(net)
    layers, levels = _read_layers(rest)
    graph = Graph(layers)

    def where(index: int) -> str:
        return rest[index].where()

    shapes = graph.shapes(input_hw, where=where)
    graph.strides(input_hw, where=where)
    _check_heads([shapes[index][0] for index in graph.yolo_layers], levels)
    anchors, masks = _join_anchors(levels)
    scale = levels[0].scale_x_y
    if any(level.scale_x_y != scale for level in levels):
        graph = _with_scales(graph, [level.scale_x_y for level in levels])
    return DarknetConfig(
        graph=graph,
        input_hw=input_hw,
        num_classes=levels[0].num_classes,
        anchors=anchors,
        anchor_masks=masks,
        scale_x_y=scale,
        letter_box=letter_box,
        lines=tuple(section.line for section in rest),
        unread=tuple(
            text
            for section in sections
            for text in section.left_over(COMMON_HARMLESS | HARMLESS.get(section.kind, frozenset()))
        ),
    )


def _read_net(net: Section) -> tuple[tuple[int, int], bool | None]:
    net.fixed("channels", "3", why="images have three channels")
    height, width = net.integer("height"), net.integer("width")
    for key, side in (("height", height), ("width", width)):
        if side < 32 or side % 32 or side > 8192:
            near = min(8192, max(32, round(side / 32) * 32))
            raise net.fail(key, f"a multiple of 32, at most 8192 (nearest: {near})")
    letter_box = net.integer("letter_box") != 0 if "letter_box" in net.options else None
    return (height, width), letter_box


def _read_layers(sections: Sequence[Section]) -> tuple[tuple[Layer, ...], list[_Level]]:
    layers: list[Layer] = []
    levels: list[_Level] = []
    for section in sections:
        if section.kind not in _READERS:
            raise ConfigError(
                f"section must be a layer that attendet computes; got [{section.kind}] "
                f"({section.where()}). {did_you_mean(section.kind, _READERS)}"
            )
        try:
            layers.append(_READERS[section.kind](section))
        except SectionError:
            raise
        except ConfigError as error:
            reason = str(error).rstrip(".")
            raise SectionError(f"[{section.kind}] {reason} ({section.where()}).") from None
        if isinstance(layers[-1], Yolo):
            levels.append(_read_level(section))
    if not levels:
        source = sections[0].source if sections else "empty"
        raise ConfigError(f"configuration must have a [yolo] section; got none ({source}).")
    return tuple(layers), levels


def _stride(section: Section) -> int:
    stride = section.integer("stride", 1)
    along_x, along_y = section.integer("stride_x", stride), section.integer("stride_y", stride)
    if along_x != along_y:
        raise section.fail("stride_y", f"the same as stride_x, {along_x}")
    return along_x


def _absolute(section: Section, key: str) -> tuple[int, ...]:
    """Return layers counted from 0; negative numbers count back from the present layer."""
    index = section.number_of_layer
    found = tuple(one + index if one < 0 else one for one in section.integers(key))
    if not all(0 <= one < index for one in found):
        raise section.fail(key, f"layers before layer {index}")
    return found


def _convolutional(section: Section) -> Layer:
    section.fixed("dilation", "1")
    for key in NOT_COMPUTED:
        section.fixed(key, "0")
    section.fixed("share_index", NOT_SHARED)
    size = section.integer("size", 1)
    padding = section.integer("padding", 0)
    if section.integer("pad", 0):
        padding = size // 2
    activation = section.choice("activation", "logistic", ACTIVATIONS)
    return Convolutional(
        filters=section.integer("filters", 1),
        size=size,
        stride=_stride(section),
        padding=padding,
        groups=section.integer("groups", 1),
        batch_normalize=section.integer("batch_normalize", 0) != 0,
        activation=activation,  # type: ignore[arg-type]
    )


def _maxpool(section: Section) -> Layer:
    for key in ("maxpool_depth", "antialiasing"):
        section.fixed(key, "0")
    section.read.add("out_channels")  # belongs to maxpool_depth
    stride = _stride(section)
    size = section.integer("size", stride)
    return MaxPool(size, stride, section.integer("padding", size - 1))


def _route(section: Section) -> Layer:
    layers = _absolute(section, "layers")
    return Route(layers, section.integer("groups", 1), section.integer("group_id", 0))


def _shortcut(section: Section) -> Layer:
    section.fixed("weights_type", "none")
    section.read.add("weights_normalization")  # belongs to weights_type
    activation = section.choice("activation", "linear", ACTIVATIONS)
    return Shortcut(_absolute(section, "from"), activation)  # type: ignore[arg-type]


def _upsample(section: Section) -> Layer:
    if section.number("scale", 1) != 1:
        raise section.fail("scale", "1 or left out: attendet computes nothing else")
    return Upsample(section.integer("stride", 2))


def _dropout(section: Section) -> Layer:
    for key in ("dropblock", "dropblock_size_rel", "dropblock_size_abs"):
        section.read.add(key)  # matters in training alone
    return Dropout(section.number("probability", 0.5))


def _scale_channels(section: Section) -> Layer:
    section.fixed("scale_wh", "0")
    layers = _absolute(section, "from")
    if len(layers) != 1:
        raise section.fail("from", "one layer")
    activation = section.choice("activation", "linear", ACTIVATIONS)
    return ScaleChannels(layers[0], activation)  # type: ignore[arg-type]


def _yolo(section: Section) -> Layer:
    section.fixed("new_coords", "0")
    section.fixed("embedding_layer", "999999")
    return Yolo()


_READERS: Mapping[str, Callable[[Section], Layer]] = {
    "convolutional": _convolutional,
    "conv": _convolutional,
    "maxpool": _maxpool,
    "max": _maxpool,
    "avgpool": lambda _: AvgPool(),
    "avg": lambda _: AvgPool(),
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "dropout": _dropout,
    "scale_channels": _scale_channels,
    "yolo": _yolo,
}


def _read_level(section: Section) -> _Level:
    num_classes = section.integer("classes", 20)
    if not 1 <= num_classes <= 100_000:
        raise section.fail("classes", "at least 1")
    numbers = section.numbers("anchors")
    if len(numbers) % 2 or not all(0 < side < 1e5 for side in numbers):
        raise section.fail("anchors", "pairs of width and height in pixels, above 0")
    anchors = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    everyone = ",".join(map(str, range(len(anchors))))
    mask = section.integers("mask", everyone)
    if not all(0 <= number < len(anchors) for number in mask):
        raise section.fail("mask", f"numbers of the {len(anchors)} anchors, from 0")
    scale = section.number("scale_x_y", 1.0)
    if not 0 < scale <= 10:
        raise section.fail("scale_x_y", "above 0, at most 10")
    return _Level(section, num_classes, anchors, mask, scale)


def _check_heads(channels: Sequence[int], levels: Sequence[_Level]) -> None:
    for count, level in zip(channels, levels, strict=True):
        if level.num_classes != levels[0].num_classes:
            raise level.section.fail(
                "classes", f"the same in all [yolo] sections, {levels[0].num_classes}"
            )
        wanted = len(level.mask) * (5 + level.num_classes)
        if count != wanted:
            raise ConfigError(
                f"[yolo] must follow {wanted} filters, {len(level.mask)} anchors x (5 + "
                f"{level.num_classes} classes); got {count} ({level.section.where()}). "
                "Correct filters= of the layer before, or classes= and mask=."
            )


def _join_anchors(levels: Sequence[_Level]) -> tuple[Anchors, tuple[tuple[int, ...], ...]]:
    """Return one list of anchors, and each level's numbers in it."""
    offsets: dict[Anchors, int] = {}
    joined: list[tuple[float, float]] = []
    masks = []
    for level in levels:
        if level.anchors not in offsets:
            offsets[level.anchors] = len(joined)
            joined += level.anchors
        masks.append(tuple(number + offsets[level.anchors] for number in level.mask))
    return tuple(joined), tuple(masks)


def _with_scales(graph: Graph, scales: Sequence[float]) -> Graph:
    layers = list(graph.layers)
    for index, scale in zip(graph.yolo_layers, scales, strict=True):
        layers[index] = Yolo(scale)
    return Graph(tuple(layers))
