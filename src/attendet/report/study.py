"""Reader of the records of a study that `attendet compare` writes.

AP in records is 0 to 1. Reports show points: 1 point is an AP of 0.01.
"""

from __future__ import annotations

import statistics
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.errors import DataError
from attendet.files import read_json, read_json_lines

STUDY = "study.json"
RUNS = "runs.jsonl"
LAYOUT = "attendet/comparison/1"
SETS = "sets.json"
SETS_LAYOUT = "attendet/comparison-sets/1"
"""Name and version of the layout of sets.json: the record of a study over several data sets. Each
data set has its own study in a subfolder."""

Run = Mapping[str, Any]

_BOX_ARRAYS = {"keys", "classes", "counts", "boxes_xyxy", "class_ids"}
_DAMAGED = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def read_boxes(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file of detections or ground truth, as docs/compare.md lists them.

    Raises:
        DataError: if the file is missing or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except _DAMAGED as error:
        raise DataError(f"boxes cannot be read ({path}): {error or repr(error)}") from None
    if missing := _BOX_ARRAYS - arrays.keys():
        raise DataError(f"boxes cannot be read ({path}): no {min(missing)}")
    return arrays


@dataclass(frozen=True)
class Study:
    """The records of a study: its description and its runs.

    Attributes:
        folder: Folder of the files.
        description: Content of study.json.
        runs: Records of the runs, in the order of runs.jsonl.
    """

    folder: Path
    description: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def baseline(self) -> str:
        """Name of the variant that the others are compared with."""
        return str(self.description["baseline"])

    @property
    def margin(self) -> float:
        """Largest AP difference that counts as no difference, 0 to 1."""
        return float(self.description["margin"])

    @property
    def data_name(self) -> str:
        """Name of the data set's folder. A report does not show the path."""
        return Path(self.description["data"]["root"]).name

    def variants(self) -> list[str]:
        """Return the names of the variants: the baseline, then the order of the study."""
        names = [self.baseline]
        names += [variant["name"] for variant in self.description["variants"]]
        names += [run["variant_name"] for run in self.runs]
        return list(dict.fromkeys(names))

    def verdict(self, variant: str) -> Mapping[str, Any]:
        """Return the verdict on a variant; empty if there is none yet."""
        found: Mapping[str, Any] = self.description["verdicts"].get(variant, {})
        return found

    def runs_of(self, variant: str) -> list[Run]:
        """Return the finished runs of a variant, sorted by seed."""
        found = [run for run in self.runs if run["variant_name"] == variant]
        finished = [run for run in found if run["stopped"] is None]
        return sorted(finished, key=lambda run: int(run["seed"]))

    def failed_runs(self) -> list[Run]:
        """Return the runs that failed."""
        return [run for run in self.runs if run["stopped"] == "failed"]

    def values(self, variant: str, *keys: str) -> list[float]:
        """Return one value per finished run of a variant, for keys such as ``metrics``, ``ap``."""
        found = (value_at(run, *keys) for run in self.runs_of(variant))
        return [value for value in found if value is not None]

    def mean(self, variant: str, *keys: str) -> float | None:
        """Return the mean of one value over the finished runs of a variant."""
        values = self.values(variant, *keys)
        return statistics.fmean(values) if values else None

    def differences(self, variant: str, *keys: str) -> list[float]:
        """Return variant minus baseline in one value, for each seed that both have."""
        baseline = {run["seed"]: value_at(run, *keys) for run in self.runs_of(self.baseline)}
        pairs = [(value_at(run, *keys), baseline.get(run["seed"])) for run in self.runs_of(variant)]
        return [a - b for a, b in pairs if a is not None and b is not None]

    def effect(self, variant: str, *keys: str) -> tuple[float, float | None, float | None] | None:
        """Return the difference to the baseline in one metric, with its interval if known.

        Args:
            variant: name of the variant; None is returned for the baseline.
            keys: keys of the metric, such as ``ap``, or ``per_class``, ``RBC``, ``ap``.
        """
        if variant == self.baseline:
            return None
        verdict = self.verdict(variant)
        group = keys[:2] if keys[0] == "per_class" else ("parts", keys[0])
        effect = verdict if keys == ("ap",) else value_at(verdict, "effects", *group) or {}
        if effect.get("difference") is not None:
            return effect["difference"], effect.get("low"), effect.get("high")
        differences = self.differences(variant, "metrics", *keys)
        return (statistics.fmean(differences), None, None) if differences else None

    def classes(self) -> list[str]:
        """Return the class names of the data set and of the metrics."""
        names = list(self.description["data"]["classes"])
        for run in self.runs:
            names += value_at(run, "metrics", "per_class") or ()
        return list(dict.fromkeys(names))

    def latency(self) -> dict[str, dict[str, Mapping[str, float]]]:
        """Return the measured latency: runtime to variant to ``median_ms``, ``low_ms``..."""
        by_runtime: dict[str, dict[str, Mapping[str, float]]] = {}
        for variant, runtimes in self.description["latency"].items():
            for runtime, measured in runtimes.items():
                by_runtime.setdefault(runtime, {})[variant] = measured
        return by_runtime


def value_at(record: object, *keys: str) -> Any:
    """Return the value under nested keys; None if a key is missing.

    Example:
        >>> value_at({"metrics": {"ap": 0.5}}, "metrics", "ap"), value_at({}, "metrics", "ap")
        (0.5, None)
    """
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def read_layout(path: Path, layout: str) -> dict[str, Any] | None:
    """Return the content of study.json or sets.json; None if the file does not exist.

    Raises:
        DataError: if the file is damaged, or of another layout.
    """
    content = read_json(path)
    if content is not None and content.get("layout") != layout:
        advice = "It was written by another version of attendet; use that one, or another folder."
        raise DataError.must(
            path.name, f"of layout {layout!r}", content.get("layout"), path, advice
        )
    return content


def read_study(folder: str | Path) -> Study:
    """Return the description of a study and the last record of each run.

    A partly written last line of runs.jsonl is ignored: the study may still be running.

    Args:
        folder: folder with study.json and runs.jsonl.

    Raises:
        DataError: if the folder has no study, or a file is damaged.
    """
    folder = Path(folder)
    description = read_layout(folder / STUDY, LAYOUT)
    if description is None:
        raise DataError(
            f"folder must contain a study, {STUDY} and {RUNS}; got none ({folder}). "
            "attendet compare writes one."
        )
    records = enumerate(read_json_lines(folder / RUNS))
    runs = {record.get("key", number): record for number, record in records}
    return Study(folder, description, tuple(runs.values()))
