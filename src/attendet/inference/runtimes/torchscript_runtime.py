"""Run TorchScript files with PyTorch."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attendet.errors import WeightsError, first_line
from attendet.inference.runtimes.base import ExportedRuntime, RuntimeOptions
from attendet.inference.runtimes.torch_runtime import (
    choose_device,
    default_batch_size,
    parallel_batches,
    torch_pool,
)
from attendet.models.export_info import HEADER_FILE

METADATA_MEMBER = f"extra/{HEADER_FILE}"
MAX_METADATA_BYTES = 64 * 1024 * 1024


class TorchScriptRuntime(ExportedRuntime):
    """A TorchScript file run by PyTorch, without the Python code of the network.

    Args:
        path: a file that attendet exported.
        options: device, threads, mode and precision.

    Raises:
        WeightsError: if the file is missing, broken or was not written by attendet.
        ConfigError: if the device is not available.
    """

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
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
            raise WeightsError(
                f"PyTorch cannot load the file ({path}): {first_line(error)}"
            ) from None
        self.default_batch_size = default_batch_size(self._device)
        self.parallel = parallel_batches(options, self._device)
        self._pool = torch_pool(self.parallel)

    @torch.inference_mode()
    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        outputs = self._program(torch.from_numpy(inputs).to(self._device))
        return [tensor.float().cpu().numpy() for tensor in outputs]


def _read_header(path: Path) -> Mapping[str, str]:
    """Return the metadata in a TorchScript file without running its code; empty if it has none.

    Raises:
        WeightsError: if it is not a readable TorchScript file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(METADATA_MEMBER)]
            if not members or archive.getinfo(members[0]).file_size > MAX_METADATA_BYTES:
                return {}
            header = json.loads(archive.read(members[0]))
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"weights must be a readable TorchScript file ({path}): {error}."
        ) from None
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(text) for key, text in header.items()} if isinstance(header, dict) else {}
