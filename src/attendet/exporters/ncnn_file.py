"""ncnn models for phones and boards: a folder of parameters, weights and metadata.

ncnn takes one image as three planes of float pixels, as its ``Mat::from_pixels`` makes them, and
no batch. pnnx, ncnn's own converter, converts from TorchScript.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ExportError
from attendet.inference.runtimes.base import ExportedRuntime, RuntimeOptions
from attendet.system import require

HEADER_FILE = "attendet.json"
PARAM, BIN = "model.param", "model.bin"


def convert_ncnn(script: Path, hw: tuple[int, int], *, half: bool = False) -> Path:
    """Convert a TorchScript file; return the folder of ``model.param`` and ``model.bin``.

    Args:
        script: traced `attendet.exporters.exported_network.PlanarNetwork`.
        hw: height and width of its input, pixels.
        half: keep weights in float16.

    Raises:
        ExportError: if pnnx fails, or leaves operators that ncnn does not have.
        MissingExtraError: if pnnx is not installed.
    """
    pnnx = require("pnnx", extra="ncnn", purpose="exporting to ncnn")
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
    # pnnx leaves the name of an operator as it is in PyTorch if ncnn has none for it.
    operators = converted[PARAM].read_text(encoding="utf-8").splitlines()[2:]
    unknown = sorted({kind for line in operators if "." in (kind := line.split()[0])})
    if unknown:
        raise ExportError(f"network must consist of operators of ncnn; got {', '.join(unknown)}.")
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
        header: names to texts.
    """
    shutil.copytree(converted, folder, dirs_exist_ok=True)
    (folder / HEADER_FILE).write_text(json.dumps(dict(header)) + "\n", encoding="utf-8")
    return folder


class NcnnRuntime(ExportedRuntime):
    """An ncnn folder run by ncnn in float32, for the parity check only."""

    def __init__(self, path: Path) -> None:
        header = json.loads((path / HEADER_FILE).read_text(encoding="utf-8"))
        super().__init__(path, header, RuntimeOptions())
        self._ncnn = require("ncnn", extra="ncnn", purpose="checking an ncnn model")
        self._net = self._ncnn.Net()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self._net.opt, f"use_{option}", False)
        if self._net.load_param(str(path / PARAM)) or self._net.load_model(str(path / BIN)):
            raise ExportError("ncnn cannot load the model. Nothing was written.")

    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        planes = np.ascontiguousarray(inputs[0].transpose(2, 0, 1), dtype=np.float32)
        extractor = self._net.create_extractor()
        extractor.input("in0", self._ncnn.Mat(planes).clone())
        return [np.array(extractor.extract(name)[1])[None] for name in ("out0", "out1")]
