"""From a network to what writes its file, for each format and precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attendet.attention import AttentionBlock
from attendet.data import Sample
from attendet.exporters import quantize, torch_files
from attendet.exporters.ncnn_file import convert_ncnn, write_ncnn
from attendet.exporters.network import ImageNetwork, PlanarNetwork
from attendet.exporters.onnx_file import OnnxGraph, build_onnx, write_onnx
from attendet.exporters.openvino_file import read_openvino, write_openvino
from attendet.inference import Selection
from attendet.models.detector import DetectionNetwork
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata

__all__ = ["Write", "ways"]

Write = Callable[[Path, dict[str, str]], Path]


def ways(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    info: ExportInfo,
    work: Path,
    calibration: Sequence[Sample],
) -> Iterator[tuple[str, Write]]:
    """Give what writes the file with a description: one way, or several of int8, best first.

    Args:
        network: stays as it is.
        metadata: of the file.
        info: of the file.
        work: folder for files on the way.
        calibration: images to measure ranges on, for int8.

    Returns:
        What it leaves in float32, in words, and what writes the file to a path.
    """
    if info.format == "ncnn":
        yield "", _ncnn_writer(network, metadata, info, work)
        return
    own = info.format in ("torchscript", "torch-export")
    half = info.precision == "float16"
    made = ImageNetwork(network, fold_scale=not half, channels_last=own, clip=info.nms)
    hw, dynamic = metadata.input_hw, info.dynamic
    if info.format == "torchscript":
        yield (
            "",
            lambda path, header: torch_files.write_torchscript(made, hw, dynamic, path, header),
        )
        return
    program = torch_files.trace(made, hw, dynamic)
    if info.format == "torch-export":
        yield "", lambda path, header: torch_files.write_program(program, path, header)
    elif info.precision == "int8":
        yield from _quantized_ways(program, metadata, info, work, calibration, made)
    else:
        yield "", _graph_writer(_graph(program, info), info, work)


def _ncnn_writer(
    network: DetectionNetwork, metadata: WeightsMetadata, info: ExportInfo, work: Path
) -> Write:
    half, hw = info.precision == "float16", metadata.input_hw
    made = PlanarNetwork(network, fold_scale=not half)
    script, images = work / "planar.pt", torch.zeros(1, 3, *hw)
    torch_files.write_torchscript(made, hw, (), script, {}, images=images)
    converted = convert_ncnn(script, hw, work, half=half)
    return lambda path, header: write_ncnn(converted, path, header)


def _graph(program: Any, info: ExportInfo) -> OnnxGraph:
    selection = None
    if info.confidence is not None and info.nms_iou is not None and info.max_detections is not None:
        selection = Selection(info.confidence, info.nms_iou, info.max_detections)
    half = info.precision == "float16" and info.format == "onnx"
    return build_onnx(program, dynamic=info.dynamic, half=half, selection=selection)


def _graph_writer(graph: OnnxGraph, info: ExportInfo, work: Path) -> Write:
    if info.format == "onnx":
        return lambda path, header: write_onnx(graph, path, header)
    model = read_openvino(write_onnx(graph, work / "graph.onnx", {}))
    return _folder_writer(model, half=info.precision == "float16")


def _folder_writer(model: Any, *, half: bool) -> Write:
    def write(path: Path, header: dict[str, str]) -> Path:
        path.mkdir(exist_ok=True)
        return write_openvino(model, path, header, half=half)

    return write


def _quantized_ways(
    program: Any,
    metadata: WeightsMetadata,
    info: ExportInfo,
    work: Path,
    calibration: Sequence[Sample],
    made: nn.Module,
) -> Iterator[tuple[str, Write]]:
    graph = _graph(program, info)
    attention = [name for name, part in made.named_modules() if isinstance(part, AttentionBlock)]
    inputs = quantize.calibration_inputs(calibration, metadata)
    for attempt in quantize.attempts(graph, attention):
        if info.format == "onnx":
            smaller = quantize.quantize_onnx(graph, inputs, attempt.kept, work)
            yield attempt.name, _graph_writer(smaller, info, work)
        else:
            source = write_onnx(graph, work / "float32.onnx", {})
            model = quantize.quantize_openvino(source, inputs, attempt.kept)
            yield attempt.name, _folder_writer(model, half=False)
