"""The main job on the built-in sample set, offline, in minutes.

Puts handwritten digits on photographs, trains a detector on them from scratch, measures it on
images that share no digit and no pixel with those of training, and writes a page to open:
OUTPUT/report.html, with detections beside the ground truth and the attention's gates beside images.
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
from attendet.data.sample_sets.digits import DEFAULT_COUNTS
from attendet.training.recipe import load_recipe

RECIPE = "digits"
CHANGES = ("epochs", "size", "width_mult")
"""Settings of the recipe that are flags here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    recipe = load_recipe(RECIPE)
    add(
        "--output",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder for all that is made (default: %(default)s)",
    )
    add(
        "--attention",
        default="ca",
        metavar="SPEC",
        help="none, se, cbam, eca or ca, at sites if wanted: ca@p5, se@p5+ca@up "
        "(default: %(default)s)",
    )
    add(
        "--epochs",
        type=int,
        metavar="N",
        help=f"passes over the training images (default: {recipe.epochs})",
    )
    add(
        "--size",
        type=int,
        metavar="PX",
        help="long side of the network's input in pixels, a multiple of 32 "
        f"(default: {recipe.size})",
    )
    add(
        "--width-mult",
        type=float,
        metavar="SHARE",
        help=f"multiplier of all channels (default: {recipe.width_mult:g})",
    )
    add(
        "--images",
        type=int,
        default=DEFAULT_COUNTS["train"],
        metavar="N",
        help="to train on; those to validate and test on go with them (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.cli.demo_page import DemoRun, write_page
    from attendet.data import load_dataset
    from attendet.data.sample_sets.digits import make_digits
    from attendet.evaluation import evaluate
    from attendet.inference import load
    from attendet.training import train
    from attendet.training.run_folder import free_folder

    begun = time.perf_counter()
    console = Console()
    seconds: dict[str, float] = {}
    with _timed(seconds, "sample set"), progress_bar("composing") as move:
        counts = _counts(args.images)
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
    _summarize(console, record, result.best, page, time.perf_counter() - begun)
    return 0


def _counts(images: int) -> dict[str, int]:
    """Return the images of each split, in the sample set's own proportions."""
    share = images / DEFAULT_COUNTS["train"]
    counts = {split: max(1, round(share * count)) for split, count in DEFAULT_COUNTS.items()}
    return {**counts, "train": images}


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in CHANGES if (value := getattr(args, name)) is not None}


def _command(args: argparse.Namespace) -> str:
    """Return the command line that makes this run again."""
    words = ["attendet", "demo", "--output", str(args.output), "--attention", args.attention]
    for name, value in _changes(args).items():
        words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    if args.images != DEFAULT_COUNTS["train"]:
        words += ["--images", str(args.images)]
    return shlex.join([*words, "--seed", str(args.seed)])


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - begun


def _summarize(console: Console, record: Any, weights: Path, page: Path, seconds: float) -> None:
    from attendet.report.tables import format_value

    counts = record["counts"]
    lines = (
        f"test: AP {format_value(record['ap'])}, AP50 {format_value(record['ap50'])} "
        f"({counts['images']} images, {counts['gts']} digits), {duration(seconds)} in all",
        f"weights: {weights}",
        f"report: {page}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
