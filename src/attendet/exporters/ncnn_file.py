"""ncnn models for phones and boards: a folder of parameters, weights and the description.

ncnn takes one image as three planes of float pixels, as its ``Mat::from_pixels`` makes them, and
no batch. The conversion is that of pnnx, ncnn's own, from TorchScript.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attendet.errors import ExportError
from attendet.files import write_atomically
from attendet.system import require

__all__ = ["INPUT", "OUTPUTS", "convert_ncnn", "open_ncnn", "write_ncnn"]

DESCRIPTION = "attendet.json"
PARAM, BIN = "model.param", "model.bin"
INPUT, OUTPUTS = "in0", ("out0", "out1")
"""Names of the image, and of boxes and scores."""


def convert_ncnn(script: Path, hw: tuple[int, int], work: Path, *, half: bool = False) -> Path:
    """Convert a TorchScript file; return the folder that holds ``model.param`` and ``model.bin``.

    Args:
        script: traced `attendet.exporters.network.PlanarNetwork`.
        hw: height and width of its input, pixels.
        work: folder for files on the way.
        half: keep weights in float16.

    Raises:
        ExportError: if pnnx fails, or leaves operators that ncnn does not know.
        MissingExtraError: if pnnx is not installed.
    """
    pnnx = require("pnnx", extra="ncnn", purpose="exporting to ncnn")
    command = [
        pnnx.EXEC_PATH,
        script.name,
        f"inputshape=[1,3,{hw[0]},{hw[1]}]",
        f"fp16={int(half)}",
    ]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    made = [script.with_name(f"{script.stem}.ncnn.{kind}") for kind in ("param", "bin")]
    if done.returncode or not all(path.is_file() for path in made):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise ExportError(f"pnnx cannot convert the network: {reason}. Nothing was written.")
    folder = work / "converted"
    folder.mkdir(exist_ok=True)
    for path, name in zip(made, (PARAM, BIN), strict=True):
        path.replace(folder / name)
    _check_operators(folder / PARAM)
    return folder


def _check_operators(param: Path) -> None:
    """Raise where an operator kept the name that it has in PyTorch: ncnn has none for it."""
    lines = param.read_text(encoding="utf-8").splitlines()[2:]
    foreign = sorted({kind for line in lines if "." in (kind := line.split()[0])})
    if foreign:
        raise ExportError(f"network must be of operators of ncnn; got {', '.join(foreign)}.")


def write_ncnn(converted: Path, folder: Path, header: Mapping[str, str]) -> Path:
    """Write a converted model with its description into a folder; return the folder.

    Args:
        converted: what `convert_ncnn` returned.
        folder: is made; not written atomically (see `attendet.exporters.folders`).
        header: names to texts.
    """
    folder.mkdir(exist_ok=True)
    for name in (PARAM, BIN):
        shutil.copyfile(converted / name, folder / name)
    write_atomically(folder / DESCRIPTION, json.dumps(dict(header)) + "\n")
    return folder


def open_ncnn(folder: Path) -> Any:
    """Return the ``ncnn.Net`` of a folder, computing in float32.

    Raises:
        ExportError: if ncnn does not take the files.
        MissingExtraError: if ncnn is not installed.
    """
    ncnn = require("ncnn", extra="ncnn", purpose="checking an ncnn model")
    net = ncnn.Net()
    for option in (
        "use_fp16_packed",
        "use_fp16_storage",
        "use_fp16_arithmetic",
        "use_bf16_storage",
    ):
        setattr(net.opt, option, False)
    if net.load_param(str(folder / PARAM)) or net.load_model(str(folder / BIN)):
        raise ExportError("ncnn cannot load the model. Nothing was written.")
    return net
