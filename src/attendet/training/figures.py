"""Figures of a finished run: curves, example detections, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attendet.detections import Detections
from attendet.evaluation import compute_metrics, detect
from attendet.files import write_atomically
from attendet.images import ImageArray, read_image
from attendet.inference import load
from attendet.report.charts import (
    confusion_figure,
    precision_recall_figure,
    save_figure,
    training_figure,
)
from attendet.report.draw import draw_side_by_side, image_grid, to_jpeg
from attendet.training.checkpoint import RunFolder
from attendet.training.plan import Plan

SHOWN = 8
"""Number of validation images in detections.jpg."""


def draw_run(
    folder: RunFolder, plan: Plan, records: Sequence[dict[str, Any]], device: str | None = None
) -> None:
    """Write figures of the training, and of detections and metrics of the best weights on val.

    Args:
        folder: receives curves.png, detections.jpg, precision_recall.png and confusion.png.
        plan: plan of the run.
        records: one per epoch.
        device: device of the detector, such as ``cuda:0``; default: a GPU if available.
    """
    if records:
        save_figure(training_figure(records), folder.path / "curves.png")
    samples = plan.dataset.splits.get("val")
    if not samples:
        return
    detector = load(folder.best, device=device)
    found = detect(detector, samples, batch=plan.recipe.batch)
    metrics = compute_metrics(samples, found, plan.dataset.classes)
    save_figure(precision_recall_figure(metrics), folder.path / "precision_recall.png")
    save_figure(confusion_figure(metrics), folder.path / "confusion.png")
    write_atomically(folder.path / "detections.jpg", to_jpeg(_example_grid(samples, found)))


def _example_grid(samples: Sequence[Any], found: Sequence[Detections]) -> ImageArray:
    """Return a grid of images, ground truth on the left and detections on the right."""
    picked = np.linspace(0, len(samples) - 1, min(SHOWN, len(samples))).round().astype(int)
    pairs = [
        draw_side_by_side(
            read_image(samples[index].path),
            samples[index].boxes_xyxy,
            samples[index].class_ids,
            found[index],
        )
        for index in dict.fromkeys(picked.tolist())
    ]
    return image_grid(pairs, 2, cell_width=960)
