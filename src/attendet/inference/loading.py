"""From a file of any kind to the detector that it describes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attendet.errors import ConfigError, MissingExtraError, WeightsError, did_you_mean
from attendet.inference.detector import Detector
from attendet.inference.runtimes.base import Mode, Runtime, RuntimeOptions
from attendet.interop.hub import local_weights
from attendet.system import require

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KINDS", "PACKAGES", "able_runtimes", "file_kind", "installed_runtimes", "load"]

KINDS = {
    ".safetensors": ("torch",),
    ".onnx": ("onnx", "openvino"),
    ".xml": ("openvino",),
    ".torchscript": ("torch",),
}
"""Runtimes that can run a file of this suffix, the fastest first: in float32 ONNX Runtime took less
processor time than OpenVINO with one thread on x86 without AVX-512, and it starts sooner
(docs/benchmarks.md). A folder counts as the ``.xml`` in it."""

PACKAGES = {
    "torch": ("torch", "train"),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
}
"""What each runtime needs: the module, and the extra that brings it."""


@dataclass(frozen=True)
class _Chosen:
    """A file and the runtime that is to carry it."""

    path: Path
    suffix: str
    runtime: str


def file_kind(path: Path) -> str:
    """Return the suffix of a weights file, ``.xml`` for a folder of OpenVINO.

    Raises:
        WeightsError: if it is missing or of an unknown kind.
    """
    if not path.exists():
        raise WeightsError(f"weights file not found ({path}). Check the path.")
    suffix = path.suffix.lower()
    if path.is_dir() and (path / "model.xml").is_file():
        return ".xml"
    if suffix == ".pt2":
        raise WeightsError(
            f"weights must be a file that runs no code of its own; a .pt2 can carry some ({path}). "
            "In a program of yours: torch.export.load(path).module(). "
            "For attendet, export to another format."
        )
    if suffix not in KINDS or path.is_dir():
        kinds = ", ".join(KINDS)
        what = "a folder" if path.is_dir() else repr(suffix or "a name without suffix")
        raise WeightsError(
            f"weights must be a file of kind {kinds}, or a folder with model.xml; got {what} "
            f"({path})."
        )
    return suffix


def installed_runtimes() -> tuple[str, ...]:
    """Return the runtimes whose packages are installed, without importing them."""
    return tuple(name for name, (module, _) in PACKAGES.items() if _is_installed(module))


def able_runtimes(path: str | Path) -> tuple[str, ...]:
    """Return the installed runtimes that can run a file, the fastest first.

    Raises:
        WeightsError: if the file is missing or of an unknown kind.
    """
    return tuple(name for name in KINDS[file_kind(Path(path))] if _is_installed(PACKAGES[name][0]))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _choose(path: Path, runtime: str) -> _Chosen:
    suffix = file_kind(path)
    able: Sequence[str] = KINDS[suffix]
    if runtime not in ("auto", *able):
        advice = did_you_mean(runtime, ("auto", *able))
        if suffix == ".safetensors" and runtime in PACKAGES:
            advice = (
                f"Export the weights for it first: attendet export {path.name} --format {runtime}"
            )
        raise ConfigError(f"runtime must be able to run {suffix} files; got {runtime!r}. {advice}")
    if runtime != "auto":
        return _Chosen(path, suffix, runtime)
    there = able_runtimes(path)
    if not there and len(able) > 1:
        modules = " or ".join(repr(PACKAGES[name][0]) for name in able)
        raise MissingExtraError(
            f"running {suffix} files needs {modules}, none of which is installed. "
            f"Install one with: pip install 'attendet[{PACKAGES[able[0]][1]}]'"
        )
    return _Chosen(path, suffix, there[0] if there else able[0])


def load(
    path: str | Path,
    runtime: str = "auto",
    device: str | None = None,
    *,
    threads: int | None = None,
    mode: Mode = "latency",
    precision: str = "float32",
) -> Detector:
    """Return the detector that a weights file or an exported file describes.

    Every runtime gives the same detections: boxes within a pixel, scores within 0.01. Files for
    ONNX Runtime and OpenVINO run without torch.

    Args:
        path: a ``.safetensors`` weights file, or what ``attendet export`` wrote: ``.onnx``, a
            folder with ``model.xml``, ``.torchscript``. Or one on the Hugging Face Hub:
            ``hf://owner/name`` or ``hf://owner/name/FILE`` (see `attendet.interop.hub`).
        runtime: ``auto`` for the fastest that is installed, or ``torch``, ``onnx``, ``openvino``.
        device: such as ``cpu`` or ``cuda:0``. If left out, torch takes a GPU where there is one,
            the others the processor.
        threads: processor threads of the network; one a core if left out. PyTorch has one number
            for the whole process, which this sets; in mode ``throughput`` on a CPU its streams run
            so many batches side by side, each on one thread.
        mode: ``latency`` puts all threads on one image; ``throughput`` works on several side by
            side, which `Detector.stream` makes use of.
        precision: ``float32``, or ``bfloat16`` where the processor computes in it (OpenVINO
            alone): faster, but no longer the same detections.

    Raises:
        WeightsError: if the file is missing, of an unknown kind, broken or not ours.
        ConfigError: if the runtime is unknown or cannot run such a file, or a setting is wrong.
        MissingExtraError: if the runtime's library is not installed.
    """
    options = RuntimeOptions(device, threads, mode, precision)
    chosen = _choose(local_weights(path), runtime)
    if precision != "float32" and chosen.runtime != "openvino":
        raise ConfigError(
            f"precision must be float32 with the runtime {chosen.runtime}; got {precision!r}. "
            "Only OpenVINO computes in bfloat16 on request."
        )
    return Detector(_open(chosen, options))


def _open(chosen: _Chosen, options: RuntimeOptions) -> Runtime:
    if chosen.runtime == "openvino":
        from attendet.inference.runtimes.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(chosen.path, options)
    if chosen.runtime == "onnx":
        from attendet.inference.runtimes.onnx_runtime import OnnxRuntime

        return OnnxRuntime(chosen.path, options)
    torch = require("torch", extra="train", purpose=f"running {chosen.suffix} weights")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if chosen.suffix == ".safetensors":
        from attendet.inference.runtimes.torch_runtime import TorchRuntime

        return TorchRuntime.from_file(chosen.path, options)
    from attendet.inference.runtimes.torchscript_runtime import TorchScriptRuntime

    return TorchScriptRuntime(chosen.path, options)
