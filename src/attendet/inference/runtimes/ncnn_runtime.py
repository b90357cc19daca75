"""Run ncnn models with ncnn, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, WeightsError
from attendet.inference.runtimes.base import ExportedRuntime, RuntimeOptions
from attendet.models.export_info import HEADER_FILE
from attendet.system import available_cores, require

PARAM, BIN = "model.param", "model.bin"
INPUT, OUTPUTS = "in0", ("out0", "out1")
"""Names that pnnx gives to the input, and to the outputs boxes and scores."""


class NcnnRuntime(ExportedRuntime):
    """An ncnn model run by ncnn in float32 on the CPU.

    Both modes use all threads for one image, because ncnn holds the GIL while it runs.

    Args:
        path: a folder that attendet exported, or the .param in it.
        options: device, threads, mode and precision.

    Raises:
        WeightsError: if a file is missing or broken, or was not written by attendet.
        ConfigError: if the device is not a CPU.
        MissingExtraError: if ncnn is not installed.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        ncnn = require("ncnn", extra="ncnn", purpose="running ncnn models")
        if (options.device or "cpu").lower() != "cpu":
            raise ConfigError.must("device", "cpu with ncnn", options.device)
        if not path.is_dir() and path.name != PARAM:
            raise WeightsError(
                f"file must be named {PARAM}, as exported; got {path.name} ({path})."
            )
        folder = path if path.is_dir() else path.parent
        super().__init__(path, _read_header(folder), options)
        self._ncnn = ncnn
        self._net = ncnn.Net()
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(self._net.opt, f"use_{option}", False)  # fast on some CPUs, but less accurate
        self._net.opt.num_threads = options.threads or available_cores()
        for load, name in ((self._net.load_param, PARAM), (self._net.load_model, BIN)):
            if load(str(folder / name)):
                raise WeightsError(f"ncnn cannot load the file ({folder / name}). It is damaged.")
        names = [*self._net.input_names(), *self._net.output_names()]
        if not {INPUT, *OUTPUTS} <= set(names):  # unused maps are outputs, too
            raise WeightsError(
                f"graph must have the input {INPUT} and the outputs {', '.join(OUTPUTS)}; got "
                f"{', '.join(names)} ({path}). The file was changed after the export."
            )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ncnn")

    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        planes = np.ascontiguousarray(inputs[0].transpose(2, 0, 1), dtype=np.float32)
        extractor = self._net.create_extractor()
        extractor.input(INPUT, self._ncnn.Mat(planes).clone())
        found = [extractor.extract(name) for name in OUTPUTS]
        if any(status for status, _ in found):
            raise WeightsError(f"ncnn cannot run the model ({self.path}). It is damaged.")
        return [np.array(mat)[None] for _, mat in found]


def _read_header(folder: Path) -> Mapping[str, str]:
    """Return the metadata of an ncnn folder.

    Raises:
        WeightsError: if one of its files is missing, or the metadata is not a JSON map.
    """
    for name in (PARAM, BIN, HEADER_FILE):
        if not (folder / name).is_file():
            raise WeightsError(
                f"ncnn model must consist of {PARAM}, {BIN} and {HEADER_FILE}; got no {name} "
                f"({folder}). Copy the whole folder of the export."
            )
    try:
        header = json.loads((folder / HEADER_FILE).read_text(encoding="utf-8"))
        return {str(key): str(text) for key, text in header.items()}
    except (ValueError, AttributeError, RecursionError):
        raise WeightsError(
            f"metadata of an ncnn model must be a JSON map ({folder / HEADER_FILE}). "
            "Export the weights again."
        ) from None
