"""Files of a study: one record per run, and study.json for the study as a whole.

``runs.jsonl`` and ``study.json`` are all that a report needs (with the arrays that they name);
``docs/compare.md`` describes them field by field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError, DataError
from attendet.files import json_line, read_json_lines, replacing, write_atomically
from attendet.report.study import LAYOUT, RUNS, SETS, SETS_LAYOUT, STUDY, read_boxes, read_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attendet.data import Sample

GROUND_TRUTH = "ground_truth.npz"
RECORD = "record.json"
"""File with the record of one run, in its folder; written when the run finishes or pauses."""


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the records of runs.jsonl, without an incomplete last line of a killed process.

    Raises:
        DataError: if another line is damaged.
    """
    return read_json_lines(folder / RUNS)


def write_runs(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write runs.jsonl atomically."""
    write_atomically(folder / RUNS, "".join(map(json_line, records)))


def add_run(folder: Path, record: dict[str, Any]) -> None:
    """Append one record to runs.jsonl."""
    with (folder / RUNS).open("a", encoding="utf-8") as stream:
        stream.write(json_line(record))
        stream.flush()
        os.fsync(stream.fileno())


def study_json(folder: Path) -> dict[str, Any] | None:
    """Return the content of study.json; None if the folder has no study.

    Raises:
        DataError: if it is damaged, or of another layout.
    """
    return read_layout(folder / STUDY, LAYOUT)


def sets_json(folder: Path) -> dict[str, Any] | None:
    """Return the content of sets.json; None if the folder has no study over several data sets.

    Raises:
        DataError: if it is damaged, or of another layout.
    """
    return read_layout(folder / SETS, SETS_LAYOUT)


def write_study(folder: Path, study: dict[str, Any]) -> None:
    """Write study.json atomically."""
    _write_layout(folder / STUDY, LAYOUT, study)


def write_sets(folder: Path, sets: dict[str, Any]) -> None:
    """Write sets.json atomically."""
    _write_layout(folder / SETS, SETS_LAYOUT, sets)


def _write_layout(path: Path, layout: str, content: dict[str, Any]) -> None:
    text = json.dumps({"layout": layout, **content}, indent=1, allow_nan=False)
    write_atomically(path, text + "\n")


def write_detections(path: Path, keys: Sequence[str], found: Sequence[Detections]) -> None:
    """Write the detections of images to an .npz file of flat arrays.

    Per image: ``keys`` (P,), ``image_hw`` (P, 2) in pixels, and ``counts`` (P,), the number of
    detections. Over all images: ``boxes_xyxy`` (D, 4) float32 in pixels, ``scores`` (D,) float32
    and ``class_ids`` (D,). ``classes`` (K,) are the class names.
    """
    scores = np.concatenate([np.zeros(0, np.float32), *(each.scores for each in found)])
    _write_boxes(path, keys, found[0].classes if found else (), found, scores=scores)


def _write_boxes(
    path: Path,
    keys: Sequence[str],
    classes: Sequence[str],
    images: Sequence[Sample] | Sequence[Detections],
    **columns: NDArray[Any],
) -> None:
    with replacing(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            keys=np.array(keys, dtype=np.str_),
            classes=np.array(classes, dtype=np.str_),
            image_hw=np.array([each.image_hw for each in images], dtype=np.int64).reshape(-1, 2),
            counts=np.array([len(each.class_ids) for each in images], dtype=np.int64),
            boxes_xyxy=np.concatenate(
                [np.zeros((0, 4), np.float32), *(each.boxes_xyxy for each in images)]
            ),
            class_ids=np.concatenate([np.zeros(0, np.int64), *(each.class_ids for each in images)]),
            **columns,  # type: ignore[arg-type]
        )


def read_detections(path: Path) -> tuple[list[str], list[Detections]]:
    """Return the image keys and the detections of a file of `write_detections`.

    Raises:
        DataError: if the file is missing or damaged.
    """
    arrays = read_boxes(path)
    try:
        offsets = np.cumsum([0, *arrays["counts"]])
        classes = tuple(str(name) for name in arrays["classes"])
        found = [
            Detections(
                arrays["boxes_xyxy"][first:last],
                arrays["scores"][first:last],
                arrays["class_ids"][first:last],
                classes,
                (int(height), int(width)),
            )
            for first, last, (height, width) in zip(
                offsets[:-1], offsets[1:], arrays["image_hw"], strict=True
            )
        ]
        return [str(key) for key in arrays["keys"]], found
    except (ValueError, KeyError) as error:
        raise DataError(f"boxes cannot be read ({path}): {error}") from None


def write_ground_truth(
    path: Path, root: Path, samples: Sequence[Sample], classes: Sequence[str]
) -> None:
    """Write the ground truth of the measured images, in the format of `write_detections`.

    ``difficult`` (T,), one value per box, replaces ``scores``. ``paths`` (P,) are relative to the
    root of the data set if they are inside it.
    """
    paths = [
        str(sample.path.relative_to(root)) if sample.path.is_relative_to(root) else str(sample.path)
        for sample in samples
    ]
    difficult = np.concatenate([np.zeros(0, np.bool_), *(each.difficult for each in samples)])
    keys = [sample.key for sample in samples]
    _write_boxes(path, keys, classes, samples, paths=np.array(paths, np.str_), difficult=difficult)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file; the lock is also released if the process dies.

    Args:
        path: the lock file; created if needed.
        wait: wait until another process releases it, instead of raising an error.

    Raises:
        ConfigError: if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise ConfigError.must(
            "output",
            "a folder that no other process uses",
            str(path.parent),
            "--output",
            "Wait for the other process, or choose another folder.",
        ) from None
