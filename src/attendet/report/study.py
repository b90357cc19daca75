"""The records of a study as `attendet compare` leaves them, read for a report.

AP stands in records as 0 to 1; a report speaks of points, hundredths of that.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attendet.errors import DataError

__all__ = ["StudyRecords", "Run", "read_study", "value_at"]

STUDY = "study.json"
RUNS = "runs.jsonl"

Run = Mapping[str, Any]


@dataclass(frozen=True)
class StudyRecords:
    """A study: what was asked, each run, and what came out."""

    folder: Path
    """Where the files are."""

    head: Mapping[str, Any]
    """What study.json holds."""

    runs: tuple[Run, ...]
    """The runs, in the order of the file."""

    @property
    def baseline(self) -> str:
        """Name of the variant that the others are compared with; empty if there is none."""
        return str(self.head.get("baseline") or "")

    @property
    def margin(self) -> float:
        """Differences in AP up to this count as none, 0 to 1."""
        return float(self.head.get("margin") or 0.005)

    @property
    def data_name(self) -> str:
        """Name of the data set's folder; not its path, since a report is passed on."""
        return Path(str(value_in(self.head, "data", "root") or "data")).name

    def variants(self) -> list[str]:
        """Return the names of the variants, the baseline first, then in the order of the study."""
        named = [_variant_name(variant) for variant in self.head.get("variants") or ()]
        named += [str(run.get("variant_name")) for run in self.runs]
        known = dict.fromkeys(name for name in [self.baseline, *named] if name)
        return list(known)

    def verdict(self, variant: str) -> Mapping[str, Any]:
        """Return what the study says of a variant; empty if nothing."""
        found = (self.head.get("verdicts") or {}).get(variant)
        return found if isinstance(found, Mapping) else {}

    def runs_of(self, variant: str, *, measured: bool = True) -> list[Run]:
        """Return the runs of a variant by seed.

        Args:
            variant: its name.
            measured: only those that came to their end and have metrics.
        """
        found = [run for run in self.runs if run.get("variant_name") == variant]
        if measured:
            found = [run for run in found if run.get("metrics") and not run.get("stopped")]
        return sorted(found, key=lambda run: int(run.get("seed") or 0))

    def values(self, variant: str, *path: str) -> list[float]:
        """Return one number of each measured run of a variant, such as ``metrics``, ``ap``."""
        found = (value_at(run, *path) for run in self.runs_of(variant))
        return [value for value in found if value is not None]

    def mean(self, variant: str, *path: str) -> float | None:
        """Return the mean of one number over the measured runs of a variant."""
        values = self.values(variant, *path)
        return statistics.fmean(values) if values else None

    def differences(self, variant: str, *path: str) -> list[float]:
        """Return variant minus baseline of one number, for each seed that both have."""
        beside = {run.get("seed"): value_at(run, *path) for run in self.runs_of(self.baseline)}
        pairs = [
            (value_at(run, *path), beside.get(run.get("seed"))) for run in self.runs_of(variant)
        ]
        return [a - b for a, b in pairs if a is not None and b is not None]

    def effect(self, variant: str, *path: str) -> tuple[float, float | None, float | None] | None:
        """Return the difference of one number of ``metrics`` to the baseline, and its interval.

        The interval is that of the verdict's effects, where the study has it.

        Args:
            variant: its name.
            path: such as ``ap_small``, or ``per_class``, ``RBC``, ``ap``.
        """
        effects = self.verdict(variant).get("effects") or {}
        part = (
            (effects.get("per_class") or {}).get(path[1])
            if path[0] == "per_class"
            else (effects.get("parts") or {}).get(path[0])
        )
        if isinstance(part, Mapping) and number(part.get("difference")) is not None:
            return float(part["difference"]), number(part.get("low")), number(part.get("high"))
        differences = self.differences(variant, "metrics", *path)
        return (statistics.fmean(differences), None, None) if differences else None

    def classes(self) -> list[str]:
        """Return the names of the classes that have an AP in some run."""
        named = (self.head.get("data") or {}).get("classes") or []
        seen = [name for run in self.runs for name in (value_in(run, "metrics", "per_class") or {})]
        return list(dict.fromkeys([*map(str, named), *seen]))

    def latency(self) -> dict[str, dict[str, Mapping[str, float]]]:
        """Return the latency of each variant by runtime: runtime to variant to milliseconds."""
        by_runtime: dict[str, dict[str, Mapping[str, float]]] = {}
        for variant, runtimes in (self.head.get("latency") or {}).items():
            for runtime, measured in runtimes.items():
                if number(measured.get("median_ms")) is not None:
                    by_runtime.setdefault(runtime, {})[variant] = measured
        return by_runtime


def _variant_name(variant: object) -> str:
    return str(variant.get("name") or "") if isinstance(variant, Mapping) else str(variant)


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def value_in(record: object, *path: str) -> Any:
    """Return what stands under nested keys, or None."""
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def value_at(record: object, *path: str) -> float | None:
    """Return the number that stands under nested keys, or None.

    Example:
        >>> value_at({"metrics": {"ap": 0.5}}, "metrics", "ap"), value_at({}, "metrics", "ap")
        (0.5, None)
    """
    return number(value_in(record, *path))


def read_study(folder: str | Path) -> StudyRecords:
    """Return the records in the folder of a study.

    A last line of runs.jsonl that was cut short is left out: the study may still be running.

    Args:
        folder: holds study.json and runs.jsonl.

    Raises:
        DataError: if it holds no study, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / STUDY).is_file():
        raise DataError(
            f"folder must hold a study, {STUDY} and {RUNS}; got none ({folder}). "
            "attendet compare makes one."
        )
    try:
        head = json.loads((folder / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{STUDY} must be JSON; it is damaged ({folder / STUDY}): {error}"
        ) from None
    if not isinstance(head, dict) or not str(head.get("layout", "attendet/comparison/1")).endswith(
        "/1"
    ):
        layout = head.get("layout") if isinstance(head, dict) else type(head).__name__
        raise DataError(
            f"{STUDY} must be of layout 'attendet/comparison/1'; got {layout!r} "
            f"({folder / STUDY}). It was written by another version of attendet."
        )
    return StudyRecords(folder, head, _read_runs(folder / RUNS))


def _read_runs(path: Path) -> tuple[Run, ...]:
    """Return the last record of each run, in the order of the file."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found: dict[object, Run] = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if place == len(lines):
                break
            raise DataError(
                f"each line of {RUNS} must be JSON; one is damaged ({path}:{place})."
            ) from None
        if isinstance(record, dict):
            found[record.get("key") or place] = record
    return tuple(found.values())


def flat_facts(value: object, name: str = "") -> list[tuple[str, str]]:
    """Return nested settings as names and texts.

    Example:
        >>> flat_facts({"a": {"b": 1}, "c": [1, 2]})
        [('a b', '1'), ('c', '1, 2')]
    """
    if isinstance(value, Mapping):
        return [
            fact
            for key, inner in value.items()
            for fact in flat_facts(inner, f"{name} {key}".strip())
        ]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(one, Mapping | list) for one in value):
            return [(name, json.dumps(value))]
        return [(name, ", ".join(map(str, value)))]
    if isinstance(value, bool):
        return [(name, "yes" if value else "no")]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]
    return [(name, "-" if value is None else str(value))]
