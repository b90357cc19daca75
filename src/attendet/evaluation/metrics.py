"""Evaluate a detector: run it on images and compute all metrics of its detections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attendet.errors import ConfigError, ImageError
from attendet.evaluation.coco import coco_metrics
from attendet.evaluation.confusion import (
    BACKGROUND,
    CONFUSION_IOU,
    ClassCurve,
    best_f1,
    class_curve,
    confusion_matrix,
    pr_curves,
)
from attendet.evaluation.matching import (
    Matches,
    map_class_ids,
    match_detections,
    remap_sample_classes,
)
from attendet.evaluation.voc import Interpolation, average_precision
from attendet.images import read_image
from attendet.prefetch import map_in_threads

if TYPE_CHECKING:
    from pathlib import Path

    from attendet.data.sample import Sample
    from attendet.detections import Detections
    from attendet.inference import Detector, Selection
    from attendet.inference.stream import NetworkInput

VOC_IOU = 0.5

MIN_CONFIDENCE = 0.001
"""Lowest score of a detection in an evaluation; average precision needs low scores too."""

READERS = 2
"""Threads that read images."""

OnSkip = Callable[["Sample", ImageError], None]


def compute_metrics(
    samples: Sequence[Sample],
    detections: Sequence[Detections],
    classes: Sequence[str],
    *,
    curves: bool = True,
    confidence: float = 0.25,
) -> dict[str, Any]:
    """Return COCO and VOC average precision, counts, curves and confusion matrix of detections.

    For a correct average precision, detections with low scores (down to 0.001) must be included.
    Detections with class names in another order than ``classes`` are matched by name.

    Args:
        samples: the images with their ground truth, boxes in pixels of the image.
        detections: one `Detections` per sample, in the same order, boxes in pixels of the image.
        classes: names of the classes.
        curves: whether to add precision-recall curves and the confusion matrix.
        confidence: lowest score of a detection in the confusion matrix.

    Returns:
        The record; ``docs/evaluation.md`` lists its keys.

    Raises:
        ConfigError: if the numbers of samples and detections differ, or their class names.
        MissingExtraError: if faster-coco-eval is not installed.
    """
    if len(samples) != len(detections):
        raise ConfigError(
            f"detections must have one entry per sample ({len(samples)}); got {len(detections)}."
        )
    detections = _with_classes(detections, classes)
    matches = match_detections(samples, detections)
    record = coco_metrics(samples, detections, classes)
    known: dict[str, ClassCurve] = {}
    for class_id, (name, row) in enumerate(record["per_class"].items()):
        curve = class_curve(matches, class_id, iou_threshold=VOC_IOU)
        if curve is not None:
            known[name] = curve
        row |= _class_numbers(matches, class_id, curve)
    rows = record["per_class"].values()
    record["voc"] = {
        "iou": VOC_IOU,
        "every_point": _mean([row["voc_every_point"] for row in rows]),
        "eleven_point": _mean([row["voc_11_point"] for row in rows]),
    }
    record["best_f1"] = best_f1(list(known.values()))
    record["counts"] = {
        "images": len(samples),
        "images_unreadable": 0,
        "images_without_gt": sum(len(sample.class_ids) == 0 for sample in samples),
        "gt": int((~matches.gt_difficult).sum()),
        "difficult": int(matches.gt_difficult.sum()),
        "detections": len(matches.scores),
    }
    if curves:
        record["precision_recall"] = {"iou": VOC_IOU, "per_class": pr_curves(known)}
        counts = confusion_matrix(samples, detections, len(classes), confidence=confidence)
        record["confusion"] = {
            "labels": [*classes, BACKGROUND],
            "matrix": counts.tolist(),
            "confidence": confidence,
            "iou": CONFUSION_IOU,
        }
    return record


def _with_classes(detections: Sequence[Detections], classes: Sequence[str]) -> Sequence[Detections]:
    """Return detections with class ids that refer to ``classes``."""
    wanted = tuple(classes)
    maps = {
        names: map_class_ids(names, wanted) for names in {found.classes for found in detections}
    }
    return [
        replace(found, class_ids=maps[found.classes][found.class_ids], classes=wanted)
        for found in detections
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _class_numbers(matches: Matches, class_id: int, curve: ClassCurve | None) -> dict[str, Any]:
    def average(interpolation: Interpolation) -> float | None:
        if curve is None:
            return None
        return average_precision(curve.precision, curve.recall, interpolation)

    of_class = matches.gt_class_ids == class_id
    return {
        "voc_every_point": average("every-point"),
        "voc_11_point": average("11-point"),
        "best_f1": None if curve is None else best_f1([curve]),
        "gt": matches.gt_count(class_id),
        "difficult": int((of_class & matches.gt_difficult).sum()),
        "detections": int((matches.class_ids == class_id).sum()),
    }


def _batches(
    read: Callable[[Sample], NetworkInput],
    samples: Sequence[Sample],
    batch: int,
    on_skip: OnSkip | None,
) -> Iterator[list[NetworkInput]]:
    """Yield the network inputs in batches; the next batch is read while the current one is used."""
    network_inputs: list[NetworkInput] = []
    reading = map_in_threads(
        read, samples, ahead=2 * batch, workers=READERS, size_of=lambda one: one.nbytes
    )
    with contextlib.closing(reading):
        for number, (sample, future) in enumerate(reading, 1):
            try:
                network_inputs.append(future.result())
            except ImageError as error:
                if on_skip is None:
                    raise
                on_skip(sample, error)
            if number % batch == 0 or number == len(samples):
                yield network_inputs
                network_inputs = []


def evaluation_selection(
    detector: Detector,
    confidence: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
) -> Selection:
    """Return the selection of boxes for evaluation: a box counts once for each class.

    Args:
        detector: such as `attendet.load` returns.
        confidence: lowest score of a detection; by default 0.001, or the limit of non-maximum
            suppression in an exported file if it is higher.
        nms_iou: IoU threshold of non-maximum suppression; by default the detector's own.
        max_detections: most detections per image; by default the detector's own.

    Raises:
        ConfigError: if a setting is out of range or looser than in the exported file.
    """
    if confidence is None:
        confidence = max(MIN_CONFIDENCE, detector.min_confidence)
    return detector.select(
        confidence=confidence, nms_iou=nms_iou, max_detections=max_detections, multi_label=True
    )


def detect(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    batch: int = 16,
    confidence: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_skip: OnSkip | None = None,
    kept: dict[Path, NetworkInput] | None = None,
) -> list[Detections]:
    """Return the detections of each image, including the low scores that evaluation needs.

    Args:
        detector: such as `attendet.load` returns.
        samples: the images; the next batch is read from files while the detector runs.
        batch: images per call of the detector.
        confidence: lowest score of a detection; see `evaluation_selection` for all defaults.
        nms_iou: IoU threshold of non-maximum suppression.
        max_detections: most detections per image.
        progress: called after each batch with the images done and their total.
        on_skip: called with each image that cannot be read and its error; the image is skipped, and
            the result has no entry for it. By default the error is raised.
        kept: network inputs by image path; new ones are added. For repeated evaluations with the
            same input size.

    Raises:
        ConfigError: if a setting is out of range.
        ImageError: if an image cannot be read.
    """
    if batch < 1:
        raise ConfigError(f"batch must be at least 1; got {batch!r}.")
    selection = evaluation_selection(detector, confidence, nms_iou, max_detections)

    def read(sample: Sample) -> NetworkInput:
        if kept is not None and sample.path in kept:
            return kept[sample.path]
        one = detector.preprocess(read_image(sample.path))
        one = one._replace(image=one.padded)  # the image itself is not needed
        if kept is not None:
            kept[sample.path] = one
        return one

    found: list[Detections] = []
    for number, network_inputs in enumerate(_batches(read, samples, batch, on_skip), 1):
        found.extend(detector.predict_inputs(network_inputs, selection))
        if progress is not None:
            progress(min(number * batch, len(samples)), len(samples))
    return found


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    classes: Sequence[str],
    batch: int = 16,
    confidence: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    curves: bool = True,
    progress: Callable[[int, int], None] | None = None,
    on_skip: OnSkip | None = None,
) -> dict[str, Any]:
    """Run a detector on images and return its metrics and the seconds that it took.

    The next batch of images is read from files while the detector runs. A box may count for several
    classes, each with its score, as evaluators expect.

    Args:
        detector: such as `attendet.load` returns.
        samples: the images with their ground truth.
        classes: names of the classes of the samples; they are matched to the detector's by name
            (see `attendet.data.class_names`). Classes that only the detector has get no average.
        batch: images per call of the detector.
        confidence: lowest score of a detection; average precision needs low scores too. By default
            0.001, or the limit of non-maximum suppression in an exported file if it is higher.
        nms_iou: IoU threshold of non-maximum suppression; by default the detector's own.
        max_detections: most detections per image; by default the detector's own. COCO counts the
            best 100 of each class.
        curves: whether to add precision-recall curves and the confusion matrix.
        progress: called after each batch with the images done and their total.
        on_skip: called with each image that cannot be read and its error; the image is skipped. By
            default the error is raised.

    Returns:
        The record; ``docs/evaluation.md`` lists its keys.

    Raises:
        ConfigError: if a setting is out of range or the detector lacks a class.
        ImageError: if an image cannot be read; with ``on_skip``, only if no image can be read.
        MissingExtraError: if faster-coco-eval is not installed.
    """
    begun = time.perf_counter()
    unreadable: dict[int, ImageError] = {}

    def skip(sample: Sample, error: ImageError) -> None:
        unreadable[id(sample)] = error
        if on_skip is not None:
            on_skip(sample, error)

    found = detect(
        detector,
        samples,
        batch=batch,
        confidence=confidence,
        nms_iou=nms_iou,
        max_detections=max_detections,
        progress=progress,
        on_skip=None if on_skip is None else skip,
    )
    detected = time.perf_counter()
    samples = [sample for sample in samples if id(sample) not in unreadable]
    if unreadable and not samples:
        raise next(iter(unreadable.values()))
    known = found[0].classes if found else tuple(classes)
    if set(known) != set(classes):
        samples, classes = remap_sample_classes(samples, classes, known)[0], known
    record = compute_metrics(samples, found, classes, curves=curves)
    record["counts"]["images_unreadable"] = len(unreadable)
    record["seconds"] = {
        "inference": detected - begun,
        "metrics": time.perf_counter() - detected,
    }
    return record
