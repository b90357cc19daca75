"""Building networks, and reading and writing weights files."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch

from attendet import __version__
from attendet.attention import (
    AttentionInit,
    attention_names,
    format_attention_spec,
    parse_attention_spec,
)
from attendet.errors import ConfigError, WeightsError, did_you_mean, first_line
from attendet.files import write_atomically
from attendet.models.detector import DetectionNetwork, common_init
from attendet.models.graph import ARCHITECTURE as DARKNET_GRAPH
from attendet.models.graph import Graph
from attendet.models.graph_detector import GraphDetector
from attendet.models.graph_sites import default_sites, graph_sites
from attendet.models.metadata import (
    SIZES,
    WeightsMetadata,
    default_anchors,
    read_metadata,
)
from attendet.models.yolov4_tiny import (
    SMALL_OBJECT_SITES,
    YoloV4Tiny,
    neck_sites,
    reference_sites,
)

ARCHITECTURES = ("yolov4-tiny", DARKNET_GRAPH)


def build_from_metadata(metadata: WeightsMetadata) -> DetectionNetwork:
    """Return a newly initialized network from its metadata.

    The weights depend on the seed of torch's random generator. Attention is initialized last, so
    that with one seed all networks of a comparison have the same weights outside their attention
    blocks.

    Args:
        metadata: description of the network.

    Raises:
        ConfigError: if the architecture or the attention spec is unknown.
    """
    if metadata.architecture not in ARCHITECTURES:
        raise ConfigError.unknown("architecture", metadata.architecture, ARCHITECTURES)
    if (metadata.architecture == DARKNET_GRAPH) != bool(metadata.graph):
        raise ConfigError(
            f"graph must have layers for {DARKNET_GRAPH}, and none for other architectures; "
            f"got {len(metadata.graph or ())} layers for {metadata.architecture}."
        )
    if metadata.graph:
        return _build_graph(metadata, metadata.graph)
    return YoloV4Tiny(
        len(metadata.classes),
        metadata.level_anchors(),
        _parse_attention(metadata.attention, None, len(metadata.anchor_masks)),
        attention_init=metadata.attention_init,
        scale_x_y=metadata.scale_x_y,
        width_mult=metadata.width_mult,
        bn_eps=metadata.bn_eps,
    )


def _build_graph(
    metadata: WeightsMetadata, layers: Sequence[Mapping[str, Any]]
) -> DetectionNetwork:
    graph = Graph.from_mappings(layers)
    return GraphDetector(
        graph,
        len(metadata.classes),
        metadata.level_anchors(),
        input_hw=metadata.input_hw,
        attention=_parse_attention(metadata.attention, graph),
        attention_init=metadata.attention_init,
        scale_x_y=metadata.scale_x_y,
        bn_eps=metadata.bn_eps,
    )


def build(
    model: str = "yolov4-tiny",
    *,
    classes: Sequence[str],
    attention: str = "none",
    attention_init: AttentionInit | Mapping[str, AttentionInit] = "paper",
    input_hw: tuple[int, int] = (416, 416),
    levels: int = 2,
    anchors: Sequence[tuple[float, float]] | None = None,
    anchor_masks: Sequence[Sequence[int]] | None = None,
    scale_x_y: float = 1.05,
    width_mult: float | None = None,
    bn_eps: float = 1e-5,
) -> YoloV4Tiny:
    """Return a newly initialized detection network.

    Args:
        model: ``yolov4-tiny-n``, ``yolov4-tiny-s`` or ``yolov4-tiny``, with a quarter, half or all
            of the channels.
        classes: class names; their number is K.
        attention: spec such as ``ca``, ``ca@p5`` or ``se@p5+ca@up``.
        attention_init: ``paper``: gates as published; ``identity``: until it is trained, the
            network has the same output as without attention. One for all blocks, or by site.
        input_hw: height and width of training images, multiples of 32; only checked.
        levels: 2, or 3 with a level of stride 8 for small objects.
        anchors: widths and heights in pixels, small to large; default: darknet's, which are for
            416 x 416 px.
        anchor_masks: indices of the anchors of each level, stride 32 first; default: darknet's.
        scale_x_y: stretch of the center's sigmoid.
        width_mult: multiplier of all channels, instead of the model's; they stay multiples of 8 (of
            4 in the first layer).
        bn_eps: epsilon of batch normalization.

    Returns:
        The network, in training mode on the CPU; for its seed see `build_from_metadata`.

    Raises:
        ConfigError: if an argument is invalid; names the argument.

    Example:
        >>> network = build("yolov4-tiny-s", classes=["RBC", "WBC"], attention="ca@p5")
        >>> list(network.attention_blocks())
        ['p5']
    """
    if model not in SIZES:
        raise ConfigError.must(
            "model", f"one of {', '.join(SIZES)}", model, advice=did_you_mean(model, SIZES)
        )
    usual_anchors, usual_masks = default_anchors(levels, 416)
    metadata = WeightsMetadata(
        classes=classes if isinstance(classes, str) else tuple(classes),  # type: ignore[arg-type]
        attention=attention,
        attention_init=attention_init if isinstance(attention_init, str) else dict(attention_init),
        input_hw=tuple(input_hw),  # type: ignore[arg-type]
        anchors=tuple(tuple(map(float, anchor)) for anchor in anchors or usual_anchors),  # type: ignore[misc]
        anchor_masks=tuple(map(tuple, anchor_masks or usual_masks)),
        scale_x_y=scale_x_y,
        width_mult=SIZES[model] if width_mult is None else width_mult,
        bn_eps=bn_eps,
    )
    return cast(YoloV4Tiny, build_from_metadata(metadata))


def attention_sites(
    graph: Graph | None = None, levels: int = 2
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all sites of a network and its default sites.

    Args:
        graph: graph of a darknet network; None: the reference network.
        levels: levels of the reference network, 2 or 3.

    Example:
        >>> attention_sites()
        (('stage1', 'stage2', 'stage3', 'p4', 'p5', 'up'), ('p4', 'p5', 'up'))
    """
    if graph is None:
        return reference_sites(levels), neck_sites(levels)
    sites = graph_sites(graph)
    return tuple(sites), default_sites(sites)


def canonical_attention(spec: str, graph: Graph | None = None, levels: int = 2) -> str:
    """Return an attention spec in canonical form.

    Args:
        spec: such as ``ca``, ``ca@p5`` or ``se@p5+ca@up``.
        graph: graph of a darknet network (see `attendet.models.graph_sites`); None: the reference
            network.
        levels: levels of the reference network, 2 or 3.

    Raises:
        ConfigError: if a block or a site is unknown.

    Example:
        >>> canonical_attention("ca@p4,p5,up")
        'ca'
    """
    usual = attention_sites(graph, levels)[1]
    return format_attention_spec(_parse_attention(spec, graph, levels), usual)


def _parse_attention(spec: str, graph: Graph | None, levels: int = 2) -> dict[str, str]:
    """Return the block at each site that has one, of the reference network or of a graph."""
    spec = str(spec)  # the parser has a message for numbers
    sites, usual = attention_sites(graph, levels)
    if not usual and any("@" not in part for part in spec.split("+")) and spec.strip() != "none":
        raise ConfigError(
            f"attention must name its sites in a network without default sites; got {spec!r} "
            f"(--attention). For example: --attention ca@{sites[-1]}, or --attention none."
        )
    named = re.search(rf"[@,]\s*({'|'.join(SMALL_OBJECT_SITES)})\b", spec)
    if named is not None and graph is None and levels == 2:
        raise ConfigError(
            f"attention at {named[1]!r} needs a network with three levels; got {spec!r} "
            "(--attention). Add --levels 3."
        )
    return parse_attention_spec(spec, default_sites=usual, sites=sites, known=attention_names())


def attention_by_site(metadata: WeightsMetadata) -> dict[str, tuple[str, AttentionInit]]:
    """Return name and init of the block at each site of a network that has one.

    Raises:
        ConfigError: if a block or a site is unknown.

    Example:
        >>> attention_by_site(WeightsMetadata(classes=("cell",), attention="se@p5"))
        {'p5': ('se', 'paper')}
    """
    graph = Graph.from_mappings(metadata.graph) if metadata.graph else None
    init, levels = metadata.attention_init, len(metadata.anchor_masks)
    return {
        site: (name, init if isinstance(init, str) else init.get(site, "paper"))
        for site, name in _parse_attention(metadata.attention, graph, levels).items()
    }


def save_weights(path: str | Path, network: torch.nn.Module, metadata: WeightsMetadata) -> Path:
    """Write a network and its metadata to one file, atomically, and return its path.

    The same weights and metadata always give the same bytes.

    Args:
        path: ends in ``.safetensors``; parent folders are created, an existing file is replaced.
        network: the network that the metadata describes.
        metadata: its ``version`` is set to this version of attendet.

    Raises:
        WeightsError: if the path has another ending, or the metadata does not fit the network, so
            that the file could not be loaded or would decode differently.

    Example:
        >>> import tempfile
        >>> metadata = WeightsMetadata(classes=("RBC", "WBC"), attention="eca@p5", width_mult=0.125)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/cells.safetensors"
        ...     path = save_weights(file, build_from_metadata(metadata), metadata)
        ...     network, described = load_weights(path)
        >>> described.classes, list(network.attention_blocks())
        (('RBC', 'WBC'), ['p5'])
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"weights file must end in .safetensors; got {str(path)!r}.")
    described = _check_fit(path, metadata, network.state_dict())
    _check_decode(path, metadata, network, described)
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    header = dataclasses.replace(metadata, version=__version__).to_header()
    return write_atomically(path, _with_sorted_header(safetensors.torch.save(tensors, header)))


def _with_sorted_header(content: bytes) -> bytes:
    """Return a safetensors file with sorted metadata; the library writes it in random order."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def load_weights(path: str | Path) -> tuple[DetectionNetwork, WeightsMetadata]:
    """Return the network of a weights file, in eval mode on the CPU, and its metadata.

    Args:
        path: a file that `save_weights` wrote.

    Returns:
        The network, rebuilt from the file alone, and the metadata of the file.

    Raises:
        WeightsError: if the file is missing, not from attendet, damaged, or its tensors do not fit
            its metadata.
    """
    path = Path(path)
    metadata = read_metadata(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file is damaged ({path}): {error}") from None
    _check_fit(path, metadata, tensors)
    with torch.random.fork_rng(devices=()):  # for initial weights that are overwritten
        network = build_from_metadata(metadata)
    network.load_state_dict(tensors)
    return network.eval(), metadata


def _check_fit(
    path: Path, metadata: WeightsMetadata, tensors: dict[str, torch.Tensor]
) -> DetectionNetwork:
    """Raise if tensors do not fit the metadata; return its network on the meta device.

    The meta device allocates no memory, even if the metadata of a file asks for a huge network.
    """
    try:
        with torch.device("meta"):
            described = build_from_metadata(metadata)
    except (ConfigError, RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise WeightsError(f"the network of {path} cannot be built: {first_line(error)}") from None
    wanted = described.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        raise WeightsError(
            f"tensors do not match the metadata ({path}): {'; '.join(problems[:3])}"
            f"{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}."
        )
    return described


def _check_decode(
    path: Path, metadata: WeightsMetadata, network: torch.nn.Module, described: DetectionNetwork
) -> None:
    """Raise if the metadata does not have the decoding and attention init of the network."""
    if not isinstance(network, DetectionNetwork):
        return
    of_levels = [(one.scale_x_y, one.codings) for one in (network, described)]
    anchors = tuple(torch.tensor(level) for level in metadata.level_anchors())
    same = all(
        torch.equal(own.cpu().float(), level)
        for own, level in zip(network.level_anchors, anchors, strict=True)
    )
    if not same or of_levels[0] != of_levels[1]:
        raise WeightsError(
            f"metadata must match the anchors, scale_x_y and outputs of the network ({path}). "
            "Build the network with build_from_metadata."
        )
    if not network.attention_blocks():
        return
    init = metadata.attention_init
    if network.attention_init != (init if isinstance(init, str) else common_init(init)):
        raise WeightsError(
            f"metadata must match the attention_init of the network, "
            f"{network.attention_init!r}; got {metadata.attention_init!r} ({path}). "
            "Build the network with build_from_metadata."
        )
