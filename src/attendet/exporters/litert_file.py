"""LiteRT (TensorFlow Lite) models for phones: a folder of the model and its metadata.

litert-torch, the converter of the LiteRT project, converts from PyTorch.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attendet.errors import ExportError, first_line
from attendet.inference.runtimes.base import ExportedRuntime, RuntimeOptions
from attendet.models.export_info import HEADER_FILE
from attendet.system import require

MODEL = "model.tflite"
FILES = (MODEL, HEADER_FILE)
"""Files of the folder."""

SIGNATURE = "serving_default"


def convert_litert(network: nn.Module, hw: tuple[int, int], path: Path) -> Path:
    """Convert a network for one image of a fixed size to a ``.tflite`` file; return its path.

    Args:
        network: an `attendet.exporters.exported_network.ExportedNetwork`.
        hw: height and width of its input, pixels, multiples of 32.
        path: the file.

    Raises:
        ExportError: if litert-torch cannot convert the network.
        MissingExtraError: if litert-torch is not installed.
    """
    litert = require("litert_torch", extra="litert", purpose="exporting to LiteRT")
    image = torch.zeros(1, *hw, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the converter
        try:
            litert.convert(network, (image,)).export(str(path))
        except Exception as error:  # the compiler raises its own error types
            raise ExportError(
                f"litert-torch cannot convert the network: {first_line(error)}. "
                "Nothing was written."
            ) from error
    return path


def write_litert(converted: Path, folder: Path, header: Mapping[str, str]) -> Path:
    """Write a converted network with its metadata into a folder; return the folder.

    Args:
        converted: returned by `convert_litert`.
        folder: created if missing.
        header: metadata keys and values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(converted, folder / MODEL)
    (folder / HEADER_FILE).write_text(json.dumps(dict(header)) + "\n", encoding="utf-8")
    return folder


class LiteRtRuntime(ExportedRuntime):
    """Runtime of a LiteRT folder with ai-edge-litert, for the parity check only."""

    def __init__(self, path: Path) -> None:
        header = json.loads((path / HEADER_FILE).read_text(encoding="utf-8"))
        super().__init__(path, header, RuntimeOptions())
        module = "ai_edge_litert.interpreter"
        interpreter = require(module, extra="litert", purpose="checking a LiteRT model")
        self._interpreter = interpreter.Interpreter(str(path / MODEL))
        (self._input,) = self._interpreter.get_signature_list()[SIGNATURE]["inputs"]
        self._run = self._interpreter.get_signature_runner(SIGNATURE)

    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        outputs = self._run(**{self._input: inputs})
        return [outputs[name] for name in ("output_0", "output_1")]
