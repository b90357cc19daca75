"""Images of the test split where the variants of a study disagree most.

P is images, n detections, t ground truth.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.errors import ImageError
from attendet.images import ImageArray, read_image
from attendet.report.draw import draw_detections, to_jpeg
from attendet.report.study import Run, StudyRecords

__all__ = ["Example", "find_examples"]

CONFIDENCE = 0.25
IOU = 0.5
WIDTH = 400
"""Width of an image in the report, pixels."""

MOST_VARIANTS = 5
"""Variants that are drawn for an image: those that differ most, with the baseline."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Example:
    """An image with its ground truth and what the variants found in it."""

    name: str
    """Key of the image."""

    panels: tuple[tuple[bytes, str], ...]
    """JPEG and caption of the ground truth, then of each variant."""


def find_examples(
    study: StudyRecords, *, count: int = 3, root: Path | None = None
) -> tuple[list[Example], str]:
    """Return the images on which the variants differ most in missed objects and false alarms.

    One seed that all variants have is looked at: seeds differ too, and the mean would be blurred.

    Args:
        study: the records, with the detections that they name.
        count: of images at most.
        root: folder of the data set, if it is not where it was.

    Returns:
        The examples, and a sentence that says how they were chosen, or why there are none.
    """
    gt = _load(study.folder / str(study.head.get("gt") or "ground_truth.npz"))
    if gt is None or "paths" not in gt:
        return [], "The study keeps no ground truth of its images, so examples cannot be chosen."
    runs, seed = _one_seed(study)
    found = {
        variant: _load(study.folder / str(run.get("detections"))) for variant, run in runs.items()
    }
    known = {variant: arrays for variant, arrays in found.items() if arrays is not None}
    if len(known) < 2:
        return [], "The detections of fewer than two variants are there, so none can be compared."
    errors = np.array([_errors(gt, arrays) for arrays in known.values()])
    spread = errors.max(axis=0) - errors.min(axis=0)
    order = [index for index in np.argsort(-spread, kind="stable")[:count] if spread[index] > 0]
    folder = root or Path(str((study.head.get("data") or {}).get("root") or "."))
    examples, absent = [], 0
    for index in map(int, order):
        try:
            image = read_image(folder / str(gt["paths"][index]))
        except (ImageError, OSError):
            absent += 1
            continue
        examples.append(_draw(gt, known, errors[:, index], index, image, study.baseline))
    if absent:
        return examples, (
            f"{absent} of the {len(order)} images on which the variants differ most cannot be read "
            f"from the data set ({folder.name}); attendet report --data names another folder."
        )
    if not examples:
        return [], "The variants miss and invent the same number of objects on every image."
    return examples, (
        f"The images on which missed objects and false alarms (score {CONFIDENCE:.2f} and up, "
        f"IoU {IOU:.2f}) differ most between variants, with seed {seed}. They are chosen for their "
        "differences and say nothing of the mean."
    )


def _one_seed(study: StudyRecords) -> tuple[dict[str, Run], object]:
    """Return one run of each variant, of the first seed that most variants have."""
    by_seed: dict[object, dict[str, Run]] = {}
    for variant in study.variants():
        for run in study.runs_of(variant):
            if run.get("detections"):
                by_seed.setdefault(run.get("seed"), {})[variant] = run
    if not by_seed:
        return {}, None
    seed = max(by_seed, key=lambda one: len(by_seed[one]))
    return by_seed[seed], seed


def _load(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    counts = arrays.get("counts")
    if counts is None or "boxes_xyxy" not in arrays:
        return None
    arrays["offsets"] = np.concatenate([[0], np.cumsum(counts)])
    return arrays


def _part(arrays: Arrays, index: int) -> Arrays:
    """Return the boxes of one image."""
    first, last = arrays["offsets"][index : index + 2]
    names = ("boxes_xyxy", "class_ids", "scores", "difficult")
    return {name: arrays[name][first:last] for name in names if name in arrays}


def _shown(arrays: Arrays, index: int) -> Arrays:
    part = _part(arrays, index)
    kept = part["scores"] >= CONFIDENCE
    return {name: values[kept] for name, values in part.items()}


def _errors(gt: Arrays, found: Arrays) -> list[int]:
    """Return missed objects and false alarms of each image of the ground truth."""
    place = {str(key): index for index, key in enumerate(found["keys"])}
    ids = {str(name): index for index, name in enumerate(gt["classes"])}
    renamed = np.array([ids.get(str(name), -1) for name in found["classes"]], dtype=np.int64)
    errors = []
    for index, key in enumerate(gt["keys"]):
        real = _part(gt, index)
        if str(key) not in place:
            errors.append(len(real["class_ids"]))
            continue
        shown = _shown(found, place[str(key)])
        errors.append(_count_errors(real, shown, renamed[shown["class_ids"]]))
    return errors


def _count_errors(real: Arrays, shown: Arrays, class_ids: NDArray[np.int64]) -> int:
    """Pair detections with ground truth of their class, best score first; count what is left."""
    hard = real.get("difficult", np.zeros(len(real["class_ids"]), dtype=bool)).astype(bool)
    overlap = iou_matrix(shown["boxes_xyxy"], real["boxes_xyxy"])
    overlap = np.where(class_ids[:, None] == real["class_ids"][None], overlap, 0.0)
    taken = np.zeros(len(hard), dtype=bool)
    false = 0
    for row in np.argsort(-shown["scores"], kind="stable"):
        free = np.where(taken, 0.0, overlap[row])
        best = int(free.argmax()) if len(free) else -1
        if best >= 0 and free[best] >= IOU:
            taken[best] = not hard[best]
        else:
            false += 1
    return false + int((~taken & ~hard).sum())


def _draw(
    gt: Arrays,
    found: dict[str, Arrays],
    errors: NDArray[np.int64],
    index: int,
    image: ImageArray,
    baseline: str,
) -> Example:
    key = str(gt["keys"][index])
    real = _part(gt, index)
    classes = [str(name) for name in gt["classes"]]
    scale = WIDTH / image.shape[1]
    height = max(1, round(image.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(image, (WIDTH, height), interpolation=method), dtype=np.uint8)
    tags = [classes[class_id] for class_id in real["class_ids"]]
    panels = [
        (
            to_jpeg(
                draw_detections(small, real["boxes_xyxy"] * scale, tags, real["class_ids"]), 82
            ),
            f"ground truth: {len(tags)} objects",
        )
    ]
    for variant, wrong in _chosen(dict(zip(found, errors.tolist(), strict=True)), baseline):
        arrays = found[variant]
        shown = _shown(arrays, [str(one) for one in arrays["keys"]].index(key))
        names = [str(arrays["classes"][class_id]) for class_id in shown["class_ids"]]
        ids = [classes.index(name) if name in classes else len(classes) for name in names]
        drawn = draw_detections(small, shown["boxes_xyxy"] * scale, names, ids, shown["scores"])
        words = "no error" if not wrong else f"{wrong} error{'' if wrong == 1 else 's'}"
        panels.append((to_jpeg(drawn, 82), f"{variant}: {words}"))
    return Example(key, tuple(panels))


def _chosen(errors: dict[str, int], baseline: str) -> list[tuple[str, int]]:
    """Return the variants that are drawn, in their order: the baseline and the best and the
    worst."""
    ranked = sorted(errors, key=lambda variant: errors[variant])
    ends = [variant for pair in zip(ranked, ranked[::-1], strict=True) for variant in pair]
    kept = list(dict.fromkeys([*([baseline] if baseline in errors else []), *ends]))[:MOST_VARIANTS]
    return [(variant, wrong) for variant, wrong in errors.items() if variant in kept]
