"""ONNX files: a traced network as a model of standard operators with its metadata."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attendet import __version__
from attendet.errors import ExportError
from attendet.exporters.nms import add_nms
from attendet.files import write_atomically
from attendet.system import require

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from attendet.inference.postprocess import Selection

OPSET = 18
"""Version of the ONNX operator set; ONNX Runtime 1.14 and OpenVINO 2023.0 support it."""

MIN_FLOAT16_VALUES = 256
"""Weights with fewer values stay in float32: biases and small layers of attention gates."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key under which the converter stores the PyTorch modules around an operator."""


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX model, and the PyTorch module of each operator.

    Attributes:
        model: ``onnx.ModelProto``.
        scopes: name of each operator to the innermost PyTorch module that contains it, such as
            ``network.attention.p5``; an empty string for normalization and decode.
    """

    model: Any
    scopes: Mapping[str, str]


def build_onnx(
    program: ExportedProgram,
    *,
    dynamic: tuple[str, ...],
    half: bool = False,
    selection: Selection | None = None,
) -> OnnxGraph:
    """Return the ONNX model of a traced network.

    Args:
        program: a traced `attendet.exporters.exported_network.ExportedNetwork`.
        dynamic: which of ``batch`` and ``size`` may vary; these axes get names.
        half: keep weights in float16; runtimes convert them to float32 when the file is loaded.
        selection: append non-maximum suppression with these thresholds.

    Raises:
        ExportError: if an operator is not a standard ONNX operator.
        MissingExtraError: if onnx or onnxscript is not installed.
    """
    for module in ("onnx", "onnxscript"):
        require(module, extra="export", purpose="exporting to ONNX")
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the converter about its own code
        converted = torch.onnx.export(
            program,
            (),
            input_names=["images"],
            output_names=["boxes_xyxy", "scores"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = converted.model_proto  # type: ignore[union-attr]
    scopes = _name_by_output(model)
    _remove_notes(model)
    _name_axes(model, dynamic)
    if selection is not None:
        model = add_nms(model, selection)
    if half:
        _keep_in_half(model)
    model.producer_name, model.producer_version = "attendet", __version__
    _check_operators(model)
    return OnnxGraph(model, scopes)


def _name_by_output(model: Any) -> dict[str, str]:
    """Name each operator after its first output, as OpenVINO does; return scopes by name."""
    scopes = {}
    for node in model.graph.node:
        node.name = node.output[0]
        notes = {entry.key: entry.value for entry in node.metadata_props}
        path = ast.literal_eval(notes.get(SCOPES, "['']"))
        scopes[node.name] = path[-2] if len(path) > 1 else ""
    return scopes


def _remove_notes(model: Any) -> None:
    """Remove the converter's metadata, such as stack traces with file paths of this machine."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def _name_axes(model: Any, dynamic: tuple[str, ...]) -> None:
    values = [model.graph.input[0], *model.graph.output]
    images, *outputs = (value.type.tensor_type.shape.dim for value in values)
    if "batch" in dynamic:
        for dims in (images, *outputs):
            dims[0].dim_param = "batch"
    if "size" in dynamic:
        images[1].dim_param, images[2].dim_param = "height", "width"
        for dims in outputs:
            dims[1].dim_param = "boxes"


def _keep_in_half(model: Any) -> None:
    """Convert large weights to float16, each followed by a cast to float32."""
    import onnx
    from onnx import helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < MIN_FLOAT16_VALUES:
            continue
        name, kept = tensor.name, f"{tensor.name}_float16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), kept))
        casts.append(helper.make_node("Cast", [kept], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _check_operators(model: Any) -> None:
    nonstandard = sorted(
        {node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if nonstandard or model.functions:
        raise ExportError(
            "network must use only standard ONNX operators; got "
            f"{', '.join(nonstandard) or 'functions'}."
        )


def write_onnx(graph: OnnxGraph, path: str | Path, header: Mapping[str, str]) -> Path:
    """Write an ONNX model with its metadata; return the path.

    Args:
        graph: returned by `build_onnx`.
        path: the file, written atomically.
        header: keys and values, written as the model's metadata.
    """
    model = graph.model
    del model.metadata_props[:]
    for key, text in sorted(header.items()):
        model.metadata_props.add(key=key, value=text)
    return write_atomically(path, model.SerializeToString(deterministic=True))
