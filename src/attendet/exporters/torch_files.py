"""Tracing, and the files that PyTorch itself runs: TorchScript and exported programs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from attendet.errors import ExportError
from attendet.files import replacing

__all__ = ["DESCRIPTION", "trace", "write_program", "write_torchscript"]

DESCRIPTION = "attendet.json"
"""Name of the description inside a file of PyTorch."""

STRIDE = 32
MOST_CELLS = 128
"""A side of a network input may be 64 pixels to this many times 32."""


def example(hw: tuple[int, int], dynamic: tuple[str, ...]) -> torch.Tensor:
    """Return images to trace with: batch and sides that no constant could stand for."""
    height, width = hw
    if "size" in dynamic:
        height, width = max(height, 3 * STRIDE), max(width, 3 * STRIDE)
        width += STRIDE * (height == width)
    return torch.zeros(2 if "batch" in dynamic else 1, height, width, 3, dtype=torch.uint8)


def trace(network: nn.Module, hw: tuple[int, int], dynamic: tuple[str, ...]) -> ExportedProgram:
    """Return the graph of a network as `torch.export` sees it.

    Args:
        network: a `attendet.exporters.network.ImageNetwork`.
        hw: height and width of its input, pixels, multiples of 32.
        dynamic: which of ``batch`` and ``size`` may differ from call to call.

    Raises:
        ExportError: if the network cannot be traced; says where.
    """
    axes: dict[int, Any] = {}
    if "batch" in dynamic:
        axes[0] = Dim("batch", min=1, max=65536)
    if "size" in dynamic:
        axes[1] = STRIDE * Dim("rows", min=2, max=MOST_CELLS)
        axes[2] = STRIDE * Dim("columns", min=2, max=MOST_CELLS)
    try:
        with torch.no_grad():
            return torch.export.export(
                network, (example(hw, dynamic),), dynamic_shapes=(axes or None,)
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise _untraceable("torch.export", error) from error


def _untraceable(how: str, error: Exception) -> ExportError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return ExportError(f"network must be traceable by {how}; got {type(error).__name__}: {reason}")


def write_program(program: ExportedProgram, path: Path, header: Mapping[str, str]) -> Path:
    """Write an exported program (``.pt2``) with its description; return the path."""
    with replacing(path) as partial:
        named = partial.with_suffix(".pt2")  # the writer wants its ending
        try:
            with warnings.catch_warnings():  # a concern of weights that are not on the CPU
                warnings.filterwarnings("ignore", message="No complete tensor found")
                texts = {DESCRIPTION: json.dumps(dict(header))}
                torch.export.save(program, named, extra_files=texts)
            named.replace(partial)
        finally:
            named.unlink(missing_ok=True)
    return path


def write_torchscript(
    network: nn.Module,
    hw: tuple[int, int],
    dynamic: tuple[str, ...],
    path: Path,
    header: Mapping[str, str],
    *,
    images: torch.Tensor | None = None,
) -> Path:
    """Trace a network to TorchScript and write it with its description; return the path.

    Args:
        network: a `attendet.exporters.network.ImageNetwork`.
        hw: height and width of its input, pixels, multiples of 32.
        dynamic: which of ``batch`` and ``size`` may differ from call to call.
        path: the file; replaced whole.
        header: names to texts.
        images: to trace with, where the network takes others than uint8 (N, H, W, 3).

    Raises:
        ExportError: if the network cannot be traced; says where.
    """
    given = example(hw, dynamic) if images is None else images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out, and says so at each step
        try:
            with torch.no_grad():
                script = torch.jit.trace(network, (given,), check_trace=False)  # type: ignore[no-untyped-call]
                frozen = torch.jit.freeze(script)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _untraceable("TorchScript", error) from error
        with replacing(path) as partial:
            torch.jit.save(frozen, partial, _extra_files={DESCRIPTION: json.dumps(dict(header))})
    return path
