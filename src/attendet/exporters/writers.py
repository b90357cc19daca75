"""Functions that write the file of a network, for each format and precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from attendet.attention import AttentionBlock
from attendet.data import Sample
from attendet.exporters.exported_network import ExportedNetwork, PlanarNetwork
from attendet.exporters.int8 import (
    calibration_inputs,
    int8_configurations,
    measure_layer_errors,
    quantize_onnx,
    quantize_openvino,
)
from attendet.exporters.litert_file import convert_litert, write_litert
from attendet.exporters.ncnn_file import convert_ncnn, write_ncnn
from attendet.exporters.onnx_file import OnnxGraph, build_onnx, write_onnx
from attendet.exporters.openvino_file import read_onnx, write_openvino
from attendet.exporters.torch_files import trace, trace_script, write_program, write_torchscript
from attendet.inference import Selection
from attendet.models.detector import DetectionNetwork
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata

Writer = Callable[[Path, Mapping[str, str]], Path]
"""Function that writes the file, with metadata, to a path and returns the path."""


def writers(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    info: ExportInfo,
    work: Path,
    calibration: Sequence[Sample],
) -> Iterator[tuple[str, Writer]]:
    """Yield the writers to try: one, or several INT8 configurations.

    Args:
        network: network to export; it is not modified.
        metadata: metadata of the network in the file.
        info: metadata of the export in the file.
        work: folder for temporary files.
        calibration: calibration images, for int8.

    Yields:
        A description of the operators that stay in float32 (empty unless int8), and the writer.
    """
    hw, half = metadata.input_hw, info.precision == "float16"
    if info.format == "ncnn":
        planar, script = PlanarNetwork(network, fold_scale=not half), work / "planar.pt"
        write_torchscript(trace_script(planar, hw, (), images=torch.zeros(1, 3, *hw)), script, {})
        yield "", partial(write_ncnn, convert_ncnn(script, hw, half=half))
        return
    of_torch = info.format in ("torchscript", "torch-export")
    exported = ExportedNetwork(network, fold_scale=not half, channels_last=of_torch, clip=info.nms)
    if info.format == "torchscript":
        yield "", partial(write_torchscript, trace_script(exported, hw, info.dynamic))
        return
    if info.format == "litert":
        yield "", partial(write_litert, convert_litert(exported, hw, work / "converted.tflite"))
        return
    program = trace(exported, hw, info.dynamic)
    if info.format == "torch-export":
        yield "", partial(write_program, program)
        return
    graph = _build_graph(program, info)
    if info.precision == "int8":
        modules = exported.named_modules()
        attention = [name for name, module in modules if isinstance(module, AttentionBlock)]
        inputs = calibration_inputs(calibration, metadata)
        errors = partial(measure_layer_errors, exported, inputs)
        for description, kept in int8_configurations(graph, attention, errors):
            yield description, _int8_writer(graph, info, inputs, kept, work)
    elif info.format == "onnx":
        yield "", partial(write_onnx, graph)
    else:
        model = read_onnx(write_onnx(graph, work / "graph.onnx", {}))
        yield "", partial(write_openvino, model, half=half)


def _build_graph(program: ExportedProgram, info: ExportInfo) -> OnnxGraph:
    selection = Selection.from_limits(info) if info.nms else None
    half = info.precision == "float16" and info.format == "onnx"
    return build_onnx(program, dynamic=info.dynamic, half=half, selection=selection)


def _int8_writer(
    graph: OnnxGraph, info: ExportInfo, inputs: Sequence[Any], kept: frozenset[str], work: Path
) -> Writer:
    if info.format == "onnx":
        return partial(write_onnx, quantize_onnx(graph, inputs, kept, work))
    source = write_onnx(graph, work / "float32.onnx", {})
    return partial(write_openvino, quantize_openvino(source, inputs, kept))
