from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from attendet.cli import main
from attendet.cli.progress import TrainingBars, TrainingLines, training_progress
from attendet.training.recipe import Recipe
from attendet.training.trainer import train

TINY = [
    "--width-mult",
    "0.125",
    "--size=64",
    "--batch",
    "4",
    "--precision=32",
    "--evaluate-every",
    "1",
]
SETTINGS: dict[str, Any] = {
    "width_mult": 0.125,
    "size": 64,
    "batch": 4,
    "precision": "32",
    "evaluate_every": 1,
    "epochs": 2,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread and no figures."""
    monkeypatch.setattr("attendet.training.trainer.draw_run", lambda *_: None)
    torch.set_num_threads(1)


@pytest.fixture
def run(squares: Path, tmp_path: Path) -> Callable[..., int]:
    """Train on the squares into a folder."""

    def call(*words: str) -> int:
        where = ["--output", str(tmp_path / "run"), "--accelerator", "cpu"]
        return main(["train", str(squares), *TINY, *where, *words])

    return call


def test_progress_without_a_terminal_is_plain_lines(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--epochs", "2", "--attention", "se@p5") == 0

    said = capsys.readouterr().out
    assert "\x1b" not in said
    expected = [
        r"decoded 10 training images",
        r"data: .*squares \(yolo; train 10, val 4; .*\)",
        r"network: yolov4-tiny, attention se@p5, input 64 x 64 px",
        r"anchors: .*",
        r"note: with 10 training images, pretrained weights usually .*: --pretrained yolo-\S+",
        r"note: 100 % of the objects are small \(.*\); .*: --levels 3",
        rf"run: {re.escape(str(tmp_path / 'run'))}",
        r"epoch 1/2 box \d+\.\d+ objectness .* class .* images/s .* GiB AP 0\.\d+ AP50 0\.\d+",
        r"epoch 2/2 .*",
        r"2 epochs in .*; best val AP 0\.\d+",
        rf"weights: {re.escape(str(tmp_path / 'run/best.safetensors'))}",
    ]
    steps = r"epoch \d step .*"  # on a slow machine, now and then
    lines = [line for line in said.splitlines() if not re.fullmatch(steps, line)]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_three_levels_need_no_advice(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--epochs", "1", "--levels", "3") == 0
    assert "are small" not in capsys.readouterr().out


def test_base_weights_are_reported(
    run: Callable[..., int], tmp_path: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = train(squares, output=tmp_path / "base", accelerator="cpu", **SETTINGS | {"epochs": 1})
    one_class = tmp_path / "one"
    _copy_with_names(squares, one_class, "[square]")

    assert run("--epochs=1", "--pretrained", str(base.last)) == 0
    same = capsys.readouterr().out
    words = ["--epochs=1", *TINY, "--accelerator=cpu", "--output", str(tmp_path / "other")]
    assert main(["train", str(one_class), *words, "--pretrained", str(base.last)]) == 0
    other = capsys.readouterr().out

    count = re.search(
        r"^pretrained weights: 100 % copied \((\d+) of (\d+) tensors\)$", same, re.MULTILINE
    )
    assert count is not None
    assert count[1] == count[2]
    assert "note: " not in same
    assert f"({int(count[1]) - 4} of {count[1]} tensors); partly copied: " in other
    assert "out_p5.weight: rows of boxes and objectness; those of square are" in other


def _copy_with_names(source: Path, target: Path, names: str) -> None:
    import shutil

    shutil.copytree(source, target)
    for label in (target / "labels").rglob("*.txt"):
        lines = ["0" + line[1:] for line in label.read_text().splitlines(keepends=True)]
        label.write_text("".join(lines))
    (target / "data.yaml").write_text(
        f"train: images/train\nval: images/val\nnames: {names}\n", encoding="utf-8"
    )


def test_every_setting_is_a_flag_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # argparse also breaks lines at hyphens
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])

    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, value in Recipe().as_dict().items():
        default = "none" if value is None else value
        if value is False:  # a flag without a value
            assert re.search(rf"--{name.replace('_', '-')} [a-z]", text), name
            continue
        flag = rf"--{name.replace('_', '-')} (X|N|\{{[\w,-]+\}}|DATA=WEIGHTS,\.\.\.)"
        assert re.search(rf"{flag} [^(]*(\([^d][^)]*\)[^(]*)*\(default: {default}\)", text), flag


def test_flags_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class PlanMade(Exception):  # noqa: N818
        pass

    def spy(data: str, **words: Any) -> None:
        given.update(words, data=data)
        raise PlanMade

    monkeypatch.setattr("attendet.training.train", spy)
    line = "train cells --recipe classic --attention cbam --seed 4 --output out --format voc"
    line += " --pretrained base.safetensors --devices 2 --nodes 3 --lr 1e-3 --patience none"
    line += " --accelerator cpu --schedule cosine --epochs=9 --attention-init identity"
    line += " --checkpoint-seconds 5"
    with pytest.raises(PlanMade):
        main(line.split())

    del given["callback"]
    assert given == {
        "data": "cells",
        "recipe": "classic",
        "attention": "cbam",
        "log": ("tensorboard",),
        "seed": 4,
        "resume": None,
        "output": Path("out"),
        "format": "voc",
        "pretrained": Path("base.safetensors"),
        "devices": 2,
        "nodes": 3,
        "accelerator": "cpu",
        "checkpoint_seconds": 5.0,
        "attention_init": "identity",
        "lr": 0.001,
        "patience": None,
        "schedule": "cosine",
        "epochs": 9,
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["DATA", "--epochs", "many"], 2, "--epochs must be a whole number; got 'many'"),
        (["DATA", "--epochs", "0"], 2, "epochs must be at least 1; got 0 (--epochs)."),
        (["DATA", "--clip-norm=-1"], 2, "clip_norm must be at least 0; got -1.0 (--clip-norm)."),
        (["DATA", "--mosaic", "half"], 2, "--mosaic must be a number"),
        (
            ["DATA", "--attention-init", "none"],
            2,
            "--attention-init must be one of auto, paper, ",
        ),
        (["DATA", "--optimizer", "lion"], 2, "--optimizer must be one of muon, adamw, sgd"),
        (["DATA", "--size", "100"], 2, "at least 64; got 100 (--size). Nearest: 96."),
        (["DATA", "--attention", "cax"], 2, "Did you mean 'ca'?"),
        (["DATA", "--recipe", "defualt"], 2, "Did you mean 'default'?"),
        (["DATA", "--seed", "-1"], 2, "seed must be from 0"),
        (["DATA", "--devices", "3"], 2, "multiple of 3, the number of processes"),
        ([], 2, "data must be given"),
        (["gone"], 3, "not found (gone)"),
        (["DATA", "--pretrained", "gone.safetensors"], 4, "gone.safetensors"),
        (["--resume", "gone"], 6, "must be the folder of a run; got 'gone'"),
        (["DATA", "--resume", "run"], 6, "must be the folder of a run; got 'run'"),
        (["DATA", "--seed", str(2**64)], 2, "seed must be from 0 to 9223372036854775807"),
        (["DATA", "--momentum", "0.5"], 2, "momentum has no effect with optimizer muon"),
        (["DATA", "--ignore-iou", "0.5"], 2, "ignore_iou has no effect with assignment dynamic"),
        (
            ["DATA", "--effective-batch", "5"],
            2,
            "effective_batch must be 0, or at least batch (16)",
        ),
        (["DATA", "--seed", "x"], 2, "--seed must be a whole number; got 'x'"),
        (["DATA", "--format", "pascal"], 2, "--format must be one of voc, yolo, coco"),
        (
            ["--resume", "run", "--seed=1", "--lr=1"],
            2,
            "must be the only setting; got --seed, --lr too",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_no_folder(
    words: list[str],
    code: int,
    message: str,
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(squares) if word == "DATA" else word for word in words]

    assert main(["train", *words, "--accelerator", "cpu"]) == code

    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("attendet: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "3"], "unknown flag '--epoch'. Did you mean '--epochs'?"),
        (["--lr"], "expected one argument. See: attendet train --help"),
        (["other"], "unexpected argument 'other'"),
    ],
)
def test_a_wrong_flag_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "cells", *words])

    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_absurd_rate_ends_with_one_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--lr", "1e30", "--epochs=2") == 6

    error = capsys.readouterr().err
    assert "must be finite" in error
    assert error.count("\n") == 1


def test_a_resumed_run_lets_no_flag_be_lost() -> None:
    import argparse

    from attendet.cli.train import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = vars(parser.parse_args([]))

    parameters = inspect.signature(train).parameters
    flags = set(args) - set(Recipe().as_dict())
    without_flag = {"loaded", "until_epoch", "fingerprints", "figures", "callback", "overrides"}
    assert flags == parameters.keys() - without_flag
    assert {name: args[name] for name in flags} == {
        name: parameters[name].default for name in flags
    }


def test_bars_show_a_run_on_a_terminal(squares: Path, tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    reporter = training_progress(console)
    assert isinstance(reporter, TrainingBars)

    with reporter:
        train(squares, output=tmp_path / "run", accelerator="cpu", callback=reporter, **SETTINGS)

    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "network: yolov4-tiny" in shown
    assert "6/6" in shown
    assert re.search(r"epoch 2/2 box .* images/s .* GiB AP", shown)
    assert screen.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in screen.getvalue()


def test_bars_draw_nothing_without_progress() -> None:
    screen = io.StringIO()

    with TrainingBars(Console(file=screen, force_terminal=True)):
        pass

    assert "\x1b[?25l" not in screen.getvalue()


def _record(**values: Any) -> dict[str, Any]:
    return {
        "epoch": 1,
        "losses": {"box": 0.5},
        "images_per_second": 9.87,
        "memory_mib": 2048,
        **values,
    }


def test_an_ap_of_zero_is_shown_and_none_is_not() -> None:
    screen = io.StringIO()
    lines = TrainingLines(Console(file=screen, width=200))
    lines.epochs = 3

    lines.after_epoch(_record(ap=0.0, ap50=0.0))
    lines.after_epoch(_record(ap=None, ap50=None))
    lines.after_epoch(_record())

    first, *others = screen.getvalue().splitlines()
    assert first == "epoch 1/3 box 0.500 9.9 images/s 2.0 GiB AP 0.000 AP50 0.000"
    assert others == ["epoch 1/3 box 0.500 9.9 images/s 2.0 GiB"] * 2


def test_brackets_in_a_path_are_shown_as_they_are() -> None:
    screen = io.StringIO()

    TrainingLines(Console(file=screen, width=200)).say("run: /data/[bold]cells[1]")

    assert screen.getvalue() == "run: /data/[bold]cells[1]\n"
