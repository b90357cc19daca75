"""COCO's average precision and recall, counted by faster-coco-eval's compiled evaluator.

Boxes are in pixels of the original image and the area of a box stands for the area of its object
(small below 32 x 32, medium below 96 x 96). A difficult ground truth is given as ``iscrowd``:
detections on it are neither right nor wrong. COCO divides the overlap with such a ground truth
by the detection's own area, so a detection of a part of a difficult object is forgiven too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_xywh
from attendet.system import require

if TYPE_CHECKING:
    from attendet.data.sample import Sample
    from attendet.detections import Detections

__all__ = ["coco_metrics"]

IOU_50, IOU_75 = 0, 5
"""Where the thresholds 0.50 and 0.75 stand among 0.50, 0.55 ... 0.95."""

AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
"""Where each range of areas stands."""

MAX_DETECTIONS = {1: 0, 10: 1, 100: 2}
"""Most detections of a class and image, and where that limit stands."""


def _annotation_columns(
    boxes_xyxy: NDArray[np.floating], class_ids: NDArray[np.int64]
) -> tuple[list[list[float]], list[float], list[int]]:
    boxes_xywh = xyxy_to_xywh(boxes_xyxy.astype(np.float64))
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    return boxes_xywh.tolist(), areas.tolist(), (class_ids + 1).tolist()


def _gt_annotations(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id, sample in enumerate(samples, 1):
        columns = _annotation_columns(sample.boxes_xyxy, sample.class_ids)
        for box, area, category, crowd in zip(
            *columns, sample.difficult.astype(int).tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": area,
                    "iscrowd": crowd,
                }
            )
    return annotations


def _best_of_each_class(found: Detections, limit: int) -> Detections:
    """Return the best ``limit`` detections of each class, which are all that COCO looks at."""
    if len(found) <= limit:
        return found
    order = np.lexsort((np.arange(len(found)), -found.scores, found.class_ids))
    ids = found.class_ids[order]
    rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
    return found[np.sort(order[rank < limit])]


def _found_annotations(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id, every in enumerate(detections, 1):
        found = _best_of_each_class(every, max(MAX_DETECTIONS))
        columns = _annotation_columns(found.boxes_xyxy, found.class_ids)
        for box, area, category, score in zip(*columns, found.scores.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": area,
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return annotations


def _silent(*_: object) -> None:
    """Take the place of the evaluator's messages."""


def _run_evaluator(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (thresholds, recalls, classes, areas, limits) and recall (without recalls).

    Both are -1 where there is no ground truth.
    """
    package = require("faster_coco_eval", extra="train", purpose="evaluation")
    if not samples or not classes:
        nothing = np.full((10, 101, len(classes), 4, 3), -1.0)
        return nothing, nothing[:, 0]
    sheets = []
    for entries in (_gt_annotations(samples), _found_annotations(detections)):
        sheet = {
            "images": [
                {"id": image_id, "height": sample.image_hw[0], "width": sample.image_hw[1]}
                for image_id, sample in enumerate(samples, 1)
            ],
            "categories": [{"id": index, "name": name} for index, name in enumerate(classes, 1)],
            "annotations": entries,
        }
        sheets.append(package.COCO(sheet, print_function=_silent))
    evaluator = package.COCOeval_faster(*sheets, iouType="bbox", print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean over what has ground truth (not -1), None if nothing has."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def coco_metrics(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str]
) -> dict[str, Any]:
    """Return COCO's twelve numbers and those of each class.

    Args:
        samples: the images with their ground truth.
        detections: one `Detections` a sample, class ids those of ``classes``; the best 100 of each
            class and image count.
        classes: names of the classes.

    Returns:
        ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``, ``ar_1``, ``ar_10``,
        ``ar_100``, ``ar_small``, ``ar_medium``, ``ar_large`` (0 to 1, None where there is no such
        ground truth), and ``per_class``: name to ``ap``, ``ap50``, ``ap75``, ``ar_100``.

    Raises:
        MissingExtraError: if faster-coco-eval is not installed.
    """
    precision, recall = _run_evaluator(samples, detections, classes)
    best = MAX_DETECTIONS[100]
    metrics: dict[str, Any] = {
        "ap": _mean(precision[:, :, :, AREAS["all"], best]),
        "ap50": _mean(precision[IOU_50, :, :, AREAS["all"], best]),
        "ap75": _mean(precision[IOU_75, :, :, AREAS["all"], best]),
    }
    sizes = ("small", "medium", "large")
    metrics |= {f"ap_{size}": _mean(precision[:, :, :, AREAS[size], best]) for size in sizes}
    metrics |= {
        f"ar_{limit}": _mean(recall[:, :, AREAS["all"], index])
        for limit, index in MAX_DETECTIONS.items()
    }
    metrics |= {f"ar_{size}": _mean(recall[:, :, AREAS[size], best]) for size in sizes}
    metrics["per_class"] = {
        name: {
            "ap": _mean(precision[:, :, index, AREAS["all"], best]),
            "ap50": _mean(precision[IOU_50, :, index, AREAS["all"], best]),
            "ap75": _mean(precision[IOU_75, :, index, AREAS["all"], best]),
            "ar_100": _mean(recall[:, index, AREAS["all"], best]),
        }
        for index, name in enumerate(classes)
    }
    return metrics
