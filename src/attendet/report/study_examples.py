"""Pictures of the test split where the arms of a study disagree most.

P is pictures, n detections, t truths.
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
from attendet.errors import PictureError
from attendet.pictures import Picture, read_picture
from attendet.report.draw import draw_detections, to_jpeg
from attendet.report.study import Run, StudyRecords

__all__ = ["Example", "find_examples"]

CONFIDENCE = 0.25
IOU = 0.5
WIDTH = 400
"""Width of a picture in the report, pixels."""

MOST_ARMS = 5
"""Arms that are drawn for a picture: those that differ most, with the baseline."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Example:
    """A picture with its truth and what the arms found in it."""

    name: str
    """Key of the picture."""

    panels: tuple[tuple[bytes, str], ...]
    """JPEG and caption of the truth, then of each arm."""


def find_examples(
    study: StudyRecords, *, count: int = 3, root: Path | None = None
) -> tuple[list[Example], str]:
    """Return the pictures on which the arms differ most in missed objects and false alarms.

    One seed that all arms have is looked at: seeds differ too, and the mean would be blurred.

    Args:
        study: the records, with the detections that they name.
        count: of pictures at most.
        root: folder of the data set, if it is not where it was.

    Returns:
        The examples, and a sentence that says how they were chosen, or why there are none.
    """
    truth = _load(study.folder / str(study.head.get("truth") or "truth.npz"))
    if truth is None or "paths" not in truth:
        return [], "The study keeps no truth of its pictures, so examples cannot be chosen."
    runs, seed = _one_seed(study)
    found = {arm: _load(study.folder / str(run.get("detections"))) for arm, run in runs.items()}
    known = {arm: arrays for arm, arrays in found.items() if arrays is not None}
    if len(known) < 2:
        return [], "The detections of fewer than two arms are there, so none can be compared."
    errors = np.array([_errors(truth, arrays) for arrays in known.values()])
    spread = errors.max(axis=0) - errors.min(axis=0)
    order = [index for index in np.argsort(-spread, kind="stable")[:count] if spread[index] > 0]
    folder = root or Path(str((study.head.get("data") or {}).get("root") or "."))
    examples, absent = [], 0
    for index in map(int, order):
        try:
            picture = read_picture(folder / str(truth["paths"][index]))
        except (PictureError, OSError):
            absent += 1
            continue
        examples.append(_draw(truth, known, errors[:, index], index, picture, study.baseline))
    if absent:
        return examples, (
            f"{absent} of the {len(order)} pictures on which the arms differ most cannot be read "
            f"from the data set ({folder.name}); attendet report --data names another folder."
        )
    if not examples:
        return [], "The arms miss and invent the same number of objects on every picture."
    return examples, (
        f"The pictures on which missed objects and false alarms (score {CONFIDENCE:.2f} and up, "
        f"IoU {IOU:.2f}) differ most between arms, with seed {seed}. They are chosen for their "
        "differences and say nothing of the mean."
    )


def _one_seed(study: StudyRecords) -> tuple[dict[str, Run], object]:
    """Return one run of each arm, of the first seed that most arms have."""
    by_seed: dict[object, dict[str, Run]] = {}
    for arm in study.arms():
        for run in study.runs_of(arm):
            if run.get("detections"):
                by_seed.setdefault(run.get("seed"), {})[arm] = run
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
    """Return the boxes of one picture."""
    first, last = arrays["offsets"][index : index + 2]
    names = ("boxes_xyxy", "class_ids", "scores", "difficult")
    return {name: arrays[name][first:last] for name in names if name in arrays}


def _shown(arrays: Arrays, index: int) -> Arrays:
    part = _part(arrays, index)
    kept = part["scores"] >= CONFIDENCE
    return {name: values[kept] for name, values in part.items()}


def _errors(truth: Arrays, found: Arrays) -> list[int]:
    """Return missed objects and false alarms of each picture of the truth."""
    place = {str(key): index for index, key in enumerate(found["keys"])}
    ids = {str(name): index for index, name in enumerate(truth["classes"])}
    renamed = np.array([ids.get(str(name), -1) for name in found["classes"]], dtype=np.int64)
    errors = []
    for index, key in enumerate(truth["keys"]):
        real = _part(truth, index)
        if str(key) not in place:
            errors.append(len(real["class_ids"]))
            continue
        shown = _shown(found, place[str(key)])
        errors.append(_count_errors(real, shown, renamed[shown["class_ids"]]))
    return errors


def _count_errors(real: Arrays, shown: Arrays, class_ids: NDArray[np.int64]) -> int:
    """Pair detections with truths of their class, best score first; count what is left."""
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
    truth: Arrays,
    found: dict[str, Arrays],
    errors: NDArray[np.int64],
    index: int,
    picture: Picture,
    baseline: str,
) -> Example:
    key = str(truth["keys"][index])
    real = _part(truth, index)
    classes = [str(name) for name in truth["classes"]]
    scale = WIDTH / picture.shape[1]
    height = max(1, round(picture.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(picture, (WIDTH, height), interpolation=method), dtype=np.uint8)
    tags = [classes[class_id] for class_id in real["class_ids"]]
    panels = [(
        to_jpeg(draw_detections(small, real["boxes_xyxy"] * scale, tags, real["class_ids"]), 82),
        f"truth: {len(tags)} objects",
    )]  # fmt: skip
    for arm, wrong in _chosen(dict(zip(found, errors.tolist(), strict=True)), baseline):
        arrays = found[arm]
        shown = _shown(arrays, [str(one) for one in arrays["keys"]].index(key))
        names = [str(arrays["classes"][class_id]) for class_id in shown["class_ids"]]
        ids = [classes.index(name) if name in classes else len(classes) for name in names]
        drawn = draw_detections(small, shown["boxes_xyxy"] * scale, names, ids, shown["scores"])
        words = "no error" if not wrong else f"{wrong} error{'' if wrong == 1 else 's'}"
        panels.append((to_jpeg(drawn, 82), f"{arm}: {words}"))
    return Example(key, tuple(panels))


def _chosen(errors: dict[str, int], baseline: str) -> list[tuple[str, int]]:
    """Return the arms that are drawn, in their order: the baseline and the best and the worst."""
    ranked = sorted(errors, key=lambda arm: errors[arm])
    ends = [arm for pair in zip(ranked, ranked[::-1], strict=True) for arm in pair]
    kept = list(dict.fromkeys([*([baseline] if baseline in errors else []), *ends]))[:MOST_ARMS]
    return [(arm, wrong) for arm, wrong in errors.items() if arm in kept]
