"""Static INT8 quantization with ONNX Runtime and NNCF; choice of the operators in float32."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attendet.data.sample import Sample
from attendet.exporters.exported_network import ExportedNetwork
from attendet.exporters.onnx_file import OnnxGraph, write_onnx
from attendet.exporters.openvino_file import read_onnx
from attendet.images import read_image
from attendet.inference.preprocess import resize_to_input
from attendet.models.metadata import WeightsMetadata
from attendet.system import require

CALIBRATION_IMAGES = 128
"""Maximum number of calibration images."""

SENSITIVITY_IMAGES = 8
"""Maximum number of images for measuring the errors of single layers."""

ERROR_FRACTIONS = (0.9, 0.99)
"""The layers that cause this fraction of the total error stay in float32."""

ACTIVATIONS = ("LeakyRelu", "Relu", "Sigmoid", "Mul")
"""Operator types that stay in float32 after a convolution in float32."""

QUANTIZED = ("Conv", "LeakyRelu", "Relu", "MaxPool", "Concat", "Resize", "Mul", "Sigmoid", "Gemm")
"""Operator types that ONNX Runtime runs in int8."""


class Int8Configuration(NamedTuple):
    """Selection of the operators that stay in float32.

    Attributes:
        description: text for the report.
        kept: names of the operators.
    """

    description: str
    kept: frozenset[str]


def int8_configurations(
    graph: OnnxGraph, attention: Sequence[str], layer_errors: Callable[[], Mapping[str, float]]
) -> Iterator[Int8Configuration]:
    """Yield selections of operators to keep in float32, from the fewest to the most.

    Decode and the last convolutions are in every selection: these convolutions are small, and
    their outputs hold boxes, objectness and classes on one scale. Then come the attention blocks,
    and then the layers with the largest errors: nearly all of the error comes from a few layers
    whose channels differ much in range, often the first depthwise ones.

    Args:
        graph: the network.
        attention: modules that are attention blocks, such as ``network.attention.p5``.
        layer_errors: returns the result of `measure_layer_errors`; called only when needed.
    """
    nodes, scopes = list(graph.model.graph.node), graph.scopes
    inside = {node.name for node in nodes if _within(scopes.get(node.name, ""), ("network",))}
    decode = frozenset(node.name for node in nodes) - inside
    gates = {name for name in inside if _within(scopes[name], attention)}
    decode_inputs = {name for node in nodes if node.name in decode for name in node.input}
    last = {
        node.name
        for node in nodes
        if node.op_type == "Conv"
        and node.name in inside - gates
        and decode_inputs.intersection(node.output)
    }
    description, kept = "decode, last convolutions", decode | last
    yield Int8Configuration(description, kept)
    if gates:
        description, kept = f"{description}, attention", kept | gates
        yield Int8Configuration(description, kept)
    errors = layer_errors()
    for fraction in ERROR_FRACTIONS:
        layers = _largest(errors, fraction)
        with_layers = f"{description}, {len(layers)} of {len(errors)} layers"
        yield Int8Configuration(with_layers, kept | _around(nodes, scopes, layers))


def _largest(errors: Mapping[str, float], fraction: float) -> list[str]:
    """Return the layers with the largest errors that sum up to a fraction of the total error."""
    layers = sorted(errors, key=errors.__getitem__, reverse=True)
    sums = np.cumsum([errors[layer] for layer in layers])
    return layers[: int(np.searchsorted(sums, fraction * sums[-1])) + 1] if layers else []


def _around(nodes: Sequence[Any], scopes: Mapping[str, str], layers: Sequence[str]) -> set[str]:
    """Return the convolutions of some layers and the operators before and after them.

    ONNX Runtime quantizes the output of every int8 operator. An int8 operator before such a
    convolution would therefore quantize its input.
    """
    chosen = [node for node in nodes if node.op_type == "Conv" and scopes[node.name] in layers]
    read = {name for node in chosen for name in node.input}
    written = {name for node in chosen for name in node.output}
    around = {
        node.name
        for node in nodes
        if read.intersection(node.output)
        or (node.op_type in ACTIVATIONS and written.intersection(node.input))
    }
    return around | {node.name for node in chosen}


@torch.no_grad()
def measure_layer_errors(
    exported: ExportedNetwork, inputs: Sequence[NDArray[np.uint8]]
) -> dict[str, float]:
    """Return, for each convolution, the output error of the network with only it in int8.

    Its input, weights and output are rounded as in int8. The error is the mean squared difference
    of the network's raw outputs, relative to their variance, summed over the levels.

    Args:
        exported: network in float32.
        inputs: network inputs for calibration; the first `SENSITIVITY_IMAGES` are used.

    Returns:
        Name of each convolution to its error.
    """
    batch = torch.from_numpy(np.concatenate(inputs[:SENSITIVITY_IMAGES]))
    planes = batch.permute(0, 3, 1, 2).float() / (255 if exported.divide else 1)
    expected = exported.network(planes)
    scale = [float(level.var()) for level in expected]
    errors = {}
    for name, module in exported.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        weight = module.weight.data
        hooks = (
            module.register_forward_pre_hook(lambda _, maps: (_round_map(maps[0]),)),
            module.register_forward_hook(lambda _, __, out: _round_map(out)),
        )
        module.weight.data = _round_weight(weight)
        try:
            levels = exported.network(planes)
        finally:
            module.weight.data = weight
            for hook in hooks:
                hook.remove()
        errors[name] = sum(
            float((level - wanted).square().mean()) / variance
            for level, wanted, variance in zip(levels, expected, scale, strict=True)
        )
    return errors


def _round_map(values: Tensor) -> Tensor:
    """Return values rounded to 256 steps over their range, extended to include 0."""
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    return ((values - low) / step).round() * step + low


def _round_weight(weight: Tensor) -> Tensor:
    """Return weights rounded to seven bits, one scale per output channel."""
    step = (weight.abs().amax((1, 2, 3), keepdim=True) / 63).clamp(min=1e-12)
    return (weight / step).round() * step


def _within(scope: str, modules: Sequence[str]) -> bool:
    return any(scope == module or scope.startswith(f"{module}.") for module in modules)


def calibration_inputs(
    samples: Sequence[Sample], metadata: WeightsMetadata
) -> list[NDArray[np.uint8]]:
    """Return network inputs for calibration, evenly spaced over the samples: (1, H, W, 3) each.

    Args:
        samples: samples of the calibration data.
        metadata: metadata of the file, for input size, resize mode and channel order.
    """
    count = min(len(samples), CALIBRATION_IMAGES)
    chosen = np.linspace(0, len(samples) - 1, count).round().astype(int).tolist()
    preprocess = metadata.preprocessing()
    resize = "letterbox" if preprocess.resize == "rect" else preprocess.resize
    return [
        resize_to_input(
            read_image(samples[index].path), metadata.input_hw, resize, preprocess.color
        )[0][None]
        for index in chosen
    ]


def quantize_onnx(
    graph: OnnxGraph, inputs: Sequence[NDArray[np.uint8]], kept: frozenset[str], work: Path
) -> OnnxGraph:
    """Return an ONNX model with weights and activations in int8, in the QDQ format.

    Weights are int8 limited to seven bits, one scale per channel; activations are uint8 over their
    calibrated range. Eight bits overflow on CPUs without int8 dot products (AVX2 only).

    Args:
        graph: model in float32.
        inputs: network inputs for calibration.
        kept: names of operators that stay in float32.
        work: folder for temporary files.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
    """
    quantization = require("onnxruntime.quantization", extra="export", purpose="--int8")
    onnx = require("onnx", extra="export", purpose="--int8")
    # This entry marks the model as pre-processed; without it, the library warns.
    ready = {"onnx.quant.pre_process": "onnxruntime.quant"}
    source, target = write_onnx(graph, work / "float32.onnx", ready), work / "int8.onnx"
    remaining = iter(inputs)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, Any] | None:
            images = next(remaining, None)
            return None if images is None else {"images": images}

    with _silent():
        quantization.quantize_static(
            source,
            target,
            Reader(),
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
        )
    return OnnxGraph(onnx.load(target), graph.scopes)


def quantize_openvino(
    source: Path, inputs: Sequence[NDArray[np.uint8]], kept: frozenset[str]
) -> Any:
    """Return an OpenVINO model with weights and activations in int8, quantized by NNCF.

    Weights are int8 with one scale per channel; activations are signed or unsigned depending on
    their range; biases are corrected for the mean error of each layer.

    Args:
        source: ONNX file in float32.
        inputs: network inputs for calibration.
        kept: names of operators that stay in float32.

    Raises:
        MissingExtraError: if nncf is not installed.
    """
    nncf = _import_nncf()
    model = read_onnx(source)
    with _silent():
        return nncf.quantize(
            model,
            nncf.Dataset(list(inputs)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=_names_in(model, kept), validate=False),
        )


def _names_in(model: Any, kept: frozenset[str]) -> list[str]:
    """Return OpenVINO's operator names; it splits a convolution with biases into two operators."""
    names = (operator.get_friendly_name() for operator in model.get_ops())
    return sorted(name for name in names if name.removesuffix("/WithoutBiases") in kept)


def _import_nncf() -> Any:
    """Import NNCF without its telemetry."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        return require("nncf", extra="export", purpose="--int8 for OpenVINO")
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress progress bars and log messages of libraries."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
