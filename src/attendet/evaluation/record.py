"""The layout of an evaluation record: plain numbers that JSON holds, None for no value."""

from __future__ import annotations

from typing import TypedDict

__all__ = [
    "BestF1",
    "ClassRecord",
    "ConfusionRecord",
    "Counts",
    "CurvePoints",
    "PrecisionRecallRecord",
    "Record",
    "Seconds",
    "VocRecord",
]


class BestF1(TypedDict):
    """The confidence of the best F1, and what it gives (0 to 1)."""

    confidence: float
    f1: float
    precision: float
    recall: float


class ClassRecord(TypedDict):
    """One class. Averages are 0 to 1, None where the class has no ground truth."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar_100: float | None
    voc_every_point: float | None
    voc_11_point: float | None
    best_f1: BestF1 | None
    gt: int
    difficult: int
    detections: int


class VocRecord(TypedDict):
    """Pascal VOC's average precision, the mean over classes that have ground truth."""

    iou: float
    every_point: float | None
    eleven_point: float | None


class Counts(TypedDict):
    """What was evaluated; ``gts`` leaves out the ``difficult``, ``images`` the unreadable."""

    images: int
    images_unreadable: int
    images_without_gt: int
    gt: int
    difficult: int
    detections: int


class CurvePoints(TypedDict):
    """One class's curve at 101 recalls (see `attendet.evaluation.confusion.pr_curves`)."""

    recall: list[float]
    precision: list[float]
    confidence: list[float]


class PrecisionRecallRecord(TypedDict):
    """Precision-recall curves at one overlap, by class name."""

    iou: float
    per_class: dict[str, CurvePoints]


class ConfusionRecord(TypedDict):
    """Row ground truth, column detection; the last of each is the background."""

    labels: list[str]
    matrix: list[list[int]]
    confidence: float
    iou: float


class Seconds(TypedDict):
    """Wall time: reading and detecting, and counting."""

    inference: float
    metrics: float


class _Always(TypedDict):
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: dict[str, ClassRecord]
    voc: VocRecord
    best_f1: BestF1 | None
    counts: Counts


class Record(_Always, total=False):
    """What `compute_metrics` and `evaluate` return.

    The head of the record is COCO's twelve numbers (0 to 1). ``precision_recall`` and
    ``confusion`` are there unless curves were not asked for, ``seconds`` after `evaluate`.
    """

    precision_recall: PrecisionRecallRecord
    confusion: ConfusionRecord
    seconds: Seconds
