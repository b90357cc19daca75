"""OpenVINO models: a folder of ``model.xml`` and ``model.bin``, made from an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attendet.system import require

FILES = ("model.xml", "model.bin")
"""Files of the folder."""


def read_onnx(path: Path) -> Any:
    """Return the ``openvino.Model`` of an ONNX file.

    Raises:
        MissingExtraError: if openvino is not installed.
    """
    openvino = require("openvino", extra="export", purpose="exporting to OpenVINO")
    return openvino.Core().read_model(path)


def write_openvino(
    model: Any, folder: Path, header: Mapping[str, str], *, half: bool = False
) -> Path:
    """Write an OpenVINO model with its metadata into a folder; return the folder.

    Args:
        model: ``openvino.Model``.
        folder: created if missing.
        header: metadata keys and values, written as ``rt_info`` under ``attendet``.
        half: keep weights in float16.
    """
    openvino = require("openvino", extra="export", purpose="exporting to OpenVINO")
    folder.mkdir(exist_ok=True)
    for key, text in header.items():
        model.set_rt_info(text, ["attendet", key])
    openvino.save_model(model, folder / FILES[0], compress_to_fp16=half)
    return folder
