"""ncnn models for phones and boards: a folder of parameters, weights and metadata.

The model takes one image, not a batch, as three planes of float pixels: the layout of ncnn's
``Mat::from_pixels``. pnnx, ncnn's own converter, converts from TorchScript.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from attendet.errors import ExportError
from attendet.inference.runtimes.ncnn_runtime import BIN, PARAM
from attendet.models.export_info import HEADER_FILE
from attendet.system import require

FILES = (PARAM, BIN, HEADER_FILE)
"""Files of the folder."""


def convert_ncnn(script: Path, hw: tuple[int, int], *, half: bool = False) -> Path:
    """Convert a TorchScript file; return the folder of ``model.param`` and ``model.bin``.

    Args:
        script: traced `attendet.exporters.exported_network.PlanarNetwork`.
        hw: height and width of its input, pixels.
        half: keep weights in float16.

    Raises:
        ExportError: if pnnx fails, or its result has operators that ncnn does not support.
        MissingExtraError: if pnnx is not installed.
    """
    pnnx = require("pnnx", extra="pnnx", purpose="exporting to ncnn")
    shape = f"inputshape=[1,3,{hw[0]},{hw[1]}]"
    command = [pnnx.EXEC_PATH, script.name, shape, f"fp16={int(half)}"]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    converted = {
        name: script.with_name(f"{script.stem}.ncnn{Path(name).suffix}") for name in (PARAM, BIN)
    }
    if done.returncode or not all(path.is_file() for path in converted.values()):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise ExportError(f"pnnx cannot convert the network: {reason}. Nothing was written.")
    # pnnx keeps the PyTorch name of an operator that ncnn does not support.
    operators = converted[PARAM].read_text(encoding="utf-8").splitlines()[2:]
    unknown = sorted({kind for line in operators if "." in (kind := line.split()[0])})
    if unknown:
        raise ExportError(f"network must use only operators of ncnn; got {', '.join(unknown)}.")
    folder = script.parent / "converted"
    folder.mkdir()
    for name, path in converted.items():
        path.replace(folder / name)
    return folder


def write_ncnn(converted: Path, folder: Path, header: Mapping[str, str]) -> Path:
    """Write a converted model with its metadata into a folder; return the folder.

    Args:
        converted: returned by `convert_ncnn`.
        folder: created if missing.
        header: metadata keys and values.
    """
    shutil.copytree(converted, folder, dirs_exist_ok=True)
    (folder / HEADER_FILE).write_text(json.dumps(dict(header)) + "\n", encoding="utf-8")
    return folder
