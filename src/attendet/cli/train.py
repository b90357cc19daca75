"""Train a detector on your images.

DATA is a folder in Pascal VOC, YOLO or COCO form, a YOLO data.yaml or a COCO .json. The folder of
the run holds the weights (best.safetensors), a record an epoch, TensorBoard events and images.
Every setting of the recipe is a flag; the flag wins over --recipe.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from attendet.cli.arguments import flag
from attendet.cli.progress import duration, training_progress
from attendet.cli.recipe_flags import add_recipe_flags, recipe_overrides
from attendet.errors import ConfigError
from attendet.training.recipe import recipe_names

FIXED = {
    "attention": None,
    "recipe": "default",
    "seed": 0,
    "output": None,
    "pretrained": None,
    "format": None,
    "devices": 1,
    "nodes": 1,
}
"""Flags, with their defaults, that a resumed run takes from its folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command: its own, and one for each setting of the recipe."""
    add = parser.add_argument
    add("data", nargs="?", metavar="DATA", help="data set; with --resume only if it was moved")
    add(
        "--attention",
        default=FIXED["attention"],
        metavar="SPEC",
        help="none, se, cbam, eca or ca, at sites if wanted: ca@p5, se@p5+ca@up "
        "(default: that of --pretrained, else ca)",
    )
    add(
        "--recipe",
        default=FIXED["recipe"],
        metavar="NAME|FILE",
        help=f"{', '.join(recipe_names())} or a .yaml file (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=FIXED["seed"],
        metavar="N",
        help="seed of weights, image order and augmentation (default: %(default)s)",
    )
    add("--output", type=Path, metavar="DIR", help="folder of the run (default: runs/train)")
    add(
        "--pretrained",
        type=Path,
        metavar="FILE",
        help="weights to start from: a file, hf://owner/name, or a name of: attendet weights list; "
        "their input, boxes and width win over --recipe, and flags win over them",
    )
    add("--resume", type=Path, metavar="DIR", help="folder of an interrupted run to go on with")
    add("--format", choices=["voc", "yolo", "coco"], help="of DATA (default: recognized)")
    add(
        "--accelerator",
        default="auto",
        choices=["auto", "cpu", "cuda", "mps"],
        help="kind of device (default: %(default)s)",
    )
    add(
        "--devices",
        type=int,
        default=FIXED["devices"],
        metavar="N",
        help="processes on this machine, one a device (default: %(default)s)",
    )
    add(
        "--nodes",
        type=int,
        default=FIXED["nodes"],
        metavar="N",
        help="machines; start each by torchrun (default: %(default)s)",
    )
    add_recipe_flags(parser)


def _check_alone(args: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """Raise where a flag would be ignored, as a resumed run has its settings already."""
    given = [flag(name) for name, default in FIXED.items() if getattr(args, name) != default]
    given += [flag(name) for name in overrides]
    if given:
        raise ConfigError(
            f"--resume must be the only setting; got {', '.join(given)} too. All settings come "
            f"from the folder of the run ({args.resume}). Remove the other flags."
        )


def run(args: argparse.Namespace) -> int:
    """Train, show the progress, and say where the weights are."""
    from attendet.report.fonts import numbered_classes
    from attendet.training import train

    overrides = recipe_overrides(args)
    if args.resume is not None:
        _check_alone(args, overrides)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    reporter = training_progress(Console())
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
            callback=reporter,
            **overrides,
        )
    if not reporter.is_first:
        return 0
    ap = "not measured (no boxes in val)" if result.ap is None else f"{result.ap:.3f}"
    reporter.say(f"{result.epochs} epochs in {duration(result.seconds)}; best val AP {ap}")
    reporter.say(f"weights: {result.best}")
    numbered = numbered_classes(result.plan.dataset.classes)
    if numbered:
        reporter.say(numbered)
    return 0
