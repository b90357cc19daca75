from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attendet.errors import ConfigError, DataError, MissingExtraError, TrainingError
from attendet.training import train
from attendet.training.loggers import LOGGERS, Logger, Loggers, check_loggers

CONFIG = {"seed": 3, "recipe": {"lr": 0.01, "optimizer": {"name": "sgd"}}}


def _record(epoch: int, box: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "losses": {"box": box}, **more}


def _log_twice(name: str, folder: Path) -> None:
    """Log epochs 1 to 3, then go on after epoch 2 as a resumed run."""
    folder.mkdir()
    first = Loggers([name], folder, CONFIG, None)
    for epoch in (1, 2, 3):
        first.log(_record(epoch, 0.5))
    first.close()
    again = Loggers([name], folder, CONFIG, 2)
    again.log(_record(3, 0.25, ap=0.75))
    again.close()


def test_tensorboard_drops_epochs_that_are_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _log_twice("tensorboard", tmp_path / "run")

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    points = [(point.step, point.value) for point in events.Scalars("losses/box")]
    assert points == [(1, 0.5), (2, 0.5), (3, 0.25)]
    assert [(point.step, point.value) for point in events.Scalars("ap")] == [(3, 0.75)]


def test_csv_has_a_row_an_epoch(tmp_path: Path) -> None:
    _log_twice("csv", tmp_path / "run")

    with (tmp_path / "run" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"epoch": "1", "losses/box": "0.5", "ap": ""},
        {"epoch": "2", "losses/box": "0.5", "ap": ""},
        {"epoch": "3", "losses/box": "0.25", "ap": "0.75"},
    ]


def test_wandb_writes_offline_and_goes_on_under_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: list[tuple[str, int, float]] = []
    log = wandb.Run.log

    def watch(run: Any, values: dict[str, float], step: int) -> None:
        logged.append((run.id, step, values["losses/box"]))
        log(run, values, step=step)

    monkeypatch.setattr(wandb.Run, "log", watch)

    _log_twice("wandb", tmp_path / "run")

    run_id = json.loads((tmp_path / "run" / "loggers.json").read_text())["wandb"]
    assert logged == [
        (run_id, step, value) for step, value in ((1, 0.5), (2, 0.5), (3, 0.5), (3, 0.25))
    ]
    files = list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert {path.stem for path in files} == {f"run-{run_id}"}
    content = b"".join(path.read_bytes() for path in files)
    assert content.count(b"losses/box") >= 4
    assert b"optimizer" in content  # the configuration


def test_mlflow_logs_metrics_and_settings_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    _log_twice("mlflow", tmp_path / "run")

    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("attendet").experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        **{"seed": "3", "recipe.lr": "0.01", "recipe.optimizer.name": "sgd"},
    }
    points = client.get_metric_history(run.info.run_id, "losses/box")
    assert [(point.step, point.value) for point in points] == [
        *((1, 0.5), (2, 0.5), (3, 0.5), (3, 0.25)),
    ]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_an_error_with_its_extra(name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")

    with pytest.raises(MissingExtraError, match=rf"--log {name} .*'attendet\[{name}\]'"):
        check_loggers(["csv", name])


def test_an_unknown_logger_is_an_error_with_a_proposal() -> None:
    with pytest.raises(ConfigError, match=r"got 'tensorbord' \(--log\).*'tensorboard'"):
        check_loggers(["tensorbord"])


class _Failing(Logger):
    def log(self, record: Any) -> None:
        raise OSError("the server is away")


def test_a_logger_that_fails_later_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGERS, "failing", _Failing)
    loggers = Loggers(["failing", "csv"], tmp_path, CONFIG, None)

    with pytest.warns(RuntimeWarning, match="failing failed and is disabled: the server is away"):
        loggers.log(_record(1, 0.5))
    loggers.log(_record(2, 0.5))

    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3


def test_a_logger_that_cannot_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any) -> Logger:
        raise RuntimeError("no API key\nconfigured.")

    starting: dict[str, Callable[..., Logger]] = {"wandb": start}
    monkeypatch.setattr("attendet.training.loggers.LOGGERS", starting)

    with pytest.raises(TrainingError, match=r"wandb cannot start: no API key configured \(--lo"):
        Loggers(["wandb"], tmp_path, CONFIG, None)


def test_one_logger_may_be_given_as_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):  # and not: log must be a known name, got 'c'
        train(tmp_path / "nowhere", log="csv")
