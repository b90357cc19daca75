"""Match detections to ground truth, as flat arrays over all images that all metrics use.

D is the number of detections and T the number of ground-truth boxes of all images together; n and m
are those of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.data.class_names import ClassMatch, match_classes
from attendet.errors import ConfigError, list_names

if TYPE_CHECKING:
    from attendet.data.sample import Sample
    from attendet.detections import Detections

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Each detection of a data set with the ground truth of its class that it overlaps most.

    The best ground truth does not depend on an IoU threshold, so one `Matches` serves every
    threshold and every confidence.

    Attributes:
        scores: float64, shape (D,), best first; equal scores in the order of the images.
        class_ids: int64, shape (D,).
        best_iou: float64, shape (D,): IoU with the best ground truth of the same class and image.
        best_gt: int64, shape (D,): index of that ground truth; -1 if there is none.
        gt_class_ids: int64, shape (T,).
        gt_difficult: bool, shape (T,): ground truth that counts neither as found nor as missed.
    """

    scores: NDArray[np.float64]
    class_ids: Ids
    best_iou: NDArray[np.float64]
    best_gt: Ids
    gt_class_ids: Ids
    gt_difficult: NDArray[np.bool_]

    def of_class(self, class_id: int) -> Matches:
        """Return the matches with the detections of one class only; all ground truth is kept."""
        mask = self.class_ids == class_id
        return replace(
            self,
            scores=self.scores[mask],
            class_ids=self.class_ids[mask],
            best_iou=self.best_iou[mask],
            best_gt=self.best_gt[mask],
        )

    def gt_count(self, class_id: int) -> int:
        """Return the number of ground-truth boxes of a class, without difficult ones."""
        return int(((self.gt_class_ids == class_id) & ~self.gt_difficult).sum())


def map_class_ids(found: Sequence[str], wanted: Sequence[str]) -> Ids:
    """Return, for each class id of ``found``, the id of the same class in ``wanted``.

    Args:
        found: class names of a detector.
        wanted: class names of a data set.

    Returns:
        int64, shape (len(found),).

    Raises:
        ConfigError: if either has a class that the other lacks.

    Example:
        >>> map_class_ids(["dog", "Cat"], ["cat", "dog"]).tolist()
        [1, 0]
    """
    matched = match_classes(found, wanted).ids
    if set(matched) != set(range(len(wanted))):
        raise ConfigError(
            "classes of the detector and of the data must be the same; "
            f"got {_unmatched('the detector', found, 'the data', wanted, matched)}. "
            "Rename the classes of the data, or use weights trained on them."
        )
    return np.array(matched, dtype=np.int64)


def remap_sample_classes(
    samples: Sequence[Sample],
    classes: Sequence[str],
    wanted: Sequence[str],
    *,
    class_map: Mapping[str, str] | None = None,
    source: object = "the samples",
) -> tuple[list[Sample], ClassMatch]:
    """Return samples with the class ids of another list of classes, and the match of the lists.

    Args:
        samples: images with their ground truth.
        classes: names of the classes that the samples' ids refer to.
        wanted: names of the classes that the returned ids refer to, such as those of weights.
        class_map: name in ``classes`` to name in ``wanted``, where they differ.
        source: origin of the samples, for the error message.

    Raises:
        ConfigError: if ``wanted`` lacks a class.
    """
    match = match_classes(classes, wanted, class_map)
    if None in match.ids:
        raise ConfigError(
            "classes of the data must be known to the weights; "
            f"got {_unmatched('the data', classes, 'the weights', wanted, match.ids)} ({source}). "
            "Pass --class-map DATA=WEIGHTS, rename them in the data, or train on this data."
        )
    if match.ids == tuple(range(len(wanted))):
        return list(samples), match
    ids = np.array(match.ids, dtype=np.int64)
    return [replace(sample, class_ids=ids[sample.class_ids]) for sample in samples], match


def _unmatched(
    first: str,
    a: Sequence[str],
    second: str,
    b: Sequence[str],
    matched: Sequence[int | None],
) -> str:
    """Return a text with the names of ``a`` and ``b`` that `match_classes` did not match."""
    sides = [
        (first, [name for name, index in zip(a, matched, strict=True) if index is None]),
        (second, [name for index, name in enumerate(b) if index not in matched]),
    ]
    return "; ".join(
        f"only in {side}: {list_names(map(repr, names))}" for side, names in sides if names
    )


def _best_gt(sample: Sample, found: Detections) -> tuple[NDArray[np.float64], Ids]:
    """Return, for n detections, IoU with and index of the best ground truth of their class."""
    if len(sample.class_ids) == 0 or len(found) == 0:
        return np.zeros(len(found)), np.full(len(found), -1, dtype=np.int64)
    overlap = iou_matrix(found.boxes_xyxy, sample.boxes_xyxy)
    overlap[found.class_ids[:, None] != sample.class_ids[None, :]] = -1.0
    best = overlap.argmax(axis=1)
    best_iou = overlap[np.arange(len(found)), best]
    return best_iou.clip(min=0.0), np.where(best_iou < 0, -1, best)


def match_detections(samples: Sequence[Sample], detections: Sequence[Detections]) -> Matches:
    """Return each detection with the ground truth of its class that it overlaps most.

    Args:
        samples: the images with their ground truth.
        detections: one `Detections` per sample, with the class ids of the samples.
    """
    ious: list[NDArray[np.float64]] = [np.zeros(0)]
    gts: list[Ids] = [np.zeros(0, dtype=np.int64)]
    before = 0
    for sample, found in zip(samples, detections, strict=True):
        best_iou, best = _best_gt(sample, found)
        ious.append(best_iou)
        gts.append(np.where(best < 0, -1, best + before))
        before += len(sample.class_ids)
    scores = np.concatenate([np.zeros(0), *(found.scores for found in detections)])
    order = np.argsort(-scores, kind="stable")
    return Matches(
        scores=scores[order],
        class_ids=_join([found.class_ids for found in detections])[order],
        best_iou=np.concatenate(ious)[order],
        best_gt=np.concatenate(gts)[order],
        gt_class_ids=_join([sample.class_ids for sample in samples]),
        gt_difficult=_join([sample.difficult for sample in samples]).astype(bool),
    )


def _join(parts: Sequence[NDArray[np.generic]]) -> Ids:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


def greedy_pairs(overlap: NDArray[np.float64], iou_threshold: float) -> list[tuple[int, int]]:
    """Return pairs (row, column), largest overlap first; each row and column is used once.

    Args:
        overlap: shape (n, m), 0 to 1.
        iou_threshold: lowest overlap of a pair.

    Example:
        >>> greedy_pairs(np.array([[0.6, 0.9], [0.7, 0.8]]), 0.5)
        [(0, 1), (1, 0)]
    """
    rows, columns = np.nonzero(overlap >= iou_threshold)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return pairs
