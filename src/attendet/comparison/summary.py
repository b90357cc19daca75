"""Summary of a study: verdicts, detailed effects, costs and latency of each variant."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from attendet.comparison.records import read_detections
from attendet.comparison.resampling import (
    Floats,
    draw_images,
    match_detections_by_class,
    resampled_ap,
)
from attendet.comparison.verdicts import Paired, effect, judge
from attendet.data import Sample
from attendet.files import replacing
from attendet.report.study import value_at

DRAWS = 1000
"""Number of bootstrap draws of the test images."""

AP_METRICS = ("ap50", "ap75", "ap_small", "ap_medium", "ap_large")

Record = Mapping[str, Any]


def summarize(
    folder: Path,
    head: Mapping[str, Any],
    records: Sequence[Record],
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """Return the content of study.json, without latency and seconds.

    Args:
        folder: folder of the study.
        head: entries of study.json that are known before the runs.
        records: records of the runs.
        samples: the images that the runs were measured on.
    """
    measured = _measured(records)
    verdicts = _verdicts(folder, head, measured, samples)
    for cut in (head["budget"] or {}).get("cuts", []):
        if verdicts.get(cut["variant_name"], {}).get("verdict") is None:
            verdicts[cut["variant_name"]] = _cut_verdict(cut)
    return {
        **head,
        "verdicts": verdicts,
        "variant_summaries": {
            variant["name"]: _summary(variant["name"], measured) for variant in head["variants"]
        },
        "failed": [
            {
                "variant_name": record["variant_name"],
                "seed": record["seed"],
                "error": record["error"],
            }
            for record in records
            if record["stopped"] == "failed"
        ],
        "pairing": _pairing(measured),
    }


def _measured(records: Sequence[Record]) -> dict[tuple[str, int], Record]:
    """Return the records of finished runs, by variant and seed."""
    return {
        (record["variant_name"], record["seed"]): record
        for record in records
        if record["stopped"] is None
    }


def _verdicts(
    folder: Path,
    head: Mapping[str, Any],
    measured: Mapping[tuple[str, int], Record],
    samples: Sequence[Sample],
) -> dict[str, dict[str, Any]]:
    baseline = head["baseline"]
    weights = draw_images(len(samples), DRAWS)
    drawn: dict[tuple[str, int], Floats] = {}
    for run, record in measured.items():
        drawn[run] = _drawn_ap(folder, record, samples, len(head["data"]["classes"]), weights)
    pairs: dict[str, Paired] = {}
    for variant in head["variants"]:
        name = variant["name"]
        seeds = tuple(
            seed
            for seed in head["seeds"]
            if (name, seed) in measured and (baseline, seed) in measured
        )
        if name == baseline or not seeds:
            continue
        pairs[name] = Paired(
            seeds,
            np.array([_ap(measured[name, seed]) for seed in seeds]),
            np.array([_ap(measured[baseline, seed]) for seed in seeds]),
            np.array([drawn[name, seed] - drawn[baseline, seed] for seed in seeds]),
            len(samples),
        )
    verdicts = judge(pairs, margin=head["margin"])
    for name, verdict in verdicts.items():
        seeds = pairs[name].seeds
        verdict["effects"] = _effects(
            [measured[name, seed]["metrics"] for seed in seeds],
            [measured[baseline, seed]["metrics"] for seed in seeds],
        )
    return verdicts


def _drawn_ap(
    folder: Path, record: Record, samples: Sequence[Sample], class_count: int, weights: Floats
) -> Floats:
    """Return the AP of a run on each draw of the test images; cached in a file of the run.

    Args:
        folder: folder of the study.
        record: record of the run.
        samples: the test images.
        class_count: K.
        weights: (B, P), how often each draw contains each image.
    """
    path = draws_path(folder, record)
    with suppress(OSError, ValueError, EOFError):  # missing or damaged
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    _, found = read_detections(folder / record["detections"])
    drawn = resampled_ap(match_detections_by_class(samples, found, class_count), weights).astype(
        np.float32
    )
    with replacing(path) as partial, partial.open("wb") as stream:
        np.save(stream, drawn)
    return drawn.astype(np.float64)


def draws_path(folder: Path, record: Record) -> Path:
    """Return the path of the file with the AP of a run on each draw, (B,) float32.

    Args:
        folder: folder of the study.
        record: record of the run.
    """
    return folder / Path(record["detections"]).with_name("draws.npy")


def _ap(record: Record) -> float:
    return float(record["metrics"]["ap"] or 0.0)


def _effects(variant: Sequence[Record], baseline: Sequence[Record]) -> dict[str, Any]:
    """Return the differences by IoU threshold, object size and class, with intervals over seeds.

    Args:
        variant: metrics of each seed.
        baseline: metrics of the same seeds.
    """

    def known(keys: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        effects = {}
        for name, path in keys.items():
            values = [[value_at(each, *path) for each in side] for side in (variant, baseline)]
            if all(value is not None for side in values for value in side):
                effects[name] = effect(*values)
        return effects

    return {
        "parts": known({part: (part,) for part in AP_METRICS}),
        "per_class": known({name: ("per_class", name, "ap") for name in variant[0]["per_class"]}),
    }


def _cut_verdict(cut: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "verdict": "cut",
        "text": f"cut after {cut['after_epochs']} epochs: AP {100 * cut['val_ap']:.1f} on the "
        f"validation split; the lowest AP that was kept is {100 * cut['least_kept_val_ap']:.1f}.",
        "after_epochs": cut["after_epochs"],
        "val_ap": cut["val_ap"],
    }


def _summary(name: str, measured: Mapping[tuple[str, int], Record]) -> dict[str, Any]:
    """Return the mean AP and costs of a variant over its runs."""
    runs = [record for (variant, _), record in measured.items() if variant == name]
    if not runs:
        return {"runs": 0}
    aps = [_ap(record) for record in runs]
    return {
        "runs": len(runs),
        "ap": statistics.fmean(aps),
        "ap_sd": statistics.stdev(aps) if len(aps) > 1 else None,
        "parameters": runs[0]["parameters"],
        "macs": runs[0]["macs"],
        "seconds": statistics.fmean(record["seconds"] for record in runs),
        "memory_mib": statistics.fmean(record["memory_mib"] for record in runs),
    }


def _pairing(measured: Mapping[tuple[str, int], Record]) -> dict[str, Any]:
    """Return whether the runs of each seed started from the same weights outside attention."""
    begun: dict[int, set[str]] = {}
    for record in measured.values():
        if record["base_weights"] is not None:
            begun.setdefault(record["run_seed"], set()).add(record["base_weights"])
    return {"same_base_weights": all(len(digests) == 1 for digests in begun.values())}


def weights_of_variants(
    folder: Path, head: Mapping[str, Any], records: Sequence[Record]
) -> dict[str, Path]:
    """Return one weights file of each variant that has a finished run.

    Args:
        folder: folder of the study.
        head: entries of study.json that are known before the runs.
        records: records of the runs.
    """
    measured = _measured(records)
    files: dict[str, Path] = {}
    for variant in head["variants"]:
        for seed in head["seeds"]:
            record = measured.get((variant["name"], seed))
            if record is not None and (folder / record["weights"]).is_file():
                files.setdefault(variant["name"], folder / record["weights"])
    return files
