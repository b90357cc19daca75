"""Comparison of attention variants: train a grid of runs, and give each variant a verdict."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attendet import __version__
from attendet.comparison.budget import Scheduler
from attendet.comparison.callback import StudyCallback
from attendet.comparison.latency import measure_latency, pick_runtimes
from attendet.comparison.processes import LocalExecutor, RunExecutor, device_names
from attendet.comparison.records import (
    GROUND_TRUTH,
    add_run,
    locked,
    read_runs,
    study_json,
    write_ground_truth,
    write_runs,
    write_sets,
    write_study,
)
from attendet.comparison.run_job import (
    failed_record,
    machine,
    measured_samples,
    record_of,
    versions,
)
from attendet.comparison.sets import name_data_sets, summarize_sets
from attendet.comparison.summary import summarize, weights_of_variants
from attendet.comparison.variants import (
    AUTO_INIT,
    Job,
    make_variants,
    measured_weights,
    pick_baseline,
)
from attendet.data import DataSet, Sample, load_dataset
from attendet.errors import ConfigError, DataError
from attendet.inference.runtimes.torch_runtime import choose_device
from attendet.interop.hub import local_weights
from attendet.models import WeightsMetadata, read_metadata
from attendet.models.graph import Graph
from attendet.report.study import SETS
from attendet.system import can_pass_files
from attendet.training.plan import LoadedData, decode_images
from attendet.training.recipe import Recipe, load_recipe
from attendet.training.transfer import apply_pretrained_settings, check_class_map

RESULTS = ("verdicts", "variant_summaries", "failed", "pairing", "latency", "latency_machine")
"""Keys of study.json that are computed from the runs."""

GRID = ("variants", "seeds", "baseline", "margin", "budget")
"""Keys of study.json that define the comparison."""


@dataclass(frozen=True)
class Study:
    """Result of a study on one or several data sets."""

    folder: Path
    """Folder of the study."""

    records: list[dict[str, Any]]
    """One record per run, as in runs.jsonl; with several data sets, each has its ``data_set``."""

    summary: dict[str, Any]
    """Content of study.json; with several data sets, of sets.json."""

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The verdict on each variant except the baseline."""
        verdicts: dict[str, dict[str, Any]] = self.summary["verdicts"]
        return verdicts


def compare(
    data: str | Path | Sequence[str | Path],
    *,
    attention: Sequence[str] = ("none", "ca"),
    sites: Sequence[str] | None = None,
    attention_init: Sequence[str] | None = None,
    seeds: int = 3,
    recipe: str | Recipe | None = None,
    pretrained: str | Path | None = None,
    format: Literal["voc", "yolo", "coco"] | None = None,
    baseline: str | None = None,
    margin: float = 0.5,
    output: str | Path = "runs/compare",
    budget: float | None = None,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int | None = None,
    runs_per_device: int | Literal["auto"] = 1,
    ray: str | None = None,
    runtimes: Sequence[str] | None = None,
    callback: StudyCallback | None = None,
    command: str | None = None,
    **overrides: Any,
) -> Study:
    """Train every variant with the same seeds, measure all on the same images, return the verdicts.

    The variants of one seed are paired: they start from the same weights outside their attention
    and see the same images in the same order, with the same augmentation. Runs that are finished in
    the output folder are not repeated; an interrupted run is resumed.

    With several data sets, each has its own study in a folder below ``output``, and the verdicts
    are over all of them; see `attendet.comparison.meta_analysis`.

    Args:
        data: path of a data set (VOC, YOLO or COCO), or several paths. Runs are measured on the
            test split; without one, on the validation split with the weights of the last epoch.
        attention: names of blocks, or specs such as ``se@p5+ca@up``; ``none`` is the usual
            baseline.
        sites: placements, each a list of sites joined by commas; default: all sites of the neck,
            such as ``p4,p5,up``.
        attention_init: ``paper``, ``identity``; default: ``paper``; with pretrained weights,
            ``identity`` for new blocks.
        seeds: number of seeds of each variant; they count from 0.
        recipe: name of a recipe, path of a YAML file, or a `Recipe`; default: ``fine-tune`` with
            pretrained weights, else ``default``.
        pretrained: weights file that all runs start from.
        format: format of the data set; default: recognized from its files.
        baseline: name of the variant that the others are compared with; default: ``none``, else the
            first.
        margin: largest difference that counts as none, in AP points (0 to 100).
        output: folder of the study; the runs that it contains are used.
        budget: seconds that this call may take; if the grid needs more, variants with a lower AP
            on the validation split are stopped early; default: the whole grid. For one data set
            only.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: devices of this machine to use; default: all GPUs, or one CPU.
        runs_per_device: number of concurrent runs on each device; ``auto`` chooses it from the
            memory of the first run and the CPU cores. Not with ``ray``; ``auto`` not with
            ``budget``.
        ray: address of a Ray cluster to use, or ``auto``; ``local`` starts one on this machine.
        runtimes: runtimes in which latency is measured: ``torch`` (the weights as they are),
            ``onnx``, ``openvino`` (exported); default: all that are installed.
        callback: receives the progress.
        command: the command line, for the records.
        overrides: settings that replace those of the recipe.

    Raises:
        ConfigError: if an argument is wrong, or the folder contains another study.
        DataError: if the data cannot be read.
        WeightsError: if the pretrained weights cannot be read.
        MissingExtraError: if the ``study`` or ``ray`` extra is not installed, or the packages of a
            named runtime are not.
    """
    _check_numbers(seeds, margin, budget, runs_per_device)
    measured_in = pick_runtimes(runtimes)
    usual = ("paper",) if pretrained is None else (AUTO_INIT,)
    base = None if pretrained is None else local_weights(pretrained)
    metadata = None if base is None else read_metadata(base)
    graph = Graph.from_mappings(metadata.graph) if metadata and metadata.graph else None
    inits = usual if attention_init is None else attention_init
    settings = load_recipe(recipe, overrides, pretrained=pretrained is not None)
    if settings.attention_init != "auto":
        raise ConfigError(
            "attention_init must not be set in the recipe of a comparison; got "
            f"{settings.attention_init!r}. Remove it there, and use --attention-init."
        )
    if metadata is not None:
        settings = apply_pretrained_settings(settings, metadata, given=overrides)
    variants = make_variants(attention, sites, inits, graph, settings.levels)
    folder = Path(output)
    _check_folder(folder, several=not isinstance(data, str | Path))
    chosen_baseline = pick_baseline(variants, baseline)
    head = {
        "command": command,
        "pretrained": None if base is None else base.name,
        "baseline": chosen_baseline.name,
        "seeds": list(range(seeds)),
        "variants": [{"name": variant.name, **variant.as_dict()} for variant in variants],
        "margin": margin / 100,
        "versions": versions(),
    }

    def comparison(dataset: DataSet, source: str | Path, folder: Path) -> Comparison:
        check_class_map(settings, dataset.classes, metadata)
        recipe = settings.for_images(len(dataset.split("train")))
        setup = _setup(source, dataset, recipe, base)
        jobs = {
            (variant.name, seed): Job(
                variant=variant,
                seed=seed,
                setup=setup,
                data=str(Path(source).resolve()),
                format=format,
                pretrained=None if base is None else str(base.resolve()),
                accelerator=accelerator,
                study=str(folder.resolve()),
            )
            for seed in range(seeds)
            for variant in variants
        }
        of_set = {
            **head,
            "setup": setup,
            "data": _describe(dataset, setup),
            "recipe": recipe.as_dict(),
            "weights": measured_weights(setup["split"]),
            "budget": None if budget is None else {"seconds": budget},
            "gt": GROUND_TRUTH,
        }
        called = callback or StudyCallback()
        return Comparison(folder, dataset, recipe, metadata, jobs, of_set, called)

    open_executor = functools.partial(_open_executor, ray, accelerator, devices, runs_per_device)
    if not isinstance(data, str | Path):
        named = name_data_sets(data, folder, format=format, budget=budget)
        studies = {
            name: comparison(dataset, source, folder / name)
            for name, (source, dataset) in named.items()
        }
        with locked(folder / "sets.lock"):
            return _compare_sets(folder, head, studies, open_executor, measured_in)
    study = comparison(load_dataset(data, format=format), data, folder)
    with locked(folder / "study.lock"):
        study.begin()
        with closing(open_executor()) as executor:
            study.train(executor, budget)
        return study.finish(measured_in, slots=executor.slots)


def _check_numbers(
    seeds: int, margin: float, budget: float | None, runs_per_device: int | Literal["auto"]
) -> None:
    ConfigError.check(seeds >= 1, "seeds", "at least 1", seeds, "--seeds")
    ConfigError.check(margin > 0, "margin", "above 0 AP points", margin, "--margin")
    if budget is not None:
        ConfigError.check(budget > 0, "budget", "above 0 seconds", budget, "--budget")
        if runs_per_device == "auto":
            raise ConfigError(
                "runs_per_device must be a number with --budget; got 'auto' (--runs-per-device)."
            )


def _check_folder(folder: Path, *, several: bool) -> None:
    """Raise if the output is a file, or a study over several data sets while one is given."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output must be a folder; {folder} is a file (--output).")
    if not several and (folder / SETS).is_file():
        raise ConfigError(
            f"data must be all data sets of the study in {folder}; got one. Give all of them, or "
            "choose another --output."
        )


def _open_executor(
    ray: str | None,
    accelerator: str,
    devices: int | None,
    runs_per_device: int | Literal["auto"],
) -> RunExecutor:
    if ray is None:
        auto = runs_per_device == "auto"
        each = 1 if runs_per_device == "auto" else runs_per_device
        return LocalExecutor(device_names(accelerator, devices, each), auto=auto)
    if runs_per_device != 1:
        raise ConfigError("runs_per_device has no effect with ray. Remove --runs-per-device.")
    from attendet.comparison.ray_runs import RayExecutor

    return RayExecutor(ray, accelerator, devices)


class Comparison:
    """Study on one data set, in its folder: the setup and the records of the runs."""

    def __init__(
        self,
        folder: Path,
        dataset: DataSet,
        recipe: Recipe,
        base: WeightsMetadata | None,
        jobs: Mapping[tuple[str, int], Job],
        head: dict[str, Any],
        callback: StudyCallback,
    ) -> None:
        self.begun = 0.0
        self.folder, self.jobs, self.head, self.callback = folder, jobs, head, callback
        self.dataset, self.recipe, self.base = dataset, recipe, base
        self.samples: tuple[Sample, ...] = ()
        self.records: dict[str, dict[str, Any]] = {}
        self.paused: dict[str, dict[str, Any]] = {}
        self.run_seconds = 0.0
        self.waiting_seconds = 0.0
        self.noted_variants: set[str] = set()
        self._loaded: LoadedData | None = None

    def check(self) -> dict[str, Any] | None:
        """Check that the folder contains no other study; return its study.json, or None."""
        before = study_json(self.folder)
        if before is not None:
            _check_same(before["setup"], self.head["setup"], self.folder)
        return before

    def done(self) -> Study | None:
        """Return the study if an earlier call has completed it, else None."""
        before = self.check()
        if before is None or "seconds" not in before or before["failed"]:
            return None
        records = read_runs(self.folder)
        same = all(before.get(name) == self.head[name] for name in GRID)
        keys = {record["key"] for record in records}
        missing = {job.key for job in self.jobs.values()} - keys
        return Study(self.folder, records, before) if same and not missing else None

    def run(self, executor: RunExecutor, runtimes: Sequence[str]) -> Study:
        """Run the missing trainings and return the study, for one of several data sets."""
        with locked(self.folder / "study.lock"):
            self.begin()
            self.train(executor)
            return self.finish(runtimes, slots=executor.slots)

    def begin(self) -> None:
        """Check the folder, read its runs, and write study.json and the ground truth."""
        self.begun = time.perf_counter()
        before = self.check()
        for job in self.jobs.values():
            record = record_of(job)
            if record is None:
                continue
            record |= job.identity()  # the variant may have had another name
            if record["stopped"] is None:
                self.records[job.key] = record
            elif record["stopped"] == "budget":
                self.paused[job.key] = record
        write_runs(self.folder, self.records.values())
        data = self.head["data"]
        self.samples = measured_samples(self.dataset.split(data["measured_split"]))
        data["measured_images"] = len(self.samples)
        gt = self.folder / GROUND_TRUTH
        write_ground_truth(gt, self.dataset.root, self.samples, self.dataset.classes)
        write_study(self.folder, {**self.head, **_kept_results(before, self.head)})
        self.callback.before_runs(len(self.jobs), len(self.records), str(self.folder))

    def train(self, executor: RunExecutor, budget: float | None = None) -> None:
        """Run the missing trainings, within a budget (seconds) if one is given."""
        baseline = self.head["baseline"]
        scheduler = Scheduler(self.jobs, baseline, self.recipe, self.records, self.paused)
        if budget is None:
            self._execute(executor, scheduler.pending())
            return
        deadline = self.begun + budget
        decision = scheduler.run_within_budget(
            budget,
            lambda: deadline - time.perf_counter(),
            executor.slots,
            lambda jobs: self._execute(executor, jobs),
            self.callback.note,
        )
        self.head["budget"] = {"seconds": budget, **decision}
        self.head["seeds"] = decision["seeds"]
        for job in scheduler.cut():
            self._keep(job, self.paused[job.key])

    def _execute(self, executor: RunExecutor, jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
        """Execute runs and store their records; return those of paused runs by key."""
        paused: dict[str, dict[str, Any]] = {}
        begun, busy = time.perf_counter(), 0.0
        for job, event in executor.run(jobs, self._loaded_data):
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
                if "base_weights" in event and job.variant.name not in self.noted_variants:
                    self.noted_variants.add(job.variant.name)
                    self.callback.note(f"{job.variant.name}: {event['base_weights']}")
                self.callback.run_event(job, event)
        self.run_seconds += busy
        self.waiting_seconds += max(0.0, (time.perf_counter() - begun) - busy / executor.slots)
        return paused

    def _loaded_data(self) -> LoadedData:
        """Return the data set, with the decoded training images if all runs can map them."""
        if self._loaded is None:
            images, train = None, self.dataset.split("train")
            if can_pass_files():
                try:
                    images = decode_images(train, self.recipe, self.base, shared=True)
                except DataError as error:
                    self.callback.note(f"each run decodes the images itself: {error}")
            self._loaded = LoadedData(self.dataset, images)
        return self._loaded

    def _keep(self, job: Job, record: dict[str, Any]) -> None:
        self.records[job.key] = record
        add_run(self.folder, record)

    def finish(self, runtimes: Sequence[str], *, slots: int) -> Study:
        """Compute the verdicts, then measure latency; write study.json after each step."""
        self._loaded = None
        records = [self.records[job.key] for job in self.jobs.values() if job.key in self.records]
        begun = time.perf_counter()
        summary = {**summarize(self.folder, self.head, records, self.samples), "latency": {}}
        judged = time.perf_counter()
        write_runs(self.folder, records)
        write_study(self.folder, summary)
        weights = weights_of_variants(self.folder, self.head, records)
        accelerator = next(iter(self.jobs.values())).accelerator
        device = None if accelerator == "auto" else accelerator
        summary["latency"] = measure_latency(
            weights, runtimes=runtimes, note=self.callback.note, device=device
        )
        summary["latency_machine"] = machine(device or choose_device().type)
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


def _compare_sets(
    folder: Path,
    head: Mapping[str, Any],
    studies: Mapping[str, Comparison],
    open_executor: Callable[[], RunExecutor],
    runtimes: Sequence[str],
) -> Study:
    """Run the study of each data set in turn, and return the verdicts over all of them.

    A study that is complete already is not touched. ``sets.json`` is written after each study.

    Args:
        folder: folder of the study over all data sets.
        head: entries that all studies have in common.
        studies: study of each data set, by name.
        open_executor: returns the executor of the runs.
        runtimes: runtimes in which latency is measured.
    """
    images: dict[str, str] = {}
    for name, study in studies.items():  # before hours of training on the first data set
        study.check()
        other = images.setdefault(str(study.head["setup"]["data"]), name)
        if other != name:
            raise ConfigError(
                f"data must be different data sets; {other} and {name} have the same images."
            )
    summary = summarize_sets(folder, head, studies)
    write_sets(folder, summary)
    records = []
    with closing(open_executor()) as executor:
        for number, (name, study) in enumerate(studies.items(), start=1):
            which = f"data set {number} of {len(studies)}, {name}"
            made = study.done()
            if made is None:
                study.callback.note(which)
                made = study.run(executor, runtimes)
            else:
                study.callback.note(f"{which}: already done")
            records += [{"data_set": name, **record} for record in made.records]
            summary = summarize_sets(folder, head, studies)
            write_sets(folder, summary)
    return Study(folder, records, summary)


def _kept_results(before: dict[str, Any] | None, head: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an earlier call, which are kept until this call has its own."""
    kept: dict[str, Any] = {"verdicts": {}, "latency": {}}
    if before is not None and all(
        before.get(name) == head[name] for name in ("baseline", "margin")
    ):
        kept.update({name: before[name] for name in RESULTS if name in before})
    return kept


# --- setup ------------------------------------------------------------------------------------

SETUP_NAMES = {
    "data": "the data",
    "pretrained": "--pretrained",
    "recipe": "the recipe",
    "version": "the version of attendet",
    "split": "the evaluation split",
}


def _setup(
    data: str | Path, dataset: DataSet, recipe: Recipe, pretrained: Path | None
) -> dict[str, Any]:
    """Return everything that determines the runs, as plain values; part of every content key.

    Raises:
        ConfigError: if no split has ground truth to measure on.
    """
    split = "test" if "test" in dataset.splits else "val"
    if split not in dataset.splits:
        raise ConfigError(
            f"data must have a test or val split to evaluate on ({data}). "
            "Add a split, or more images from which a val split can be made."
        )
    if all(sample.difficult.all() for sample in dataset.split(split)):
        raise ConfigError(
            f"data must have a box that is not difficult in its {split} split, for evaluation; "
            f"got none ({data}). See: attendet data check {data}"
        )
    digest = None
    if pretrained is not None:
        digest = hashlib.blake2b(pretrained.read_bytes(), digest_size=16).hexdigest()
    return {
        "version": __version__,
        "data": {name: dataset.fingerprint(name) for name in dataset.splits},
        "recipe": {k: v for k, v in recipe.content().items() if k != "attention_init"},
        "pretrained": digest,
        "split": split,
    }


def _describe(dataset: DataSet, setup: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the data set in study.json."""
    return {
        "root": str(dataset.root),
        "format": dataset.format,
        "fingerprint": setup["data"][setup["split"]],
        "fingerprints": setup["data"],
        "splits": {name: len(part) for name, part in dataset.splits.items()},
        "split_source": dataset.split_source,
        "classes": list(dataset.classes),
        "issues": len(dataset.issues),
        "measured_split": setup["split"],
    }


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise if the folder contains a study with another setup, such as other data."""
    for name, title in SETUP_NAMES.items():
        if before.get(name) == now[name]:
            continue
        what = title
        if name == "recipe":
            old = before.get(name) or {}
            changed = [k for k, v in now[name].items() if old.get(k) != v]
            what = f"--{changed[0].replace('_', '-')}" if changed else title
        raise ConfigError(
            f"output must be a new folder or that of the same study; {what} differs from the "
            f"study in {folder}. Choose another --output."
        )
