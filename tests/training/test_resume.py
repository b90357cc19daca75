from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from attendet.cli import main
from attendet.data import load_dataset
from attendet.errors import ConfigError, TrainingError
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import read_state
from attendet.training.trainer import TrainingResult, train

Quick = Callable[..., TrainingResult]
Same = Callable[[Path, Path], bool]


class _StoppedError(Exception):
    pass


def _stopping(epoch: int, step: int) -> TrainingCallback:
    """Break off in an epoch, counting from 0."""

    class Stopper(TrainingCallback):
        def after_step(self, now: int, at: int, steps: int, terms: dict[str, float]) -> None:
            if (now, at) == (epoch, step):
                raise _StoppedError

    return Stopper()


@pytest.fixture
def broken_off(quick: Quick, tmp_path: Path) -> Callable[..., Path]:
    """Start a run and break it off in its third epoch; the folder."""

    def start(epoch: int = 2, step: int = 1, **changes: Any) -> Path:
        folder = tmp_path / "broken-off"
        with pytest.raises(_StoppedError):
            quick(epochs=4, output=folder, callback=_stopping(epoch, step), **changes)
        return folder

    return start


def _kill_in_an_epoch(command: list[str], folder: Path, epochs_before: int) -> None:
    """Start a process of its own, and kill it once so many epochs are done."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = folder.with_suffix(".log")
    with log.open("w") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    results = folder / "results.jsonl"
    deadline = time.monotonic() + 300
    try:
        while not results.exists() or results.read_text().count("\n") < epochs_before:
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
def test_a_killed_process_goes_on_to_the_same_weights(
    squares: Path,
    tmp_path: Path,
    quick: Quick,
    same: Same,
    tiny: dict[str, Any],
    checkpoint_seconds: float,
) -> None:
    settings = {**tiny, "epochs": 12, "mixup": 0.5}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "attendet", "train", str(squares), "--seed", "3"]
    command += ["--accelerator", "cpu", "--output", str(folder), *flags]
    command += ["--checkpoint-seconds", str(checkpoint_seconds)]
    _kill_in_an_epoch(command, folder, 2)
    assert 2 <= len((folder / "results.jsonl").read_text().splitlines()) < 12
    if checkpoint_seconds:  # the state is that before the first epoch
        assert read_state(folder / "resume.pt")["epoch"] == 0

    assert main(["train", "--resume", str(folder)]) == 0
    uninterrupted = quick(seed=3, **settings)

    assert same(folder / "last.safetensors", uninterrupted.last)
    assert same(folder / "best.safetensors", uninterrupted.best)
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 13))
    for record, other in zip(records, uninterrupted.records, strict=True):
        assert record["losses"] == other["losses"]
        assert record["ap"] == other["ap"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_setting_comes_from_the_folder(
    broken_off: Callable[..., Path], quick: Quick, same: Same, optimizer: str
) -> None:
    changes = {"optimizer": optimizer, "freeze_backbone_epochs": 3, "effective_batch": 8}
    changes |= {"attention": "se@p5", "seed": 7, "multi_scale": 0.5, "size": 96}
    folder = broken_off(**changes)

    resumed = train(resume=folder)

    assert same(resumed.last, quick(epochs=4, **changes).last)
    assert [record["epoch"] for record in resumed.records] == [1, 2, 3, 4]


def test_a_run_that_ended_within_its_first_epoch_can_go_on(
    broken_off: Callable[..., Path], quick: Quick, same: Same
) -> None:
    folder = broken_off(epoch=0, step=1)

    resumed = train(resume=folder)

    assert same(resumed.last, quick(epochs=4).last)
    assert len(resumed.records) == 4


@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_base_weights_are_not_needed_again(
    broken_off: Callable[..., Path], quick: Quick, same: Same, tmp_path: Path, batch_norm: str
) -> None:
    base = shutil.copy(quick(epochs=1, seed=9).last, tmp_path / "base.safetensors")
    through = quick(epochs=4, pretrained=base, batch_norm=batch_norm)
    folder = broken_off(pretrained=base, batch_norm=batch_norm)
    Path(base).unlink()

    assert same(train(resume=folder).last, through.last)


def test_data_may_have_moved_or_been_chosen_by_hand(
    broken_off: Callable[..., Path], quick: Quick, same: Same, squares: Path, tmp_path: Path
) -> None:
    shutil.copytree(squares, tmp_path / "moved")
    mine = load_dataset(squares, seed=5)
    mine = dataclasses.replace(mine, splits={**mine.splits, "train": mine.splits["train"][1:]})
    folder = broken_off(data=mine)

    with pytest.raises(
        TrainingError, match="data must be the same as at the start of the run; changed: train"
    ):
        train(resume=folder)
    resumed = train(mine, resume=folder)

    assert same(resumed.last, quick(mine, epochs=4).last)
    elsewhere = train(tmp_path / "moved", resume=quick(epochs=2).folder)
    assert elsewhere.epochs == 2


def test_a_run_stops_at_until_epoch_and_resumes(quick: Quick, same: Same, tmp_path: Path) -> None:
    first = quick(epochs=4, until_epoch=2, output=tmp_path / "stopped")

    assert first.epochs == 2
    assert same(train(resume=first.folder).last, quick(epochs=4).last)
    with pytest.raises(ConfigError, match="until_epoch must be at least 1; got 0"):
        quick(until_epoch=0)
    with pytest.raises(ConfigError, match=r"checkpoint_seconds must be at least 0; got -1"):
        quick(checkpoint_seconds=-1)


def test_a_learning_rate_edited_in_the_config_takes_effect(quick: Quick, tmp_path: Path) -> None:
    folder = quick(epochs=2, until_epoch=1, lr=0.001, output=tmp_path / "stopped").folder
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("  lr: 0.001", "  lr: 0.002"))
    train(resume=folder)

    other = quick(epochs=2, lr=0.002, output=tmp_path / "other").folder
    edited, expected = (
        json.loads((each / "results.jsonl").read_text().splitlines()[-1])["learning_rate"]
        for each in (folder, other)
    )
    assert edited == expected


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"epochs": 200}, "--epochs"),
        ({"seed": 1, "lr": 0.1, "muon_lr": 0.1}, "--seed, --lr, --muon-lr"),
        ({"attention": "none", "recipe": "classic"}, "--attention, --recipe"),
        ({"output": "run", "pretrained": "base"}, "--output, --pretrained"),
        ({"format": "voc", "devices": 2, "nodes": 2, "log": ()}, "--format, --devices, --nodes"),
    ],
)
def test_a_resumed_run_refuses_other_settings(changes: dict[str, Any], flags: str) -> None:
    with pytest.raises(ConfigError, match=f"must be the only setting; got {flags}"):
        train(resume="run", **changes)


def test_every_argument_is_used_or_refused_by_a_resumed_run() -> None:
    used = {"data", "resume", "loaded", "accelerator", "until_epoch", "checkpoint_seconds"}
    used |= {"fingerprints", "figures", "callback", "overrides"}
    for name in inspect.signature(train).parameters.keys() - used:
        with pytest.raises(ConfigError, match=f"must be the only setting; got --{name} too"):
            train(resume="run", **{name: "other"})


def test_a_resumed_run_checks_the_fingerprints_that_were_asked_for(quick: Quick) -> None:
    folder = quick(epochs=1).folder

    with pytest.raises(TrainingError, match=r"data must be the same .* changed: val"):
        train(resume=folder, fingerprints={"val": "0" * 16})


def test_a_finished_run_has_nothing_left_to_do(quick: Quick, same: Same, tmp_path: Path) -> None:
    first = quick()
    shutil.copy(first.last, tmp_path / "before.safetensors")

    again = train(resume=first.folder)

    assert (again.epochs, again.ap, again.records) == (2, first.ap, first.records)
    assert same(again.last, tmp_path / "before.safetensors")


def test_early_stopping_is_remembered(
    broken_off: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")
    never = lambda *_, **__: dict.fromkeys(names, 0.25)  # noqa: E731
    monkeypatch.setattr("attendet.training.trainer.validate", never)
    folder = broken_off(epoch=1, patience=2)

    assert train(resume=folder).epochs == 3


def test_other_data_are_refused(quick: Quick, squares: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(squares, data)
    folder = quick(data=data).folder
    label = next((data / "labels/train").iterdir())
    label.write_text("0 0.5 0.5 0.25 0.25\n")

    with pytest.raises(TrainingError, match=r"at the start of the run; changed: train"):
        train(resume=folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "must be the folder of a run"),
        (lambda folder: (folder / "config.yaml").unlink(), "must be the folder of a run"),
        (lambda folder: (folder / "resume.pt").unlink(), "nothing to resume"),
        (lambda folder: (folder / "resume.pt").write_bytes(b"PK\x03\x04 and so on"), "damaged"),
        (lambda folder: (folder / "config.yaml").write_text("epochs: 3\n"), "lacks data"),
    ],
)
def test_what_cannot_go_on_is_said_in_one_line(
    quick: Quick, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], words: str
) -> None:
    folder = quick(epochs=1).folder
    spoil(folder)

    code = main(["train", "--resume", str(folder)])

    said = capsys.readouterr()
    assert (code, said.out) == (6, "")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_settings_of_another_version_are_named(quick: Quick) -> None:
    folder = quick(epochs=1).folder
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["recipe"]["epoch"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    with pytest.raises(TrainingError, match=r"unknown setting 'epoch'.*config\.yaml"):
        train(resume=folder)
