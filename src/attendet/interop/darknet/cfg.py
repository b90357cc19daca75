"""Read (`parse_config`) and write (`format_config`) darknet configuration files. Needs no torch.

Only options that the forward pass depends on are kept; training options are ignored. An unsupported
option that would change the network raises an error that names section and line. ``[section]``
starts a section; spaces are ignored; ``#`` and ``;`` start a comment.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attendet.errors import ConfigError, did_you_mean
from attendet.interop.imported import MAX_TEXT_BYTES
from attendet.models.graph import (
    ACTIVATIONS,
    AvgPool,
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

LARGEST = 2**31 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,11}")


class SectionError(ConfigError):
    """Invalid option of a section; the message names file and line."""


@dataclass
class Section:
    """One section; it records which options are read, to find the unknown ones."""

    kind: str
    line: int
    source: str
    layer_index: int = -1
    """Index of the layer; -1 for the first section, [net]."""
    options: dict[str, tuple[str, int]] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def where(self, key: str | None = None) -> str:
        """Return file and line of an option, or of the section."""
        line = self.options[key][1] if key in self.options else self.line
        return f"{self.source}:{line}"

    def fail(self, key: str, rule: str) -> SectionError:
        """Return the error for an option that violates a rule."""
        got = repr(self.options[key][0]) if key in self.options else "none"
        return SectionError(f"[{self.kind}] {key} must be {rule}; got {got} ({self.where(key)}).")

    def text(self, key: str, default: str | None) -> str:
        """Return an option as text.

        Args:
            key: name of the option.
            default: value of a missing option; None if the option is required.
        """
        self.read.add(key)
        if key in self.repeated:
            raise SectionError(
                f"[{self.kind}] {key} must be given once; it is in lines "
                f"{self.options[key][1]} and {self.repeated[key]} ({self.source})."
            )
        if key not in self.options:
            if default is None:
                raise self.fail(key, "given")
            return default
        return self.options[key][0]

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an option as a 32-bit integer."""
        return self.integers(key, None if default is None else str(default), single=True)[0]

    def integers(
        self, key: str, default: str | None = None, *, single: bool = False
    ) -> tuple[int, ...]:
        """Return a comma-separated option as 32-bit integers."""
        rule = "a whole number" if single else "whole numbers separated by commas"
        items = self.text(key, default).rstrip(",").split(",")
        if (single and len(items) != 1) or not all(map(_INTEGER.fullmatch, items)):
            raise self.fail(key, rule)
        values = tuple(map(int, items))
        if any(abs(value) > LARGEST for value in values):
            raise self.fail(key, rule)
        return values

    def numbers(self, key: str, default: str | None = None) -> tuple[float, ...]:
        """Return a comma-separated option as finite numbers."""
        try:
            values = tuple(map(float, self.text(key, default).rstrip(",").split(",")))
        except ValueError:
            raise self.fail(key, "numbers separated by commas") from None
        if not all(map(math.isfinite, values)):
            raise self.fail(key, "finite")
        return values

    def number(self, key: str, default: float | None = None) -> float:
        """Return an option as one finite number."""
        values = self.numbers(key, None if default is None else repr(default))
        if len(values) != 1:
            raise self.fail(key, "one number")
        return values[0]

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """Return an option as text; raise if it is not one of the choices."""
        value = self.text(key, default)
        known = tuple(choices)
        if value not in known:
            raise SectionError(
                f"[{self.kind}] {key} must be a supported value; got {value!r} "
                f"({self.where(key)}). {did_you_mean(value, known)}"
            )
        return value

    def fixed(self, key: str, value: str, *, why: str = "no other value is supported") -> None:
        """Raise if an option has another value than this; it may be missing."""
        if self.text(key, value) != value:
            raise self.fail(key, f"{value} or omitted ({why})")

    def unknown_options(self, ignored: Collection[str]) -> list[str]:
        """Return the options that are neither read so far nor in ``ignored``, with their lines."""
        return [
            f"[{self.kind}] {key} (line {line})"
            for key, (_, line) in self.options.items()
            if key not in self.read and key not in ignored
        ]


def read_text(path: str | Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: if the file is missing, not text, or larger than 4 MiB.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"configuration cannot be read: {error.strerror or error} ({path})."
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # comments may be in any encoding; all else is ASCII
        text = content.decode("latin-1") if b"[net" in content else "\0"
    if len(content) > MAX_TEXT_BYTES or "\0" in text:
        raise ConfigError(
            f"configuration must be a text file with [net] and layers; got another file ({path}). "
            "Pass FILE.cfg first, then FILE.weights."
        )
    return text


def parse_sections(text: str, *, source: str) -> list[Section]:
    """Return the sections of a configuration.

    Args:
        text: the whole configuration.
        source: name of the file, for errors.

    Raises:
        ConfigError: if a line is neither a section nor an option; names the first such line.

    Example:
        >>> (net,) = parse_sections("[net]  # settings\\nwidth = 416", source="a.cfg")
        >>> net.kind, net.integer("width")
        ('net', 416)
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.replace(";", "#").split("#")[0].split())
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]") or len(line) < 3:
                raise ConfigError(
                    f"section must be a name in brackets; got {_short(raw)} ({source}:{number})."
                )
            sections.append(Section(line[1:-1].lower(), number, source, len(sections) - 1))
            continue
        key, equals, value = line.partition("=")
        if not equals or not key or not sections:
            rule = "key=value below a [section]"
            raise ConfigError(f"line must be {rule}; got {_short(raw)} ({source}:{number}).")
        options = sections[-1].options
        if key in options and options[key][0] != value:
            sections[-1].repeated[key] = number
        options.setdefault(key, (value, number))
    return sections


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


Anchors = tuple[tuple[float, float], ...]

IGNORED_OPTIONS: Mapping[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
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
            resize show_details truth_thresh uc_normalizer
        """,
        "region": """
            absolute bias_match class_scale classfix coord_scale focal_loss jitter log map
            mask_scale max noobject_scale object_scale random rescore resize sqrt thresh
        """,
    }.items()
}
"""Options that the forward pass does not depend on, by section."""

UNSUPPORTED = (
    *("antialiasing", "assisted_excitation", "bin_output", "binary", "deform", "dot", "flipped"),
    *("rotate", "stretch", "stretch_sway", "sway", "transpose", "xnor"),
)
"""Options of [convolutional] that change the forward pass when they are not 0."""

OWN_WEIGHTS_INDEX = "-1000000000"
"""``share_index`` of a layer with its own weights; 0 means the weights of the first layer."""

ALEXEYAB_OPTIONS = frozenset(
    (
        *("antialiasing", "assisted_excitation", "attention", "beta_nms", "blur", "cls_normalizer"),
        *("counters_per_class", "cutmix", "delta_normalizer", "dilation", "dynamic_minibatch"),
        *("ema_alpha", "focal_loss", "gaussian_noise", "group_id", "iou_loss", "iou_normalizer"),
        *("iou_thresh", "iou_thresh_kind", "label_smooth_eps", "letter_box", "loss_scale"),
        *("max_chart_loss", "max_delta", "maxpool_depth", "mixup", "mosaic", "mosaic_bound"),
        *("new_coords", "nms_kind", "obj_normalizer", "objectness_smooth", "optimized_memory"),
        *("scale_x_y", "sequential_subdivisions", "show_details", "show_receptive_field"),
        *("stride_x", "stride_y", "train_only_bn", "try_fix_nan", "uc_normalizer"),
        *("weights_normalization", "weights_type", "workspace_size_limit_mb"),
    )
)
"""Options that AlexeyAB's darknet reads and pjreddie's does not:
docs/decisions/0010-darknet-resize.md."""

COMMON_IGNORED_OPTIONS = frozenset(
    {"dontload", "onlyforward", "smooth", "stopbackward", "train_only_bn"}
)


@dataclass(frozen=True)
class DarknetConfig:
    """Network that a configuration file describes."""

    graph: Graph
    """The layers."""

    input_hw: tuple[int, int]
    """Height and width of the input, pixels."""

    num_classes: int
    """Number of classes."""

    anchors: Anchors
    """Widths and heights of all anchors, pixels."""

    anchor_masks: tuple[tuple[int, ...], ...]
    """Indices of the anchors of each level, in the order of the outputs."""

    scale_x_y: float
    """Scale of the sigmoid of box centers, for levels without their own."""

    letter_box: bool | None = None
    """True if prediction letterboxes images; None if the file does not say."""

    alexeyab_option: str = ""
    """First option that only AlexeyAB's darknet reads, with its line; empty if there is none."""

    lines: tuple[int, ...] = ()
    """Line of each layer's section."""

    unknown_options: tuple[str, ...] = ()
    """Unknown options, with their lines."""


@dataclass(frozen=True)
class _Level:
    """Settings of one [yolo] or [region] section."""

    section: Section
    num_classes: int
    anchors: Anchors
    mask: tuple[int, ...]
    scale_x_y: float


def read_config(path: str | Path) -> DarknetConfig:
    """Return the network that a configuration file describes.

    Raises:
        ConfigError: if something is wrong or not supported; names file, line and section.
    """
    return parse_config(read_text(path), source=str(path))


def parse_config(text: str, *, source: str) -> DarknetConfig:
    """Return the network that a configuration describes.

    Args:
        text: the whole configuration.
        source: name of the file, for errors.

    Raises:
        ConfigError: if something is wrong or not supported; names file, line and section.
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
    strides = graph.strides(input_hw, where=where)
    _check_heads([shapes[index][0] for index in graph.outputs], levels)
    levels = [_in_pixels(level, stride) for level, stride in zip(levels, strides, strict=True)]
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
        alexeyab_option=next(filter(None, map(_alexeyab_option, sections)), ""),
        lines=tuple(section.line for section in rest),
        unknown_options=tuple(
            text
            for section in sections
            for text in section.unknown_options(
                COMMON_IGNORED_OPTIONS | IGNORED_OPTIONS.get(section.kind, frozenset())
            )
        ),
    )


def _alexeyab_option(section: Section) -> str:
    """Return the first option that only AlexeyAB's darknet reads, with its line."""
    for key, (value, line) in section.options.items():
        fork_only = (
            key.lower() in ALEXEYAB_OPTIONS
            or (section.kind, key) == ("route", "groups")
            or (key == "activation" and value in ("mish", "swish"))
        )
        if fork_only:
            return f"{key} (line {line})"
    return ""


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
            advice = did_you_mean(section.kind, _READERS)
            if section.kind == "reorg3d":
                advice = "Its order of channels differs from that of [reorg]."
            raise ConfigError(
                f"section must be a supported layer; got [{section.kind}] "
                f"({section.where()}). {advice}"
            )
        try:
            layers.append(_READERS[section.kind](section))
        except SectionError:
            raise
        except ConfigError as error:
            reason = str(error).rstrip(".")
            raise SectionError(f"[{section.kind}] {reason} ({section.where()}).") from None
        if isinstance(layers[-1], Output):
            levels.append(_read_level(section))
    if not levels:
        source = sections[0].source if sections else "empty"
        raise ConfigError(
            f"configuration must have a [yolo] or [region] section; got none ({source})."
        )
    return tuple(layers), levels


def _stride(section: Section) -> int:
    stride = section.integer("stride", 1)
    along_x, along_y = section.integer("stride_x", stride), section.integer("stride_y", stride)
    if along_x != along_y:
        raise section.fail("stride_y", f"the same as stride_x, {along_x}")
    return along_x


def _absolute(section: Section, key: str) -> tuple[int, ...]:
    """Return absolute layer indices; negative ones in the file are relative to this layer."""
    index = section.layer_index
    found = tuple(one + index if one < 0 else one for one in section.integers(key))
    if not all(0 <= one < index for one in found):
        raise section.fail(key, f"layers before layer {index}")
    return found


def _convolutional(section: Section) -> Layer:
    section.fixed("dilation", "1")
    for key in UNSUPPORTED:
        section.fixed(key, "0")
    section.fixed("share_index", OWN_WEIGHTS_INDEX)
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
        raise section.fail("scale", "1 or omitted (no other value is supported)")
    return Upsample(section.integer("stride", 2))


def _dropout(section: Section) -> Layer:
    for key in ("dropblock", "dropblock_size_rel", "dropblock_size_abs"):
        section.read.add(key)  # used only in training
    return Dropout(section.number("probability", 0.5))


def _scale_channels(section: Section) -> Layer:
    section.fixed("scale_wh", "0")
    layers = _absolute(section, "from")
    if len(layers) != 1:
        raise section.fail("from", "one layer")
    activation = section.choice("activation", "linear", ACTIVATIONS)
    return ScaleChannels(layers[0], activation)  # type: ignore[arg-type]


def _yolo(section: Section) -> Layer:
    section.fixed("embedding_layer", "999999")
    return Yolo(new_coords=section.integer("new_coords", 0) != 0)


def _region(section: Section) -> Layer:
    if "tree" in section.options:
        raise section.fail("tree", "omitted (class trees of YOLO9000 are not supported)")
    if section.integer("softmax", 0) != 1:
        raise section.fail("softmax", "1 (no other value is supported)")
    section.fixed("coords", "4")
    section.fixed("background", "0")
    return Region()


def _reorg(section: Section) -> Layer:
    section.fixed("flatten", "0")
    section.fixed("extra", "0")
    return Reorg(section.integer("stride", 1), section.integer("reverse", 0) != 0)


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
    "reorg": _reorg,
    "yolo": _yolo,
    "region": _region,
}


def _read_level(section: Section) -> _Level:
    num_classes = section.integer("classes", 20)
    if not 1 <= num_classes <= 100_000:
        raise section.fail("classes", "at least 1")
    numbers = section.numbers("anchors")
    if len(numbers) % 2 or not all(0 < side < 1e5 for side in numbers):
        unit = "cells" if section.kind == "region" else "pixels"
        raise section.fail("anchors", f"pairs of width and height in {unit}, above 0")
    anchors = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if section.kind == "region":
        if section.integer("num", 1) != len(anchors):
            raise section.fail("num", f"the number of anchors, {len(anchors)}")
        return _Level(section, num_classes, anchors, tuple(range(len(anchors))), 1.0)
    all_anchors = ",".join(map(str, range(len(anchors))))
    mask = section.integers("mask", all_anchors)
    if not all(0 <= number < len(anchors) for number in mask):
        raise section.fail("mask", f"indices of the {len(anchors)} anchors, from 0")
    scale = section.number("scale_x_y", 1.0)
    if not 0 < scale <= 10:
        raise section.fail("scale_x_y", "above 0, at most 10")
    return _Level(section, num_classes, anchors, mask, scale)


def _in_pixels(level: _Level, stride: int) -> _Level:
    """Return a level with anchors in pixels; [region] has them in grid cells."""
    if level.section.kind != "region":
        return level
    anchors = tuple((width * stride, height * stride) for width, height in level.anchors)
    return dataclasses.replace(level, anchors=anchors)


def _check_heads(channels: Sequence[int], levels: Sequence[_Level]) -> None:
    for count, level in zip(channels, levels, strict=True):
        if level.num_classes != levels[0].num_classes:
            raise level.section.fail("classes", f"the same in all outputs, {levels[0].num_classes}")
        wanted = len(level.mask) * (5 + level.num_classes)
        if count != wanted:
            raise ConfigError(
                f"[{level.section.kind}] must follow a layer with {wanted} filters, "
                f"{len(level.mask)} anchors x (5 + {level.num_classes} classes); "
                f"got {count} ({level.section.where()}). "
                "Correct filters= of the previous layer, or classes= and mask=."
            )


def _join_anchors(levels: Sequence[_Level]) -> tuple[Anchors, tuple[tuple[int, ...], ...]]:
    """Return one list of all anchors, and the indices of each level's anchors in it."""
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
    for (index, layer), scale in zip(graph.outputs.items(), scales, strict=True):
        if isinstance(layer, Yolo):
            layers[index] = dataclasses.replace(layer, scale_x_y=scale)
    return Graph(tuple(layers))


def format_config(config: DarknetConfig) -> str:
    """Return the text of a configuration that `parse_config` reads as the same network.

    Args:
        config: configuration to write; ``alexeyab_option``, ``lines`` and ``unknown_options`` are
            ignored.
    """
    height, width = config.input_hw
    blocks = [_block("net", {"batch": 1, "width": width, "height": height, "channels": 3})]
    if config.letter_box is not None:
        blocks[0] += f"letter_box={int(config.letter_box)}\n"
    masks = dict(zip(config.graph.outputs, config.anchor_masks, strict=True))
    strides = dict(zip(masks, config.graph.strides(config.input_hw), strict=True))
    for index, layer in enumerate(config.graph.layers):
        if isinstance(layer, Output):
            options = _output_options(config, layer, masks[index], strides[index])
        else:
            options = _options(layer, index)
        blocks.append(_block(layer.kind, options))
    return "\n".join(blocks)


def _output_options(
    config: DarknetConfig, layer: Output, mask: Sequence[int], stride: int
) -> dict[str, object]:
    if isinstance(layer, Region):
        anchors: Sequence[tuple[float, float]] = [
            (config.anchors[number][0] / stride, config.anchors[number][1] / stride)
            for number in mask
        ]
        options: dict[str, object] = {"softmax": 1, "coords": 4}
    else:
        anchors = config.anchors
        options = {
            "mask": ",".join(map(str, mask)),
            "scale_x_y": _number(layer.scale_x_y or config.scale_x_y),
        }
        options |= {"new_coords": 1} if layer.new_coords else {}
    return options | {
        "anchors": ", ".join(f"{_number(w)},{_number(h)}" for w, h in anchors),
        "classes": config.num_classes,
        "num": len(anchors),
    }


def _number(value: float) -> str:
    return repr(int(value) if value == int(value) else value)


def _block(kind: str, options: Mapping[str, object]) -> str:
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def _options(layer: Layer, index: int) -> dict[str, object]:
    match layer:
        case Convolutional():
            options: dict[str, object] = {"batch_normalize": 1} if layer.batch_normalize else {}
            options |= {"filters": layer.filters, "size": layer.size, "stride": layer.stride}
            same = layer.padding == layer.size // 2
            options |= {"pad": 1} if same else {"padding": layer.padding}
            options |= {"groups": layer.groups} if layer.groups > 1 else {}
            return options | {"activation": layer.activation}
        case MaxPool():
            return {"size": layer.size, "stride": layer.stride, "padding": layer.padding}
        case Route():
            options = {"layers": ",".join(str(one - index) for one in layer.layers)}
            if layer.groups > 1:
                options |= {"groups": layer.groups, "group_id": layer.group_id}
            return options
        case Shortcut():
            options = {"from": ",".join(str(one - index) for one in layer.layers)}
            return options | {"activation": layer.activation}
        case ScaleChannels():
            return {"from": layer.layer - index, "activation": layer.activation}
        case Upsample():
            return {"stride": layer.stride}
        case Reorg():
            return {"stride": layer.stride, "reverse": int(layer.reverse)}
        case Dropout():
            return {"probability": _number(layer.probability)}
    return {}
