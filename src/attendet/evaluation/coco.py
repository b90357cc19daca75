"""COCO's average precision and recall, computed by faster-coco-eval.

Boxes are in pixels of the original image. The area of a box is used as the area of its object
(small below 32 x 32, medium below 96 x 96). Difficult ground truth is passed as ``iscrowd``:
detections matched to it are neither true nor false positives. With such ground truth, COCO divides
the intersection by the area of the detection, so a detection of a part of a difficult object is
ignored too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_xywh
from attendet.system import require

if TYPE_CHECKING:
    from attendet.data.sample import Sample
    from attendet.detections import Detections

SUMMARY = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
"""COCO's twelve metrics, in the order of its summary."""

IOU_50, IOU_75 = 0, 5
"""Indices of the IoU thresholds 0.50 and 0.75 among 0.50, 0.55 ... 0.95."""

ALL_AREAS, MAX_DETECTIONS = 0, -1
"""Indices of the area range of all objects and of the limit of 100 detections."""

Boxes = tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.floating], NDArray[np.bool_]]
"""Boxes (xyxy), class ids, scores and difficult flags of one image."""


def _annotations(images: Iterable[Boxes]) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id, (boxes_xyxy, *columns) in enumerate(images, 1):
        boxes_xywh = xyxy_to_xywh(boxes_xyxy.astype(np.float64)).tolist()
        rows = zip(boxes_xywh, *(column.tolist() for column in columns), strict=True)
        for box, class_id, score, difficult in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": score,
                    "iscrowd": int(difficult),
                }
            )
    return annotations


def _best_of_each_class(found: Detections) -> Detections:
    """Return the best 100 detections of each class; COCO ignores the others."""
    order = np.lexsort((np.arange(len(found)), -found.scores, found.class_ids))
    ids = found.class_ids[order]
    rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
    return found[np.sort(order[rank < 100])]


def _silent(*_: object) -> None:
    """Discard a message of the evaluator."""


def _run_evaluator(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str]
) -> Any:
    """Run faster-coco-eval's evaluator and return it with its results."""
    package = require("faster_coco_eval", extra="train", purpose="evaluation")
    gt = _annotations(
        (each.boxes_xyxy, each.class_ids, np.ones(len(each.class_ids)), each.difficult)
        for each in samples
    )
    found = _annotations(
        (each.boxes_xyxy, each.class_ids, each.scores, np.zeros(len(each), dtype=np.bool_))
        for each in map(_best_of_each_class, detections)
    )
    head = {
        "images": [
            {"id": image_id, "height": sample.image_hw[0], "width": sample.image_hw[1]}
            for image_id, sample in enumerate(samples, 1)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes, 1)],
    }
    sheets = [
        package.COCO({**head, "annotations": entries}, print_function=_silent)
        for entries in (gt, found)
    ]
    evaluator = package.COCOeval_faster(*sheets, iouType="bbox", print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the values with ground truth (not -1); None if there are none."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def coco_metrics(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str]
) -> dict[str, Any]:
    """Return COCO's twelve metrics, and the metrics of each class.

    Args:
        samples: the images with their ground truth.
        detections: one `Detections` per sample, with class ids that refer to ``classes``; only the
            best 100 of each class and image count.
        classes: names of the classes.

    Returns:
        ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``, ``ar_1``, ``ar_10``,
        ``ar_100``, ``ar_small``, ``ar_medium``, ``ar_large`` (0 to 1, None where there is no such
        ground truth), and ``per_class``: name to ``ap``, ``ap50``, ``ap75``, ``ar_100``.

    Raises:
        MissingExtraError: if faster-coco-eval is not installed.
    """
    if samples and classes:
        evaluator = _run_evaluator(samples, detections, classes)
        summary = [_mean(np.array([value])) for value in evaluator.stats[: len(SUMMARY)]]
        precision, recall = (np.asarray(evaluator.eval[name]) for name in ("precision", "recall"))
    else:
        summary = [None] * len(SUMMARY)
        precision = np.full((10, 101, len(classes), 1, 1), -1.0)
        recall = precision[:, 0]
    precision = precision[:, :, :, ALL_AREAS, MAX_DETECTIONS]
    recall = recall[:, :, ALL_AREAS, MAX_DETECTIONS]
    per_class = {
        name: {
            "ap": _mean(precision[:, :, index]),
            "ap50": _mean(precision[IOU_50, :, index]),
            "ap75": _mean(precision[IOU_75, :, index]),
            "ar_100": _mean(recall[:, index]),
        }
        for index, name in enumerate(classes)
    }
    return {**dict(zip(SUMMARY, summary, strict=True)), "per_class": per_class}
