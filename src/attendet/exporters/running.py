"""Exported files run as they stand, for the checks: no tuning, float32, one call a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.exporters.ncnn_file import INPUT, OUTPUTS, open_ncnn
from attendet.exporters.openvino_file import read_openvino
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata
from attendet.system import require

__all__ = ["ExportedRuntime", "open_exported"]

Outputs = Sequence[NDArray[Any]]
Run = Callable[[NDArray[np.uint8]], Outputs]


def _open_onnx(path: Path) -> Run:
    onnxruntime = require("onnxruntime", extra="export", purpose="checking an ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: NDArray[np.uint8]) -> Outputs:
        outputs: Outputs = session.run(None, {"images": inputs})
        return outputs

    return run


def _open_openvino(path: Path) -> Run:
    openvino = require("openvino", extra="export", purpose="checking an OpenVINO model")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some machines would take bfloat16 unasked
    compiled = openvino.Core().compile_model(read_openvino(path), "CPU", exact)

    def run(inputs: NDArray[np.uint8]) -> Outputs:
        outputs = compiled([inputs])
        return [np.array(outputs[port]) for port in compiled.outputs]

    return run


def _open_torchscript(path: Path) -> Run:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out, and says so
        return _run_torch(torch.jit.load(path, map_location="cpu"))  # type: ignore[no-untyped-call]


def _open_program(path: Path) -> Run:
    import torch

    return _run_torch(torch.export.load(path).module())


def _run_torch(module: Callable[..., Any]) -> Run:
    import torch

    def run(inputs: NDArray[np.uint8]) -> Outputs:
        with torch.no_grad():
            return [output.numpy() for output in module(torch.from_numpy(inputs))]

    return run


def _open_ncnn(path: Path) -> Run:
    ncnn = require("ncnn", extra="ncnn", purpose="checking an ncnn model")
    net = open_ncnn(path)

    def run(inputs: NDArray[np.uint8]) -> Outputs:
        planes = np.ascontiguousarray(inputs[0].transpose(2, 0, 1), dtype=np.float32)
        extractor = net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(planes).clone())
        return [np.array(extractor.extract(name)[1])[None] for name in OUTPUTS]

    return run


_OPENERS: dict[str, Callable[[Path], Run]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torchscript": _open_torchscript,
    "torch-export": _open_program,
    "ncnn": _open_ncnn,
}


def open_exported(path: Path, info: ExportInfo) -> Run:
    """Return what runs an exported file: uint8 network inputs (N, H, W, 3) to the file's outputs.

    Args:
        path: the file or folder.
        info: what it says of itself.

    Raises:
        MissingExtraError: if the library that runs such files is not installed.
    """
    run = _OPENERS[info.format](path)
    if "batch" in info.dynamic:
        return run

    def one_by_one(inputs: NDArray[np.uint8]) -> Outputs:
        parts = [run(np.ascontiguousarray(padded[None])) for padded in inputs]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return one_by_one


class ExportedRuntime:
    """An exported file as a runtime of a `attendet.inference.Detector`.

    Args:
        run: what `open_exported` returned, for a file that gives every box.
        metadata: the network's description.
    """

    def __init__(self, run: Run, metadata: WeightsMetadata) -> None:
        self._run = run
        self.metadata = metadata

    def run(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return every box of each network input with its scores (see
        `attendet.inference.Runtime`)."""
        boxes_xyxy, scores = self._run(np.ascontiguousarray(inputs))
        return boxes_xyxy, scores
