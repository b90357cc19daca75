"""From a network of attendet to a darknet configuration and weights file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attendet.attention import AttentionBlock, inserted_blocks
from attendet.errors import WeightsError
from attendet.files import write_atomically
from attendet.interop.darknet.cfg import DarknetConfig
from attendet.interop.darknet.cfg_text import format_config
from attendet.interop.darknet.importer import BN_EPS
from attendet.interop.darknet.reference import convolutions_of, graph_of
from attendet.interop.darknet.weights import ConvolutionArrays, DarknetHeader, write_weights
from attendet.models.detector import DetectionNetwork
from attendet.models.metadata import WeightsMetadata

__all__ = ["export_darknet"]


def export_darknet(
    network: DetectionNetwork, metadata: WeightsMetadata, folder: str | Path, *, stem: str
) -> tuple[Path, Path, Path]:
    """Write a network as darknet's files; return the paths of configuration, weights and names.

    The values are written as they are. Only where batch normalization has another epsilon than
    darknet's 1e-5 do the variances make up for it, and where images go in as BGR the first
    convolution is turned to RGB.

    Args:
        network: what `attendet.models.load_weights` returns.
        metadata: its description.
        folder: where the files go.
        stem: name of the files, before ``.cfg``, ``.weights`` and ``.names``.

    Raises:
        WeightsError: if the network holds attention blocks, its own or put in by `attendet.attend`;
            names them.
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
        _arrays(conv, bn, turn=bgr and graph.layers[index].sources(index) == (-1,))
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


def _arrays(conv: nn.Conv2d, bn: nn.BatchNorm2d | None, *, turn: bool) -> ConvolutionArrays:
    weight = conv.weight.flip(1) if turn else conv.weight
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
