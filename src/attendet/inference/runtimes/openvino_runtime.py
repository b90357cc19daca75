"""Run OpenVINO models and ONNX files with OpenVINO, without torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, WeightsError
from attendet.inference.runtimes.base import INPUT, ExportedRuntime, RuntimeOptions
from attendet.system import require

if TYPE_CHECKING:
    import openvino


class OpenVinoRuntime(ExportedRuntime):
    """An OpenVINO model, or an ONNX file, run by OpenVINO.

    A file with a fixed input size for any batch is compiled for one image, which takes less time
    per image, and again for any batch when the first batch is run.

    Args:
        path: a folder that attendet exported (or the .xml in it), or an .onnx file.
        options: device, threads, mode and precision.

    Raises:
        WeightsError: if the file is missing, broken or was not written by attendet.
        ConfigError: if the device is not available, or does not support the precision.
        MissingExtraError: if OpenVINO is not installed.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        ov = require("openvino", extra="openvino", purpose="running exported files with OpenVINO")
        core = ov.Core()
        device = _device(core, options)
        try:
            model = core.read_model(_model_file(path))
            # OpenVINO keeps the metadata of an ONNX file in another section.
            section = "framework" if path.suffix.lower() == ".onnx" else "attendet"
            super().__init__(path, _header(model, section), options)
            self._check_interface(
                {_name_of(port, (INPUT,)): _shape_of(port) for port in model.inputs},
                {_name_of(port, self.output_names): _shape_of(port) for port in model.outputs},
            )
            self._compile = partial(
                core.compile_model, device_name=device, config=_settings(options)
            )
            self._model = model
            self._compiled_one: _Compiled | None = None
            self._compiled_any: _Compiled | None = None
            if self.limits.batch is None and self.limits.input_hw is not None:
                one = model.clone()
                one.reshape((1, *self.limits.input_hw, 3))
                first = self._compiled_one = _Compiled(self._compile(one))
            else:
                first = self._compiled_any = _Compiled(self._compile(model))
        except RuntimeError as error:
            raise WeightsError(
                f"OpenVINO cannot load the file ({path}): {_last_line(error)}"
            ) from None
        self._lock = Lock()
        names = [_name_of(port, self.output_names) for port in model.outputs]
        self._order = [names.index(name) for name in self.output_names]
        self.parallel = int(first.model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._pool = ThreadPoolExecutor(self.parallel, thread_name_prefix="openvino")

    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        compiled = self._compiled_for(len(inputs))
        try:
            request = compiled.idle.pop()
        except IndexError:
            request = compiled.model.create_infer_request()
        request.infer({0: inputs}, share_inputs=True)
        outputs = [request.get_output_tensor(index).data.copy() for index in self._order]
        compiled.idle.append(request)
        return outputs

    def _compiled_for(self, batch: int) -> _Compiled:
        if batch == 1 and self._compiled_one is not None:
            return self._compiled_one
        with self._lock:
            if self._compiled_any is None:
                self._compiled_any = _Compiled(self._compile(self._model))
            return self._compiled_any


@dataclass(frozen=True)
class _Compiled:
    """A compiled model, and its requests that no thread uses."""

    model: openvino.CompiledModel
    idle: deque[openvino.InferRequest] = field(default_factory=deque)


def _model_file(path: Path) -> Path:
    """Return ``model.xml`` of a folder, or the file itself.

    Raises:
        WeightsError: if the ``.bin`` file with the weights is missing.
    """
    file = path / "model.xml" if path.is_dir() else path
    if file.suffix.lower() == ".xml" and not file.with_suffix(".bin").is_file():
        raise WeightsError(
            f"weights file not found ({file.with_suffix('.bin')}). "
            f"It must be in the folder of {file.name}."
        )
    return file


def _device(core: openvino.Core, options: RuntimeOptions) -> str:
    """Return OpenVINO's name of a device; CPU by default.

    Raises:
        ConfigError: if it is not available, or does not support the precision.
    """
    device = (options.device or "cpu").upper()
    if device not in ("CPU", "AUTO"):  # listing the other devices loads a driver for each
        known = [*core.available_devices, "AUTO"]
        if device.split(".")[0] not in {name.split(".")[0] for name in known}:
            advice = f"Choose from: {', '.join(known).lower()}."
            rule = "one that OpenVINO can use on this machine"
            raise ConfigError.must("device", rule, options.device, advice=advice)
    if options.precision == "bfloat16" and (
        device != "CPU" or "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    ):
        raise ConfigError(
            "precision must be float32 on this device; got 'bfloat16'. OpenVINO computes in "
            "bfloat16 only on CPUs that support it."
        )
    return device


def _settings(options: RuntimeOptions) -> dict[str, Any]:
    """Return the settings of the compiled model.

    The precision is always set: by default OpenVINO uses bfloat16 if the CPU supports it, and then
    results differ from the other runtimes in the third digit.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": options.mode.upper(),
        "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bfloat16" else "f32",
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    return settings


def _header(model: openvino.Model, section: str) -> Mapping[str, str]:
    """Return a section of the model's runtime information (rt_info); empty if it has none."""
    values = model.get_rt_info([section]).value if model.has_rt_info([section]) else None
    if not isinstance(values, dict):
        return {}
    return {key: str(getattr(value, "value", value)) for key, value in values.items()}


def _name_of(port: openvino.Output, wanted: Sequence[str]) -> str:
    """Return a name of a port that is in ``wanted``, else its first name."""
    names = sorted(port.get_names())
    return next((name for name in names if name in wanted), names[0] if names else "?")


def _shape_of(port: openvino.Output) -> list[int | None]:
    return [None if side.is_dynamic else side.get_length() for side in port.get_partial_shape()]


def _last_line(error: Exception) -> str:
    """Return the reason at the end of OpenVINO's message; its source positions come first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
