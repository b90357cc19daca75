"""Load the detector of a weights file or an exported file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from attendet.errors import ConfigError, MissingExtraError, WeightsError, did_you_mean
from attendet.inference.detector import Detector
from attendet.inference.runtimes.base import Mode, Runtime, RuntimeOptions
from attendet.interop.hub import local_weights
from attendet.models.export_info import HEADER_FILE
from attendet.system import require

RUNTIMES = {
    ".safetensors": ("torch",),
    ".onnx": ("onnx", "openvino"),
    ".xml": ("openvino",),
    ".torchscript": ("torch",),
    ".param": ("ncnn",),
}
"""Runtimes for files with this suffix, fastest first. In float32, ONNX Runtime took less CPU time
than OpenVINO with one thread on x86 without AVX-512, and it starts faster (docs/benchmarks.md). A
folder has the suffix of its graph file (`FOLDERS`)."""

FOLDERS = {"model.xml": ".xml", "model.param": ".param"}
"""Graph file that identifies a folder, and its suffix: OpenVINO and ncnn."""

PACKAGES = {
    "torch": ("torch", "train"),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
    "ncnn": ("ncnn", "ncnn"),
}
"""The module that each runtime needs, and the extra that installs it."""


def load(
    path: str | Path,
    runtime: str = "auto",
    device: str | None = None,
    *,
    threads: int | None = None,
    mode: Mode = "latency",
    precision: str = "float32",
) -> Detector:
    """Return the detector of a weights file or an exported file.

    Every runtime returns the same detections: boxes within a pixel, scores within 0.01. ONNX
    Runtime, OpenVINO and ncnn run without torch.

    Args:
        path: a ``.safetensors`` weights file, or a file that ``attendet export`` wrote: ``.onnx``,
            a folder with ``model.xml`` or ``model.param``, ``.torchscript``. Or one on the Hugging
            Face Hub: ``hf://owner/name`` or ``hf://owner/name/FILE`` (see `attendet.interop.hub`).
        runtime: ``auto`` for the fastest one that is installed, or ``torch``, ``onnx``,
            ``openvino``, ``ncnn``.
        device: such as ``cpu`` or ``cuda:0``. By default torch uses a GPU if one is available; the
            others use the CPU.
        threads: CPU threads of the network; by default one per core. With PyTorch, this sets the
            thread count of the whole process; in mode ``throughput`` on a CPU, a stream runs this
            many batches in parallel, each on one thread.
        mode: ``latency`` uses all threads for one batch; ``throughput`` runs several batches in
            parallel, for `Detector.stream`.
        precision: ``float32``, or ``bfloat16`` if the CPU supports it (OpenVINO only): faster, but
            the detections differ slightly.

    Raises:
        WeightsError: if the file is missing, of an unknown kind, broken or not from attendet.
        ConfigError: if the runtime is unknown or cannot run such a file, or a setting is wrong.
        MissingExtraError: if the runtime's library is not installed.
    """
    options = RuntimeOptions(device, threads, mode, precision)
    path = local_weights(path)
    chosen = _choose_runtime(path, runtime)
    if precision != "float32" and chosen != "openvino":
        raise ConfigError(
            f"precision must be float32 with the runtime {chosen}; got {precision!r}. "
            "Only OpenVINO can compute in bfloat16."
        )
    return Detector(_open(path, chosen, options))


def file_kind(path: Path) -> str:
    """Return the suffix of a weights file, or of the graph file in a folder.

    Raises:
        WeightsError: if it is missing or of an unknown kind.
    """
    if not path.exists():
        raise WeightsError(f"weights file not found ({path}). Check the path.")
    suffix = path.suffix.lower()
    for name, kind in FOLDERS.items():
        if (path / name).is_file():
            return kind
    if (path / HEADER_FILE).is_file() and (path / "model.bin").is_file():
        return ".param"  # incomplete, which the runtime reports
    if suffix == ".pt2":
        raise WeightsError(
            f"weights must be in a format that cannot contain code; got a .pt2 file ({path}). "
            "Export to another format, or use torch.export.load(path).module() in your program."
        )
    if suffix not in RUNTIMES or path.is_dir():
        got = "a folder" if path.is_dir() else repr(suffix or "a name without suffix")
        raise WeightsError(
            f"weights must be a file of type {', '.join(RUNTIMES)}, or a folder with "
            f"{' or '.join(FOLDERS)}; got {got} ({path})."
        )
    return suffix


def installed_runtimes(path: str | Path) -> tuple[str, ...]:
    """Return the installed runtimes that can run a file, fastest first.

    Raises:
        WeightsError: if the file is missing or of an unknown kind.
    """
    names = RUNTIMES[file_kind(Path(path))]
    return tuple(name for name in names if _is_installed(PACKAGES[name][0]))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _choose_runtime(path: Path, runtime: str) -> str:
    suffix = file_kind(path)
    able = RUNTIMES[suffix]
    if runtime not in ("auto", *able):
        advice = did_you_mean(runtime, ("auto", *able))
        if suffix == ".safetensors" and runtime in PACKAGES:
            advice = (
                f"Export the weights for it first: attendet export {path.name} --format {runtime}"
            )
        raise ConfigError(f"runtime must be able to run {suffix} files; got {runtime!r}. {advice}")
    if runtime != "auto":
        return runtime
    installed = installed_runtimes(path)
    if not installed and len(able) > 1:
        modules = " or ".join(repr(PACKAGES[name][0]) for name in able)
        raise MissingExtraError(
            f"running {suffix} files needs {modules}, none of which is installed. "
            f"Install one with: pip install 'attendet[{PACKAGES[able[0]][1]}]'"
        )
    return (installed or able)[0]


def _open(path: Path, runtime: str, options: RuntimeOptions) -> Runtime:
    if runtime == "openvino":
        from attendet.inference.runtimes.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(path, options)
    if runtime == "onnx":
        from attendet.inference.runtimes.onnx_runtime import OnnxRuntime

        return OnnxRuntime(path, options)
    if runtime == "ncnn":
        from attendet.inference.runtimes.ncnn_runtime import NcnnRuntime

        return NcnnRuntime(path, options)
    torch = require("torch", extra="train", purpose=f"running {path.suffix} weights")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if path.suffix.lower() == ".safetensors":
        from attendet.inference.runtimes.torch_runtime import TorchRuntime

        return TorchRuntime.from_file(path, options)
    from attendet.inference.runtimes.torchscript_runtime import TorchScriptRuntime

    return TorchScriptRuntime(path, options)
