"""Train a detector: `train` prepares a run, `Trainer.fit` runs its epochs and saves its weights.

N is the batch size; H and W are the network input in pixels.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attendet import __version__
from attendet.data import Augmenter, Batch, DataSet
from attendet.errors import ConfigError, TrainingError
from attendet.inference.stream import NetworkInput
from attendet.interop.hub import local_weights
from attendet.losses import DetectionLoss
from attendet.models import WeightsMetadata, read_metadata, save_weights
from attendet.prefetch import map_in_threads
from attendet.system import available_cores, available_memory, keep_freed_memory, peak_memory_mib
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import (
    BackgroundWriter,
    RunFolder,
    free_folder,
    read_state,
    write_state,
)
from attendet.training.cpu import replace_slow_layers
from attendet.training.cuda_graphs import CudaRecorder, GraphedSteps, check_cuda_graphs
from attendet.training.distributed import make_fabric, sync_batch_norm, validate
from attendet.training.figures import draw_run
from attendet.training.frozen_norm import freeze_statistics, pretrained_blocks
from attendet.training.loggers import Loggers, check_loggers
from attendet.training.optimizer import WeightAverage, make_optimizer
from attendet.training.plan import LoadedData, Plan, make_plan
from attendet.training.recipe import Recipe, load_recipe
from attendet.training.schedule import evaluates_at, input_hw_at, lr_factor, mosaic_at
from attendet.training.transfer import apply_pretrained_settings

MAX_SEED = 2**63 - 1

CHECKPOINT_SECONDS = 30.0
"""Default of the shortest time between two writes of the resume state."""

LOSS_READ_INTERVAL = 10
"""Steps between two reads of the losses on a GPU; the CPU has to wait at each read."""

VAL_CACHE_MEMORY_FRACTION = 0.25
"""Resized validation images are kept if they need less than this fraction of free memory."""

METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")
"""Metrics in the record of an epoch."""


Weights = tuple[nn.Module, WeightsMetadata]
"""A copy of the averaged network, and its metadata."""


@dataclass(frozen=True)
class Checkpoint:
    """Copies of everything that is written after an epoch; training does not change them."""

    best: Weights | None
    """The best weights so far."""

    last: Weights
    """The weights after the epoch."""

    state: dict[str, Any]
    """State that training resumes from."""


@dataclass(frozen=True)
class TrainingResult:
    """Weights and records of a run."""

    folder: Path
    """Folder of the run."""

    best: Path
    """Weights with the best AP on the validation split; the last ones if AP was not measured."""

    last: Path
    """Weights of the last epoch."""

    records: list[dict[str, Any]]
    """One record per epoch, as in results.jsonl; with pretrained weights, theirs as epoch 0."""

    ap: float | None
    """Best AP (IoU 0.50 to 0.95) on the validation split, 0 to 1; None if not measured."""

    epochs: int
    """Epochs trained so far."""

    seconds: float
    """Wall time of this call."""

    plan: Plan
    """Plan of the run; its image cache is closed."""


def train(
    data: str | Path | DataSet | None = None,
    *,
    attention: str | None = None,
    recipe: str | Recipe | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    pretrained: str | Path | None = None,
    resume: str | Path | None = None,
    format: str | None = None,
    loaded: LoadedData | None = None,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int = 1,
    nodes: int = 1,
    until_epoch: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    fingerprints: Mapping[str, str] | None = None,
    figures: bool = True,
    callback: TrainingCallback | None = None,
    log: Sequence[str] = ("tensorboard",),
    **overrides: Any,
) -> TrainingResult:
    """Train a detector on a data set and return the paths of its weights.

    The same seed on the same machine gives the same weights bit for bit, resumed or not: every
    random number depends only on seed, epoch and step.

    Args:
        data: path of a data set (VOC, YOLO or COCO), or a `DataSet`; with ``resume``, only needed
            if the data has moved.
        attention: spec such as ``none``, ``ca``, ``ca@p5`` or ``se@p5+ca@up``; default: that of the
            pretrained weights, else ``ca``.
        recipe: name of a recipe, path of a YAML file, or a `Recipe`; default: ``fine-tune`` with
            pretrained weights, else ``default``.
        seed: seed of weights, image order and augmentation.
        output: new folder of the run; default: ``runs/train`` with the next free number.
        pretrained: weights file to start from. Its input, boxes and width replace those of the
            recipe, and ``overrides`` replace both. It is evaluated before the first step.
        resume: folder of an interrupted run. All settings come from there: ``overrides`` and the
            arguments that determine the run, such as ``recipe`` and ``seed``, raise an error.
        format: ``voc``, ``yolo`` or ``coco``; default: detected.
        loaded: contents of ``data``, if they are already in memory.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: processes on this machine, one per device.
        nodes: number of machines.
        until_epoch: stop after this epoch, with a state to resume from.
        checkpoint_seconds: shortest time between two writes of the weights and the resume state in
            a background thread; they are also written at the end, and after an error.
        fingerprints: split name to fingerprint that the data must have.
        figures: whether to draw curves, detections and the confusion matrix at the end.
        callback: receives the progress.
        log: loggers of the metrics, any of ``tensorboard``, ``csv``, ``wandb`` and ``mlflow``.
        overrides: settings of the recipe by name (see `Recipe`).

    Raises:
        ConfigError: if an argument or a setting is wrong.
        DataError: if the data cannot be read.
        WeightsError: if the pretrained weights do not fit.
        TrainingError: if the loss is not finite, the data has changed, there is nothing to
            resume, a logger cannot start, or the memory of a GPU is too small.
        MissingExtraError: if the library of a logger is not installed.
    """
    arguments = dict(locals())
    started = time.perf_counter()
    _check_times(until_epoch, checkpoint_seconds)
    callback = callback or TrainingCallback()
    state, config = None, None
    expected = list((fingerprints or {}).items())
    base: WeightsMetadata | None = None
    if resume is not None:
        _check_resume_arguments(resume, arguments)
        folder, config = RunFolder.open(Path(resume))
        state = read_state(folder.state)
        settings, base = folder.recipe(config), read_metadata(folder.last)
        data = config["data"] if data is None else data
        attention, seed, format = config["attention"], config["seed"], config["format"]
        pretrained, devices, nodes = None, config["devices"], config["nodes"]
        log = config["log"]
        accelerator = config["accelerator"] if accelerator == "auto" else accelerator
        expected += config["fingerprints"].items()
    else:
        if data is None:
            raise ConfigError("data must be given, or a run to resume; got neither.")
        ConfigError.check(0 <= seed <= MAX_SEED, "seed", f"from 0 to {MAX_SEED}", seed, "--seed")
        if output is not None:
            RunFolder.check_free(Path(output))
        if pretrained is not None:
            pretrained = local_weights(pretrained)
            base = read_metadata(pretrained)
        settings = load_recipe(recipe, overrides, pretrained=pretrained is not None)
        if base is not None:
            settings = apply_pretrained_settings(settings, base, given=overrides)
        if attention is None:
            attention = "ca" if base is None else base.attention
    log = (log,) if isinstance(log, str) else log
    check_loggers(log)
    fabric = _launch(settings, accelerator, devices, nodes)
    if not fabric.is_global_zero:
        callback = TrainingCallback()
    plan = make_plan(
        data,
        attention=attention,
        recipe=settings,
        seed=seed,
        pretrained=pretrained,
        base=base,
        format=format,
        loaded=loaded,
        fingerprints=expected,
        processes=devices,
        progress=callback.images_decoded,
    )
    if config is None:
        config = {
            "data": str((data.root if isinstance(data, DataSet) else Path(data)).resolve()),
            "format": data.format if isinstance(data, DataSet) else format,
            "pretrained": str(pretrained) if pretrained is not None else None,
            "accelerator": accelerator,
            "devices": devices,
            "nodes": nodes,
            "log": list(log),
            **_describe(plan),
        }
        folder = _create_folder(fabric, output, config)
    gpus = [fabric.device] if fabric.device.type == "cuda" else []
    with plan.cache, torch.random.fork_rng(devices=gpus):  # the trainer seeds dropout
        trainer = Trainer(
            fabric,
            plan,
            folder,
            callback,
            checkpoint_seconds,
            evaluates_base=bool(config.get("pretrained")),
            draws_figures=figures,
        )
        if state is not None:
            trainer.resume(state)
        if fabric.is_global_zero:
            trainer.loggers = Loggers(log, folder.path, config, trainer.resumed_after)
        return trainer.fit(until_epoch or plan.recipe.epochs, started)


def _check_times(until_epoch: int | None, checkpoint_seconds: float) -> None:
    if until_epoch is not None and until_epoch < 1:
        raise ConfigError.must("until_epoch", "at least 1", until_epoch)
    ConfigError.check(
        checkpoint_seconds >= 0,
        "checkpoint_seconds",
        "at least 0",
        checkpoint_seconds,
        "--checkpoint-seconds",
    )


_OF_RUN = (
    *("attention", "recipe", "seed", "output", "pretrained"),
    *("format", "devices", "nodes", "log"),
)
"""Arguments that a resumed run takes from its folder, in addition to ``overrides``."""


def _check_resume_arguments(resume: str | Path, arguments: Mapping[str, Any]) -> None:
    """Raise an error if an argument is set that a resumed run takes from its folder."""
    defaults = inspect.signature(train).parameters
    given = [name for name in _OF_RUN if arguments[name] != defaults[name].default]
    given += arguments["overrides"]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(
            f"--resume must be the only setting; got {flags} too. All settings come from the "
            f"folder of the run ({resume}). Remove the other flags."
        )


def _launch(
    settings: Recipe,
    accelerator: Literal["auto", "cpu", "cuda", "mps"],
    devices: int,
    nodes: int,
) -> Any:
    """Return a Lightning Fabric that is launched in every process."""
    fabric = make_fabric(
        accelerator=accelerator, devices=devices, nodes=nodes, precision=settings.precision
    )
    processes = devices * nodes
    if settings.batch % processes:
        rule = f"a multiple of {processes}, the number of processes"
        raise ConfigError.must("batch", rule, settings.batch, "--batch")
    fabric.launch()
    if settings.cuda_graphs:
        check_cuda_graphs(
            fabric.device,
            processes=fabric.world_size,
            precision=fabric.strategy.precision.precision,
        )
    if fabric.device.type == "cpu":
        keep_freed_memory()
        if fabric.world_size > 1:
            torch.set_num_threads(max(1, available_cores() // devices))
    return fabric


def _describe(plan: Plan) -> dict[str, Any]:
    """Return the part of config.yaml that follows from the plan."""
    described = {
        "attention": plan.metadata.attention,
        "seed": plan.seed,
        "version": __version__,
        "torch": str(torch.__version__),
        "input_hw": list(plan.input_hw),
        "anchors": [list(pair) for pair in plan.anchors.anchors],
        "anchors_from_data": plan.anchors.from_data,
        "fingerprints": dict(plan.fingerprints),
        "recipe": plan.recipe.as_dict(),
    }
    if plan.transfer is not None:
        described["base_weights"] = plan.transfer.summary()
    return described


def _create_folder(fabric: Any, output: str | Path | None, config: dict[str, Any]) -> RunFolder:
    """Return the run's folder, created by the first process; all processes stop on an error."""
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


def epoch_order(count: int, batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the image indices of each step of an epoch.

    Every image is used once; the last batch is filled with images from the start of the epoch, so
    that all batches have the same size.

    Example:
        >>> order = epoch_order(5, 2, seed=0, epoch=0)
        >>> [len(indices) for indices in order], sorted(set(sum(order, [])))
        ([2, 2, 2], [0, 1, 2, 3, 4])
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    steps = -(-count // batch)
    filled = np.resize(order, steps * batch)
    return [[int(index) for index in row] for row in filled.reshape(steps, batch)]


class Trainer:
    """Trainer of one network; `fit` runs the epochs, `run_epoch` is the loop over batches.

    Args:
        fabric: launched Lightning Fabric.
        plan: data, network and settings.
        folder: receives weights, state and records.
        callback: receives the progress.
        checkpoint_seconds: shortest time between two writes of weights and state.
        evaluates_base: whether to evaluate the weights before the first step, as epoch 0.
        draws_figures: whether to draw curves, detections and the confusion matrix at the end.
    """

    def __init__(
        self,
        fabric: Any,
        plan: Plan,
        folder: RunFolder,
        callback: TrainingCallback,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        *,
        evaluates_base: bool = False,
        draws_figures: bool = True,
    ) -> None:
        recipe = plan.recipe
        self.fabric, self.plan, self.recipe = fabric, plan, recipe
        self.folder, self.callback = folder, callback
        self.evaluates_base, self.draws_figures = evaluates_base, draws_figures
        self.loggers = Loggers((), folder.path, {}, None)
        self.network = plan.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.network, decay=recipe.optimizer.ema_decay)
        if fabric.world_size > 1:
            sync_batch_norm(self.network)
        precision = fabric.strategy.precision.precision
        self.frozen: list[str] = []
        if recipe.batch_norm == "frozen" and plan.transfer is not None:
            self.frozen = pretrained_blocks(self.network, plan.transfer.loaded)
            freeze_statistics(self.network, self.frozen)
        if fabric.device.type == "cpu":
            replace_slow_layers(self.network, precision)
        fused = fabric.device.type in ("cpu", "cuda") and precision != "16-mixed"
        optimizer = make_optimizer(self.network, recipe.optimizer, fused=fused)
        self.model, self.optimizer = fabric.setup(self.network, optimizer)
        self.criterion = DetectionLoss(
            self.network.level_anchors,
            self.network.strides,
            self.network.scale_x_y,
            recipe.loss,
            self.network.codings,
        )
        self.augmenter = Augmenter(plan.cache, recipe.augment, device=fabric.device, seed=plan.seed)
        self.bgr = plan.metadata.preprocessing().color == "bgr"
        self._alone = threading.Lock()
        self._side_stream: torch.cuda.Stream | None = None
        self._graphs: GraphedSteps | None = None
        if fabric.device.type == "cuda":
            self._side_stream = torch.cuda.Stream(fabric.device)  # type: ignore[no-untyped-call]
            self._side_stream.wait_stream(torch.cuda.current_stream(fabric.device))
        if recipe.cuda_graphs:
            recorder = CudaRecorder(fabric.device, self._alone)
            self._graphs = GraphedSteps(self._add_gradients, recorder)
        self.accumulate = max(1, math.ceil(recipe.effective_batch / recipe.batch))
        self.steps_to_read = 1 if fabric.device.type == "cpu" else LOSS_READ_INTERVAL
        self.epoch = 0
        self.best_ap, self.best_epoch = -1.0, 0
        self.records: list[dict[str, Any]] = []
        self.resumed_after: int | None = None
        val = plan.dataset.splits.get("val", ())
        size = len(val) * 3 * math.prod(plan.input_hw)
        keeps = size < VAL_CACHE_MEMORY_FRACTION * available_memory()
        self._kept_inputs: dict[Path, NetworkInput] | None = {} if keeps else None
        self._best: Weights | None = None
        self._writer = BackgroundWriter(self._write, checkpoint_seconds)
        self._written_best: Weights | None = None

    # --- epochs -----------------------------------------------------------------------------------

    def fit(self, until_epoch: int, started: float) -> TrainingResult:
        """Train up to an epoch and return the result.

        Args:
            until_epoch: stop after this epoch of the run (counting from 1).
            started: `time.perf_counter` at the start of the call.
        """
        try:
            if self.fabric.is_global_zero and not self._has_started():
                self._checkpoint()  # so that a kill within the first epoch can be resumed
            self.callback.before_train(self.plan, str(self.folder.path))
            if self.evaluates_base and not self._has_started():
                self._evaluate_base()
            while self.epoch < min(until_epoch, self.recipe.epochs) and not self._out_of_patience():
                record = self.run_epoch(self.epoch)
                record["memory_mib"] = _peak_memory_mib(self.fabric.device)
                if evaluates_at(self.epoch, recipe=self.recipe):
                    record.update(self._evaluate(self.epoch + 1))
                self.epoch += 1
                self._end_epoch(record)
        except torch.OutOfMemoryError as error:
            reason, _, _ = str(error).partition(". ")
            raise TrainingError(
                f"{reason} in epoch {self.epoch + 1} with batch {self.recipe.batch} and size "
                f"{self.recipe.size}. Try a smaller --batch or --size."
            ) from error
        finally:
            self._graphs = None  # frees their memory without waiting for the collector
            try:
                self._writer.close()
            finally:
                self.loggers.close()
        if self.fabric.is_global_zero and (
            self.epoch == self.recipe.epochs or self._out_of_patience()
        ):
            if not self.folder.best.exists():
                save_weights(self.folder.best, *self._copied_weights(None))
            if self.draws_figures:
                draw_run(self.folder, self.plan, self.records, str(self.fabric.device))
        self.fabric.barrier()
        return TrainingResult(
            folder=self.folder.path,
            best=self.folder.best,
            last=self.folder.last,
            records=self.records,
            ap=self.best_ap if self.best_ap >= 0 else None,
            epochs=self.epoch,
            seconds=time.perf_counter() - started,
            plan=self.plan,
        )

    def _has_started(self) -> bool:
        """Return whether an epoch, or the evaluation of pretrained weights, is done."""
        return self.epoch > 0 or self.best_ap >= 0

    def _out_of_patience(self) -> bool:
        patience = self.recipe.patience
        if patience is None or self.best_ap < 0 or self.epoch == 0:
            return False
        evaluated = evaluates_at(self.epoch - 1, recipe=self.recipe)
        return evaluated and self.epoch - self.best_epoch >= patience

    def _evaluate_base(self) -> None:
        """Evaluate the pretrained weights before the first step, as epoch 0."""
        metrics = self._evaluate(0)
        if metrics:
            seconds = metrics["evaluation_seconds"]
            self._end_epoch({"epoch": 0, "losses": {}, "seconds": seconds, **metrics})

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        """Return validation metrics and seconds; copy the weights if they are the best."""
        started = time.perf_counter()
        samples = self.plan.dataset.splits.get("val")
        if not samples:
            return {}
        found = validate(
            self.fabric,
            self.average.network,
            self.plan.metadata,
            samples,
            batch=self.recipe.batch,
            progress=self.callback.images_evaluated,
            kept=self._kept_inputs,
        )
        metrics = {name: found[name] for name in METRICS}
        ap = metrics["ap"]  # None if the split has no box
        if ap is not None and ap > self.best_ap:
            self.best_ap, self.best_epoch = ap, epoch
            if self.fabric.is_global_zero:
                self._best = self._copied_weights({"split": "val", "epoch": epoch, **metrics})
        return {**metrics, "evaluation_seconds": round(time.perf_counter() - started, 3)}

    def _end_epoch(self, record: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            self.folder.add_record(record)
            self.loggers.log(record)
            self.records.append(record)
            self._checkpoint()
            self.callback.after_epoch(record)
        self.fabric.barrier()

    # --- weights and state ------------------------------------------------------------------------

    def _copied_weights(self, measured: dict[str, Any] | None) -> Weights:
        metadata = dataclasses.replace(self.plan.metadata, measured=measured)
        return copy.deepcopy(self.average.network), metadata

    def _checkpoint(self) -> None:
        """Pass copies of weights and state to the writer thread."""
        last = self._copied_weights(None)
        average = last[0].state_dict()
        state = copy.deepcopy({**self.state(), "average": None})
        self._writer.submit(Checkpoint(self._best, last, {**state, "average": average}))

    def _write(self, checkpoint: Checkpoint) -> None:
        """Write weights and state; the best weights first, because the state has their epoch."""
        best = checkpoint.best
        if best is not None and best is not self._written_best:
            save_weights(self.folder.best, *best)
            self._written_best = best
        save_weights(self.folder.last, *checkpoint.last)
        write_state(self.folder.state, checkpoint.state)

    def state(self) -> dict[str, Any]:
        """Return the state that training resumes from, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "average_steps": self.average.steps,
            "optimizer": self.optimizer.state_dict(),
            "frozen": self.frozen,
            "epoch": self.epoch,
            "best_ap": self.best_ap,
            "best_epoch": self.best_epoch,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.average.steps = state["average_steps"]
        groups = self.optimizer.param_groups
        settings = [{name: g[name] for name in g if name != "params"} for g in groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, configured in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(configured)  # config.yaml may have been edited
        self.frozen = state["frozen"]
        freeze_statistics(self.network, self.frozen)
        self.epoch, self.best_ap = state["epoch"], state["best_ap"]
        self.best_epoch = state["best_epoch"]
        self.resumed_after = self.epoch if self._has_started() else -1
        if self.fabric.is_global_zero:
            self.records = self.folder.rewind(self.resumed_after)

    # --- the loop ---------------------------------------------------------------------------------

    def run_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch (counting from 0) and return its record.

        Raises:
            TrainingError: if the loss or the weights are not finite.
        """
        recipe, plan = self.recipe, self.plan
        order = epoch_order(len(plan.cache), recipe.batch, seed=plan.seed, epoch=epoch)
        steps = len(order)
        self._set_mode(epoch)
        started, step_seconds = time.perf_counter(), 0.0
        unread: list[dict[str, Tensor]] = []
        sums: dict[str, float] = {}
        batches = map_in_threads(
            lambda step: self._make_ahead(epoch, step, order[step]),
            range(steps),
            ahead=2,
            workers=1,
            size_of=lambda _: 0,
        )
        for step, made in batches:
            step_started = time.perf_counter()
            factor = lr_factor(epoch + (step + 1) / steps, recipe=recipe)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            self._seed_dropout(epoch, step)
            batch = self._wait_for_batch(*made.result())
            unread.append(self._forward_backward(batch, epoch, step, steps))
            first = step + 1 - len(unread)
            read: list[dict[str, float]] = []
            if len(unread) == self.steps_to_read or step + 1 == steps:
                read = self._read_losses(unread, epoch, first)
                unread = []
            if self._ends_accumulation(step, steps):
                self._optimizer_step(epoch)
            step_seconds += time.perf_counter() - step_started
            for number, losses in enumerate(read, first):
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                self.callback.after_step(epoch, number, steps, losses)
        self._check_weights(epoch)
        seconds = time.perf_counter() - started
        groups = self.optimizer.param_groups
        muon = {"muon_lr": groups[0]["lr"]} if recipe.optimizer.optimizer == "muon" else {}
        return {
            "epoch": epoch + 1,
            "losses": {name: round(total / steps, 6) for name, total in sums.items()},
            "learning_rate": groups[-1]["lr"],
            **muon,
            "seconds": round(seconds, 3),
            "images_per_second": round(steps * recipe.batch / seconds, 3),
            "overhead_fraction": round(1 - step_seconds / seconds, 4),
        }

    def _ends_accumulation(self, step: int, steps: int) -> bool:
        return (step + 1) % self.accumulate == 0 or step + 1 == steps

    def _make_batch(self, epoch: int, step: int, indices: list[int]) -> Batch:
        recipe, plan = self.recipe, self.plan
        shard = recipe.batch // self.fabric.world_size
        return self.augmenter.batch(
            indices,
            epoch=epoch,
            step=step,
            input_hw=input_hw_at(
                epoch, step, input_hw=plan.input_hw, recipe=recipe, seed=plan.seed
            ),
            mosaic_on=mosaic_at(epoch, recipe=recipe),
            rows=slice(self.fabric.global_rank * shard, (self.fabric.global_rank + 1) * shard),
        )

    def _make_ahead(
        self, epoch: int, step: int, indices: list[int]
    ) -> tuple[Batch, torch.cuda.Event | None]:
        """Return a batch and, on a GPU, its completion event; runs during a training step."""
        if self._side_stream is None:
            return self._make_batch(epoch, step, indices), None
        with self._alone, torch.cuda.stream(self._side_stream):
            batch = self._make_batch(epoch, step, indices)
            return batch, self._side_stream.record_event()

    def _wait_for_batch(self, batch: Batch, made: torch.cuda.Event | None) -> Batch:
        """Return the batch, synchronized with the CUDA stream of the training step."""
        if made is not None:
            current = torch.cuda.current_stream(self.fabric.device)
            current.wait_event(made)
            for tensor in batch:
                tensor.record_stream(current)
        return batch

    def _seed_dropout(self, epoch: int, step: int) -> None:
        """Make the dropout masks of a step depend only on seed, epoch, step and process."""
        entropy = (self.plan.seed, epoch, step, self.fabric.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0]))

    def _forward_backward(
        self, batch: Batch, epoch: int, step: int, steps: int
    ) -> dict[str, Tensor]:
        """Add the gradients of a batch and return its losses, without waiting for the device."""
        accumulated = min(self.accumulate, steps - step // self.accumulate * self.accumulate)
        if self._graphs is not None:
            frozen = epoch < self.recipe.freeze_backbone_epochs
            return self._graphs(batch, accumulated, mode=frozen)
        sync = self._ends_accumulation(step, steps)
        with self.fabric.no_backward_sync(self.model, enabled=not sync):
            return self._add_gradients(batch, accumulated)

    def _add_gradients(self, batch: Batch, divisor: int | Tensor) -> dict[str, Tensor]:
        """Add the gradients of a batch, divided by ``divisor``, and return its losses."""
        several = self.fabric.world_size > 1
        images = batch.images.flip(1) if self.bgr else batch.images
        terms = self.criterion(
            self.model(images), batch[1:], average_matches=self._mean if several else None
        )
        self.fabric.backward(torch.stack(list(terms.values())).sum() / divisor)
        return {name: term.detach() for name, term in terms.items()}

    def _read_losses(
        self, unread: list[dict[str, Tensor]], epoch: int, first: int
    ) -> list[dict[str, float]]:
        """Return the losses of the steps from ``first`` on as numbers, means over all processes.

        Raises:
            TrainingError: if a loss is not finite; raised in all processes.
        """
        values = torch.stack([torch.stack(list(terms.values())) for terms in unread])
        values = self._mean(values) if self.fabric.world_size > 1 else values
        read = [dict(zip(unread[0], row, strict=True)) for row in values.tolist()]
        for number, losses in enumerate(read, first):
            if not all(math.isfinite(value) for value in losses.values()):
                raise _not_finite("loss", losses, f"epoch {epoch + 1}, step {number + 1}")
        return read

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes."""
        mean: Tensor = self.fabric.all_reduce(values, reduce_op="mean")
        return mean

    def _check_weights(self, epoch: int) -> None:
        """Raise an error if the last step made weights non-finite; no later loss would show it."""
        finite = [tensor.isfinite().all() for tensor in self.network.state_dict().values()]
        if not torch.stack(finite).all():
            raise _not_finite("weights", "NaN or infinity", f"end of epoch {epoch + 1}")

    def _frozen_backbone(self, epoch: int) -> nn.Module | None:
        frozen = epoch < self.recipe.freeze_backbone_epochs
        return getattr(self.network, "backbone", None) if frozen else None

    def _optimizer_step(self, epoch: int) -> None:
        backbone = self._frozen_backbone(epoch)
        if backbone is not None:
            for parameter in backbone.parameters():
                parameter.grad = None
        if self.recipe.optimizer.clip_norm > 0:
            self.fabric.clip_gradients(
                self.model,
                self.optimizer,
                max_norm=self.recipe.optimizer.clip_norm,
                error_if_nonfinite=False,
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self._graphs is None)
        self.average.update(self.network)

    def _set_mode(self, epoch: int) -> None:
        self.model.train()
        frozen = self._frozen_backbone(epoch)
        if frozen is not None:
            frozen.eval()
        backbone: nn.Module | None = getattr(self.network, "backbone", None)
        if backbone is not None and self.fabric.world_size == 1:
            backbone.requires_grad_(frozen is None)


def _not_finite(name: str, got: object, where: str) -> TrainingError:
    return TrainingError(
        f"{name} must be finite; got {got} ({where}). The last good weights are kept. "
        "Try a lower --lr and --muon-lr, or --precision 32."
    )


def _peak_memory_mib(device: torch.device) -> int:
    """Return the peak memory of the CUDA device, else of this process, in MiB; 0 if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) / 2**20)
    return peak_memory_mib() or 0
