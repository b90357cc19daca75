"""Files that PyTorch runs: TorchScript and `torch.export` programs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim, ExportedProgram

from attendet.errors import ExportError, first_line
from attendet.files import replacing
from attendet.inference.preprocess import STRIDE
from attendet.inference.runtimes.base import ExportedRuntime, RuntimeOptions
from attendet.models.export_info import HEADER_FILE

MAX_STRIDES_PER_SIDE = 128
"""Largest side of a dynamic network input, in units of 32 pixels; the smallest is 64 pixels."""


def _example(hw: tuple[int, int], dynamic: tuple[str, ...]) -> torch.Tensor:
    """Return images to trace with; dynamic sides differ so that they are not taken as constants."""
    height, width = hw
    if "size" in dynamic:
        height, width = max(height, 3 * STRIDE), max(width, 3 * STRIDE)
        width += STRIDE * (height == width)
    return torch.zeros(2 if "batch" in dynamic else 1, height, width, 3, dtype=torch.uint8)


def trace(network: nn.Module, hw: tuple[int, int], dynamic: tuple[str, ...]) -> ExportedProgram:
    """Return the `torch.export` graph of a network.

    Args:
        network: an `attendet.exporters.exported_network.ExportedNetwork`.
        hw: height and width of its input, pixels, multiples of 32.
        dynamic: which of ``batch`` and ``size`` may vary between calls.

    Raises:
        ExportError: if the network cannot be traced.
    """
    axes: dict[int, Any] = {}
    if "batch" in dynamic:
        axes[0] = Dim("batch", min=1, max=65536)
    if "size" in dynamic:
        axes[1] = STRIDE * Dim("rows", min=2, max=MAX_STRIDES_PER_SIDE)
        axes[2] = STRIDE * Dim("columns", min=2, max=MAX_STRIDES_PER_SIDE)
    try:
        with torch.no_grad():
            return torch.export.export(
                network, (_example(hw, dynamic),), dynamic_shapes=(axes or None,)
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise _untraceable("torch.export", error) from error


def _untraceable(tracer: str, error: Exception) -> ExportError:
    got = f"{type(error).__name__}: {first_line(error)}"
    return ExportError(f"network must be traceable by {tracer}; got {got}")


def write_program(program: ExportedProgram, path: Path, header: Mapping[str, str]) -> Path:
    """Write an exported program (``.pt2``) with its metadata; return the path."""
    with warnings.catch_warnings():  # a warning about weights that are not on the CPU
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path, extra_files={HEADER_FILE: json.dumps(dict(header))})
    return path


def trace_script(
    network: nn.Module,
    hw: tuple[int, int],
    dynamic: tuple[str, ...],
    *,
    images: torch.Tensor | None = None,
) -> torch.jit.ScriptModule:
    """Trace a network to TorchScript.

    Args:
        network: an `attendet.exporters.exported_network.ExportedNetwork`.
        hw: height and width of its input, pixels, multiples of 32.
        dynamic: which of ``batch`` and ``size`` may vary between calls.
        images: example input, for a network that does not take uint8 (N, H, W, 3).

    Raises:
        ExportError: if the network cannot be traced.
    """
    example = _example(hw, dynamic) if images is None else images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every step warns that TorchScript is deprecated
        try:
            with torch.no_grad():
                script = torch.jit.trace(network, (example,), check_trace=False)  # type: ignore[no-untyped-call]
                frozen: torch.jit.ScriptModule = torch.jit.freeze(script)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _untraceable("TorchScript", error) from error
    return frozen


def write_torchscript(
    script: torch.jit.ScriptModule, path: Path, header: Mapping[str, str]
) -> Path:
    """Write a traced network with its metadata; return the path."""
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that TorchScript is deprecated
        torch.jit.save(script, partial, _extra_files={HEADER_FILE: json.dumps(dict(header))})
    return path


class ProgramRuntime(ExportedRuntime):
    """Runtime of a ``.pt2`` file, for the parity check only: such a file can execute any code."""

    def __init__(self, path: Path) -> None:
        texts = {HEADER_FILE: ""}
        self._module = torch.export.load(path, extra_files=texts).module()
        super().__init__(path, json.loads(texts[HEADER_FILE]), RuntimeOptions())

    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        with torch.no_grad():
            return [output.numpy() for output in self._module(torch.from_numpy(inputs))]
