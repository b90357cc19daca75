"""One run of a study: train or resume, measure on the test images, write the record."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attendet import __version__
from attendet.attention import network_cost
from attendet.comparison.records import RECORD, locked, write_detections
from attendet.comparison.variants import Job
from attendet.data import Sample
from attendet.data.checks import decode_issues
from attendet.detections import Detections
from attendet.errors import (
    AttendetError,
    ConfigError,
    TrainingError,
    WeightsError,
)
from attendet.evaluation import compute_metrics, detect
from attendet.explain import gate_health
from attendet.files import json_line, read_json, write_atomically
from attendet.inference import load
from attendet.models import build_from_metadata, load_weights, read_metadata
from attendet.system import available_memory, describe_machine, peak_memory_mib
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import RunFolder, read_state
from attendet.training.plan import LoadedData, Plan
from attendet.training.recipe import Recipe
from attendet.training.schedule import input_hw_at
from attendet.training.trainer import TrainingResult, train

Report = Callable[[dict[str, Any]], None]
"""Function that receives the events of a run, as plain values."""

DETECTIONS = "detections.npz"
EVALUATION = "evaluation.json"
PAUSES = "pauses.json"
"""File with the AP on the validation split at pauses between the regular evaluations."""

BASE = "base_weights.json"
"""File with the digest of the initial weights outside attention."""

KEPT_ON_RESTART = ("lock", "run.log")
"""Files that are kept in its folder when a run starts again."""

GATE_IMAGES = 8
"""Number of test images on which gates are measured, evenly spaced."""

CURVES = ("precision_recall", "confusion")
"""Parts of the evaluation that are in the run's folder only, not in its record."""


class _RunCallback(TrainingCallback):
    """Callback that reports the plan and the epochs of a run, and sums their seconds."""

    def __init__(self, job: Job, report: Report) -> None:
        self.job, self.report = job, report
        self.plan: Plan | None = None
        self.epoch_seconds = 0.0

    def before_train(self, plan: Plan, folder: str) -> None:
        """Report the plan, and write the digest of the initial weights once."""
        self.plan = plan
        path = Path(folder) / BASE
        if not path.is_file() and not RunFolder(self.job.path).records():
            write_atomically(path, json_line({"base_weights": base_digest(plan)}))
        event: dict[str, Any] = {"event": "planned", "pid": os.getpid()}
        if plan.transfer is not None:
            event["base_weights"] = plan.transfer.summary()
        self.report(event)

    def after_epoch(self, record: dict[str, Any]) -> None:
        """Report the epoch, and add its seconds of training and evaluation."""
        if record["epoch"] > 0:  # epoch 0 is part of the start
            self.epoch_seconds += record["seconds"] + record.get("evaluation_seconds", 0.0)
        shown = {name: record.get(name) for name in ("epoch", "seconds", "ap")}
        epochs = self.job.setup["recipe"]["epochs"]
        parallel = {}
        if self.plan is not None and record["epoch"] > 0:
            parallel["possible_runs"] = possible_runs(
                memory_use(self.job.accelerator), self.plan, record["epoch"] - 1
            )
        self.report({"event": "epoch", "epochs": epochs, **shown, **parallel})


def memory_use(accelerator: str) -> tuple[int, int]:
    """Return the bytes of device memory that this run uses, and the bytes that are free.

    The run must be the only one on its device: on a GPU all memory in use counts as its own, with
    that of the driver and of other programs.
    """
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free, free
    return (peak_memory_mib() or 0) * 2**20, available_memory()


def possible_runs(memory: tuple[int, int], plan: Plan, epoch: int) -> int:
    """Return how many runs like this one fit in the memory of its device.

    Memory is assumed to grow with the area of the network input in later epochs.

    Args:
        memory: bytes that the run uses in an epoch, and bytes that are free.
        plan: plan of the run.
        epoch: the epoch, counting from 0.
    """
    areas = [
        math.prod(input_hw_at(each, 0, input_hw=plan.input_hw, recipe=plan.recipe, seed=plan.seed))
        for each in range(epoch, plan.recipe.epochs)
    ]
    used, free = memory
    return max(1, int((used + free) / (max(used, 1) * max(areas) / areas[0])))


def base_digest(plan: Plan) -> str:
    """Return a hash (16 hex digits) of the initial weights outside attention."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(plan.network.state_dict().items()):
        if not name.startswith("attention."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def measured_samples(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Return the samples that a study measures on: all whose image can be decoded."""
    broken = {issue.file for issue in decode_issues(samples)}
    return tuple(sample for sample in samples if sample.path not in broken)


def record_of(job: Job) -> dict[str, Any] | None:
    """Return the record in the folder of a run; None if it has none with the same key.

    Raises:
        DataError: if it is damaged.
    """
    record = read_json(job.path / RECORD)
    return record if record is not None and record.get("key") == job.key else None


def run_job(job: Job, report: Report, loaded: LoadedData | None = None) -> dict[str, Any]:
    """Train (or resume) and measure one run, and return its record.

    The record is written to the run's folder (record.json) before it is returned. The record of a
    run that pauses at ``job.until`` has ``stopped`` "budget" and ``metrics`` None; the run keeps
    its resume state.

    Args:
        job: the run.
        report: receives its events.
        loaded: the data of the job, if it is in memory already.

    Raises:
        AttendetError: if training or measuring fails.
    """
    begun = time.perf_counter()
    with locked(job.path / "lock", wait=True):
        done = record_of(job)
        if done is not None and done["stopped"] is None:
            return done
        callback = _RunCallback(job, report)
        result = _train(job, callback, loaded)
        if job.until is not None and job.until <= result.epochs < job.setup["recipe"]["epochs"]:
            record = _paused_record(job, result)
        else:
            report({"event": "measuring"})
            record = _measured_record(job, result)
        wall_seconds = time.perf_counter() - begun
        record["wall_seconds"] = round(wall_seconds, 3)
        record["start_seconds"] = round(max(wall_seconds - callback.epoch_seconds, 0.0), 3)
        write_atomically(job.path / RECORD, json_line(record))
        if record["stopped"] is None:
            _tidy(job)
    return record


def _train(job: Job, callback: TrainingCallback, loaded: LoadedData | None) -> TrainingResult:
    """Train the run; resume it if possible."""
    if torch.cuda.is_available() and job.accelerator in ("auto", "cuda"):
        torch.cuda.reset_peak_memory_stats()
    settings: dict[str, Any] = {
        "accelerator": job.accelerator,
        "until_epoch": job.until,
        "figures": False,  # the report of the study has its own figures
        "callback": callback,
        "loaded": loaded,
    }
    if _can_resume(job.path):
        return train(resume=job.path, **settings)
    for entry in job.path.iterdir():
        if entry.name not in KEPT_ON_RESTART:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    recipe = Recipe().replace(**job.setup["recipe"], attention_init=job.variant.init)
    return train(
        job.data,
        attention=job.variant.spec,
        seed=job.run_seed,
        output=job.path,
        pretrained=job.pretrained,
        format=job.format,
        fingerprints=job.setup["data"],
        # Settings that are passed explicitly replace those of pretrained weights.
        **recipe.as_dict(),
        **settings,
    )


def _can_resume(folder: Path) -> bool:
    """Return whether a folder contains an undamaged run that can be resumed."""
    if not (folder / "resume.pt").is_file():
        return False
    try:
        run, _ = RunFolder.open(folder)
        read_state(run.state)
        read_metadata(run.last)
    except (ConfigError, TrainingError, WeightsError):
        return False
    return True


def _tidy(job: Job) -> None:
    """Remove the files that a finished run does not need, two thirds of its folder."""
    (job.path / "resume.pt").unlink(missing_ok=True)
    other = "last" if job.weights == "best" else "best"
    (job.path / f"{other}.safetensors").unlink(missing_ok=True)


def _detect(
    job: Job, plan: Plan, weights: Path, split: str
) -> tuple[list[Sample], list[Detections]]:
    """Return the samples of a split whose images can be decoded, with their detections."""
    device = None if job.accelerator == "auto" else job.accelerator
    samples = plan.dataset.split(split)
    skipped: set[Path] = set()
    found = detect(
        load(weights, device=device),
        samples,
        batch=plan.recipe.batch,
        on_skip=lambda sample, _: skipped.add(sample.path),
    )
    return [sample for sample in samples if sample.path not in skipped], found


def _measured_record(job: Job, result: TrainingResult) -> dict[str, Any]:
    plan = result.plan
    weights = result.best if job.weights == "best" else result.last
    begun = time.perf_counter()
    samples, found = _detect(job, plan, weights, job.split)
    detected = time.perf_counter()
    metrics: dict[str, Any] = dict(compute_metrics(samples, found, plan.metadata.classes))
    metrics["seconds"] = {
        "inference": detected - begun,
        "metrics": time.perf_counter() - detected,
    }
    write_detections(job.path / DETECTIONS, [sample.key for sample in samples], found)
    write_atomically(job.path / EVALUATION, json_line(metrics))
    return {
        **_record(job, plan, result.records),
        "metrics": {name: value for name, value in metrics.items() if name not in CURVES},
        "detections": f"{job.folder}/{DETECTIONS}",
        "evaluation": f"{job.folder}/{EVALUATION}",
        "weights": f"{job.folder}/{weights.name}",
        "gates": gate_statistics(weights, samples),
    }


def _paused_record(job: Job, result: TrainingResult) -> dict[str, Any]:
    """Return the record of a paused run, with its AP on the validation split."""
    plan, last = result.plan, result.records[-1]
    validation_seconds = None
    if last.get("ap") is None and "val" in plan.dataset.splits:
        begun = time.perf_counter()
        samples, found = _detect(job, plan, result.last, "val")
        ap = compute_metrics(samples, found, plan.metadata.classes, curves=False)["ap"]
        pauses = {**(read_json(job.path / PAUSES) or {}), str(last["epoch"]): ap or 0.0}
        write_atomically(job.path / PAUSES, json_line(pauses))
        validation_seconds = round(time.perf_counter() - begun, 3)
    record = _record(job, plan, result.records)
    val_ap = record["curve"][-1].get("ap")
    return {
        **record,
        "stopped": "budget",
        "val_ap": val_ap,
        "validation_seconds": validation_seconds,
    }


def _record(job: Job, plan: Plan, epochs: list[dict[str, Any]]) -> dict[str, Any]:
    pauses = read_json(job.path / PAUSES) or {}
    for epoch in epochs:
        if str(epoch["epoch"]) in pauses:
            epoch.setdefault("ap", pauses[str(epoch["epoch"])])
    with torch.device("meta"):
        network = build_from_metadata(plan.metadata)
    trained = [epoch for epoch in epochs if epoch["epoch"] > 0]  # 0: base weights, not trained
    return {
        **_empty_record(job),
        "curve": epochs,
        "seconds": round(sum(epoch["seconds"] for epoch in trained), 3),
        "memory_mib": max((epoch["memory_mib"] for epoch in trained), default=None),
        **network_cost(network, (3, *plan.metadata.input_hw))._asdict(),
        **(read_json(job.path / BASE) or {"base_weights": None}),
        "epochs_done": len(trained),
        "machine": machine(next(plan.network.parameters()).device.type),
    }


def failed_record(job: Job, error: str) -> dict[str, Any]:
    """Return the record of a failed run."""
    return {**_empty_record(job), "stopped": "failed", "error": error}


def _empty_record(job: Job) -> dict[str, Any]:
    """Return a record with all fields, before any results."""
    return {
        "key": job.key,
        **job.identity(),
        "run_seed": job.run_seed,
        "metrics": None,
        "split": job.split,
        "curve": [],
        "seconds": None,
        "memory_mib": None,
        "parameters": None,
        "macs": None,
        "epochs_done": 0,
        "stopped": None,
        "detections": None,
        "gates": None,
        "versions": versions(),
        "machine": None,
    }


def versions() -> dict[str, str]:
    """Return the software versions that the results of a run may depend on."""
    return {
        "attendet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def machine(device: str) -> dict[str, Any]:
    """Return the description of the machine and of the device that was used.

    Args:
        device: type of the device: ``cuda``, ``mps`` or ``cpu``.
    """
    on_cuda = device == "cuda" and torch.cuda.is_available()
    return {
        **describe_machine(),
        "device": torch.cuda.get_device_name() if on_cuda else device,
        "threads": torch.get_num_threads(),
    }


def gate_statistics(weights: Path, samples: Sequence[Sample]) -> dict[str, dict[str, Any]] | None:
    """Return the gate health of each attention block, by site; None without attention.

    Args:
        weights: weights file of a run.
        samples: test images; a few of them are used.

    Raises:
        ImageError: if no image can be read.
    """
    network, metadata = load_weights(weights)
    if not network.attention_blocks() or not samples:
        return None
    picked = np.linspace(0, len(samples) - 1, min(GATE_IMAGES, len(samples))).round().astype(int)
    paths = [samples[index].path for index in dict.fromkeys(picked.tolist())]
    health = gate_health(network, metadata, paths)
    return {site: dataclasses.asdict(block) for site, block in health.items()}


def run_and_report(job: Job, report: Report, loaded: LoadedData | None = None) -> dict[str, Any]:
    """Execute a run; return its last event: "ended" with the record, or "failed" with the error."""
    try:
        return {"event": "ended", "record": run_job(job, report, loaded)}
    except AttendetError as error:
        return {"event": "failed", "error": str(error)}
    except Exception as error:  # the other runs of the study continue
        traceback.print_exc()
        return {"event": "failed", "error": f"{type(error).__name__}: {error}"}
