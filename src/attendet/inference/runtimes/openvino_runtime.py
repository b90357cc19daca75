"""The runtime that carries an OpenVINO model, or an ONNX file, with OpenVINO; no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, WeightsError, did_you_mean
from attendet.inference.runtimes.base import Output, Pending, RuntimeOptions
from attendet.inference.runtimes.exported import INPUT, ExportedRuntime, Outputs
from attendet.inference.runtimes.onnx_file import read_onnx_header
from attendet.system import require

if TYPE_CHECKING:
    import openvino

__all__ = ["OpenVinoRuntime", "model_file"]

RT_INFO = "attendet"
"""Section of a model's runtime information that holds the metadata."""


class OpenVinoRuntime(ExportedRuntime):
    """An OpenVINO model carried by OpenVINO.

    Args:
        path: a folder that attendet exported (or the .xml in it), or an .onnx file.
        options: how the machine is used.

    Raises:
        WeightsError: if the file is missing, broken or not ours.
        ConfigError: if the device is not there, or cannot compute in the precision.
        MissingExtraError: if OpenVINO is not installed.
    """

    def __init__(self, path: str | Path, options: RuntimeOptions | None = None) -> None:
        path, options = Path(path), options or RuntimeOptions()
        file = model_file(path)
        onnx_header = read_onnx_header(file) if file.suffix.lower() == ".onnx" else None
        ov = require("openvino", extra="openvino", purpose="running exported files with OpenVINO")
        core = ov.Core()
        device = _device(core, options)
        try:
            model = core.read_model(file)
        except RuntimeError as error:
            raise WeightsError(
                f"OpenVINO cannot load the file ({path}): {_last_line(error)}"
            ) from None
        super().__init__(path, _header(model) if onnx_header is None else onnx_header, options)
        self._check_interface(
            {_name_of(port, (INPUT,)): _shape_of(port) for port in model.inputs},
            {_name_of(port, self.output_names): _shape_of(port) for port in model.outputs},
        )
        try:
            self._compiled = core.compile_model(model, device, _settings(options))
        except RuntimeError as error:
            raise WeightsError(
                f"OpenVINO cannot run the file ({path}): {_last_line(error)}"
            ) from None
        given = [_name_of(port, self.output_names) for port in model.outputs]
        self._order = [given.index(name) for name in self.output_names]
        self._idle: deque[openvino.InferRequest] = deque()
        self._parallel = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    @property
    def parallel(self) -> int:
        """How many batches it works on side by side."""
        return self._parallel

    def submit(self, inputs: NDArray[np.uint8]) -> Pending:
        """Hand over a batch, which must not be changed until it is done."""
        if self._limits.batch not in (None, len(inputs)):
            return _Done(self._run_whole(inputs))
        return _Running(self, np.ascontiguousarray(inputs))

    def _infer(self, inputs: NDArray[np.uint8]) -> Outputs:
        given = np.ascontiguousarray(inputs)  # read where it lies: it must outlive the request
        return self._finish(self._start(given))

    def _start(self, inputs: NDArray[np.uint8]) -> openvino.InferRequest:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.start_async({0: inputs}, share_inputs=True)
        return request

    def _finish(self, request: openvino.InferRequest) -> Outputs:
        request.wait()
        outputs = [request.get_output_tensor(index).data.copy() for index in self._order]
        self._idle.append(request)
        return outputs


class _Running:
    """A batch in the hands of an asynchronous request."""

    def __init__(self, runtime: OpenVinoRuntime, inputs: NDArray[np.uint8]) -> None:
        self._runtime = runtime
        self._input = inputs  # the request reads them where they lie
        self._request = runtime._start(inputs)

    def result(self) -> Output:
        return self._runtime._to_output(self._runtime._finish(self._request))


class _Done:
    """A batch that was done on the spot."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def result(self) -> Output:
        return self._output


def model_file(path: Path) -> Path:
    """Return the file that OpenVINO reads: ``model.xml`` of a folder, or the file itself.

    Raises:
        WeightsError: if it is not there, or a model lacks the file of its weights.
    """
    file = path / "model.xml" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise WeightsError(
            f"weights folder must hold model.xml and model.bin; this one does not ({path}). "
            "attendet export WEIGHTS --format openvino writes such a folder."
        )
    if file.suffix.lower() == ".xml" and not file.with_suffix(".bin").is_file():
        raise WeightsError(
            f"weights file not found ({file.with_suffix('.bin')}). It belongs beside {file.name}."
        )
    return file


def _device(core: openvino.Core, options: RuntimeOptions) -> str:
    """Return OpenVINO's name of a device; CPU if none is asked for.

    Raises:
        ConfigError: if it is not there, or cannot compute in the precision.
    """
    device = (options.device or "cpu").upper()
    if device not in ("CPU", "AUTO"):  # to ask for the others loads a driver of each
        known = [*core.available_devices, "AUTO"]
        if device.split(".")[0] not in {name.split(".")[0] for name in known}:
            raise ConfigError(
                f"device must be one that OpenVINO can use here; got {options.device!r}. "
                f"{did_you_mean(device.lower(), [name.lower() for name in known])}"
            )
    if options.precision == "bfloat16" and (
        device != "CPU" or "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    ):
        raise ConfigError(
            "precision must be float32 here; got 'bfloat16'. This processor does not compute in it."
        )
    return device


def _settings(options: RuntimeOptions) -> dict[str, Any]:
    """Return the settings of the compiled model.

    Where the processor has bfloat16 OpenVINO would use it unasked; results would then differ from
    those of the other runtimes in the third digit.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": options.mode.upper(),
        "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bfloat16" else "f32",
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    return settings


def _header(model: openvino.Model) -> Mapping[str, str]:
    if not model.has_rt_info([RT_INFO]):
        return {}
    section = model.get_rt_info([RT_INFO]).value
    if not isinstance(section, dict):
        return {}
    return {str(key): str(getattr(value, "value", value)) for key, value in section.items()}


def _name_of(port: openvino.Output, wanted: Sequence[str]) -> str:
    """Return the one of a port's names that is wanted, else any."""
    names = sorted(port.get_names())
    return next((name for name in names if name in wanted), names[0] if names else "?")


def _shape_of(port: openvino.Output) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in port.get_partial_shape()]


def _last_line(error: Exception) -> str:
    """Return what OpenVINO says in the end; where in its own source it went wrong comes first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
