"""The runtime that carries an ONNX file with ONNX Runtime; no torch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, WeightsError
from attendet.inference.runtimes.base import Output, RuntimeOptions
from attendet.inference.runtimes.exported import INPUT, ExportedRuntime, Outputs
from attendet.inference.runtimes.onnx_file import read_onnx_header
from attendet.system import available_cores, require

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntime"]

SPINNING = "session.intra_op.allow_spinning"

ERRORS_ONLY = 3


class OnnxRuntime(ExportedRuntime):
    """An ONNX file carried by ONNX Runtime.

    For latency one batch has all threads; for throughput as many batches run side by side as there
    are threads, each on one. Threads that wait do not spin: they would take the processor from
    other networks, readers and programs (three resnet18 that took turns on 2 cores needed 50 ms a
    image with it and 24 without), and alone it gained nothing that could be measured there.

    Args:
        path: a file that attendet exported.
        options: how the machine is used.

    Raises:
        WeightsError: if the file is missing, broken or not ours.
        ConfigError: if the device is not there.
        MissingExtraError: if ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, options: RuntimeOptions | None = None) -> None:
        path, options = Path(path), options or RuntimeOptions()
        super().__init__(path, read_onnx_header(path), options)
        ort = require("onnxruntime", extra="onnx", purpose="running .onnx files with ONNX Runtime")
        threads = options.threads or available_cores()
        self._parallel = threads if options.mode == "throughput" else 1
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1 if options.mode == "throughput" else threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = ERRORS_ONLY
        settings.add_session_config_entry(SPINNING, "0")
        self._pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="onnx-runtime")
        self._session = _open_session(ort, path, settings, options)
        self._check_interface(
            {entry.name: _shape_of(entry) for entry in self._session.get_inputs()},
            {entry.name: _shape_of(entry) for entry in self._session.get_outputs()},
        )

    @property
    def parallel(self) -> int:
        """How many batches it works on side by side."""
        return self._parallel

    def submit(self, inputs: NDArray[np.uint8]) -> Future[Output]:
        """Hand over a batch, which must not be changed until it is done."""
        return self._pool.submit(self._run_whole, inputs)

    def _infer(self, inputs: NDArray[np.uint8]) -> Outputs:
        outputs: Outputs = self._session.run(self.output_names, {INPUT: inputs})
        return outputs


def _shape_of(entry: onnxruntime.NodeArg) -> list[int | None]:
    return [side if isinstance(side, int) else None for side in entry.shape]


def _providers(ort: Any, device: str | None) -> list[Any]:
    """Return the execution providers of a device.

    Raises:
        ConfigError: if ONNX Runtime cannot use it here.
    """
    kind, _, number = (device or "cpu").lower().partition(":")
    if kind == "cpu" and not number:
        return ["CPUExecutionProvider"]
    cuda = "CUDAExecutionProvider"
    if (
        kind == "cuda"
        and (number.isdigit() or not number)
        and cuda in ort.get_available_providers()
    ):
        return [(cuda, {"device_id": int(number or 0)}), "CPUExecutionProvider"]
    raise ConfigError(
        f"device must be one that ONNX Runtime can use here; got {device!r}. "
        "Choose cpu, or cuda with a GPU and the package onnxruntime-gpu."
    )


def _open_session(
    ort: Any, path: Path, settings: Any, options: RuntimeOptions
) -> onnxruntime.InferenceSession:
    providers = _providers(ort, options.device)
    try:
        session: onnxruntime.InferenceSession = ort.InferenceSession(
            str(path), sess_options=settings, providers=providers
        )
    except Exception as error:  # its many errors have no class of their own in common
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"ONNX Runtime cannot load the file ({path}): {reason}") from None
    return session
