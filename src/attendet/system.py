"""The system below the package: CPU, memory, and which optional packages are installed."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lazy_loader

from attendet.errors import MissingExtraError

__all__ = [
    "available_cores",
    "describe_machine",
    "has_bfloat16",
    "lazy_names",
    "peak_memory_mib",
    "require",
]

CPUINFO = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Return whether the processor multiplies in bfloat16 (AVX512-BF16, AMX), as Linux tells."""
    return bool(BFLOAT16_FLAGS & set(_cpuinfo().split()))


def describe_machine() -> dict[str, Any]:
    """Return what a reader of figures needs to know of this machine.

    Example:
        >>> sorted(describe_machine())
        ['cores', 'processor', 'python', 'system']
    """
    models = (line for line in _cpuinfo().splitlines() if line.startswith("model name"))
    _, _, model = next(models, "").partition(": ")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def peak_memory_mib() -> int | None:
    """Return the most memory that this process has held so far, MiB; None where nobody knows.

    On Linux this is the peak of the program that runs: getrusage would give that of the process it
    was started from where that one held more.
    """
    try:
        peak = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        peak = None
    if peak is not None:
        return round(int(peak[1]) / 2**10)
    if sys.platform == "win32":
        try:
            import psutil
        except ImportError:
            return None
        return round(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return an imported module, or raise an error that names the extra to install.

    Args:
        module: dotted name, such as ``"torch"``.
        extra: the extra of this package that installs it, such as ``"train"``.
        purpose: what needs the module, as the subject of a sentence ("training").

    Returns:
        The module.

    Raises:
        MissingExtraError: if the module's top-level package is not installed.

    Example:
        >>> require("json", extra="train", purpose="this example").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise _missing(module, extra, purpose) from None


def _missing(module: str, extra: str, purpose: str) -> MissingExtraError:
    return MissingExtraError(
        f"{purpose} needs {module.split('.')[0]!r}, which is not installed. "
        f"Install it with: pip install 'attendet[{extra}]'"
    )


def lazy_names(
    package: str, file: str, *, extra: str = "train"
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package that loads its names late.

    The names are listed once, as imports in the ``__init__.pyi`` beside the package's
    ``__init__.py``. A module is imported when one of its names is first used.

    Args:
        package: ``__name__`` of the package.
        file: ``__file__`` of the package.
        extra: the extra of attendet that installs what the package's modules import.
    """
    load, list_names, names = lazy_loader.attach_stub(package, file)

    def load_name(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "attendet":
                raise
            raise _missing(error.name, extra, f"{package}.{name}") from None

    return load_name, list_names, names
