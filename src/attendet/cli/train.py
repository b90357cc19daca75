"""Train a detector on your pictures.

DATA is a folder in Pascal VOC, YOLO or COCO form, a YOLO data.yaml or a COCO .json. The folder of
the run holds the weights (best.safetensors), a record an epoch, TensorBoard events and pictures.
Every setting of the recipe is a flag; the flag wins over --recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from attendet.config import field_help, parse_value
from attendet.errors import ConfigError
from attendet.training.recipe import Recipe, recipe_names

if TYPE_CHECKING:
    from attendet.training.plan import Plan

PLAIN_STEP_SECONDS = 15.0


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command: its own, and one for each setting of the recipe."""
    add = parser.add_argument
    add("data", nargs="?", metavar="DATA", help="data set; not needed with --resume")
    add("--attention", default="ca", metavar="SPEC",
        help="none, se, cbam, eca or ca, at sites if wanted: ca@p5, se@p5+ca@up "
        "(default: %(default)s)")  # fmt: skip
    add("--recipe", default="default", metavar="NAME|FILE",
        help=f"{', '.join(recipe_names())} or a .yaml file (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/train)")
    add("--pretrained", type=Path, metavar="FILE", help="weights file to start from")
    add("--resume", type=Path, metavar="DIR", help="folder of an interrupted run to go on with")
    add("--format", choices=["voc", "yolo", "coco"], help="of DATA (default: recognised)")
    add("--accelerator", default="auto", choices=["auto", "cpu", "cuda", "mps"],
        help="kind of device (default: %(default)s)")  # fmt: skip
    add("--devices", type=int, default=1, metavar="N",
        help="processes on this machine, one a device (default: %(default)s)")  # fmt: skip
    add("--nodes", type=int, default=1, metavar="N",
        help="machines; start each by torchrun (default: %(default)s)")  # fmt: skip
    group = parser.add_argument_group("recipe (defaults are those of the default recipe)")
    texts = field_help(Recipe)
    for field in dataclasses.fields(Recipe):
        default = "none" if field.default is None else field.default
        text = texts[field.name].replace("%", "%%")
        group.add_argument(_flag(field.name), metavar="V", help=f"{text} (default: {default})")


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    hints = typing.get_type_hints(Recipe)
    return {
        field.name: parse_value(text, hints[field.name], name=_flag(field.name))
        for field in dataclasses.fields(Recipe)
        if (text := getattr(args, field.name)) is not None
    }


def run(args: argparse.Namespace) -> int:
    """Train, show the progress, and say where the weights are."""
    from attendet.training import train

    overrides = _overrides(args)
    if args.resume is not None and (overrides or args.data or args.pretrained):
        raise ConfigError(
            "--resume takes all settings from the run's folder; leave out the data and others."
        )
    console = Console()
    reporter = _Bars(console) if console.is_terminal else _Lines(console)
    with reporter:
        result = train(
            args.data,
            attention=args.attention,
            recipe=args.recipe,
            seed=args.seed,
            output=args.output,
            pretrained=args.pretrained,
            resume=args.resume,
            format=args.format,
            accelerator=args.accelerator,
            devices=args.devices,
            nodes=args.nodes,
            reporter=reporter,
            **overrides,
        )
    if not reporter.is_first:
        return 0
    ap = "not measured (no val split)" if result.ap is None else f"{result.ap:.3f}"
    console.print(f"{result.epochs} epochs in {_duration(result.seconds)}; best val AP {ap}")
    console.print(f"weights: {result.best}", soft_wrap=True, highlight=False)
    return 0


def _duration(seconds: float) -> str:
    """Return seconds as a person would say them.

    Example:
        >>> _duration(75), _duration(5.2)
        ('1 min 15 s', '5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _losses(terms: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in terms.items())


class _Lines:
    """Plain lines, for files and pipes; also tells what the bars show above themselves."""

    is_first = False
    """Whether this process is told of the run (of several, only the first is)."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.epochs = 0
        self.last = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)
        sys.stdout.flush()

    def decoded(self, done: int, total: int) -> None:
        """Say nothing until all are decoded."""
        if done == total:
            self.say(f"decoded {total} training pictures")

    def planned(self, plan: Plan, folder: str) -> None:
        """Say what is about to be trained."""
        self.is_first = True
        self.epochs = plan.recipe.epochs
        counts = ", ".join(f"{name} {len(part)}" for name, part in plan.dataset.splits.items())
        self.say(f"data: {plan.dataset.root} ({plan.dataset.format}; {counts}; "
                 f"{plan.dataset.split_source})")  # fmt: skip
        if plan.dataset.faults:
            self.say(f"data: {len(plan.dataset.faults)} faults in the labels; see: "
                     f"attendet data check {plan.dataset.root}")  # fmt: skip
        height, width = plan.canvas_hw
        self.say(f"network: yolov4-tiny, attention {plan.metadata.attention}, input "
                 f"{width} x {height} px")  # fmt: skip
        anchors = plan.anchors
        own = "the data's own" if anchors.from_data else "the defaults"
        self.say(f"anchors: {own} (mean best overlap {anchors.default_overlap:.3f} "
                 f"of the defaults, {anchors.data_overlap:.3f} of the data's)")  # fmt: skip
        if plan.transfer is not None:
            self.say(plan.transfer.in_words())
        self.say(f"run: {folder}")

    def stepped(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """Say a line now and then."""
        if time.monotonic() - self.last > PLAIN_STEP_SECONDS:
            self.last = time.monotonic()
            self.say(f"epoch {epoch + 1} step {step + 1}/{steps} {_losses(terms)}")

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """Say a line for each epoch."""
        self.last = time.monotonic()
        ap = f" AP {record['ap']:.3f} AP50 {record['ap50']:.3f}" if record.get("ap") else ""
        self.say(
            f"epoch {record['epoch']}/{self.epochs} {_losses(record['losses'])}"
            f" {record['pictures_per_second']:.1f} pictures/s"
            f" {record['memory_mib'] / 1024:.1f} GiB{ap}"
        )

    def evaluated(self, done: int, total: int) -> None:
        """Say nothing."""


class _Bars(_Lines):
    """Bars on a terminal, with loss terms, pace, memory and time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def _bar(self, name: str, done: float, total: int, note: str = "") -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total, note="")
        self.bars.update(self.tasks[name], completed=done, total=total, note=note)

    def decoded(self, done: int, total: int) -> None:
        """Draw the pictures decoded."""
        self._bar("decode", done, total)

    def stepped(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """Draw the step, and the run as a whole."""
        if "decode" in self.tasks:
            self.bars.remove_task(self.tasks.pop("decode"))
        self._bar("run", epoch * steps + step + 1, self.epochs * steps)
        self._bar("epoch", step + 1, steps, _losses(terms))

    def evaluated(self, done: int, total: int) -> None:
        """Draw the pictures evaluated."""
        self._bar("epoch", done, total, "evaluating")
