"""From a darknet configuration and weights file to a network of attendet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from attendet.interop.darknet.cfg import DarknetConfig, read_config
from attendet.interop.darknet.reference import convolutions_of, reference_width
from attendet.interop.darknet.weights import ConvolutionArrays, DarknetHeader, read_weights
from attendet.interop.imported import Imported, class_names
from attendet.models.graph import ARCHITECTURE
from attendet.models.metadata import Preprocess, ResizeMode, WeightsMetadata
from attendet.models.weights import build_from_metadata

__all__ = ["import_darknet"]

BN_EPS = 1e-5
"""Epsilon of batch normalization in darknet."""


def import_darknet(
    config: str | Path,
    weights: str | Path,
    *,
    names: str | Path | None = None,
    cutoff: int | None = None,
    resize: ResizeMode | None = None,
    seed: int = 0,
) -> Imported:
    """Return the network of a darknet configuration with the values of a weights file.

    Args:
        config: the ``.cfg``; layers that are those of YOLOv4-tiny make the reference network, all
            others a `attendet.models.GraphDetector`.
        weights: the ``.weights``.
        names: text file with a class name a line.
        cutoff: take the first so many layers alone from the file; the others start anew.
        resize: how images are laid out; by default letterboxed (``letterbox``), or as
            ``letter_box`` of the configuration says.
        seed: of the layers that start anew.

    Raises:
        ConfigError: if the configuration or the names are wrong; names file and line.
        WeightsError: if the weights file does not hold what the configuration says.
    """
    read = read_config(config)
    source = str(config)
    classes = class_names(names, read.num_classes, source=source)
    header, arrays = read_weights(weights, read.graph, cutoff=cutoff, lines=read.lines)
    width = reference_width(read.graph)
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
        preprocess=dataclasses.asdict(Preprocess(resize=resize or _resize_mode(read))),
        seed=seed if cutoff is not None else None,
        origin=_origin(Path(config), Path(weights), header, cutoff),
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = build_from_metadata(metadata)
    _fill(convolutions_of(network), arrays)
    notes = _notes(read, named=names is not None, cutoff=cutoff)
    return Imported(network.eval(), metadata, notes)


def _resize_mode(config: DarknetConfig) -> ResizeMode:
    return "stretch" if config.letter_box is False else "letterbox"


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
        for target, values in zip(targets, one.in_order()[:-1], strict=True):
            if target is not None:
                target.copy_(torch.from_numpy(values))


def _notes(config: DarknetConfig, *, named: bool, cutoff: int | None) -> tuple[str, ...]:
    notes = []
    if config.unread:
        notes.append(f"options that are not known here are passed over: {', '.join(config.unread)}")
    if not named:
        notes.append("the classes are named class_0 and so on; give --names for their names")
    last = len(config.graph.layers) - 1
    if cutoff is not None and cutoff <= last:
        notes.append(f"layers {cutoff} to {last} start anew: train before predicting")
    return tuple(notes)
