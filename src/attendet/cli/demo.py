"""The main job on the built-in sample set, offline, in minutes.

Puts handwritten digits on photographs, trains a detector on them from scratch, measures it on
pictures that share no digit and no pixel with those of training, and writes a page to open:
OUTPUT/report.html, with detections beside the truth and the attention's gates beside pictures.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from attendet.cli.progress import duration, progress_bar, training_reporter
from attendet.data.digits import DEFAULT_COUNTS
from attendet.training.recipe import load_recipe

RECIPE = "digits"
CHANGES = ("epochs", "size", "width")
"""Settings of the recipe that are flags here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    recipe = load_recipe(RECIPE)
    add("--output", type=Path, default=Path("demo"), metavar="DIR",
        help="folder for all that is made (default: %(default)s)")  # fmt: skip
    add("--attention", default="ca", metavar="SPEC",
        help="none, se, cbam, eca or ca, at sites if wanted: ca@p5, se@p5+ca@up "
        "(default: %(default)s)")  # fmt: skip
    add("--epochs", type=int, metavar="N",
        help=f"passes over the training pictures (default: {recipe.epochs})")  # fmt: skip
    add("--size", type=int, metavar="PX",
        help="long side of the network's input in pixels, a multiple of 32 "
        f"(default: {recipe.size})")  # fmt: skip
    add("--width", type=float, metavar="SHARE",
        help=f"multiplier of all channels (default: {recipe.width:g})")  # fmt: skip
    add("--pictures", type=int, default=DEFAULT_COUNTS["train"], metavar="N",
        help="to train on; those to validate and test on go with them "
        "(default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.cli.demo_page import DemoRun, write_page
    from attendet.data import load_dataset
    from attendet.data.digits import make_digits
    from attendet.evaluation import evaluate
    from attendet.inference import load
    from attendet.training import train
    from attendet.training.run_folder import free_folder

    begun = time.perf_counter()
    console = Console()
    seconds: dict[str, float] = {}
    with _timed(seconds, "sample set"), progress_bar("composing") as move:
        counts = _counts(args.pictures)
        folder = make_digits(args.output / "digits", seed=args.seed, counts=counts, progress=move)
    with _timed(seconds, "training"), training_reporter(console) as reporter:
        result = train(
            folder,
            attention=args.attention,
            recipe=RECIPE,
            seed=args.seed,
            output=free_folder(args.output, "run"),
            reporter=reporter,
            **_changes(args),
        )
    data, detector = load_dataset(folder), load(result.best)
    samples = data.split("test")
    with _timed(seconds, "evaluation"), progress_bar("evaluate", len(samples)) as step:
        record = evaluate(detector, samples, classes=detector.classes, progress=step)
    shown = DemoRun(_command(args), data, result, detector, record, seconds)
    page = write_page(shown, args.output)
    _summarise(console, record, result.best, page, time.perf_counter() - begun)
    return 0


def _counts(pictures: int) -> dict[str, int]:
    """Return the pictures of each split, in the sample set's own proportions."""
    share = pictures / DEFAULT_COUNTS["train"]
    counts = {split: max(1, round(share * count)) for split, count in DEFAULT_COUNTS.items()}
    return {**counts, "train": pictures}


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in CHANGES if (value := getattr(args, name)) is not None}


def _command(args: argparse.Namespace) -> str:
    """Return the command line that makes this run again."""
    words = ["attendet", "demo", "--output", str(args.output), "--attention", args.attention]
    for name, value in _changes(args).items():
        words += [f"--{name}", f"{value:g}"]
    if args.pictures != DEFAULT_COUNTS["train"]:
        words += ["--pictures", str(args.pictures)]
    return shlex.join([*words, "--seed", str(args.seed)])


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - begun


def _summarise(console: Console, record: Any, weights: Path, page: Path, seconds: float) -> None:
    from attendet.report.tables import format_value

    counts = record["counts"]
    lines = (
        f"test: AP {format_value(record['ap'])}, AP50 {format_value(record['ap50'])} "
        f"({counts['pictures']} pictures, {counts['truths']} digits), {duration(seconds)} in all",
        f"weights: {weights}",
        f"report: {page}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
