"""Average precision by the rules of Pascal VOC, at any IoU threshold.

A detection is matched to the ground truth of its class and image with the highest IoU. It is a true
positive if the IoU is at least the threshold and no detection with a higher score has the same
match. It is ignored if the IoU is at least the threshold and that ground truth is difficult.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError
from attendet.evaluation.matching import Matches

Interpolation = Literal["every-point", "11-point"]
Floats = NDArray[np.float64]


def true_positives(matches: Matches, iou_threshold: float) -> tuple[NDArray[np.bool_], Floats]:
    """Return which detections are true positives, and their scores, without ignored detections.

    Args:
        matches: the detections of one class, best score first.
        iou_threshold: lowest IoU of a true positive, 0 to 1.

    Returns:
        True positive or not, and score, shape (k,) each, best score first, without the detections
        that are matched to difficult ground truth.
    """
    hit = (matches.best_gt >= 0) & (matches.best_iou >= iou_threshold)
    hit_gt = matches.best_gt[hit]
    _, first = np.unique(hit_gt, return_index=True)
    right = np.zeros(len(hit), dtype=bool)
    right[np.flatnonzero(hit)[first]] = True
    counts = np.ones(len(hit), dtype=bool)
    counts[hit] = ~matches.gt_difficult[hit_gt]
    return right[counts], matches.scores[counts]


def precision_recall(right: NDArray[np.bool_], gt_count: int) -> tuple[Floats, Floats]:
    """Return precision and recall after each detection.

    Args:
        right: whether each detection is a true positive, shape (k,), best score first.
        gt_count: number of ground-truth boxes, at least 1.

    Returns:
        Precision and recall, shape (k,) each, 0 to 1.

    Example:
        >>> precision, recall = precision_recall(np.array([True, False, True]), 4)
        >>> precision.round(2).tolist(), recall.tolist()
        ([1.0, 0.5, 0.67], [0.25, 0.25, 0.5])
    """
    found = np.cumsum(right, dtype=np.float64)
    return found / np.arange(1, len(right) + 1), found / gt_count


def average_precision(
    precision: Floats, recall: Floats, interpolation: Interpolation = "every-point"
) -> float:
    """Return the area under a precision-recall curve.

    Precision at a recall is the highest at that recall or a higher one. ``every-point`` (VOC 2010
    and later; Everingham et al. 2015, "The Pascal Visual Object Classes Challenge: A
    Retrospective") integrates it exactly; ``11-point`` (VOC 2007) averages it at recalls 0,
    0.1 ... 1.

    Args:
        precision: shape (k,), after each detection, best score first.
        recall: shape (k,), non-decreasing.
        interpolation: ``"every-point"`` or ``"11-point"``.

    Returns:
        0 to 1; 0 without detections.

    Raises:
        ConfigError: if the interpolation is unknown.

    Example:
        >>> precision, recall = np.array([1.0, 0.5, 2 / 3]), np.array([0.5, 0.5, 1.0])
        >>> average_precision(precision, recall)
        0.8333
        >>> average_precision(precision, recall, "11-point")
        0.8484
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if interpolation == "every-point":
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope[:-1]))
    if interpolation == "11-point":
        # A recall of 0.3 may be computed as 0.30000000000000004: allow for rounding.
        first = np.searchsorted(recall, np.arange(11) / 10 - 1e-12)
        return float(envelope[first].mean())
    raise ConfigError(f"interpolation must be 'every-point' or '11-point'; got {interpolation!r}.")
