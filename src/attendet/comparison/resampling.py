"""Average precision on resampled test images; detections are matched only once.

Detections are matched to ground truth within each image, so resampling the images only changes how
often each match counts (its weight). With all weights 1 the result is COCO's AP, up to rounding.

P images, D detections of a class, T = 10 IoU thresholds, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_xywh

if TYPE_CHECKING:
    from attendet.data import Sample
    from attendet.detections import Detections

Floats = NDArray[np.float64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100
"""Largest number of detections per class and image."""

DRAWS_AT_ONCE = 100


@dataclass(frozen=True, eq=False)
class ClassHits:
    """Matched detections of one class over all images, best score first."""

    image: NDArray[np.int64]
    """(D,): index of the image."""

    true_positive: NDArray[np.bool_]
    """(T, D): whether the detection matches a ground truth that counts."""

    ignored: NDArray[np.bool_]
    """(T, D): whether it lies on a difficult ground truth, and is neither a hit nor a miss."""

    gts: Floats
    """(P,): number of ground-truth boxes that count in each image."""


Matches = tuple[NDArray[np.int64], Floats, NDArray[np.bool_], NDArray[np.bool_]]
"""Image, score, true positive and ignored of detections, as in `ClassHits`."""


def match_detections_by_class(
    samples: Sequence[Sample], detections: Sequence[Detections], class_count: int
) -> list[ClassHits]:
    """Return the matched detections of each class (matching as in COCO's evaluator).

    Args:
        samples: the images with their ground truth.
        detections: one `Detections` for each sample.
        class_count: K.
    """
    gts = np.zeros((class_count, len(samples)))
    matches: list[list[Matches]] = [[] for _ in range(class_count)]
    for number, (sample, found) in enumerate(zip(samples, detections, strict=True)):
        counted = sample.class_ids[~sample.difficult.astype(bool)]
        gts[:, number] = np.bincount(counted, minlength=class_count)[:class_count]
        for class_id in np.unique(found.class_ids):
            if class_id < class_count:
                matches[class_id].append(_match_class_of_image(number, sample, found, class_id))
    return [_class_hits(*each) for each in zip(matches, gts, strict=True)]


def _match_class_of_image(number: int, sample: Sample, found: Detections, class_id: int) -> Matches:
    wanted = sample.class_ids == class_id
    difficult = sample.difficult[wanted].astype(bool)
    mine = np.flatnonzero(found.class_ids == class_id)
    mine = mine[np.argsort(-found.scores[mine], kind="stable")][:MAX_DETECTIONS]
    boxes = (found.boxes_xyxy[mine], sample.boxes_xyxy[wanted])
    overlap = coco_mask.iou(
        *(xyxy_to_xywh(part.astype(np.float64)) for part in boxes), difficult.astype(np.uint8)
    )
    overlap = np.reshape(overlap, (len(mine), len(difficult)))
    scores = found.scores[mine].astype(np.float64)
    return np.full(len(mine), number), scores, *_match_image(overlap, difficult)


def _class_hits(matches: Sequence[Matches], gts: Floats) -> ClassHits:
    none = np.zeros((len(THRESHOLDS), 0), np.bool_)
    parts = zip((np.zeros(0, np.int64), np.zeros(0), none, none), *matches, strict=True)
    image, scores, true_positive, ignored = (np.concatenate(part, axis=-1) for part in parts)
    order = np.argsort(-scores, kind="stable")
    return ClassHits(image[order], true_positive[:, order], ignored[:, order], gts)


def _match_image(
    overlap: Floats, difficult: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each detection is a hit, and whether it is ignored, at each threshold.

    Detections are in the order of their score, best first. A detection takes the free ground truth
    with the largest overlap that counts. If there is none, it may lie on a difficult ground truth,
    which stays free.
    """
    thresholds = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(THRESHOLDS), len(difficult)), np.bool_)
    true_positive = np.zeros((len(THRESHOLDS), len(overlap)), np.bool_)
    ignored = np.zeros_like(true_positive)
    rows = np.arange(len(THRESHOLDS))
    for number, row in enumerate(overlap):
        reached = row[None] >= thresholds
        takes = reached & free & ~difficult[None]
        if takes.any():
            # COCO takes the last of several boxes with the same overlap
            best = takes.shape[1] - 1 - np.where(takes, row, -1.0)[:, ::-1].argmax(axis=1)
            hit = takes.any(axis=1)
            true_positive[hit, number] = True
            free[rows[hit], best[hit]] = False
        on_difficult = (reached & difficult[None]).any(axis=1)
        ignored[:, number] = ~true_positive[:, number] & on_difficult
    return true_positive, ignored


def draw_images(images: int, draws: int, *, seed: int = 0) -> Floats:
    """Return how often each image is in each bootstrap draw, (B, P).

    Each draw takes P images with replacement: Efron and Tibshirani 1993, An Introduction to the
    Bootstrap, chapter 6.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    return np.asarray(drawn, dtype=np.float64)


def resampled_ap(hits: Sequence[ClassHits], weights: Floats) -> Floats:
    """Return AP (IoU 0.50 to 0.95) for each weighting of the images.

    Args:
        hits: matched detections of each class.
        weights: (B, P), how often each image counts.

    Returns:
        (B,), 0 to 1; NaN where no ground truth is drawn.
    """
    values = []
    for first in range(0, len(weights), DRAWS_AT_ONCE):
        part = weights[first : first + DRAWS_AT_ONCE]
        values.append(_mean_over_classes([_class_ap(each, part) for each in hits], len(part)))
    return np.concatenate([np.zeros(0), *values])


def _mean_over_classes(columns: Sequence[Floats], draws: int) -> Floats:
    table = np.array(columns).reshape(-1, draws)
    known = ~np.isnan(table)
    total = np.where(known, table, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    mean: Floats = np.divide(total, count, out=np.full(draws, np.nan), where=count > 0)
    return mean


def _class_ap(hits: ClassHits, weights: Floats) -> Floats:
    """Return the AP of a class for each weighting; NaN where the class has no ground truth."""
    gts = weights @ hits.gts
    each = weights[:, hits.image]
    seen = np.cumsum(each, axis=1)
    total = np.zeros(len(weights))
    for true_positive, ignored in zip(hits.true_positive, hits.ignored, strict=True):
        at = np.flatnonzero(true_positive)
        if not len(at):
            continue
        counted = seen[:, at]
        if ignored.any():
            counted = counted - np.cumsum(each * ignored, axis=1)[:, at]
        found = np.cumsum(each[:, at], axis=1)
        total += _interpolated(found, counted, gts)
    total /= len(THRESHOLDS)
    total[gts == 0] = np.nan
    return total


def _interpolated(found: Floats, counted: Floats, gts: Floats) -> Floats:
    """Return the mean over 101 recalls of the best precision at that recall or beyond.

    Precision only falls between hits, so it is evaluated at the hits.

    Args:
        found: (B, hits), weighted number of hits up to each hit.
        counted: (B, hits), weighted number of detections up to each hit.
        gts: (B,), weighted number of ground-truth boxes.
    """
    precision = np.divide(found, counted, out=np.zeros_like(found), where=counted > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(found, gts[:, None], out=np.zeros_like(found), where=gts[:, None] > 0)
    reached = np.searchsorted(RECALLS, recall, side="right")
    points = np.diff(reached, axis=1, prepend=0)
    return np.asarray((points * envelope).sum(axis=1) / len(RECALLS))
