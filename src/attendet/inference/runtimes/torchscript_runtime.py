"""The runtime that carries a TorchScript file with PyTorch."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attendet.errors import WeightsError
from attendet.inference.runtimes.base import Output, RuntimeOptions
from attendet.inference.runtimes.exported import INPUT, ExportedRuntime, Outputs
from attendet.inference.runtimes.torch_replicas import TorchPlaces, places_for
from attendet.inference.runtimes.torch_runtime import choose_device, usual_batch

__all__ = ["TorchScriptRuntime"]

METADATA_MEMBER = "extra/attendet.json"
MAX_METADATA_BYTES = 64 * 1024 * 1024


class TorchScriptRuntime(ExportedRuntime):
    """A TorchScript file carried by PyTorch, without the Python code of the network.

    Args:
        path: a file that attendet exported.
        options: how the machine is used.

    Raises:
        WeightsError: if the file is missing, broken or not ours.
        ConfigError: if the device is not there.
    """

    def __init__(self, path: str | Path, options: RuntimeOptions | None = None) -> None:
        path, options = Path(path), options or RuntimeOptions()
        super().__init__(path, _read_header(path), options)
        self._device = choose_device(options.device)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated")
                program = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=self._device
                )
            self._program = program.eval()
        except RuntimeError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"PyTorch cannot load the file ({path}): {reason}") from None
        fixed_hw = self._metadata.input_hw if "size" not in self._info.dynamic else (None, None)
        batch = None if "batch" in self._info.dynamic else 1
        self._check_interface({INPUT: (batch, *fixed_hw, 3)}, dict.fromkeys(self.output_names, ()))
        self._places = TorchPlaces(places_for(options, self._device))

    @property
    def usual_batch(self) -> int:
        """See `BatchingRuntime`."""
        return usual_batch(self._device)

    @property
    def parallel(self) -> int:
        """How many batches it works on side by side."""
        return self._places.count

    def submit(self, inputs: NDArray[np.uint8]) -> Future[Output]:
        """Hand over a batch, which must not be changed until it is done."""
        return self._places.submit(self._run_whole, inputs)

    @torch.inference_mode()
    def _infer(self, inputs: NDArray[np.uint8]) -> Outputs:
        outputs = self._program(torch.from_numpy(np.ascontiguousarray(inputs)).to(self._device))
        tensors = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return [tensor.float().cpu().numpy() for tensor in tensors]


def _read_header(path: Path) -> Mapping[str, str]:
    """Return the metadata in a TorchScript file, before anything of it is run.

    Raises:
        WeightsError: if it is no such file; of others' files the metadata is empty.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(METADATA_MEMBER)]
            if not members or archive.getinfo(members[0]).file_size > MAX_METADATA_BYTES:
                return {}
            header = json.loads(archive.read(members[0]))
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"weights file cannot be read ({path}): {reason}.") from None
    except zipfile.BadZipFile:
        raise WeightsError(
            f"weights must be a TorchScript file; this is none, or cut short ({path})."
        ) from None
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(text) for key, text in header.items()} if isinstance(header, dict) else {}
