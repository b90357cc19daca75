"""CPU, memory, optional packages, and differences between operating systems.

All code that depends on Linux, macOS or Windows is here; other modules do not check the platform.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import lazy_loader
from platformdirs import user_cache_path

from attendet.errors import MissingExtraError

CACHE_VARIABLE = "ATTENDET_CACHE"
"""Environment variable that names the cache folder."""

ASSUMED_MEMORY = 4 * 1024**3

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}

SHOWN_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16")
"""Features of x86 processors that change the speed of convolutions, by their names in Linux."""


def available_cores() -> int:
    """Return the number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Return whether the processor multiplies in bfloat16 (AVX512-BF16, AMX), as Linux reports."""
    return bool(BFLOAT16_FLAGS & set(_cpuinfo().split()))


def describe_machine() -> dict[str, Any]:
    """Return the properties of this machine that are reported with measurements.

    Example:
        >>> sorted(describe_machine())
        ['cores', 'features', 'processor', 'python', 'system']
    """
    cpuinfo = _cpuinfo()
    models = (line for line in cpuinfo.splitlines() if line.startswith("model name"))
    _, _, model = next(models, "").partition(": ")
    flags = set(cpuinfo.split())
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "features": " ".join(flag for flag in SHOWN_FLAGS if flag in flags),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return the description of a machine as one line, without its empty values.

    Example:
        >>> machine_text({"processor": "EPYC", "cores": 2, "features": "", "memory_gib": 23.5})
        'processor EPYC, cores 2, memory GiB 23.5'
    """
    return ", ".join(
        f"{name.replace('_', ' ').replace('gib', 'GiB')} {value}"
        for name, value in machine.items()
        if value not in ("", None)
    )


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def peak_memory_mib() -> int | None:
    """Return the peak memory of this process so far, in MiB; None on Windows without psutil.

    Linux reports it as VmHWM. There, getrusage would return the peak of the process that started
    this program if that peak was higher.
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


def available_memory() -> int:
    """Return the bytes of memory that this process may still use, within its container's limit.

    The file cache counts as available. 4 GiB are assumed if the system does not report it.
    """
    available = _system_memory()
    limit, used = (_read_int(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        available = min(available, max(0, limit - used + _inactive_file_cache()))
    return available


def _inactive_file_cache() -> int:
    """Return the bytes of the container's memory that hold files and can be freed at once."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def _system_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil
    except ImportError:
        return ASSUMED_MEMORY
    return int(psutil.virtual_memory().available)


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such limit, or the word "max"
        return None


def cache_folder() -> Path:
    """Return the folder for downloads and large temporary files.

    It is the value of `CACHE_VARIABLE`, or the user's cache folder for attendet.
    """
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_path("attendet", appauthor=False))


def font_folders() -> list[Path]:
    """Return the font folders of the system and the user; some may not exist."""
    home = Path.home()
    if sys.platform == "win32":
        windows = Path(os.environ.get("WINDIR", "C:/Windows"))
        return [windows / "Fonts", home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    shared = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
    return [*shared, home / ".local/share/fonts", home / ".fonts"]


def reserve_file(handle: int, size: int) -> None:
    """Set the size of an open file; if possible, allocate it, so that a full disk raises here."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def can_pass_files() -> bool:
    """Return whether an open file can be passed to a new process; False on Windows."""
    return sys.platform != "win32"


def pass_file(file: IO[bytes]) -> Any:
    """Return a handle of an open file for a process being started; see `open_passed_file`."""
    from multiprocessing.reduction import DupFd

    return DupFd(file.fileno())


def open_passed_file(passed: Any) -> IO[bytes]:
    """Open the handle of `pass_file` for reading, in the new process."""
    return os.fdopen(passed.detach(), "rb")


def process_start_method() -> str:
    """Return the `multiprocessing` start method: a fork server on Linux, else ``spawn``.

    On macOS a forked process may not use the system's libraries; Windows cannot fork.
    """
    return "forkserver" if sys.platform.startswith("linux") else "spawn"


def keep_freed_memory() -> bool:
    """Make glibc keep large freed blocks for the next step; return whether it does.

    A training step on the CPU frees and allocates the same hundreds of megabytes again and again.
    By default glibc returns each large block to the system, which then clears every page again:
    about a sixth of the time of a step on one core (2.8 to 3.4 images/s, measured by
    ``benchmarks/training_step.py``). The memory of the process then stays at its peak. Other C
    libraries are not changed.
    """
    trim_threshold, mmap_max, never = -1, -4, 2**31 - 1  # constants of mallopt
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, never))


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
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package with lazy imports.

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
