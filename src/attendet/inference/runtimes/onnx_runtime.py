"""Run ONNX files with ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, WeightsError, first_line
from attendet.inference.runtimes.base import INPUT, ExportedRuntime, RuntimeOptions
from attendet.system import available_cores, require

SPINNING = "session.intra_op.allow_spinning"

ERRORS_ONLY = 3


class OnnxRuntime(ExportedRuntime):
    """An ONNX file run by ONNX Runtime.

    In mode ``latency``, one batch uses all threads. In mode ``throughput``, as many batches as
    threads run in parallel, each on one thread. Idle threads do not spin, because spinning takes
    CPU time from other networks, readers and programs: three resnet18 that ran alternately on 2
    cores took 50 ms per image with spinning and 24 ms without. For a single network, spinning had
    no measurable benefit there.

    Args:
        path: a file that attendet exported.
        options: device, threads, mode and precision.

    Raises:
        WeightsError: if the file is broken or was not written by attendet.
        ConfigError: if the device is not available.
        MissingExtraError: if ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        ort = require("onnxruntime", extra="onnx", purpose="running .onnx files with ONNX Runtime")
        threads = options.threads or available_cores()
        self.parallel = threads if options.mode == "throughput" else 1
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads // self.parallel
        settings.inter_op_num_threads = 1
        settings.log_severity_level = ERRORS_ONLY
        settings.add_session_config_entry(SPINNING, "0")
        providers = _providers(ort, options.device)
        try:
            session = ort.InferenceSession(
                str(path), sess_options=settings, providers=providers, enable_fallback=0
            )
        except Exception as error:  # its errors have no common base class
            raise WeightsError(
                f"ONNX Runtime cannot load the file ({path}): {first_line(error)}"
            ) from None
        if session.get_providers()[0] != _name(providers[0]):
            raise _unusable(options.device)
        super().__init__(path, session.get_modelmeta().custom_metadata_map, options)
        shapes = [
            {
                entry.name: [side if isinstance(side, int) else None for side in entry.shape]
                for entry in entries
            }
            for entries in (session.get_inputs(), session.get_outputs())
        ]
        self._check_interface(*shapes)
        self._session = session
        self._pool = ThreadPoolExecutor(self.parallel, thread_name_prefix="onnx-runtime")

    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run(self.output_names, {INPUT: inputs})
        return outputs


def _providers(ort: Any, device: str | None) -> list[Any]:
    """Return the execution providers of a device.

    Raises:
        ConfigError: if ONNX Runtime cannot use the device here.
    """
    kind, _, number = (device or "cpu").lower().partition(":")
    if kind == "cpu" and not number:
        return ["CPUExecutionProvider"]
    cuda = "CUDAExecutionProvider"
    if kind == "cuda" and (number or "0").isdigit() and cuda in ort.get_available_providers():
        return [(cuda, {"device_id": int(number or 0)}), "CPUExecutionProvider"]
    raise _unusable(device)


def _name(provider: Any) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _unusable(device: str | None) -> ConfigError:
    advice = "Choose cpu, or cuda with a GPU and the package onnxruntime-gpu."
    rule = "one that ONNX Runtime can use on this machine"
    return ConfigError.must("device", rule, device, advice=advice)
