from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attendet.cli import progress
from attendet.data.dataset import DataSet
from attendet.data.sample import Action, Issue


def test_plain_progress_speaks_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_IMAGES_SECONDS", 0.0)
    with progress.speed_bar("predict", 10) as step:
        step(4, None)
        step(10, None)

    said = capsys.readouterr().err
    assert said.startswith("4/10 images, ")
    assert said.count("\n") == 1


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", Terminal())

    with progress.speed_bar("predict", 3) as step:
        step(3, None)

    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "3/3" in shown
    assert "images/s" in shown


def test_a_silent_bar_says_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("composing") as move:
        move(1, 2)

    assert capsys.readouterr() == ("", "")


def _record(epoch: int, **measured: float) -> dict[str, Any]:
    losses = {"box": 1.5, "objectness": 0.25}
    pace = {"images_per_second": 12.34, "memory_mib": 2048}
    return {"epoch": epoch, "losses": losses, **pace, **measured}


def test_epochs_are_plain_lines_off_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=200)
    with progress.training_progress(console) as callback:
        callback.epochs = 2
        callback.images_decoded(1, 4)
        callback.images_decoded(4, 4)
        callback.after_epoch(_record(1))
        callback.after_epoch(_record(2, ap=0.5, ap50=0.75))

    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "decoded 4 training images",
        "epoch 1/2 box 1.500 objectness 0.250 12.3 images/s 2.0 GiB",
        "epoch 2/2 box 1.500 objectness 0.250 12.3 images/s 2.0 GiB AP 0.500 AP50 0.750",
    ]


def test_issues_of_the_data_are_counted_by_what_was_done() -> None:
    actions: list[Action] = ["dropped", "dropped", "kept", "skipped image"]
    issues = tuple(Issue(Path("a.txt"), 1, "broken-label", "", action) for action in actions)
    dataset = DataSet(Path("my cells"), "yolo", ("cat",), {}, issues, (), "")
    assert progress._issues(dataset) == (
        "data: 4 issues in images or labels (boxes dropped: 2, images skipped: 1); see: "
        "attendet data check 'my cells'"
    )


def test_a_terminal_shows_run_and_epoch() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with progress.training_progress(console) as callback:
        callback.epochs = 2
        callback.images_decoded(4, 4)
        callback.after_step(0, 2, 3, {"box": 1.5})

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3/6" in shown
    assert "box 1.500" in shown
