"""Progress display: bars on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from attendet.training.callback import TrainingCallback

if TYPE_CHECKING:
    from attendet.data.dataset import DataSet
    from attendet.training.plan import Plan

PLAIN_IMAGES_SECONDS = 5.0
"""Seconds between two lines on the progress in images, without a terminal."""

PLAIN_STEP_SECONDS = 15.0
"""Seconds between two lines on training steps, without a terminal."""

FEW_IMAGES = 150
"""With fewer training images, pretrained weights are recommended: docs/pretrained.md. They gain
9 AP points with 97 images, and about nothing with 200 to 252."""

MANY_SMALL = 0.5
"""With a larger fraction of small objects, a third level is recommended: docs/decisions/0016."""

ProgressFn = Callable[[int, int | None], None]


@contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[ProgressFn]:
    """Yield a function of (done, total) that updates a bar on stderr, if stderr is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


@contextmanager
def speed_bar(label: str, total: int | None, unit: str = "images") -> Iterator[ProgressFn]:
    """Yield a function of (done, total) that shows progress and speed: a bar, or plain lines.

    Args:
        label: text before the bar.
        total: number of items; None if unknown.
        unit: name of the items.
    """
    started = time.perf_counter()
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_speed(total, unit, started)
        return
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} " + f"{unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, rate=0.0)

        def move(done: int, of: int | None) -> None:
            rate = done / max(time.perf_counter() - started, 1e-9)
            bar.update(task, completed=done, total=of or total, rate=rate)

        yield move


def _plain_speed(total: int | None, unit: str, started: float) -> ProgressFn:
    last = started

    def move(done: int, of: int | None) -> None:
        nonlocal last
        now = time.perf_counter()
        whole = of or total
        if now - last >= PLAIN_IMAGES_SECONDS and (whole is None or done < whole):
            last = now
            rate = done / max(now - started, 1e-9)
            count = f"{done}/{whole}" if whole else str(done)
            print(f"{count} {unit}, {rate:.1f} {unit}/s", file=sys.stderr)

    return move


def duration(seconds: float) -> str:
    """Return a readable duration.

    Example:
        >>> duration(75), duration(5.2)
        ('1 min 15 s', '5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _losses(terms: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in terms.items())


def training_progress(console: Console) -> TrainingLines:
    """Return the progress display of a training run: bars on a terminal, else plain lines."""
    return TrainingBars(console) if console.is_terminal else TrainingLines(console)


def _issues(dataset: DataSet) -> str:
    actions = Counter(issue.action for issue in dataset.issues)
    return (
        f"data: {len(dataset.issues)} issues in images or labels (boxes dropped: "
        f"{actions['dropped']}, images skipped: {actions['skipped image']}); see: "
        f"attendet data check {shlex.quote(str(dataset.root))}"
    )


class TrainingLines(TrainingCallback):
    """Training progress as plain lines, for files and pipes."""

    is_first = False
    """True in the process that prints the progress: the first of several."""

    advises = False
    """Whether to recommend what usually gives a higher AP: pretrained weights, a third level."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.epochs = 0
        self.last = time.monotonic()

    def __enter__(self) -> TrainingLines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def say(self, text: str) -> None:
        """Print a line immediately."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        sys.stdout.flush()

    def images_decoded(self, done: int, total: int) -> None:
        """Print a line when all images are decoded."""
        if done == total:
            self.say(f"decoded {total} training images")

    def before_train(self, plan: Plan, folder: str) -> None:
        """Print the data, network, anchors and folder of the run."""
        self.is_first = True
        self.epochs = plan.recipe.epochs
        counts = ", ".join(f"{name} {len(part)}" for name, part in plan.dataset.splits.items())
        self.say(
            f"data: {plan.dataset.root} ({plan.dataset.format}; {counts}; "
            f"{plan.dataset.split_source})"
        )
        if plan.dataset.issues:
            self.say(_issues(plan.dataset))
        height, width = plan.input_hw
        name, attention = plan.metadata.architecture, plan.metadata.attention
        self.say(f"network: {name}, attention {attention}, input {width} x {height} px")
        anchors = plan.anchors
        of_base = plan.recipe.anchors == "base" or plan.metadata.graph
        kept = "from the pretrained weights" if of_base else "defaults"
        own = "computed from the data" if anchors.from_data else kept
        overlaps = (
            f" (mean best IoU {anchors.default_overlap:.3f} with the defaults, "
            f"{anchors.data_overlap:.3f} with anchors from the data)"
        )
        self.say(f"anchors: {own}{'' if math.isnan(anchors.data_overlap) else overlaps}")
        if plan.transfer is not None:
            self.say(plan.transfer.summary())
            unlike = "; ".join(plan.differing_from_pretrained)
            self.say(
                f"differs from the pretrained weights: {unlike}"
                if unlike
                else "input, anchors, scale_x_y and batch norm: as in the pretrained weights"
            )
        images = len(plan.cache)
        if self.advises and plan.from_scratch and images < FEW_IMAGES:
            self.say(
                f"note: with {images} training images, pretrained weights usually give a higher "
                "AP: --pretrained yolo-fastest-xl"
            )
        may_have_more = self.advises and plan.from_scratch and plan.recipe.levels == 2
        if may_have_more and plan.small_fraction > MANY_SMALL:
            percent = f"{100 * plan.small_fraction:.0f} %"
            self.say(
                f"note: {percent} of the objects are small (below 32 x 32 px in the "
                "network input); a level of stride 8 usually finds more of them: --levels 3"
            )
        self.say(f"run: {folder}")

    def after_step(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """Print a line every `PLAIN_STEP_SECONDS`."""
        if time.monotonic() - self.last > PLAIN_STEP_SECONDS:
            self.last = time.monotonic()
            self.say(f"epoch {epoch + 1} step {step + 1}/{steps} {_losses(terms)}")

    def after_epoch(self, record: dict[str, Any]) -> None:
        """Print a line per epoch."""
        self.last = time.monotonic()
        measured = record.get("ap") is not None
        ap = f" AP {record['ap']:.3f} AP50 {record['ap50']:.3f}" if measured else ""
        if record["epoch"] == 0:
            self.say(f"before training:{ap or ' AP not measured (no boxes in val)'}")
            return
        self.say(
            f"epoch {record['epoch']}/{self.epochs} {_losses(record['losses'])}"
            f" {record['images_per_second']:.1f} images/s"
            f" {record['memory_mib'] / 1024:.1f} GiB{ap}"
        )

    def images_evaluated(self, done: int, total: int) -> None:
        """Print nothing."""


class TrainingBars(TrainingLines):
    """Training progress as bars on a terminal, with loss terms and time left."""

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

    def __enter__(self) -> TrainingBars:
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def _bar(self, name: str, done: float, total: int, note: str = "") -> None:
        self.bars.start()  # not earlier: only the first of several processes shows bars
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total, note="")
        self.bars.update(self.tasks[name], completed=done, total=total, note=note)

    def images_decoded(self, done: int, total: int) -> None:
        """Update the bar of decoded images."""
        self._bar("decode", done, total)

    def after_step(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """Update the bars of the epoch and of the run."""
        if "decode" in self.tasks:
            self.bars.remove_task(self.tasks.pop("decode"))
        self._bar("run", epoch * steps + step + 1, self.epochs * steps)
        self._bar("epoch", step + 1, steps, _losses(terms))

    def images_evaluated(self, done: int, total: int) -> None:
        """Show the evaluated images in the bar of the epoch."""
        self._bar("epoch", done, total, "evaluating")
