"""The candidates of a benchmark: each file in each runtime, number of threads and mode."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attendet.errors import ConfigError
from attendet.files import size_of
from attendet.inference.loading import PACKAGES, file_kind, installed_runtimes
from attendet.inference.runtimes.base import Mode
from attendet.system import available_cores, has_bfloat16


@dataclass(frozen=True)
class Candidate:
    """A weights file with a runtime and options to run it.

    Attributes:
        weights: the file or folder.
        runtime: ``torch``, ``onnx``, ``openvino`` or ``ncnn``.
        threads: CPU threads of the network.
        mode: see `attendet.inference.runtimes.base.Mode`.
        precision: requested precision of the computation; a file of another precision keeps its
            own.
        label: name of the file in tables; by default its own name.
    """

    weights: Path
    runtime: str
    threads: int
    mode: Mode = "latency"
    precision: str = "float32"
    label: str = ""

    @property
    def file(self) -> str:
        """Name of the file in tables."""
        return self.label or self.weights.name

    @property
    def name(self) -> str:
        """Unique name of the candidate, one line."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.file}, {self.runtime}{precision}, {threads}, {self.mode}"

    @property
    def file_bytes(self) -> int:
        """Size of the file, or of all files of a folder."""
        files = [self.weights]
        if self.weights.suffix in (".xml", ".param"):
            files.append(self.weights.with_suffix(".bin"))
        return sum(map(size_of, files))


def short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a short name for each path: its last parts, as many as make it unique.

    Example:
        >>> names = short_names([Path("a/best.onnx"), Path("b/best.onnx"), Path("c.onnx")])
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
    """Return the candidates: each file in each installed runtime that can run it.

    Args:
        weights: files or folders that `attendet.load` takes.
        runtimes: runtimes to use; by default all that are installed.
        threads: numbers of threads; by default one per core.
        modes: see `attendet.inference.runtimes.base.Mode`.

    Raises:
        WeightsError: if a file is missing or of an unknown kind.
        ConfigError: if a runtime is unknown, or no requested, installed runtime can run any file.
    """
    for name in runtimes:
        if name not in PACKAGES:
            raise ConfigError.unknown("runtime", name, PACKAGES, "--runtimes")
    found: list[Candidate] = []
    labels = short_names(weights)
    for file, count, mode in itertools.product(weights, threads or (available_cores(),), modes):
        for runtime in installed_runtimes(file):
            if runtimes and runtime not in runtimes:
                continue
            candidate = Candidate(file, runtime, count, mode, label=labels[file])
            found.append(candidate)
            if runtime == "openvino" and has_bfloat16():
                found.append(dataclasses.replace(candidate, precision="bfloat16"))
    if not found:
        kinds = ", ".join(sorted({file_kind(file) for file in weights}))
        wanted = ", ".join(runtimes) or "none"
        raise ConfigError(
            f"runtimes must include an installed one that runs the files ({kinds}); got {wanted}. "
            "Install one with: pip install 'attendet[openvino]', or export the weights first."
        )
    return list(dict.fromkeys(found))
