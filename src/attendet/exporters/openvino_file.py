"""OpenVINO models: from an ONNX file to a folder of ``model.xml`` and ``model.bin``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attendet.system import require

__all__ = ["read_openvino", "write_openvino"]

NAME = "model.xml"


def read_openvino(path: str | Path) -> Any:
    """Return the ``openvino.Model`` of an ONNX file or of a folder that `write_openvino` wrote.

    Args:
        path: ``.onnx`` file or folder.

    Raises:
        MissingExtraError: if openvino is not installed.
    """
    openvino = require("openvino", extra="export", purpose="exporting to OpenVINO")
    path = Path(path)
    return openvino.Core().read_model(path / NAME if path.is_dir() else path)


def write_openvino(
    model: Any, folder: Path, header: Mapping[str, str], *, half: bool = False
) -> Path:
    """Write an OpenVINO model with its description into a folder; return the folder.

    Args:
        model: ``openvino.Model``.
        folder: is there already; not written atomically (see `attendet.exporters.folders`).
        header: names to texts, written as ``rt_info`` under ``attendet``.
        half: keep weights in float16.
    """
    openvino = require("openvino", extra="export", purpose="exporting to OpenVINO")
    for key, text in header.items():
        model.set_rt_info(text, ["attendet", key])
    openvino.save_model(model, folder / NAME, compress_to_fp16=half)
    return folder
