"""Whether an exported file says what the network says: outputs, detections, average precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_image
from attendet.data.sample import Sample
from attendet.detections import Detections
from attendet.errors import ExportError
from attendet.evaluation import compute_metrics
from attendet.exporters.differences import Subject, compare_raw, drawn_images, network_inputs
from attendet.exporters.running import ExportedRuntime
from attendet.images import ImageArray, read_image
from attendet.inference import Detector
from attendet.inference.preprocess import resize_to_input

__all__ = ["LIMITS", "Limits", "Parity", "check_parity"]

SAME_PX, SAME_SCORE = 1.0, 0.01
"""Two detections of a class are the same within these."""

LOWEST_SCORE = 0.001
"""Detections below do not count for average precision."""

IMAGES_AT_ONCE = 8
RAW_IMAGES = 4


@dataclass(frozen=True)
class Limits:
    """How far a file may be from the network before that is an error."""

    box_px: float
    """Largest difference of an edge of any box, cut at the network input, pixels."""

    score: float
    """Largest difference of any score."""

    same_share: float
    """Least share of the network's detections that the file has, and the other way round."""

    ap: float
    """Largest difference of average precision, 0 to 1."""


LIMITS = {
    "float32": Limits(box_px=0.1, score=0.001, same_share=0.995, ap=0.001),
    "float16": Limits(box_px=2.0, score=0.02, same_share=0.98, ap=0.005),
}


@dataclass(frozen=True)
class Parity:
    """How far a file is from the network, as it stands in the file."""

    max_box_px: float
    """Largest difference of an edge, pixels; boxes cut at the network input."""

    mean_box_px: float
    """Mean difference of all edges, pixels."""

    max_score: float
    """Largest difference of a score."""

    mean_score: float
    """Mean difference of all scores."""

    images: int
    """Images whose detections were compared."""

    detections: int
    """Detections of the network on them."""

    same: int
    """Of these, how many the file has too: same class, within 1 px and 0.01."""

    extra: int
    """Detections that the file alone has."""

    split: str | None = None
    """Part of the data set that the images are; none for drawn images."""

    ap: float | None = None
    """Average precision of the network there, 0 to 1."""

    ap_exported: float | None = None
    """Average precision of the file there, 0 to 1."""

    @property
    def ap_drop(self) -> float:
        """Points of average precision that the file lost; 0 where none was measured."""
        if self.ap is None or self.ap_exported is None:
            return 0.0
        return 100 * (self.ap - self.ap_exported)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON takes them."""
        return asdict(self)


def check_parity(
    subject: Subject,
    samples: Sequence[Sample] = (),
    *,
    split: str | None = None,
    classes: Sequence[str] = (),
    limits: Limits | None,
    progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Return how far a file is from its network.

    Args:
        subject: the network and the file.
        samples: images with their ground truth; drawn images are taken if there are none.
        split: the samples' name, kept in the result.
        classes: of the samples.
        limits: what is too far; None compares without judging.
        progress: called with images done and images in all.

    Raises:
        ExportError: if it is too far; says in what and by how much.
    """
    drawn = [] if samples else drawn_images(RAW_IMAGES)
    first = drawn or [read_image(sample.path) for sample in samples[:RAW_IMAGES]]
    raw = compare_raw(subject, network_inputs(first, subject.metadata, subject.info.dynamic))
    _judge_raw(raw, limits)
    expected, found = [], []
    for images in _batches(drawn, samples):
        expected += _reference_detections(subject, images)
        found += _file_detections(subject, images)
        if progress is not None:
            progress(len(found), len(samples) or len(drawn))
    same, extra, count = _count_same(expected, found, subject.selection.confidence)
    ap = ap_exported = None
    if samples:
        ap, ap_exported = (
            compute_metrics(samples, each, classes, curves=False)["ap"]
            for each in (expected, found)
        )
    parity = Parity(*raw, len(found), count, same, extra, split, ap, ap_exported)
    _judge_detections(parity, limits)
    return parity


def _batches(drawn: Sequence[ImageArray], samples: Sequence[Sample]) -> Iterator[list[ImageArray]]:
    if drawn:
        yield list(drawn)
    for start in range(0, len(samples), IMAGES_AT_ONCE):
        chosen = samples[start : start + IMAGES_AT_ONCE]
        yield [read_image(sample.path) for sample in chosen]


def _reference_detections(subject: Subject, images: Sequence[ImageArray]) -> list[Detections]:
    detector = Detector(subject.reference, **_thresholds(subject))
    return detector.predict_batch(images, multi_label=not subject.info.nms)


def _file_detections(subject: Subject, images: Sequence[ImageArray]) -> list[Detections]:
    if subject.info.nms:
        return [_suppressed(subject, image) for image in images]
    detector = Detector(ExportedRuntime(subject.run, subject.metadata), **_thresholds(subject))
    return detector.predict_batch(images, multi_label=True)


def _thresholds(subject: Subject) -> dict[str, Any]:
    selection = subject.selection
    return {
        "confidence": selection.confidence if subject.info.nms else LOWEST_SCORE,
        "nms_iou": selection.nms_iou,
        "max_detections": selection.max_detections,
    }


def _suppressed(subject: Subject, image: ImageArray) -> Detections:
    """Return the detections of a file with suppression inside."""
    preprocess = subject.metadata.preprocessing()
    padded, transform = resize_to_input(image, subject.metadata.input_hw, preprocess.resize)
    if preprocess.color == "bgr":
        padded = padded[..., ::-1]
    (rows,) = subject.run(np.ascontiguousarray(padded[None]))
    there = rows[0][rows[0][:, 4] > 0]
    return Detections(
        clip_to_image(transform.to_image(there[:, :4]), transform.image_hw).astype(np.float32),
        there[:, 4],
        there[:, 5].astype(np.int64),
        subject.metadata.classes,
        transform.image_hw,
    )


def _count_same(
    expected: Sequence[Detections], found: Sequence[Detections], confidence: float
) -> tuple[int, int, int]:
    """Return detections that both have, those of the file alone, and those of the network.

    A detection that one side has just above the confidence counts for neither if the other side has
    none: it may stand just below.
    """
    same = extra = lacking = 0
    for ours, theirs in zip(expected, found, strict=True):
        matched = _partners(ours, theirs)
        clear = ours.scores >= confidence + SAME_SCORE
        same += int((clear & matched).sum())
        lacking += int((clear & ~matched).sum())
        clear = theirs.scores >= confidence + SAME_SCORE
        extra += int((clear & ~_partners(theirs, ours)).sum())
    return same, extra, same + lacking


def _partners(ours: Detections, theirs: Detections) -> NDArray[np.bool_]:
    """Return which of our detections are among theirs."""
    if len(ours) == 0 or len(theirs) == 0:
        return np.zeros(len(ours), dtype=bool)
    far = np.abs(ours.boxes_xyxy[:, None] - theirs.boxes_xyxy[None]).max(axis=2)
    off = np.abs(ours.scores[:, None] - theirs.scores[None])
    alike = ours.class_ids[:, None] == theirs.class_ids[None]
    near: NDArray[np.bool_] = (alike & (far <= SAME_PX) & (off <= SAME_SCORE)).any(axis=1)
    return near


def _judge_raw(raw: tuple[float, float, float, float], limits: Limits | None) -> None:
    if limits is None:
        return
    for name, unit, value, limit in (
        ("boxes", " px", raw[0], limits.box_px),
        ("scores", "", raw[2], limits.score),
    ):
        if not value <= limit:  # NaN is too far as well
            raise ExportError(
                f"{name} of the exported file must be within {limit:g}{unit} of the network's; "
                f"got {value:.3g}{unit}. Nothing was written."
            )


def _judge_detections(parity: Parity, limits: Limits | None) -> None:
    if limits is None:
        return
    for name, count, whole in (
        ("of the network must be in the exported file", parity.same, parity.detections),
        ("of the file must be the network's", parity.same, parity.same + parity.extra),
    ):
        if count < limits.same_share * whole:
            raise ExportError(
                f"detections {name}, at least {limits.same_share:.1%}; got {count} of {whole} "
                f"on {parity.images} images. Nothing was written."
            )
    if parity.ap is None or parity.ap_exported is None:
        return
    if abs(parity.ap - parity.ap_exported) > limits.ap:
        raise ExportError(
            f"average precision must stay within {100 * limits.ap:g} points; got "
            f"{100 * parity.ap_exported:.2f} after {100 * parity.ap:.2f} on {parity.split}. "
            "Nothing was written."
        )
