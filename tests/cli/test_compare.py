from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from attendet.cli import main
from attendet.comparison import study as comparison

TINY = shlex.split(
    "--width-mult 0.125 --size 64 --batch 4 --epochs 1 --precision 32 "
    "--accelerator cpu --runtimes torch"
)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process, without figures."""
    from attendet.comparison.run_job import run_and_report

    class RunsHere:
        slots = 1

        def run(self, jobs: Any, _: object = None) -> Any:
            for job in jobs:
                events: list[dict[str, Any]] = []
                events.append(run_and_report(job, events.append))
                for event in events:
                    yield job, event

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(comparison, "_open_executor", lambda *_: RunsHere())
    monkeypatch.setattr("attendet.training.trainer.draw_run", lambda *_: None)


def test_the_verdicts_are_printed_with_the_costs(
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [
        "compare",
        str(squares),
        "--attention",
        "none",
        "ca",
        "--sites",
        "p5",
        "up",
        "--attention-init",
        "identity",
        "--seeds",
        "1",
        "--output",
        str(tmp_path / "study"),
        *TINY,
    ]
    monkeypatch.setattr("sys.argv", ["attendet", "--debug", *words])

    assert main() == 0

    printed = capsys.readouterr().out
    assert "study: 3 runs, 0 done already" in printed
    assert "[3/3] ca@up:identity seed 0: val AP" in printed
    for name in ("none", "ca@p5", "ca@up"):
        assert name in printed
    assert "baseline" in printed
    for heading in ("95 % interval", "million MACs", "torch, ms"):
        assert heading in printed
    summary = json.loads((tmp_path / "study" / "study.json").read_text())
    assert summary["command"] == shlex.join(["attendet", *words])
    assert printed.count("Train longer.") == 2  # one epoch teaches nothing


def test_several_data_sets_give_verdicts_over_all_and_a_report(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("cells", "cards")):
        path = shutil.copytree(squares, tmp_path / name)
        (path / "images" / "train" / f"train{number:02}.png").unlink()
        (path / "labels" / "train" / f"train{number:02}.txt").unlink()
    words = ["compare", str(tmp_path / "cells"), str(tmp_path / "cards"), "--seeds", "1", *TINY]

    assert main([*words, "--output", str(tmp_path / "study")]) == 0

    printed = capsys.readouterr().out
    assert "data set 2 of 2, cards" in printed
    # one epoch teaches nothing on either
    assert (
        "ca@p4,p5,up: not enough data sets: fewer than two data sets have a usable result."
        in printed
    )
    assert (tmp_path / "study" / "report.html").is_file()
    for name in ("cells", "cards"):
        assert (tmp_path / "study" / name / "report.html").is_file()
        assert (tmp_path / "study" / name / "runs.jsonl").is_file()


def test_a_failed_run_gives_exit_code_1(
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("no memory is left")

    monkeypatch.setattr("attendet.comparison.run_job.train", breaks)

    code = main(["compare", str(squares), "--seeds", "1", "--output", str(tmp_path / "s"), *TINY])

    assert code == 1
    assert "failed: ca@p4,p5,up seed 0: MemoryError: no memory is left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--attention none cbm", "Did you mean 'cbam'?"),
        ("--sites p6", "site of the network"),
        ("--attention-init zero", "identity"),
        ("--seeds 0", "seeds must be at least 1; got 0 (--seeds)"),
        ("--budget soon", "must be like 45m, 2h or 1h30m; got 'soon'"),
        ("--epochs many", "--epochs"),
        ("--runtimes torch onx", "Did you mean 'onnx'"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    arguments = ["compare", str(squares), "--output", str(tmp_path / "s"), *shlex.split(words)]

    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(str(end.code))

    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("attendet: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_class_map_without_pretrained_weights_is_an_error_before_the_runs(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    words = ["compare", str(squares), "--class-map", "red=rot", "--output", str(output), *TINY]
    assert main(words) == 2
    assert "class_map has no effect without pretrained weights" in capsys.readouterr().err
    assert not output.exists()
