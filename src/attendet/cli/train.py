"""Train a detector on your images.

DATA is a folder in Pascal VOC, YOLO or COCO format, a YOLO data.yaml or a COCO .json. The folder of
the run holds the weights (best.safetensors), a record per epoch, curves and images. Every setting
of the recipe has a flag, which overrides --recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console

from attendet.cli.arguments import Accelerator, DataFormat, File, Folder, add_settings, names
from attendet.cli.progress import duration, training_progress
from attendet.cli.recipe_flags import add_recipe_flags, recipe_overrides


def _log_names(text: str) -> list[str]:
    return [name for name in names(text) if name != "none"]


@dataclass(frozen=True)
class _Flags:
    attention: Annotated[str, "SPEC"] | None = None
    """none, se, cbam, eca, ca or another block (listed by: attendet blocks), optionally at sites:
    ca@p5, se@p5+ca@up (default: that of --pretrained, else ca)."""

    seed: int = 0
    """Random seed of weights, image order and augmentation."""

    output: Folder | None = None
    """Folder of the run (default: runs/train)."""

    pretrained: File | None = None
    """Weights to start from: a file, hf://owner/name, or a name of: attendet weights list; their
    input, boxes and width override --recipe, and flags override them."""

    format: DataFormat | None = None
    """Format of DATA (default: recognized)."""

    log: Annotated[Sequence[str], "NAME[,NAME]", _log_names] = ("tensorboard",)
    """Loggers for the curves: tensorboard, csv, wandb, mlflow, or none (default: tensorboard)."""

    devices: int = 1
    """Number of processes on this machine, one per device."""

    nodes: int = 1
    """Number of machines; start the command on each with torchrun."""


@dataclass(frozen=True)
class _ResumeFlags:
    resume: Folder | None = None
    """Folder of an interrupted run to resume."""

    accelerator: Accelerator = "auto"
    """Kind of device."""

    checkpoint_seconds: float = 30.0
    """Minimum seconds between two writes of the weights and the resume state."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command: its own, and one for each setting of the recipe."""
    text = "data set; with --resume only if it was moved"
    parser.add_argument("data", nargs="?", metavar="DATA", help=text)
    add_settings(parser, _Flags)
    add_settings(parser, _ResumeFlags)
    add_recipe_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Train, show the progress and print the path of the weights; return 0."""
    from attendet.report.fonts import numbered_classes
    from attendet.training import train

    recipe_overrides(args)  # checks the settings under the names of their flags
    reporter = training_progress(Console())
    reporter.advises = True
    with reporter:
        result = train(**vars(args), callback=reporter)
    if not reporter.is_first:
        return 0
    ap = "not measured (no boxes in val)" if result.ap is None else f"{result.ap:.3f}"
    epochs = "1 epoch" if result.epochs == 1 else f"{result.epochs} epochs"
    reporter.say(f"{epochs} in {duration(result.seconds)}; best val AP {ap}")
    reporter.say(f"weights: {result.best}")
    numbered = numbered_classes(result.plan.dataset.classes)
    if numbered:
        reporter.say(numbered)
    return 0
