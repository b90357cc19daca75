"""INT8 by calibration: which operators stay in float32, and the two libraries that do the rest."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.data.sample import Sample
from attendet.exporters.onnx_file import OnnxGraph, write_onnx
from attendet.exporters.openvino_file import read_openvino
from attendet.images import read_image
from attendet.inference.preprocess import resize_to_input
from attendet.models.metadata import WeightsMetadata
from attendet.system import require

__all__ = [
    "CALIBRATION_IMAGES",
    "Attempt",
    "attempts",
    "calibration_inputs",
    "quantize_onnx",
    "quantize_openvino",
]

CALIBRATION_IMAGES = 128
"""Images that ranges are measured on, at most."""

QUANTIZED = ("Conv", "LeakyRelu", "Relu", "MaxPool", "Concat", "Resize", "Mul", "Sigmoid", "Gemm")
"""Kinds of operators that ONNX Runtime runs in int8."""


@dataclass(frozen=True)
class Attempt:
    """What stays in float32 in one attempt."""

    name: str
    """In words."""

    kept: frozenset[str]
    """Names of the operators."""


def calibration_inputs(
    samples: Sequence[Sample], metadata: WeightsMetadata
) -> list[NDArray[np.uint8]]:
    """Return images as the file will see them, spread over the samples: (1, H, W, 3) each.

    Args:
        samples: of the calibration data.
        metadata: of the file: input size, fit, order of channels.
    """
    step = max(1, len(samples) // CALIBRATION_IMAGES)
    preprocess = metadata.preprocessing()
    resize = "letterbox" if preprocess.resize == "rect" else preprocess.resize
    inputs = []
    for sample in samples[::step][:CALIBRATION_IMAGES]:
        padded, _ = resize_to_input(read_image(sample.path), metadata.input_hw, resize)
        turned = padded[..., ::-1] if preprocess.color == "bgr" else padded
        inputs.append(np.ascontiguousarray(turned[None]))
    return inputs


def attempts(graph: OnnxGraph, attention: Sequence[str]) -> Iterator[Attempt]:
    """Give what to keep in float32, from the least to the most.

    Decode always is, and so are the last convolutions: they are small, and what they give holds
    boxes, objectness and classes on one scale.

    Args:
        graph: the network.
        attention: modules that are attention blocks, such as ``network.attention.p5``.
    """
    nodes = list(graph.model.graph.node)
    scopes = graph.scopes
    inside = {node.name for node in nodes if _within(scopes.get(node.name, ""), ("network",))}
    decode = frozenset(node.name for node in nodes) - inside
    gates = {name for name in inside if _within(scopes[name], attention)}
    convolutions = [
        node.name for node in nodes if node.op_type == "Conv" and node.name in inside - gates
    ]
    last = _outputs(nodes, inside).intersection(convolutions)
    first, early = set(convolutions[:1]), set(convolutions[: len(convolutions) // 4])
    name, kept = "decode, last convolutions", decode | last
    yield Attempt(name, kept)
    for more, operators in (
        ("first convolution", first),
        ("attention", gates),
        ("first quarter of the convolutions", early),
    ):
        if operators <= kept:
            continue
        name, kept = f"{name}, {more}", kept | operators
        yield Attempt(name, kept)


def _within(scope: str, modules: Sequence[str]) -> bool:
    return any(scope == module or scope.startswith(f"{module}.") for module in modules)


def _outputs(nodes: Sequence[Any], inside: set[str]) -> set[str]:
    """Return the operators of the network that the decode takes its values from."""
    taken = {name for node in nodes if node.name not in inside for name in node.input}
    return {node.name for node in nodes if node.name in inside and set(node.output) & taken}


def quantize_onnx(
    graph: OnnxGraph, inputs: Sequence[NDArray[np.uint8]], kept: frozenset[str], work: Path
) -> OnnxGraph:
    """Return an ONNX model with weights and maps in int8 (pairs of quantize and dequantize).

    Weights are int8 of seven bits, a scale for each channel; maps are uint8, with the range that
    they had. With the eighth bit, processors without dot products of bytes (AVX2 alone) overflow.

    Args:
        graph: in float32.
        network inputs: images to measure ranges on.
        kept: operators that stay in float32.
        work: folder for files on the way.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
    """
    quantization = require("onnxruntime.quantization", extra="export", purpose="--int8")
    onnx = require("onnx", extra="export", purpose="--int8")
    reader = _reader(quantization.CalibrationDataReader, inputs)
    # The mark says that the model needs no preparation, of which the library would remind us.
    ready = {"onnx.quant.pre_process": "onnxruntime.quant"}
    source, made = write_onnx(graph, work / "float32.onnx", ready), work / "int8.onnx"
    with _silent():
        quantization.quantize_static(
            source,
            made,
            reader,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
        )
    return OnnxGraph(onnx.load(made), graph.scopes)


def _reader(base: type, inputs: Sequence[NDArray[np.uint8]]) -> Any:
    def get_next(self: Any) -> Mapping[str, Any] | None:
        del self
        padded = next(coming, None)
        return None if padded is None else {"images": padded}

    coming = iter(inputs)
    return type("Canvases", (base,), {"get_next": get_next})()


def quantize_openvino(
    source: Path, inputs: Sequence[NDArray[np.uint8]], kept: frozenset[str]
) -> Any:
    """Return an OpenVINO model with weights and maps in int8, by NNCF.

    Weights are int8, a scale for each channel, maps of either sign as their ranges ask for; biases
    are corrected for the mean error of each layer.

    Args:
        source: ONNX file in float32.
        network inputs: images to measure ranges on.
        kept: operators that stay in float32.

    Raises:
        MissingExtraError: if nncf is not installed.
    """
    nncf = _nncf()
    model = read_openvino(source)
    with _silent():
        return nncf.quantize(
            model,
            nncf.Dataset(list(inputs)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=_names_in(model, kept), validate=False),
        )


def _names_in(model: Any, kept: frozenset[str]) -> list[str]:
    """Return the names of operators in OpenVINO, which makes two of a convolution with biases."""
    names = (operator.get_friendly_name() for operator in model.get_ops())
    return sorted(name for name in names if name.removesuffix("/WithoutBiases") in kept)


def _nncf() -> Any:
    """Import NNCF without what it would send to its makers."""
    name = "NNCF_CI"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return require("nncf", extra="export", purpose="--int8 for OpenVINO")
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep libraries' bars and notes off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
