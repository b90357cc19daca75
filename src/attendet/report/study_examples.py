"""Test images on which the variants of a study differ most."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.errors import ImageError
from attendet.images import ImageArray, read_image
from attendet.report.draw import draw_detections, scale_to_width, to_jpeg
from attendet.report.pages import Image
from attendet.report.study import Run, Study, value_at

__all__ = ["Example", "find_examples"]

CONFIDENCE = 0.25
IOU = 0.5
WIDTH = 400
"""Width of an image in the report, pixels."""

MAX_VARIANTS = 5
"""Variants shown for an image: the baseline, and those with the fewest and most errors."""

Arrays = dict[str, NDArray[Any]]
"""Boxes of all images of a split, as the records store them, with ``offsets`` of each image."""


@dataclass(frozen=True)
class Example:
    """A test image with its ground truth and the detections of several variants."""

    name: str
    """Key of the image."""

    images: list[Image]
    """The ground truth, then each variant."""


def find_examples(
    study: Study, *, count: int = 3, root: Path | None = None
) -> tuple[list[Example], str]:
    """Return the images on which the errors of the variants differ most.

    Errors are missed objects and false detections. Only one seed is used, because seeds differ too.

    Args:
        study: the records, with the files of detections.
        count: maximum number of images.
        root: folder of the data set, if it has moved.

    Returns:
        The examples, and a text on how they were chosen or why there are none.
    """
    gt = _load(study.folder / (study.description.get("gt") or "ground_truth.npz"))
    if gt is None or "paths" not in gt:
        return [], "The study has no ground truth file, so no examples can be chosen."
    runs, seed = _runs_of_one_seed(study)
    loaded = {variant: _load(study.folder / run["detections"]) for variant, run in runs.items()}
    detections = {variant: arrays for variant, arrays in loaded.items() if arrays is not None}
    if len(detections) < 2:
        return [], "The study has detections of fewer than two variants, so there are no examples."
    errors = np.array([_errors_by_image(gt, arrays) for arrays in detections.values()])
    differences = errors.max(axis=0) - errors.min(axis=0)
    order = np.argsort(-differences, kind="stable")[:count]
    chosen = [int(index) for index in order if differences[index] > 0]
    folder = root or Path(value_at(study.description, "data", "root") or ".")
    examples: list[Example] = []
    for index in chosen:
        try:
            image = read_image(folder / str(gt["paths"][index]))
        except (ImageError, OSError):
            continue
        by_variant = dict(zip(detections, errors[:, index].tolist(), strict=True))
        shown = {name: by_variant[name] for name in _shown_variants(by_variant, study.baseline)}
        prefix = f"example-{len(examples) + 1}"
        examples.append(_draw_example(prefix, gt, index, image, detections, shown))
    if len(examples) < len(chosen):
        return examples, (
            f"{len(chosen) - len(examples)} of the {len(chosen)} images with the largest "
            f"differences cannot be read from the data set ({folder.name}). "
            "attendet report --data sets its folder."
        )
    if not examples:
        return [], "All variants have the same number of errors on every image."
    return examples, (
        f"The images on which the number of errors differs most between variants (seed {seed}). "
        f"Errors: missed objects and false detections at score {CONFIDENCE:.2f} and IoU {IOU:.2f}. "
        "These images are selected for their differences and do not represent the mean."
    )


def _runs_of_one_seed(study: Study) -> tuple[dict[str, Run], object]:
    """Return one run per variant, all of the seed that most variants have."""
    by_seed: dict[object, dict[str, Run]] = {}
    for variant in study.variants():
        for run in study.runs_of(variant):
            if run.get("detections"):
                by_seed.setdefault(run["seed"], {})[variant] = run
    seed = max(by_seed, key=lambda one: len(by_seed[one]), default=None)
    return by_seed.get(seed, {}), seed


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: Arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    arrays["offsets"] = np.concatenate([[0], np.cumsum(arrays["counts"])])
    return arrays


def _boxes_of(arrays: Arrays, index: int) -> Arrays:
    """Return the boxes of one image; detections only from `CONFIDENCE` on."""
    rows = slice(*arrays["offsets"][index : index + 2])
    names = ("boxes_xyxy", "class_ids", "scores", "difficult")
    boxes = {name: arrays[name][rows] for name in names if name in arrays}
    if "scores" in boxes:
        kept = boxes["scores"] >= CONFIDENCE
        boxes = {name: values[kept] for name, values in boxes.items()}
    return boxes


def _errors_by_image(gt: Arrays, detections: Arrays) -> list[int]:
    """Return the number of errors on each image of the ground truth."""
    index_of = {str(key): index for index, key in enumerate(detections["keys"])}
    gt_ids = {str(name): index for index, name in enumerate(gt["classes"])}
    renumbered = np.array([gt_ids.get(str(name), -1) for name in detections["classes"]], np.int64)
    errors = []
    for index, key in enumerate(gt["keys"]):
        objects = _boxes_of(gt, index)
        if str(key) not in index_of:
            errors.append(len(objects["class_ids"]))
            continue
        found = _boxes_of(detections, index_of[str(key)])
        errors.append(_count_errors(objects, found, renumbered[found["class_ids"]]))
    return errors


def _count_errors(objects: Arrays, found: Arrays, class_ids: NDArray[np.int64]) -> int:
    """Match detections to objects of their class, best score first; count what is not matched."""
    difficult = objects.get("difficult", np.zeros(len(objects["class_ids"]))).astype(bool)
    overlap = iou_matrix(found["boxes_xyxy"], objects["boxes_xyxy"])
    overlap = np.where(class_ids[:, None] == objects["class_ids"][None], overlap, 0.0)
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


def _shown_variants(errors: dict[str, int], baseline: str) -> list[str]:
    """Return the baseline and the variants with the fewest and most errors, in their order."""
    ranked = sorted(errors, key=lambda variant: errors[variant])
    extremes = [variant for pair in zip(ranked, ranked[::-1], strict=True) for variant in pair]
    kept = list(dict.fromkeys(name for name in [baseline, *extremes] if name in errors))
    return [variant for variant in errors if variant in kept[:MAX_VARIANTS]]


def _draw_example(
    prefix: str,
    gt: Arrays,
    index: int,
    image: ImageArray,
    detections: Mapping[str, Arrays],
    errors: Mapping[str, int],
) -> Example:
    key, classes = str(gt["keys"][index]), [str(name) for name in gt["classes"]]
    small = scale_to_width(image, WIDTH)
    scale = WIDTH / image.shape[1]
    objects = _boxes_of(gt, index)
    names = [classes[class_id] for class_id in objects["class_ids"]]
    drawn = draw_detections(small, objects["boxes_xyxy"] * scale, names, objects["class_ids"])
    panels = [(drawn, f"ground truth: {len(names)} objects")]
    for variant, count in errors.items():
        arrays = detections[variant]
        found = _boxes_of(arrays, [str(one) for one in arrays["keys"]].index(key))
        names = [str(arrays["classes"][class_id]) for class_id in found["class_ids"]]
        ids = [classes.index(name) if name in classes else len(classes) for name in names]
        boxes_xyxy = found["boxes_xyxy"] * scale
        drawn = draw_detections(small, boxes_xyxy, names, ids, found["scores"])
        panels.append((drawn, f"{variant}: {count} error{'' if count == 1 else 's'}"))
    return Example(
        key,
        [
            Image(f"{prefix}-{number}.jpg", to_jpeg(panel, 82), caption)
            for number, (panel, caption) in enumerate(panels)
        ],
    )
