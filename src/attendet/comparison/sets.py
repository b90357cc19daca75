"""Studies over several data sets: the names of the data sets, and the summary over all of them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attendet.comparison.meta_analysis import judge_over_sets, power_of_set
from attendet.comparison.records import sets_json, study_json
from attendet.data import DataSet, load_dataset
from attendet.errors import ConfigError
from attendet.report.study import STUDY, value_at
from attendet.system import require

Source = str | Path

COSTS = ("parameters", "macs", "seconds", "memory_mib")


def name_data_sets(
    data: Sequence[Source],
    folder: Path,
    *,
    format: Literal["voc", "yolo", "coco"] | None = None,
    budget: float | None = None,
) -> dict[str, tuple[Source, DataSet]]:
    """Return the data sets of a study by name, each with the path that it was read from.

    A data set is named after its folder. A second one with that name gets a number; data sets of an
    earlier study in the folder keep their names.

    Args:
        data: paths of data sets.
        folder: folder of the study.
        format: format of the data sets; default: recognized from their files.
        budget: must be None.

    Raises:
        ConfigError: if there are not two different data sets, the folder contains a study of one
            data set, or a budget is given.
        DataError: if a data set cannot be read.
        MissingExtraError: if the ``study`` extra is not installed.
    """
    require(
        "statsmodels.stats.meta_analysis", extra="study", purpose="comparing over several data sets"
    )
    rule = "at least two data sets"
    ConfigError.check(len(data) > 1, "data", rule, [str(each) for each in data])
    advice = (
        "It would cut different variants on each data set. Start with --seeds 3; if you add seeds "
        "later, only their runs are trained."
    )
    ConfigError.check(
        budget is None, "budget", "used with one data set only", budget, "--budget", advice
    )
    if (folder / STUDY).is_file():
        raise ConfigError(
            f"output must be a new folder or that of a study over several data sets; {folder} "
            "contains a study of one data set. Choose another --output."
        )
    earlier = (sets_json(folder) or {"sets": []})["sets"]
    names = {each["data"]["root"]: each["name"] for each in earlier}
    named: dict[str, tuple[Source, DataSet]] = {}
    for source in data:
        dataset = load_dataset(source, format=format)
        root = str(dataset.root)
        names.setdefault(root, _new_name(dataset.root, set(names.values())))
        if names[root] in named:
            raise ConfigError(f"data must be different data sets; got {source} twice.")
        named[names[root]] = source, dataset
    return named


def _new_name(root: Path, used: set[str]) -> str:
    slug = re.sub(r"[^\w]+", "-", root.name.lower()).strip("-") or "data"
    names = [slug, *(f"{slug}-{number}" for number in range(2, len(used) + 3))]
    return next(name for name in names if name not in used)


def summarize_sets(
    folder: Path, head: Mapping[str, Any], names: Sequence[str] | Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of sets.json, from the study.json of each data set.

    Args:
        folder: folder of the study over all data sets.
        head: entries that all studies have in common.
        names: names of the data sets; one whose study has not begun is only listed as waiting.
    """
    studies = {name: study_json(folder / name) for name in names}
    begun = {
        name: study
        for name, study in studies.items()
        if study is not None and study["baseline"] == head["baseline"]
    }
    variants = [variant["name"] for variant in head["variants"]]
    verdicts = {
        variant: {
            name: study["verdicts"][variant]
            for name, study in begun.items()
            if variant in study["verdicts"]
        }
        for variant in variants
        if variant != head["baseline"]
    }
    return {
        **head,
        "sets": [
            {
                "name": name,
                "data": study["data"],
                "recipe": study["recipe"],
                "weights": study["weights"],
                "done": "seconds" in study and not study["failed"],
                "baseline_ap": value_at(study, "variant_summaries", head["baseline"], "ap"),
                "power": power_of_set(
                    list(study["verdicts"].values()), study["data"]["measured_images"]
                ),
            }
            for name, study in begun.items()
        ],
        "waiting": [name for name in names if name not in begun],
        "verdicts": judge_over_sets(verdicts, margin=head["margin"]),
        "variant_summaries": {variant: _costs(variant, begun.values()) for variant in variants},
        "latency": {variant: _latency(variant, begun.values()) for variant in variants},
        "latency_machine": next(
            (study["latency_machine"] for study in begun.values() if "latency_machine" in study),
            None,
        ),
        "failed": [
            {"data_set": name, **failure}
            for name, study in begun.items()
            for failure in study.get("failed", ())
        ],
    }


def _costs(variant: str, studies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the number of runs of a variant, and its mean costs over the data sets."""
    found = [value_at(study, "variant_summaries", variant) or {} for study in studies]
    known = [costs for costs in found if costs.get("runs")]
    means = {
        name: statistics.fmean(costs[name] for costs in known) if known else None for name in COSTS
    }
    return {"runs": sum(costs["runs"] for costs in known), **means}


def _latency(variant: str, studies: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean latency of a variant over the data sets, by runtime."""
    found = [value_at(study, "latency", variant) or {} for study in studies]
    runtimes = dict.fromkeys(runtime for by_runtime in found for runtime in by_runtime)
    return {
        runtime: {
            name: round(
                statistics.fmean(each[runtime][name] for each in found if runtime in each), 3
            )
            for name in ("median_ms", "low_ms", "high_ms")
        }
        for runtime in runtimes
    }
