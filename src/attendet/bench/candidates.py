"""Who is measured: each file through each runtime, with each number of threads, in each mode."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attendet.errors import ConfigError, did_you_mean
from attendet.inference.loading import PACKAGES, able_runtimes, file_kind
from attendet.inference.runtimes.base import Mode
from attendet.system import available_cores, has_bfloat16

__all__ = ["Candidate", "plan_candidates"]


@dataclass(frozen=True)
class Candidate:
    """One way to run one file."""

    weights: Path
    """The file or folder."""

    runtime: str
    """``torch``, ``onnx`` or ``openvino``."""

    threads: int
    """Processor threads of the network."""

    mode: Mode = "latency"
    """See `attendet.inference.runtimes.base.Mode`."""

    precision: str = "float32"
    """What the runtime is asked to compute in; a file of another precision keeps its own."""

    label: str = ""
    """What tells the file from the others; its name if left out."""

    @property
    def file(self) -> str:
        """The file as tables name it."""
        return self.label or self.weights.name

    @property
    def name(self) -> str:
        """What tells it from the others in one line."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        asked = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.file}, {self.runtime}{asked}, {threads}, {self.mode}"

    @property
    def file_bytes(self) -> int:
        """Size of the file, of all files of a folder."""
        if self.weights.is_dir():
            return sum(file.stat().st_size for file in self.weights.rglob("*") if file.is_file())
        model = self.weights
        weights = [model.with_suffix(".bin")] if model.suffix == ".xml" else []
        return sum(file.stat().st_size for file in (model, *weights))


def tell_apart(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each path: its last part, and as many before it as tell it from the others.

    Example:
        >>> names = tell_apart([Path("runs/a/best.onnx"), Path("runs/b/best.onnx"), Path("c.onnx")])
        >>> list(names.values())
        ['a/best.onnx', 'b/best.onnx', 'c.onnx']
    """
    names = {}
    for path in paths:
        others = [other.parts for other in paths if other != path]
        count = 1
        while count < len(path.parts) and any(
            other[-count:] == path.parts[-count:] for other in others
        ):
            count += 1
        names[path] = "/".join(path.parts[-count:])
    return names


def plan_candidates(
    weights: Sequence[Path],
    *,
    runtimes: Sequence[str] = (),
    threads: Sequence[int] = (),
    modes: Sequence[Mode] = ("latency",),
) -> list[Candidate]:
    """Return every way to run the files that is installed.

    Args:
        weights: files or folders that `attendet.load` takes.
        runtimes: the wanted ones; all that are installed if none is named.
        threads: numbers of threads; one a core if none is given.
        modes: see `attendet.inference.runtimes.base.Mode`.

    Raises:
        WeightsError: if a file is missing or of an unknown kind.
        ConfigError: if a runtime is unknown, or no file can be run by what is wanted and installed.
    """
    for name in runtimes:
        if name not in PACKAGES:
            raise ConfigError(
                f"runtimes must be some of {', '.join(PACKAGES)}; got {name!r}. "
                f"{did_you_mean(name, PACKAGES)}"
            )
    found: list[Candidate] = []
    labels = tell_apart(weights)
    for file, count, mode in itertools.product(weights, threads or (available_cores(),), modes):
        for runtime in able_runtimes(file):
            if runtimes and runtime not in runtimes:
                continue
            candidate = Candidate(file, runtime, count, mode, label=labels[file])
            found.append(candidate)
            if runtime == "openvino" and has_bfloat16():
                found.append(dataclasses.replace(candidate, precision="bfloat16"))
    if not found:
        kinds = ", ".join(sorted({file_kind(file) for file in weights}))
        wanted = ", ".join(runtimes) or "any that is installed"
        raise ConfigError(
            f"runtimes must be able to run the files ({kinds}); got {wanted}. "
            "Install one with: pip install 'attendet[openvino]', or export the weights first."
        )
    return sorted(set(found), key=found.index)
