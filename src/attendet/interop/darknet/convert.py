"""Import of darknet networks, and export of attendet networks as darknet files.

yolov4-tiny configurations become the reference network, all others a `GraphDetector`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attendet.attention import AttentionBlock, inserted_blocks
from attendet.errors import WeightsError
from attendet.files import write_atomically
from attendet.interop.darknet.cfg import DarknetConfig, format_config, read_config
from attendet.interop.darknet.weights import (
    ConvolutionArrays,
    DarknetHeader,
    read_weights,
    write_weights,
)
from attendet.interop.imported import Imported, class_names
from attendet.models.backbone import ConvBlock, CSPBlock
from attendet.models.detector import DetectionNetwork
from attendet.models.graph import (
    ARCHITECTURE,
    Convolutional,
    Graph,
    Layer,
    MaxPool,
    Route,
    Upsample,
    Yolo,
)
from attendet.models.graph_detector import DarknetConvolution, GraphDetector
from attendet.models.metadata import Preprocess, ResizeMode, WeightsMetadata
from attendet.models.weights import build_from_metadata
from attendet.models.yolov4_tiny import YoloV4Tiny

Convolutions: TypeAlias = dict[int, tuple[nn.Conv2d, nn.BatchNorm2d | None]]
"""Layer number to convolution and batch normalization."""


def _conv(filters: int, size: int, stride: int = 1) -> Convolutional:
    return Convolutional(filters, size, stride, size // 2, batch_normalize=True, activation="leaky")


def reference_graph(base: int, outputs: Sequence[int]) -> Graph:
    """Return the layers of YOLOv4-tiny, or of yolov4-tiny-3l if there are three outputs.

    Args:
        base: channels of the second convolution: 64 times the width multiplier.
        outputs: channels of the two or three raw outputs, A (5 + K), stride 32 first.
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
    if len(outputs) == 3:
        layers += [Route((len(layers) - 3,)), _conv(base, 1), Upsample(2)]
        layers += [Route((len(layers) - 1, merged - 8)), _conv(2 * base, 3)]
        layers += [Convolutional(outputs[2], activation="linear"), Yolo()]
    return Graph(tuple(layers))


def reference_width(graph: Graph) -> float | None:
    """Return the width multiplier if the layers are those of the reference network, else None.

    Example:
        >>> reference_width(reference_graph(64, (255, 255)))
        1.0
    """
    layers = graph.layers
    heads = [layers[index - 1] for index in graph.outputs]
    if len(heads) not in (2, 3) or len(layers) < 2:
        return None
    second, *outputs = layers[1], *heads
    if not isinstance(second, Convolutional) or second.filters % 8:
        return None
    filters = tuple(one.filters for one in outputs if isinstance(one, Convolutional))
    if len(filters) != len(heads):
        return None
    same = reference_graph(second.filters, filters) == graph
    return second.filters / 64 if same else None


def graph_of(network: DetectionNetwork) -> Graph:
    """Return the layers of a network, without its attention blocks.

    Raises:
        TypeError: if it is neither the reference network nor a `GraphDetector`.
    """
    if isinstance(network, GraphDetector):
        return network.graph
    if isinstance(network, YoloV4Tiny):
        outputs = [len(network.get_parameter(f"{n}.bias")) for n in network.output_layers()]
        return reference_graph(network.backbone.conv2.conv.out_channels, outputs)
    raise TypeError(f"{type(network).__name__} cannot be converted to darknet layers")


def convolutions_of(network: DetectionNetwork) -> Convolutions:
    """Return the convolutions of a network by layer number in `graph_of`."""
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
    if len(network.strides) == 3:
        blocks += [network.conv_up2, network.head_p3, network.out_p3]
    return [(one, None) if isinstance(one, nn.Conv2d) else (one.conv, one.bn) for one in blocks]


BN_EPS = 1e-5
"""Epsilon of batch normalization in darknet."""


FORK_REVISION = 5
"""AlexeyAB's darknet writes version 0.2.5 into weights files, pjreddie's 0.2.0 or less."""


def import_darknet(
    config: str | Path,
    weights: str | Path,
    *,
    names: str | Path | None = None,
    cutoff: int | None = None,
    resize: ResizeMode | None = None,
    seed: int = 0,
) -> Imported:
    """Return the network of a darknet configuration with the weights of a weights file.

    Args:
        config: ``.cfg`` file; the layers of YOLOv4-tiny become the reference network, all others a
            `attendet.models.GraphDetector`.
        weights: ``.weights`` file.
        names: text file with one class name per line.
        cutoff: read only this many layers from the file; the others are newly initialized.
        resize: resize mode of images; default: the one that `resize_mode` returns.
        seed: seed of newly initialized layers.

    Raises:
        ConfigError: if the configuration or the names are wrong; the message has file and line.
        WeightsError: if the weights file is invalid or does not match the configuration.
    """
    read = read_config(config)
    source = str(config)
    classes = class_names(names, read.num_classes, source=source)
    header, arrays = read_weights(weights, read.graph, cutoff=cutoff, lines=read.lines)
    width = reference_width(read.graph)
    mode, reason = resize_mode(read, header)
    metadata = WeightsMetadata(
        classes=classes,
        architecture=ARCHITECTURE if width is None else "yolov4-tiny",
        graph=read.graph.to_mappings() if width is None else None,
        input_hw=read.input_hw,
        anchors=read.anchors,
        anchor_masks=read.anchor_masks,
        scale_x_y=read.scale_x_y,
        width_mult=1.0 if width is None else width,
        bn_eps=BN_EPS,
        preprocess=dataclasses.asdict(Preprocess(resize=resize or mode)),
        seed=seed if cutoff is not None else None,
        origin=_origin(Path(config), Path(weights), header, cutoff),
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = build_from_metadata(metadata)
    _fill(convolutions_of(network), arrays)
    notes = _notes(read, named=names is not None, cutoff=cutoff)
    if resize is None:
        done = {"stretch": "stretched", "letterbox": "letterboxed"}[mode]
        notes = (f"images are {done}: {reason}; use --resize to change it", *notes)
    return Imported(network.eval(), metadata, notes)


def resize_mode(
    config: DarknetConfig, header: DarknetHeader
) -> tuple[Literal["stretch", "letterbox"], str]:
    """Return the resize mode of the program that wrote the files, and how it was recognized.

    AlexeyAB's darknet stretches unless ``letter_box=1``, pjreddie's letterboxes; the sources are in
    docs/decisions/0010-darknet-resize.md.
    """
    if config.letter_box is not None:
        mode: Literal["stretch", "letterbox"] = "letterbox" if config.letter_box else "stretch"
        return mode, f"letter_box={int(config.letter_box)} in [net]"
    if config.alexeyab_option:
        return "stretch", f"AlexeyAB's darknet does so, and only it reads {config.alexeyab_option}"
    if header.revision >= FORK_REVISION:
        return "stretch", f"AlexeyAB's darknet does so, and it writes version {header.version}"
    return "letterbox", f"pjreddie's darknet does so, and it writes version {header.version}"


def _origin(
    config: Path, weights: Path, header: DarknetHeader, cutoff: int | None
) -> dict[str, object]:
    return {
        "format": "darknet",
        "configuration": config.name,
        "weights": weights.name,
        "version": header.version,
        "seen": header.seen,
        "cutoff": cutoff,
    }


@torch.no_grad()
def _fill(
    convolutions: Mapping[int, tuple[nn.Conv2d, nn.BatchNorm2d | None]],
    arrays: Mapping[int, ConvolutionArrays],
) -> None:
    for index, one in arrays.items():
        conv, bn = convolutions[index]
        conv.weight.copy_(torch.from_numpy(one.weight))
        targets: list[Tensor | None] = [conv.bias]
        if bn is not None:
            targets = [bn.bias, bn.weight, bn.running_mean, bn.running_var]
        for target, values in zip(targets, one.in_file_order()[:-1], strict=True):
            if target is not None:
                target.copy_(torch.from_numpy(values))


def _notes(config: DarknetConfig, *, named: bool, cutoff: int | None) -> tuple[str, ...]:
    notes = []
    if config.unknown_options:
        notes.append(f"unknown options are ignored: {', '.join(config.unknown_options)}")
    if not named:
        notes.append(
            "the classes are named class_0, class_1 and so on; set their names with --names"
        )
    last = len(config.graph.layers) - 1
    if cutoff is not None and cutoff <= last:
        notes.append(f"layers {cutoff} to {last} are newly initialized: train before predicting")
    return tuple(notes)


def export_darknet(
    network: DetectionNetwork, metadata: WeightsMetadata, folder: str | Path, *, stem: str
) -> tuple[Path, Path, Path]:
    """Write a network as darknet's files; return the paths of configuration, weights and names.

    The values are written unchanged, with two exceptions. If the epsilon of batch normalization is
    not darknet's 1e-5, the variances are corrected for it. If the network takes BGR images, its
    first convolution is converted to RGB.

    Args:
        network: network as returned by `attendet.models.load_weights`.
        metadata: description of the network.
        folder: output folder.
        stem: name of the files, before ``.cfg``, ``.weights`` and ``.names``.

    Raises:
        WeightsError: if the network has attention blocks, built in or inserted by
            `attendet.attend`; the message names them.
    """
    _refuse_attention({**network.attention_blocks(), **inserted_blocks(network)})
    graph = graph_of(network)
    config = DarknetConfig(
        graph=graph,
        input_hw=metadata.input_hw,
        num_classes=len(metadata.classes),
        anchors=metadata.anchors,
        anchor_masks=metadata.anchor_masks,
        scale_x_y=metadata.scale_x_y,
        letter_box=metadata.preprocessing().resize != "stretch",
    )
    folder = Path(folder)
    bgr = metadata.preprocessing().color == "bgr"
    arrays = [
        _arrays(conv, bn, swap_channels=bgr and graph.layers[index].sources(index) == (-1,))
        for index, (conv, bn) in convolutions_of(network).items()
    ]
    names = "".join(f"{name}\n" for name in metadata.classes)
    return (
        write_atomically(folder / f"{stem}.cfg", format_config(config)),
        write_weights(folder / f"{stem}.weights", arrays, _header(metadata)),
        write_atomically(folder / f"{stem}.names", names),
    )


def _refuse_attention(blocks: dict[str, AttentionBlock]) -> None:
    if not blocks:
        return
    found = ", ".join(f"{type(block).__name__} at {site}" for site, block in blocks.items())
    raise WeightsError(
        f"network must be without attention for darknet; got {found}. "
        "Train with --attention none for darknet."
    )


def _header(metadata: WeightsMetadata) -> DarknetHeader:
    """Return the header of the file that the weights came from, or a new one."""
    origin = metadata.origin or {}
    version, seen = str(origin.get("version", "")), origin.get("seen")
    known = origin.get("format") == "darknet" and re.fullmatch(
        r"\d{1,3}\.\d{1,3}\.\d{1,6}", version
    )
    if not known or not isinstance(seen, int):
        return DarknetHeader()
    major, minor, revision = map(int, version.split("."))
    return DarknetHeader(major, minor, revision, seen)


def _arrays(
    conv: nn.Conv2d, bn: nn.BatchNorm2d | None, *, swap_channels: bool
) -> ConvolutionArrays:
    weight = conv.weight.flip(1) if swap_channels else conv.weight
    if bn is None:
        bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
        return ConvolutionArrays(_numpy(bias), _numpy(weight))
    mean, variance = bn.running_mean, bn.running_var
    if mean is None or variance is None:
        raise WeightsError("batch normalization must have running statistics for darknet.")
    if bn.eps != BN_EPS:
        variance = (variance.double() + (bn.eps - BN_EPS)).clamp(min=0)
    norm = (_numpy(bn.weight), _numpy(mean), _numpy(variance))
    return ConvolutionArrays(_numpy(bn.bias), _numpy(weight), norm)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
