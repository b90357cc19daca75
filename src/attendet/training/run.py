"""Train a detector: plan, loop, keep the best, leave a folder that tells it all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from attendet import __version__
from attendet.data import DataSet
from attendet.errors import ConfigError, TrainingError
from attendet.interop.hub import local_weights
from attendet.models import WeightsMetadata, read_metadata, save_weights
from attendet.system import available_cores, peak_memory_mib
from attendet.training.checkpoint import read_state, write_state
from attendet.training.distributed import make_fabric
from attendet.training.events import Reporter, Silent
from attendet.training.loop import Trainer
from attendet.training.memory import keep_freed_memory
from attendet.training.plan import Plan, make_plan
from attendet.training.pretrained import Transfer, follow_base
from attendet.training.recipe import Recipe, load_recipe
from attendet.training.run_figures import draw_run
from attendet.training.run_folder import RunFolder, free_folder
from attendet.training.schedule import evaluates_at
from attendet.training.validation import validate

__all__ = ["TrainingResult", "train"]

MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves."""

    folder: Path
    """The run's folder."""

    best: Path
    """Weights with the best AP on the validation split; the last ones if nothing was measured."""

    last: Path
    """Weights of the last epoch."""

    records: list[dict[str, Any]]
    """One record an epoch, as in results.jsonl; with base weights, theirs as epoch 0 first."""

    ap: float | None
    """Best AP (IoU 0.50 to 0.95) on the validation split, 0 to 1; None without boxes there."""

    epochs: int
    """Epochs done."""

    seconds: float
    """Wall time of this call."""

    transfer: Transfer | None = None
    """What was taken over from base weights, and what was not; None without any, and for a run that
    went on (``base_weights`` in config.yaml tells it in words)."""


@dataclass
class _Progress:
    """Where a run stands."""

    epoch: int = 0
    best_ap: float = -1.0
    best_epoch: int = 0


def train(
    data: str | Path | DataSet | None = None,
    *,
    attention: str | None = None,
    recipe: str | Recipe = "default",
    seed: int = 0,
    output: str | Path | None = None,
    pretrained: str | Path | None = None,
    resume: str | Path | None = None,
    format: str | None = None,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int = 1,
    nodes: int = 1,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> TrainingResult:
    """Train a detector on a data set and return where its weights are.

    The same seed on the same machine gives the same weights bit for bit, resumed or not: every
    random draw depends on seed, epoch and step alone.

    Args:
        data: path of a data set (VOC, YOLO or COCO), or the set; with ``resume`` only if it moved.
        attention: spec such as ``none``, ``ca``, ``ca@p5`` or ``se@p5+ca@up``; that of the base
            weights, and ``ca`` without any, if left out.
        recipe: name of a recipe, path of a YAML file, or a `Recipe`.
        seed: of weights, order of images and augmentation.
        output: folder of the run, new; ``runs/train`` with the next free number if left out.
        pretrained: weights file to start from. Its input, boxes and width win over the recipe, and
            ``overrides`` win over them; the run is evaluated before its first step.
        resume: folder of an interrupted run to go on with; all settings come from there.
        format: ``voc``, ``yolo`` or ``coco``, where it is not to be recognized.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: processes on this machine, one a device.
        nodes: machines.
        reporter: is told of the progress.
        overrides: settings of the recipe (see `Recipe`) that win over it.

    Raises:
        ConfigError: if an argument or a setting is wrong.
        DataError: if the data cannot be read.
        WeightsError: if the pretrained weights do not fit.
        TrainingError: if the loss is not finite, or there is nothing to resume.
    """
    begun = time.perf_counter()
    reporter = reporter or Silent()
    state, config = None, None
    base: WeightsMetadata | None
    if resume is not None:
        folder, config = RunFolder.open(Path(resume))
        state = read_state(folder.state)
        data = config["data"] if data is None else data
        attention, seed = config["attention"], config["seed"]
        format, settings = config["format"], folder.recipe(config)
        pretrained, base = None, read_metadata(folder.last)
        devices, nodes = config["devices"], config["nodes"]
        accelerator = config["accelerator"] if accelerator == "auto" else accelerator
    else:
        if data is None:
            raise ConfigError("data must be given, or a run to resume; got neither.")
        if not 0 <= seed <= MOST_SEED:
            raise ConfigError(f"seed must be from 0 to {MOST_SEED}; got {seed} (--seed).")
        if output is not None:
            RunFolder.check_free(Path(output))
        pretrained = local_weights(pretrained) if pretrained is not None else None
        base = read_metadata(pretrained) if pretrained is not None else None
        settings = _settings(recipe, overrides, base)
        if attention is None:
            attention = "ca" if base is None else base.attention
    fabric = _launched(settings, accelerator, devices, nodes)
    if not fabric.is_global_zero:
        reporter = Silent()
    plan = make_plan(
        data,
        attention=attention,
        recipe=settings,
        seed=seed,
        pretrained=pretrained,
        base=base,
        format=format,
        progress=reporter.decoded,
    )
    if config is None:
        config = {
            "data": str(_source(data)),
            "format": data.format if isinstance(data, DataSet) else format,
            "pretrained": str(pretrained) if pretrained is not None else None,
            "accelerator": accelerator,
            "devices": devices,
            "nodes": nodes,
            **_describe(plan),
        }
        if plan.transfer is not None:
            config["base_weights"] = plan.transfer.in_words()
        folder = _new_folder(fabric, output, config)
    else:
        _check_same_data(plan, config, _source(data))
    with plan.cache:
        run = _Run(fabric, plan, folder, reporter, begun, pretrained=bool(config.get("pretrained")))
        return run.fit(state)


def _launched(
    settings: Recipe,
    accelerator: Literal["auto", "cpu", "cuda", "mps"],
    devices: int,
    nodes: int,
) -> Any:
    """Return Lightning Fabric in each of the processes."""
    fabric = make_fabric(
        accelerator=accelerator, devices=devices, nodes=nodes, precision=settings.precision
    )
    if settings.batch % (devices * nodes):
        raise ConfigError(
            f"batch must be a multiple of the {devices * nodes} processes; "
            f"got {settings.batch} (--batch)."
        )
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, available_cores() // devices))
    return fabric


def _settings(
    recipe: str | Recipe, overrides: Mapping[str, Any], base: WeightsMetadata | None
) -> Recipe:
    """Return the settings of a new run: overrides before base weights before the recipe."""
    if isinstance(recipe, str):
        settings = load_recipe(recipe, overrides)
    else:
        settings = load_recipe("default", {**recipe.as_dict(), **overrides})
    return settings if base is None else follow_base(settings, base, given=overrides)


def _source(data: str | Path | DataSet) -> Path:
    return (data.root if isinstance(data, DataSet) else Path(data)).resolve()


def _describe(plan: Plan) -> dict[str, Any]:
    """Return what config.yaml tells of a plan."""
    return {
        "attention": plan.metadata.attention,
        "seed": plan.seed,
        "version": __version__,
        "torch": str(torch.__version__),
        "input_hw": list(plan.input_hw),
        "anchors": [list(pair) for pair in plan.anchors.anchors],
        "anchors_from_data": plan.anchors.from_data,
        "fingerprints": dict((plan.metadata.data or {})["fingerprints"]),
        "recipe": plan.recipe.as_dict(),
    }


def _new_folder(fabric: Any, output: str | Path | None, config: dict[str, Any]) -> RunFolder:
    """Return the run's folder, made by the first process; if it cannot be, all of them stop."""
    path = Path(output) if output is not None else free_folder(Path("runs"), "train")
    path = Path(fabric.broadcast(str(path)))
    problem = ""
    if fabric.is_global_zero:
        try:
            RunFolder.create(path, config)
        except (ConfigError, OSError) as error:
            problem = str(error)
    problem = fabric.broadcast(problem)
    if problem:
        raise ConfigError(problem)
    return RunFolder(path)


def _check_same_data(plan: Plan, config: Mapping[str, Any], data: Path) -> None:
    now = (plan.metadata.data or {})["fingerprints"]
    changed = [name for name, old in config["fingerprints"].items() if now.get(name) != old]
    if changed:
        raise TrainingError(
            f"data must be what the run began with; {' and '.join(changed)} differs ({data}). "
            "Bring it back, say where it is now, or train anew."
        )


class _Run:
    """One run in this process."""

    def __init__(
        self,
        fabric: Any,
        plan: Plan,
        folder: RunFolder,
        reporter: Reporter,
        begun: float,
        *,
        pretrained: bool,
    ) -> None:
        self.fabric, self.plan, self.folder = fabric, plan, folder
        self.reporter, self.begun, self.pretrained = reporter, begun, pretrained
        self.trainer = Trainer(fabric, plan, reporter)
        self.progress = _Progress()
        self.records: list[dict[str, Any]] = []

    def fit(self, state: dict[str, Any] | None) -> TrainingResult:
        """Train to the end, from a resume state if there is one."""
        if state is not None:
            self._resume(state)
        elif self.fabric.is_global_zero:
            self._keep()  # an end within the first epoch leaves something to go on with, too
        self.reporter.planned(self.plan, str(self.folder.path))
        recipe = self.plan.recipe
        try:
            if self.pretrained and not self._begun():
                self._evaluate_base()
            while self.progress.epoch < recipe.epochs and not self._out_of_patience():
                self._epoch()
        finally:
            self.folder.close()
        return self._finish()

    def _resume(self, state: dict[str, Any]) -> None:
        self.trainer.load_state(state["trainer"])
        self.progress = _Progress(**state["progress"])
        if self.fabric.is_global_zero:
            self.records = self.folder.rewind(self.progress.epoch if self._begun() else -1)

    def _begun(self) -> bool:
        """Return whether an epoch, or the evaluation of base weights before the first, is done."""
        return self.progress.epoch > 0 or self.progress.best_ap >= 0

    def _out_of_patience(self) -> bool:
        recipe, progress = self.plan.recipe, self.progress
        if recipe.patience is None or progress.best_ap < 0 or progress.epoch == 0:
            return False
        if not evaluates_at(progress.epoch - 1, recipe=recipe):
            return False
        return progress.epoch - progress.best_epoch >= recipe.patience

    def _evaluate_base(self) -> None:
        """Measure the base weights before the first step, as epoch 0."""
        begun = time.perf_counter()
        metrics = self._validate(0)
        if metrics:
            seconds = round(time.perf_counter() - begun, 3)
            self._end_epoch({"epoch": 0, "losses": {}, "seconds": seconds, **metrics})

    def _epoch(self) -> None:
        epoch = self.progress.epoch
        record = self.trainer.run_epoch(epoch)
        record["memory_mib"] = _memory_mib(self.fabric.device)
        if evaluates_at(epoch, recipe=self.plan.recipe):
            record.update(self._validate(epoch + 1))
        self.progress.epoch = epoch + 1
        self._end_epoch(record)

    def _end_epoch(self, record: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            self.folder.add_record(record)
            self.records.append(record)
            self._keep()
            self.reporter.epoch_ended(record)
        self.fabric.barrier()

    def _keep(self) -> None:
        """Write the last weights and the resume state."""
        self._save(self.folder.last)
        state = {"trainer": self.trainer.state(), "progress": dataclasses.asdict(self.progress)}
        write_state(self.folder.state, state)

    def _validate(self, epoch: int) -> dict[str, Any]:
        """Return the metrics after so many epochs; keep the weights if they are the best so far."""
        samples = self.plan.dataset.splits.get("val")
        if not samples:
            return {}
        metrics, _ = validate(
            self.fabric,
            self.trainer.average.network,
            self.plan.metadata,
            samples,
            batch=self.plan.recipe.batch,
            progress=self.reporter.evaluated,
        )
        ap = metrics["ap"]  # None where the split has no box: nothing was measured
        if ap is not None and ap > self.progress.best_ap:
            self.progress.best_ap, self.progress.best_epoch = ap, epoch
            if self.fabric.is_global_zero:
                self._save(self.folder.best, {"split": "val", "epoch": epoch, **_key(metrics)})
        return _key(metrics)

    def _save(self, path: Path, measured: dict[str, Any] | None = None) -> None:
        if self.fabric.is_global_zero:
            metadata: WeightsMetadata = dataclasses.replace(self.plan.metadata, measured=measured)
            save_weights(path, self.trainer.average.network, metadata)

    def _finish(self) -> TrainingResult:
        if self.fabric.is_global_zero:
            if not self.folder.best.exists():
                self._save(self.folder.best)
            draw_run(self.folder, self.plan, self.records)
        self.fabric.barrier()
        return TrainingResult(
            folder=self.folder.path,
            best=self.folder.best,
            last=self.folder.last,
            records=self.records,
            ap=self.progress.best_ap if self.progress.best_ap >= 0 else None,
            epochs=self.progress.epoch,
            seconds=time.perf_counter() - self.begun,
            transfer=self.plan.transfer,
        )


def _key(metrics: Mapping[str, Any]) -> dict[str, Any]:
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")
    return {name: metrics[name] for name in names}


def _memory_mib(device: torch.device) -> int:
    """Return the most memory used so far: of the device on CUDA, else of this process, if known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak_memory_mib() or 0
