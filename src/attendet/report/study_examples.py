"""Test images on which the variants of a study differ most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.errors import DataError, ImageError
from attendet.images import ImageArray, read_image
from attendet.report.draw import draw_detections, scale_to_width, to_jpeg
from attendet.report.pages import Image
from attendet.report.study import Run, Study, read_boxes

CONFIDENCE = 0.25
IOU = 0.5
WIDTH = 400
"""Width of an image in the report, pixels."""

MAX_VARIANTS = 5
"""Maximum variants per image: the baseline, and the variants with the fewest and most errors."""

Boxes = dict[str, NDArray[Any]]
"""Boxes of one image: ``boxes_xyxy``, ``class_ids``, ``names``, and ``scores`` or ``difficult``."""


@dataclass(frozen=True)
class Example:
    """A test image with its ground truth and the detections of several variants.

    Attributes:
        name: Key of the image.
        images: The ground truth, then each variant.
    """

    name: str
    images: list[Image]


def find_examples(
    study: Study, *, count: int = 3, root: Path | None = None
) -> tuple[list[Example], str]:
    """Return the images on which the numbers of errors of the variants differ most.

    Errors are missed objects and false detections. Only one seed is used, because errors differ
    between seeds, too.

    Args:
        study: the records, with the files of detections.
        count: maximum number of images.
        root: folder of the data set, if it has moved.

    Returns:
        The examples, and a note on how they were selected or why none could be shown.
    """
    gt = _load(study.folder / study.description["gt"])
    if not gt:
        return [], "The study has no ground truth file, so no examples can be chosen."
    runs, seed = _runs_of_one_seed(study)
    loaded = {variant: _load(study.folder / run["detections"]) for variant, run in runs.items()}
    detections = {variant: by_image for variant, by_image in loaded.items() if by_image}
    if len(detections) < 2:
        return [], "The study has detections of fewer than two variants, so there are no examples."
    errors = {
        key: {name: _count_errors(objects, found.get(key)) for name, found in detections.items()}
        for key, objects in gt.items()
    }
    differences = {
        key: max(counts.values()) - min(counts.values()) for key, counts in errors.items()
    }
    ranked = sorted((key for key in gt if differences[key]), key=lambda key: -differences[key])
    folder = root or Path(study.description["data"]["root"])
    examples: list[Example] = []
    for key in ranked[:count]:
        try:
            image = read_image(folder / str(gt[key]["path"]))
        except (ImageError, OSError):
            continue
        panels = [_panel(image, gt[key], f"ground truth: {len(gt[key]['names'])} objects")]
        read = {name: errors[key][name] for name, found in detections.items() if key in found}
        for variant in _shown_variants(read, study.baseline):
            wrong = read[variant]
            caption = f"{variant}: {wrong} error{'' if wrong == 1 else 's'}"
            panels.append(_panel(image, detections[variant][key], caption))
        prefix = f"example-{len(examples) + 1}"
        images = [
            Image(f"{prefix}-{number}.jpg", data, caption)
            for number, (data, caption) in enumerate(panels)
        ]
        examples.append(Example(key, images))
    missing = len(ranked[:count]) - len(examples)
    if missing:
        return examples, (
            f"{missing} of the {len(ranked[:count])} images with the largest differences cannot be "
            f"read from the data set ({folder.name}). attendet report --data sets its folder."
        )
    if not examples:
        return [], "All variants have the same number of errors on every image."
    return examples, (
        f"The images on which the number of errors differs most between variants (seed {seed}). "
        f"Errors: missed objects and false detections at score {CONFIDENCE:.2f} and IoU {IOU:.2f}. "
        "These images are selected for their differences and do not represent the mean."
    )


def _runs_of_one_seed(study: Study) -> tuple[dict[str, Run], object]:
    """Return one run per variant, all with the seed that most variants have, and this seed."""
    by_seed: dict[object, dict[str, Run]] = {}
    for variant in study.variants():
        for run in study.runs_of(variant):
            if run["detections"]:
                by_seed.setdefault(run["seed"], {})[variant] = run
    seed = max(by_seed, key=lambda one: len(by_seed[one]), default=None)
    return by_seed.get(seed, {}), seed


def _load(path: Path) -> dict[str, Boxes]:
    """Return the boxes of each image by image key, without detections below `CONFIDENCE`."""
    try:
        arrays = read_boxes(path)
    except DataError:
        return {}
    arrays["names"] = arrays["classes"][arrays["class_ids"]]
    columns = ("boxes_xyxy", "class_ids", "names", "scores", "difficult")
    offsets = np.concatenate([[0], np.cumsum(arrays["counts"])])
    by_image = {}
    for index, key in enumerate(arrays["keys"]):
        rows = np.arange(*offsets[index : index + 2])
        if "scores" in arrays:
            rows = rows[arrays["scores"][rows] >= CONFIDENCE]
        by_image[str(key)] = {name: arrays[name][rows] for name in columns if name in arrays}
        if "paths" in arrays:
            by_image[str(key)]["path"] = arrays["paths"][index]
    return by_image


def _count_errors(objects: Boxes, found: Boxes | None) -> int:
    """Return the missed objects plus false detections of an image, matching best scores first."""
    if found is None:
        return len(objects["names"])
    difficult = objects["difficult"].astype(bool)
    overlap = iou_matrix(found["boxes_xyxy"], objects["boxes_xyxy"])
    overlap = np.where(found["names"][:, None] == objects["names"][None], overlap, 0.0)
    matched = np.zeros(len(difficult), dtype=bool)
    false_detections = 0
    for row in np.argsort(-found["scores"], kind="stable"):
        free = np.where(matched, 0.0, overlap[row])
        best = int(free.argmax()) if len(free) else -1
        if best >= 0 and free[best] >= IOU:
            matched[best] = not difficult[best]
        else:
            false_detections += 1
    return false_detections + int((~matched & ~difficult).sum())


def _shown_variants(errors: Mapping[str, int], baseline: str) -> list[str]:
    """Return the baseline and the variants with the fewest and most errors, in their order."""
    ranked = sorted(errors, key=lambda variant: errors[variant])
    extremes = [variant for pair in zip(ranked, ranked[::-1], strict=True) for variant in pair]
    kept = list(dict.fromkeys(name for name in [baseline, *extremes] if name in errors))
    return [variant for variant in errors if variant in kept[:MAX_VARIANTS]]


def _panel(image: ImageArray, boxes: Boxes, caption: str) -> tuple[bytes, str]:
    """Return an image with boxes as JPEG, and its caption."""
    boxes_xyxy = boxes["boxes_xyxy"] * (WIDTH / image.shape[1])
    small = scale_to_width(image, WIDTH)
    names = boxes["names"].tolist()
    drawn = draw_detections(small, boxes_xyxy, names, boxes["class_ids"], boxes.get("scores"))
    return to_jpeg(drawn, 82), caption
