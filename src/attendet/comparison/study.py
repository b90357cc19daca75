"""Compare variants of attention: make the runs of a grid and give each variant a verdict."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attendet import __version__
from attendet.comparison.budget import Scheduler
from attendet.comparison.callback import StudyCallback
from attendet.comparison.cost import measure_latency, pick_runtimes
from attendet.comparison.processes import LocalRuns, device_names
from attendet.comparison.records import (
    GROUND_TRUTH,
    RECORD,
    add_run,
    locked,
    read_json,
    read_runs,
    read_study,
    write_ground_truth,
    write_runs,
    write_study,
)
from attendet.comparison.run_job import (
    failed_record,
    finished_record,
    machine,
    measured_samples,
    versions,
)
from attendet.comparison.summary import summarize, weights_of_variants
from attendet.comparison.variants import (
    AS_TRAINED,
    Job,
    Variant,
    content_key,
    folder_name,
    make_variants,
    pick_baseline,
)
from attendet.data import DataSet, load_dataset
from attendet.errors import ConfigError
from attendet.interop.hub import local_weights
from attendet.models import read_metadata
from attendet.training.recipe import Recipe, load_recipe
from attendet.training.transfer import follow_base

__all__ = ["Study", "compare"]

RESULTS = ("verdicts", "variant_summaries", "failed", "pairing", "latency", "latency_machine")
"""Keys of study.json that follow from the runs."""


@dataclass(frozen=True)
class Study:
    """Result of a study."""

    folder: Path
    """Folder of the study."""

    records: list[dict[str, Any]]
    """One record a run, as in runs.jsonl."""

    summary: dict[str, Any]
    """Content of study.json."""

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The verdict on each variant but the baseline."""
        verdicts: dict[str, dict[str, Any]] = self.summary["verdicts"]
        return verdicts


def compare(
    data: str | Path,
    *,
    attention: Sequence[str] = ("none", "ca"),
    sites: Sequence[str] = ("p4,p5,up",),
    attention_init: Sequence[str] | None = None,
    seeds: int = 3,
    recipe: str | Recipe = "default",
    pretrained: str | Path | None = None,
    format: Literal["voc", "yolo", "coco"] | None = None,
    baseline: str | None = None,
    margin: float = 0.5,
    output: str | Path = "runs/compare",
    budget: float | None = None,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int | None = None,
    ray: str | None = None,
    runtimes: Sequence[str] | None = None,
    callback: StudyCallback | None = None,
    command: str | None = None,
    **overrides: Any,
) -> Study:
    """Train every variant with the same seeds, measure all on the same images, return the verdicts.

    The variants of one seed are paired: they begin with the same weights outside their attention
    and see the same images in the same order, drawn and augmented alike. Runs that the folder holds
    already are not made again; one that was interrupted goes on.

    Args:
        data: path of a data set (VOC, YOLO or COCO). Runs are measured on its test split; without
            one on the validation split, with the weights of the last epoch.
        attention: blocks, or specs such as ``se@p5+ca@up``; ``none`` is the usual baseline.
        sites: placements, each sites joined by commas.
        attention_init: ``paper``, ``identity``; default: ``paper``, or with pretrained weights the
            identity for new blocks.
        seeds: seeds of each variant, from 0 on.
        recipe: name of a recipe, path of a YAML file, or a `Recipe`.
        pretrained: weights file that all runs start from.
        format: of the data set, where it is not to be recognized.
        baseline: name of the variant that the others are compared with; ``none``, else the first.
        margin: AP points (0 to 100); a difference within plus or minus this counts as none.
        output: folder of the study; runs that it holds are used.
        budget: seconds that this call may take; where the grid needs more, the variants that are
            worse on the validation split are cut on the way; default: the whole grid.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: runs at once on this machine; default: all GPUs, or one CPU.
        ray: address of a Ray cluster, or ``auto``, to run there; ``local`` starts one here.
        runtimes: what latency is measured in: ``torch`` (the weights as they are), ``onnx``,
            ``openvino`` (exported); default: all that are installed.
        callback: receives the progress.
        command: the command line, for the records.
        overrides: settings of the recipe that win over it.

    Raises:
        ConfigError: if an argument is wrong, or the folder holds a study of something else.
        DataError: if the data cannot be read.
        MissingExtraError: if the ``study`` or ``ray`` extra is not installed, or what a named
            runtime takes.
    """
    ConfigError.check(seeds >= 1, "seeds", "at least 1", seeds, "--seeds")
    ConfigError.check(margin > 0, "margin", "above 0 AP points", margin, "--margin")
    if budget is not None:
        ConfigError.check(budget > 0, "budget", "above 0 seconds", budget, "--budget")
    measured_in = pick_runtimes(runtimes)
    usual = ("paper",) if pretrained is None else (AS_TRAINED,)
    variants = make_variants(attention, sites, usual if attention_init is None else attention_init)
    if isinstance(recipe, Recipe):
        settings = load_recipe("default", {**recipe.as_dict(), **overrides})
    else:
        settings = load_recipe(str(recipe), overrides)
    if settings.attention_init != "auto":
        raise ConfigError(
            "attention_init is part of the grid here; the recipe says "
            f"{settings.attention_init!r}. Remove it there, and use --attention-init."
        )
    base = None if pretrained is None else local_weights(pretrained)
    if base is not None:
        settings = follow_base(settings, read_metadata(base), given=overrides)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output must be a folder; {folder} is a file (--output).")
    grid = _Grid(variants, pick_baseline(variants, baseline), range(seeds))
    source = Source.read(data, format, settings, base)
    with locked(folder / "study.lock"):
        study = _Comparison(folder, grid, source, accelerator, callback or StudyCallback())
        study.begin(margin / 100, budget, command)
        runs = _runs(ray, accelerator, devices)
        try:
            study.make_runs(runs, budget)
        finally:
            runs.close()
        return study.finish(measured_in, slots=runs.slots)


def _runs(ray: str | None, accelerator: str, devices: int | None) -> Any:
    if ray is None:
        return LocalRuns(device_names(accelerator, devices))
    from attendet.comparison.ray_runs import RayRuns

    return RayRuns(ray, accelerator, devices)


@dataclass(frozen=True)
class _Grid:
    variants: tuple[Variant, ...]
    baseline: Variant
    seeds: Sequence[int]


class _Comparison:
    """A study in its folder."""

    def __init__(
        self,
        folder: Path,
        grid: _Grid,
        source: Source,
        accelerator: str,
        callback: StudyCallback,
    ) -> None:
        self.begun = time.perf_counter()
        self.folder, self.grid, self.source = folder, grid, source
        self.callback, self.accelerator = callback, accelerator
        self.jobs = {
            (variant.name, seed): self._job(variant, seed, accelerator)
            for seed in grid.seeds
            for variant in grid.variants
        }
        self.records: dict[str, dict[str, Any]] = {}
        self.paused: dict[str, dict[str, Any]] = {}
        self.run_seconds = 0.0
        self.waiting_seconds = 0.0
        self.head: dict[str, Any] = {}
        self.noted_variants: set[str] = set()

    def _job(self, variant: Variant, seed: int, accelerator: str) -> Job:
        source, run_seed = self.source, variant.run_seed(seed)
        key = content_key(source.setup, variant.spec, variant.init, run_seed)
        return Job(
            key=key,
            variant=variant.as_dict(),
            variant_name=variant.name,
            spec=variant.spec,
            seed=seed,
            run_seed=run_seed,
            data=str(source.data),
            format=source.format,
            fingerprints=source.setup["data"],
            recipe=source.recipe.as_dict(),
            pretrained=None if source.pretrained is None else str(source.pretrained),
            accelerator=accelerator,
            study=str(self.folder.resolve()),
            folder=f"runs/{folder_name(variant.name, run_seed, key)}",
            split=source.split,
            weights="best" if source.split == "test" else "last",
        )

    def begin(self, margin: float, budget: float | None, command: str | None) -> None:
        """Check the folder, read the runs that it contains, write study.json."""
        before = read_study(self.folder)
        if before is not None:
            check_same(before["setup"], self.source.setup, self.folder)
        for job in self.jobs.values():
            record = finished_record(job)
            if record is not None:  # the variant may have had another name
                self.records[job.key] = {**record, **_identity(job)}
                continue
            begun = read_json(job.path / RECORD)
            if begun is not None and begun.get("key") == job.key and begun["stopped"] == "budget":
                self.paused[job.key] = {**begun, **_identity(job)}
        write_runs(self.folder, self.records.values())
        samples = measured_samples(self.source.dataset.split(self.source.split))
        gt = self.folder / GROUND_TRUTH
        write_ground_truth(gt, self.source.dataset.root, samples, self.source.dataset.classes)
        self.head = self._head(margin, budget, command, len(samples))
        write_study(self.folder, {**self.head, **_kept_results(before, self.head)})
        self.callback.before_runs(len(self.jobs), len(self.records), str(self.folder))

    def _head(
        self, margin: float, budget: float | None, command: str | None, measured: int
    ) -> dict[str, Any]:
        source, dataset = self.source, self.source.dataset
        return {
            "command": command,
            "setup": source.setup,
            "data": {
                "root": str(dataset.root),
                "format": dataset.format,
                "fingerprint": source.setup["data"][source.split],
                "fingerprints": source.setup["data"],
                "splits": {name: len(part) for name, part in dataset.splits.items()},
                "split_source": dataset.split_source,
                "classes": list(dataset.classes),
                "issues": len(dataset.issues),
                "measured_split": source.split,
                "measured_images": measured,
            },
            "recipe": source.recipe.as_dict(),
            "pretrained": None if source.pretrained is None else source.pretrained.name,
            "baseline": self.grid.baseline.name,
            "seeds": list(self.grid.seeds),
            "variants": [
                {"name": variant.name, **variant.as_dict()} for variant in self.grid.variants
            ],
            "margin": margin,
            "weights": "best" if source.split == "test" else "last",
            "budget": None if budget is None else {"seconds": budget},
            "gt": GROUND_TRUTH,
            "versions": versions(),
        }

    def make_runs(self, runs: Any, budget: float | None) -> None:
        """Make the missing runs."""
        scheduler = Scheduler(
            self.grid.variants,
            self.grid.baseline,
            list(self.grid.seeds),
            self.jobs,
            self.records,
            self.source.recipe,
            self.paused,
        )
        if budget is None:
            self._make(runs, scheduler.pending())
            return
        deadline = self.begun + budget
        decision = scheduler.within(
            budget,
            lambda: deadline - time.perf_counter(),
            runs.slots,
            lambda jobs: self._make(runs, jobs),
            self.callback.note,
        )
        self.head["budget"] = {"seconds": budget, **decision}
        self.head["seeds"] = decision["seeds"]
        for job in scheduler.cut():
            record = read_json(job.path / RECORD)
            if record is not None and record.get("key") == job.key:
                self._keep(job, record)

    def _make(self, runs: Any, jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
        """Make runs; return the records of paused ones by key."""
        paused: dict[str, dict[str, Any]] = {}
        begun, busy = time.perf_counter(), 0.0
        for job, event in runs.make(jobs):
            if event["event"] == "ended":
                record = event["record"]
                busy += record["wall_seconds"]
                if record["stopped"] is None:
                    self._keep(job, record)
                else:
                    paused[job.key] = record
                self.callback.run_ended(job, record)
            elif event["event"] == "failed":
                record = failed_record(job, event["error"])
                self._keep(job, record)
                self.callback.run_ended(job, record)
            else:
                self._note_transfer(job, event)
                self.callback.run_event(job, event)
        self.run_seconds += busy
        self.waiting_seconds += max(0.0, (time.perf_counter() - begun) - busy / runs.slots)
        return paused

    def _note_transfer(self, job: Job, event: dict[str, Any]) -> None:
        """Note once per variant which tensors came from pretrained weights."""
        if "base_weights" in event and job.variant_name not in self.noted_variants:
            self.noted_variants.add(job.variant_name)
            self.callback.note(f"{job.variant_name}: {event['base_weights']}")

    def _keep(self, job: Job, record: dict[str, Any]) -> None:
        self.records[job.key] = record
        add_run(self.folder, record)

    def finish(self, runtimes: Sequence[str], *, slots: int) -> Study:
        """Compute the verdicts, measure latency, write study.json (verdicts first)."""
        records = [self.records[job.key] for job in self.jobs.values() if job.key in self.records]
        begun = time.perf_counter()
        summary = {**summarize(self.folder, self.head, records, self.source.dataset), "latency": {}}
        judged = time.perf_counter()
        write_runs(self.folder, records)
        write_study(self.folder, summary)
        weights = weights_of_variants(self.folder, self.head, records)
        device = None if self.accelerator == "auto" else self.accelerator
        summary["latency"] = measure_latency(
            weights, runtimes=runtimes, note=self.callback.note, device=device
        )
        summary["latency_machine"] = dict(machine(self.accelerator))
        total = time.perf_counter() - self.begun
        in_runs = self.run_seconds / slots
        summary["seconds"] = {
            "total": round(total, 3),
            "runs": round(self.run_seconds, 3),
            "slots": slots,
            "waiting": round(self.waiting_seconds, 3),
            "statistics": round(judged - begun, 3),
            "latency": round(time.perf_counter() - judged, 3),
            "overhead": round(total - in_runs, 3),
            "overhead_fraction": round(total / in_runs - 1, 4) if in_runs > 0 else None,
        }
        write_study(self.folder, summary)
        return Study(self.folder, read_runs(self.folder), summary)


def _kept_results(before: dict[str, Any] | None, head: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an earlier call, which are kept until this call has its own."""
    kept: dict[str, Any] = {"verdicts": {}, "latency": {}}
    if before is not None and all(
        before.get(name) == head[name] for name in ("baseline", "margin")
    ):
        kept.update({name: before[name] for name in RESULTS if name in before})
    return kept


def _identity(job: Job) -> dict[str, Any]:
    return {
        "variant": job.variant,
        "variant_name": job.variant_name,
        "seed": job.seed,
        "folder": job.folder,
    }


# --- setup ------------------------------------------------------------------------------------

SETUP_NAMES = {
    "data": "the data",
    "pretrained": "--pretrained",
    "recipe": "the recipe",
    "version": "the version of attendet",
    "split": "the split that is measured",
}


@dataclass(frozen=True)
class Source:
    """Settings that all runs of a study have in common."""

    data: Path
    """Path of the data set."""

    format: str | None
    """Of the data set, where it is not to be recognized."""

    dataset: DataSet
    """The data set."""

    recipe: Recipe
    """All settings."""

    pretrained: Path | None
    """Weights file that all runs start from."""

    setup: dict[str, Any]
    """Everything that determines the runs, as plain values; part of every content key."""

    split: str
    """Split that runs are measured on."""

    @classmethod
    def read(
        cls,
        data: str | Path,
        format: Any,
        recipe: Recipe,
        pretrained: str | Path | None,
    ) -> Source:
        """Return the source of a study from its arguments.

        Raises:
            DataError: if the data cannot be read.
            ConfigError: if there is nothing to measure on, or base weights have no named sites.
            WeightsError: if the base weights cannot be read.
        """
        dataset = load_dataset(data, format=format)
        split = "test" if "test" in dataset.splits else "val"
        if split not in dataset.splits:
            raise ConfigError(
                f"data must have a test or a val split to measure on ({data}). "
                "Give it more images, so that a split can be cut."
            )
        if all(sample.difficult.all() for sample in dataset.split(split)):
            raise ConfigError(
                f"data must have a box that counts in its {split} split, which is measured; it has "
                f"none ({data}). See: attendet data check {data}"
            )
        digest = None
        if pretrained is not None:
            if read_metadata(pretrained).graph:
                raise ConfigError(
                    f"pretrained must be a network with named sites; got {str(pretrained)!r} "
                    "(--pretrained), which has layers of its own."
                )
            content = Path(pretrained).read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        settings = {k: v for k, v in recipe.as_dict().items() if k != "attention_init"}
        setup = {
            "version": __version__,
            "data": {name: dataset.fingerprint(name) for name in dataset.splits},
            "recipe": settings,
            "pretrained": digest,
            "split": split,
        }
        base = None if pretrained is None else Path(pretrained).resolve()
        return cls(Path(data).resolve(), format, dataset, recipe, base, setup, split)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise if a folder contains a study of other data or with another recipe."""
    for name, title in SETUP_NAMES.items():
        if before.get(name) == now[name]:
            continue
        what = title
        if name == "recipe":
            old = before.get(name) or {}
            changed = [k for k, v in now[name].items() if old.get(k) != v]
            what = f"--{changed[0].replace('_', '-')}" if changed else title
        raise ConfigError(
            f"output must be a new folder or one of the same study; {what} differs there "
            f"({folder}). Choose another --output."
        )
