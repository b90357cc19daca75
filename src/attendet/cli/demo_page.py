"""The page that `attendet demo` leaves: what was done, how good it is, what the attention does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attendet import __version__
from attendet.cli.progress import duration
from attendet.data import DataSet
from attendet.explain import compute_gates, crop_to_image, gate_map
from attendet.files import write_atomically
from attendet.images import ImageArray, Letterbox, letterbox, read_image
from attendet.inference import Detector
from attendet.inference.preprocess import input_hw_for
from attendet.models import load_weights
from attendet.report import (
    Page,
    class_table,
    confusion_figure,
    draw_detections,
    draw_gate_profiles,
    draw_side_by_side,
    gate_overlay,
    image_grid,
    to_jpeg,
    to_png,
    training_figure,
)
from attendet.report.tables import format_value
from attendet.system import describe_machine
from attendet.training import TrainingResult

if TYPE_CHECKING:
    from attendet.explain.gates import Floats

__all__ = ["DemoRun", "write_page"]

SHOWN = 4
"""Test images on the page."""

GATED = 3
"""Test images whose gates are on the page."""

CELL_WIDTH = 470
"""Width of an image in pixels; two fill the page."""

SITE_WORDS = {
    "stage1": "after the backbone's first block, 8 pixels a cell",
    "stage2": "after its second, 16 pixels a cell",
    "stage3": "after its third, 32 pixels a cell",
    "p4": "the backbone's finer output, 16 pixels a cell",
    "p5": "its coarser output, 32 pixels a cell",
    "up": "p5 brought to p4's size, where the two meet",
}


@dataclass(frozen=True)
class DemoRun:
    """What was done."""

    command: str
    """The command line that does it again."""

    data: DataSet
    """The sample set."""

    result: TrainingResult
    """What training left."""

    detector: Detector
    """The best weights at work."""

    record: Mapping[str, Any]
    """The evaluation on the test split."""

    seconds: Mapping[str, float]
    """Wall time by step."""


def write_page(run: DemoRun, folder: Path) -> Path:
    """Write report.html, and detections.jpg beside it; return the path of the page."""
    page = Page("Digits on photographs: a detector in minutes")
    _add_summary(page, run)
    _add_detections(page, run, folder)
    _add_gates(page, run)
    _add_course(page, run)
    _add_end(page, run)
    return page.write(folder / "report.html")


def _add_summary(page: Page, run: DemoRun) -> None:
    metadata, record = run.detector.metadata, run.record
    images = {split: len(samples) for split, samples in run.data.splits.items()}
    height, width = metadata.input_hw
    narrower = "" if metadata.width_mult == 1 else f" and {metadata.width_mult:g} of its channels"
    page.add_text(
        f"YOLOv4-tiny with attention {metadata.attention!r}{narrower} was trained from scratch on "
        f"{images['train']} images of handwritten digits on photographs, for "
        f"{run.result.epochs} epochs at {width} x {height} pixels. It was then measured on "
        f"{images['test']} images that share no digit and no pixel with those it learned "
        f"from: AP50 is {format_value(record['ap50'])}, AP (mean over IoU 0.50 to 0.95) is "
        f"{format_value(record['ap'])}."
    )
    page.add_code(run.command)
    page.add_section("Quality on the test split")
    page.add_table(
        *class_table(record),
        caption="By class. AP: COCO's average precision; AR100: average recall with up to 100 "
        "detections an image; VOC: Pascal VOC's average precision.",
    )
    page.add_text(
        "The weights were chosen by AP on the validation split "
        f"({format_value(run.result.ap)}, {images.get('val', 0)} images); "
        "the test split was looked at once, for this page."
    )


def _drawn(detector: Detector, image: ImageArray) -> ImageArray:
    found = detector.predict(image)
    return draw_detections(image, found.boxes_xyxy, found.names, found.class_ids, found.scores)


def _add_detections(page: Page, run: DemoRun, folder: Path) -> None:
    samples = run.data.split("test")[:SHOWN]
    images = [read_image(sample.path) for sample in samples]
    pairs = [
        draw_side_by_side(image, sample.boxes_xyxy, sample.class_ids, run.detector.predict(image))
        for sample, image in zip(samples, images, strict=True)
    ]
    page.add_section("Detections beside the ground truth")
    page.add_figure(
        to_jpeg(image_grid(pairs, 1)),
        f"The first {len(samples)} images of the test split, in order. Left: ground truth. "
        "Right: detections with their scores.",
    )
    sheet = image_grid([_drawn(run.detector, image) for image in images], 2)
    write_atomically(folder / "detections.jpg", to_jpeg(sheet))


def _add_gates(page: Page, run: DemoRun) -> None:
    network, metadata = load_weights(run.result.best)
    blocks = network.attention_blocks()
    if not blocks:
        return
    page.add_section("What the attention does")
    page.add_text(
        "An attention block multiplies the feature map at its site by gates between 0 and 1. These "
        "are the gates of the trained network for test images. Colors over the image show the "
        "product of a site's gates, mean over channels, from dark blue (its least) to yellow (its "
        "greatest). Where a block gates rows and columns, as Coordinate Attention does, their "
        "profiles stand to the right and below, with least and greatest value.\n\n"
        f"The sites: {'; '.join(f'{site}: {SITE_WORDS[site]}' for site in blocks)}."
    )
    rows: list[list[str]] = []
    for sample in run.data.split("test")[:GATED]:
        image = read_image(sample.path)
        padded, transform = letterbox(image, input_hw_for(image.shape[:2], metadata.input_hw))
        gates = compute_gates(network, padded)
        sheet = _gate_sheet(image, transform, gates, _drawn(run.detector, image))
        if sheet is not None:
            page.add_figure(to_jpeg(sheet), f"Gates for {sample.path.name}.")
        rows = rows or _gate_rows(gates)
    page.add_table(
        ["site and gate", "values", "least", "mean", "greatest"],
        rows,
        caption="The gates for the first of these images, over all channels and places.",
    )


def _gate_sheet(
    image: ImageArray,
    transform: Letterbox,
    gates: Mapping[str, Mapping[str, Floats]],
    drawn: ImageArray,
) -> ImageArray | None:
    """Return an image and the gates of each site over it; None if no gate differs by place."""
    cells, captions = [], []
    for site, named in gates.items():
        opened = gate_map(named)
        if opened is None:
            continue
        opened = crop_to_image(opened, transform)
        cell = gate_overlay(image, opened)
        if {"height", "width"} <= set(named):
            rows = crop_to_image(named["height"].mean(0), transform)[:, 0]
            columns = crop_to_image(named["width"].mean(0), transform)[0]
            cell = draw_gate_profiles(cell, rows, columns)
        cells.append(cell)
        captions.append(f"{site}: product {opened.min():.3f} - {opened.max():.3f}")
    if not cells:
        return None
    first = np.full_like(cells[0], 255)
    first[: drawn.shape[0], : drawn.shape[1]] = drawn
    captions.insert(0, "detections")
    return image_grid([first, *cells], 2, captions=captions, cell_width=CELL_WIDTH)


def _gate_rows(gates: Mapping[str, Mapping[str, Floats]]) -> list[list[str]]:
    return [
        [
            f"{site} {name}",
            str(gate.size),
            *(f"{value:.3f}" for value in (gate.min(), gate.mean(), gate.max())),
        ]
        for site, named in gates.items()
        for name, gate in named.items()
    ]


def _add_course(page: Page, run: DemoRun) -> None:
    page.add_section("The course of training")
    page.add_figure(
        to_png(training_figure(run.result.records)),
        "Loss terms on the training images, average precision on the validation images, and "
        "the learning rate, by epoch.",
    )
    page.add_section("What is taken for what")
    page.add_figure(
        to_png(confusion_figure(run.record)),
        "Rows are true digits of the test split, columns what they were detected as; the last row "
        "and column are the background: false alarms and misses.",
    )


def _add_end(page: Page, run: DemoRun) -> None:
    page.add_section("Time and versions")
    rows = [[step, duration(seconds)] for step, seconds in run.seconds.items()]
    page.add_table(["step", "wall time"], [*rows, ["all", duration(sum(run.seconds.values()))]])
    machine = describe_machine()
    page.add_table(
        ["version", ""],
        [
            ["attendet", __version__],
            ["PyTorch", str(torch.__version__)],
            ["NumPy", np.__version__],
            ["Python", machine["python"]],
            ["machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"],
        ],
    )
    page.add_section("Where things are, and what next")
    page.add_text(
        f"The weights are {run.result.best}; the run with its settings, records and images is "
        f"{run.result.folder}, and the images with their labels are {run.data.root}."
    )
    test = run.data.split("test")[0].path.parent
    page.add_code(
        "# detect on images, with these weights\n"
        f"attendet predict {run.result.best} {test}\n\n"
        "# train on your own images, labeled in Pascal VOC, YOLO or COCO form\n"
        "attendet data check DATA\n"
        "attendet train DATA --attention ca\n"
        "attendet eval runs/train/best.safetensors DATA"
    )
