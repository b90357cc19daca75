"""Loggers of training metrics: TensorBoard, CSV, Weights & Biases and MLflow."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attendet.errors import ConfigError, TrainingError
from attendet.files import write_atomically
from attendet.system import require

PROJECT = "attendet"
"""Default Weights & Biases project and MLflow experiment, if the environment sets none."""

RUN_IDS = "loggers.json"
"""File with the run ids that a resumed run continues."""


def flat_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch's record, losses as ``losses/NAME``, without the epoch.

    Example:
        >>> flat_metrics({"epoch": 3, "losses": {"box": 0.5}, "ap": None, "lr": 0.01})
        {'lr': 0.01, 'losses/box': 0.5}
    """
    losses = {f"losses/{name}": value for name, value in record["losses"].items()}
    return {
        name: float(value)
        for name, value in {**record, **losses}.items()
        if isinstance(value, int | float) and name != "epoch"
    }


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a configuration, nested ones with dots in the name.

    Example:
        >>> dict(flat_settings({"seed": 0, "recipe": {"lr": 0.01}}))
        {'seed': 0, 'recipe.lr': 0.01}
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


class Logger:
    """Base class of loggers, which receive the record of each epoch.

    Args:
        folder: folder of the run.
        config: configuration of the run.
        done: last epoch that is done in a resumed run, else None. Later epochs may already have
            been logged; they are logged again.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int | None) -> None:
        self.folder, self.config, self.done = folder, config, done

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one record."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the remaining records."""

    def _run_id(self, kind: str) -> str | None:
        """Return the stored id of a resumed run; None for a new run."""
        file = self.folder / RUN_IDS
        if self.done is None or not file.is_file():
            return None
        run_id: str | None = json.loads(file.read_text(encoding="utf-8")).get(kind)
        return run_id

    def _keep_run_id(self, kind: str, run_id: str) -> None:
        file = self.folder / RUN_IDS
        ids = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        write_atomically(file, json.dumps({**ids, kind: run_id}))


class TensorBoardLog(Logger):
    """TensorBoard events in ``tensorboard/``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int | None) -> None:
        super().__init__(folder, config, done)
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        purge = None if done is None else done + 1
        self._logger = TensorBoardLogger(folder, "tensorboard", version="", purge_step=purge)

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one record."""
        self._logger.log_metrics(flat_metrics(record), step=record["epoch"])
        self._logger.save()

    def close(self) -> None:
        """Close the event file."""
        self._logger.finalize("success")


class CsvLog(Logger):
    """A table in ``results.csv``, one row per epoch; cells of missing values are empty.

    Lightning's CSVLogger is not used because it deletes the table of a resumed run.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int | None) -> None:
        super().__init__(folder, config, done)
        self._file, self._rows = folder / "results.csv", list[dict[str, Any]]()
        if done is not None and self._file.is_file():
            with self._file.open(encoding="utf-8", newline="") as stream:
                self._rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) <= done]

    def log(self, record: Mapping[str, Any]) -> None:
        """Write the table with one more row."""
        self._rows.append({"epoch": record["epoch"], **flat_metrics(record)})
        columns = dict.fromkeys(name for row in self._rows for name in row)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(columns))
        table.writeheader()
        table.writerows(self._rows)
        write_atomically(self._file, text.getvalue())


class WandbLog(Logger):
    """A run of Weights & Biases; the variables WANDB_MODE and WANDB_PROJECT apply."""

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int | None) -> None:
        super().__init__(folder, config, done)
        wandb = require("wandb", extra="wandb", purpose="--log wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            id=self._run_id("wandb"),
            resume="allow",
        )
        self._keep_run_id("wandb", self._run.id)

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one record."""
        self._run.log(flat_metrics(record), step=record["epoch"])

    def close(self) -> None:
        """Send the remaining records and finish the run."""
        self._run.finish()


class MlflowLog(Logger):
    """A run of MLflow at MLFLOW_TRACKING_URI, by default at MLflow's default location."""

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int | None) -> None:
        super().__init__(folder, config, done)
        self._mlflow = require("mlflow", extra="mlflow", purpose="--log mlflow")
        self._client = self._mlflow.MlflowClient()
        run_id = self._run_id("mlflow")
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            owner = experiment.experiment_id if experiment else self._client.create_experiment(name)
            run_id = str(self._client.create_run(owner, run_name=folder.name).info.run_id)
            for setting, value in flat_settings(config):
                self._client.log_param(run_id, setting, value)
            self._keep_run_id("mlflow", run_id)
        self._id = run_id

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one record."""
        now = int(time.time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(name, value, now, record["epoch"])
            for name, value in flat_metrics(record).items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], int | None], Logger]] = {
    "tensorboard": TensorBoardLog,
    "csv": CsvLog,
    "wandb": WandbLog,
    "mlflow": MlflowLog,
}
"""Loggers by the name that ``--log`` takes."""

_EXTRAS = {"tensorboard": "train", "wandb": "wandb", "mlflow": "mlflow"}


def check_loggers(names: Sequence[str]) -> None:
    """Raise an error if a logger is unknown or its library is missing.

    Raises:
        ConfigError: if a name is unknown.
        MissingExtraError: if a library is not installed; the message names the extra.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError.unknown("log", name, tuple(LOGGERS), "--log")
        if name in _EXTRAS:
            require(name, extra=_EXTRAS[name], purpose=f"--log {name}")


class Loggers:
    """Several loggers; a logger that fails during the run is reported once and then disabled.

    Args:
        names: names from `LOGGERS`.
        folder: folder of the run.
        config: configuration of the run.
        done: last epoch that is done in a resumed run, else None.

    Raises:
        TrainingError: if a logger cannot start, such as without a login.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, config: Mapping[str, Any], done: int | None
    ) -> None:
        self._loggers: dict[str, Logger] = {}
        for name in names:
            try:
                self._loggers[name] = LOGGERS[name](folder, config, done)
            except Exception as error:  # any error of a library or a server
                self.close()
                reason = " ".join(str(error).split()).removesuffix(".")
                raise TrainingError(
                    f"{name} cannot start: {reason} (--log). Fix this, or remove {name} from --log."
                ) from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one record; an error of a logger does not stop the run."""
        self._each(lambda logger: logger.log(record))

    def close(self) -> None:
        """Close all loggers."""
        self._each(lambda logger: logger.close())
        self._loggers.clear()

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:
                del self._loggers[name]
                reason = " ".join(str(error).split())
                warnings.warn(
                    f"{name} failed and is disabled: {reason}", RuntimeWarning, stacklevel=2
                )
