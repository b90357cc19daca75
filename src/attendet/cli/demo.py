"""Train and evaluate a detector on the built-in sample set, offline, in minutes.

Draws handwritten digits on photographs, trains a detector on them from scratch, evaluates it on
images that have no digit and no pixel in common with the training images, and writes
OUTPUT/report.html: metrics, detections and ground truth, and the gates of the attention blocks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console

from attendet.cli.arguments import Folder, add_settings, command_line
from attendet.cli.progress import duration, progress_bar, training_progress
from attendet.data.sample_sets.digits import DEFAULT_COUNTS
from attendet.training.recipe import load_recipe

if TYPE_CHECKING:
    from attendet.data import DataSet
    from attendet.inference import Detector
    from attendet.report import Image
    from attendet.training import TrainingResult

RECIPE = "digits"
RECIPE_FLAGS = ("epochs", "size", "width_mult")
"""Settings of the recipe that are flags of this command."""

SHOWN_IMAGES = 4
"""Number of test images on the page."""

GATE_IMAGES = 3
"""Number of test images with gates on the page."""

SITE_NOTES = {
    "stage1": "after the first block of the backbone, stride 8",
    "stage2": "after the second block, stride 16",
    "stage3": "after the third block, stride 32",
    "p4": "finer output of the backbone, stride 16",
    "p5": "coarser output of the backbone, stride 32",
    "up": "p5 upsampled to the size of p4",
}


@dataclass(frozen=True)
class _Flags:
    output: Folder = Path("demo")
    """Output folder."""

    attention: Annotated[str, "SPEC"] = "ca"
    """none, se, cbam, eca, ca or another block (listed by: attendet blocks), optionally at sites:
    ca@p5, se@p5+ca@up."""

    images: int = DEFAULT_COUNTS["train"]
    """Number of training images; the other splits are scaled in proportion."""

    seed: int = 0
    """Random seed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)
    add, recipe = parser.add_argument, load_recipe(RECIPE)
    text = f"passes over the training images (default: {recipe.epochs})"
    add("--epochs", type=int, metavar="N", help=text)
    text = "long side of the network's input in pixels, a multiple of 32 (default: "
    add("--size", type=int, metavar="PX", help=f"{text}{recipe.size})")
    text = f"multiplier of all channels (default: {recipe.resolved_width_mult:g})"
    add("--width-mult", type=float, metavar="FACTOR", help=text)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.data import load_dataset
    from attendet.data.sample_sets.digits import make_digits
    from attendet.evaluation import evaluate
    from attendet.inference import load
    from attendet.report.tables import format_value
    from attendet.training import train
    from attendet.training.checkpoint import free_folder

    console = Console()
    seconds: dict[str, float] = {}
    ratio = args.images / DEFAULT_COUNTS["train"]
    counts = {split: max(1, round(ratio * count)) for split, count in DEFAULT_COUNTS.items()}
    counts["train"] = args.images
    with _timed(seconds, "sample set"), progress_bar("composing") as move:
        folder = make_digits(args.output / "digits", seed=args.seed, counts=counts, progress=move)
    with _timed(seconds, "training"), training_progress(console) as reporter:
        result = train(
            folder,
            attention=args.attention,
            recipe=RECIPE,
            seed=args.seed,
            output=free_folder(args.output, "run"),
            callback=reporter,
            **_changes(args),
        )
    data, detector = load_dataset(folder), load(result.best)
    samples = data.split("test")
    with _timed(seconds, "evaluation"), progress_bar("evaluate", len(samples)) as step:
        record = evaluate(detector, samples, classes=detector.classes, progress=step)
    with _timed(seconds, "page"):
        page = _write_page(args, data, result, detector, record, seconds)
    lines = (
        f"test: AP {format_value(record['ap'])}, AP50 {format_value(record['ap50'])} "
        f"({record['counts']['images']} images, {record['counts']['gt']} digits), "
        f"{duration(sum(seconds.values()))} in all",
        f"weights: {result.best}",
        f"report: {page}",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in RECIPE_FLAGS if (value := getattr(args, name)) is not None}


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started


def _write_page(
    args: argparse.Namespace,
    data: DataSet,
    result: TrainingResult,
    detector: Detector,
    record: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Path:
    """Write report.html and detections.jpg; return the path of the page."""
    import numpy as np
    import torch

    from attendet import __version__, report
    from attendet.files import write_atomically
    from attendet.images import read_image
    from attendet.report.tables import format_value
    from attendet.system import describe_machine

    samples = data.split("test")
    pairs, drawn = [], []
    for sample in samples[:SHOWN_IMAGES]:
        image = read_image(sample.path)
        found = detector.predict(image)
        pair = report.draw_side_by_side(image, sample.boxes_xyxy, sample.class_ids, found)
        alt = f"{sample.path.name}: ground truth and detections"
        pairs.append(report.Image(f"{sample.path.stem}.jpg", report.to_jpeg(pair), alt=alt))
        drawn.append(
            report.draw_detections(
                image, found.boxes_xyxy, found.names, found.class_ids, found.scores
            )
        )
    write_atomically(args.output / "detections.jpg", report.to_jpeg(report.image_grid(drawn, 2)))
    machine = describe_machine()
    page = report.render_html(
        "demo",
        "Digits on photographs: a detector in minutes",
        metadata=detector.metadata,
        counts={split: len(part) for split, part in data.splits.items()},
        epochs=result.epochs,
        ap=format_value(record["ap"]),
        ap50=format_value(record["ap50"]),
        val_ap=format_value(result.ap),
        command=command_line(),
        classes=report.Table(*report.class_table(record)),
        detections=pairs,
        training=report.chart_image(
            "training",
            report.training_figure,
            result.records,
            "Loss on the training images, average precision on the validation images, and learning "
            "rate.",
            "loss, average precision and learning rate by epoch",
        ),
        confusion=report.chart_image(
            "confusion",
            report.confusion_figure,
            record,
            "Rows: digits of the ground truth. Columns: detected digits. The last row has the "
            "false detections, the last column the missed objects.",
            "confusion matrix of the test images",
        ),
        seconds=[(step, duration(value)) for step, value in seconds.items()],
        total=duration(sum(seconds.values())),
        versions=[
            ("attendet", __version__),
            ("PyTorch", str(torch.__version__)),
            ("NumPy", np.__version__),
            ("Python", machine["python"]),
            ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"),
        ],
        result=result,
        data_root=data.root,
        test_folder=samples[0].path.parent,
        **_gates(data, result),
    )
    return write_atomically(args.output / "report.html", page)


def _gates(data: DataSet, result: TrainingResult) -> dict[str, Any]:
    """Return the template values on the gates of the trained network for some test images."""
    from attendet.explain import explain_network
    from attendet.explain.page import gate_panels, gate_ranges, gate_table, to_gallery
    from attendet.media.sources import Source
    from attendet.models import load_weights

    network, metadata = load_weights(result.best)
    sources = [Source(sample.path.stem, sample.path) for sample in data.split("test")[:GATE_IMAGES]]
    explanation = explain_network(network, metadata, sources, cam=False)
    ranges = gate_ranges(explanation.images)
    galleries: dict[str, list[Image]] = {}
    for one in explanation.images:
        name = Path(one.source.path).name
        galleries[name] = to_gallery(name, gate_panels(one, ranges))
    return {
        "sites": {site: SITE_NOTES[site] for site in explanation.statistics},
        "gate_images": galleries,
        "gates": gate_table(explanation.health()),
    }
