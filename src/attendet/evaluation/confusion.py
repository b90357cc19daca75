"""Confusion matrix, precision-recall curves, and the confidence with the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.evaluation.matching import Matches, greedy_pairs
from attendet.evaluation.voc import precision_recall, true_positives

if TYPE_CHECKING:
    from attendet.data.sample import Sample
    from attendet.detections import Detections

BACKGROUND = "background"
CONFUSION_IOU = 0.5
"""Lowest IoU of a pair in the confusion matrix."""

RECALLS = np.linspace(0.0, 1.0, 101)
CONFIDENCES = np.arange(1, 1000) / 1000

Floats = NDArray[np.float64]


def confusion_matrix(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    class_count: int,
    *,
    confidence: float = 0.25,
) -> NDArray[np.int64]:
    """Return how often each ground-truth class was detected as each class.

    In each image, ground truth and detections are paired regardless of class, highest IoU first,
    each at most once. The last row counts detections without ground truth; the last column counts
    ground truth without a detection. Difficult ground truth and detections paired with it are
    ignored.

    Args:
        samples: the images with their ground truth.
        detections: one `Detections` per sample.
        class_count: number of classes K.
        confidence: detections with a lower score are ignored.

    Returns:
        Shape (K + 1, K + 1): rows are ground truth, columns are detections.
    """
    counts = np.zeros((class_count + 1, class_count + 1), dtype=np.int64)
    for sample, every in zip(samples, detections, strict=True):
        found = every[every.scores >= confidence]
        gt_ids = np.where(sample.difficult, -1, sample.class_ids)
        paired_gt = np.full(len(found), class_count, dtype=np.int64)
        missed = ~sample.difficult.astype(bool)
        overlap = iou_matrix(found.boxes_xyxy, sample.boxes_xyxy)
        for detection, gt in greedy_pairs(overlap, CONFUSION_IOU):
            paired_gt[detection] = gt_ids[gt]
            missed[gt] = False
        judged = paired_gt >= 0
        np.add.at(counts, (paired_gt[judged], found.class_ids[judged]), 1)
        np.add.at(counts, (sample.class_ids[missed], class_count), 1)
    return counts


@dataclass(frozen=True, eq=False)
class ClassCurve:
    """Precision and recall of one class after each of its k detections, best score first."""

    scores: Floats
    precision: Floats
    recall: Floats

    def at_confidences(self, confidences: Floats) -> tuple[Floats, Floats]:
        """Return precision and recall of the detections that score at least each confidence.

        Precision is 1 and recall 0 where no detection has such a score.
        """
        kept = np.searchsorted(-self.scores, -confidences, side="right")
        return np.append(1.0, self.precision)[kept], np.append(0.0, self.recall)[kept]


def class_curve(matches: Matches, class_id: int, *, iou_threshold: float) -> ClassCurve | None:
    """Return the precision-recall curve of a class; None without non-difficult ground truth."""
    gt_count = matches.gt_count(class_id)
    if gt_count == 0:
        return None
    right, scores = true_positives(matches.of_class(class_id), iou_threshold)
    return ClassCurve(scores, *precision_recall(right, gt_count))


def pr_curves(curves: dict[str, ClassCurve]) -> dict[str, dict[str, list[float]]]:
    """Return the curve of each class at 101 recalls, ready for JSON.

    Args:
        curves: class name to curve.

    Returns:
        Class name to ``recall`` (0, 0.01 ... 1), ``precision`` (the highest at that recall or a
        higher one) and ``confidence`` (the score at which the recall is reached). Both are 0 where
        the recall is never reached.
    """
    sampled = {}
    for name, curve in curves.items():
        envelope = np.append(np.maximum.accumulate(curve.precision[::-1])[::-1], 0.0)
        first = np.searchsorted(curve.recall, RECALLS - 1e-12)
        sampled[name] = {
            "recall": RECALLS.round(2).tolist(),
            "precision": envelope[first].round(6).tolist(),
            "confidence": np.append(curve.scores, 0.0)[first].round(6).tolist(),
        }
    return sampled


def best_f1(curves: Sequence[ClassCurve]) -> dict[str, Any] | None:
    """Return the confidence with the best mean F1 of the classes; None without classes.

    F1 is the harmonic mean of precision and recall. Confidences 0.001, 0.002 ... 0.999 are tried;
    of equally good ones, the lowest is returned.

    Returns:
        ``confidence``, and the means over the classes at it: ``f1``, ``precision``, ``recall``.
    """
    if not curves:
        return None
    at = np.array([curve.at_confidences(CONFIDENCES) for curve in curves])
    precision, recall = at[:, 0], at[:, 1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.mean(axis=0).argmax())
    return {
        "confidence": float(CONFIDENCES[best]),
        "f1": float(f1[:, best].mean()),
        "precision": float(precision[:, best].mean()),
        "recall": float(recall[:, best].mean()),
    }
