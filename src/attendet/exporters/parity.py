"""The parity check: compare an exported file with the network, through the runtime that users run.

N is the batch, B the boxes of one image, K the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_image
from attendet.data.sample import Sample
from attendet.detections import Detections
from attendet.errors import ExportError
from attendet.evaluation import compute_metrics
from attendet.images import ImageArray, read_image
from attendet.inference import Detector, Runtime, Selection
from attendet.inference.postprocess import select_detections
from attendet.inference.preprocess import Stretch, resize_to_input
from attendet.inference.runtimes.base import Limits, Output
from attendet.models.metadata import WeightsMetadata

SAME_PX, SAME_SCORE = 1.0, 0.01
"""Two detections of one class are the same if their differences are at most these."""

AP_CONFIDENCE = 0.001
"""Lowest score of the detections for average precision."""

IMAGES_AT_ONCE = 8
RAW_OUTPUT_IMAGES = 4


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed differences between a file and the network.

    Attributes:
        box_px: difference of any box edge, pixels; boxes are clipped to the network input.
        score: difference of any score.
        detections: fraction of the detections of the network that the file does not have, and the
            other way around.
        ap: difference of average precision, points.
    """

    box_px: float
    score: float
    detections: float
    ap: float


TOLERANCES = {
    "float32": Tolerance(box_px=0.1, score=0.001, detections=0.005, ap=0.1),
    "float16": Tolerance(box_px=2.0, score=0.02, detections=0.02, ap=0.5),
}
"""Tolerance for each precision of the weights."""


@dataclass(frozen=True)
class Parity:
    """Differences between a file and the network, as recorded in the file.

    Attributes:
        max_box_px: largest difference of a box edge, pixels; boxes are clipped to the network
            input.
        mean_box_px: mean difference of all box edges, pixels.
        max_score: largest difference of a score.
        mean_score: mean difference of all scores.
        images: images whose detections were compared.
        detections: number of detections of the network on these images. Scores less than 0.01
            above the confidence threshold are not counted.
        same: number of these that the file has too: same class, within 1 px and 0.01.
        extra: number of detections of the file that the network does not have.
        split: split of the data set with the images; None for synthetic images.
        ap: average precision of the network on the split, 0 to 1.
        ap_exported: average precision of the file on the split, 0 to 1.
    """

    max_box_px: float
    mean_box_px: float
    max_score: float
    mean_score: float
    images: int
    detections: int
    same: int
    extra: int
    split: str | None = None
    ap: float | None = None
    ap_exported: float | None = None

    @property
    def ap_loss(self) -> float:
        """Loss of average precision in the file, points; 0 if it was not measured."""
        if self.ap is None or self.ap_exported is None:
            return 0.0
        return 100 * (self.ap - self.ap_exported)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as plain JSON types."""
        return asdict(self)


@dataclass
class ParityCheck:
    """Comparison of files with the network that they were exported from.

    The network predicts the images once, for all files.

    Attributes:
        reference: the network in eager PyTorch, without folded layers.
        samples: images with their ground truth; default: synthetic images.
        split: name of the samples' split, recorded in the result.
        classes: class names of the samples.
        tolerance: largest allowed differences; None compares without raising.
        progress: called with the number of compared images and the total.
    """

    reference: Runtime
    samples: Sequence[Sample] = ()
    split: str | None = None
    classes: Sequence[str] = ()
    tolerance: Tolerance | None = None
    progress: Callable[[int, int], None] | None = None
    _expected: dict[Selection, list[Detections]] = field(default_factory=dict, init=False)

    def compare(self, exported: Runtime) -> Parity:
        """Return the differences between a file and the network.

        Args:
            exported: the file.

        Raises:
            ExportError: if a difference is too large.
        """
        synthetic = [] if self.samples else synthetic_images(RAW_OUTPUT_IMAGES)
        first = synthetic or [read_image(each.path) for each in self.samples[:RAW_OUTPUT_IMAGES]]
        inputs = network_inputs(first, exported.metadata, exported.limits)
        raw = compare_outputs(self.reference, exported, inputs)
        selection = Selection.from_limits(exported.limits)
        expected, found = self._detections(exported, selection, synthetic)
        same, missing, extra = _count_same(expected, found, selection.confidence)
        aps: list[float | None] = [None, None]
        if self.samples:
            aps = [
                compute_metrics(self.samples, each, self.classes, curves=False)["ap"]
                for each in (expected, found)
            ]
        parity = Parity(*raw, len(found), same + missing, same, extra, self.split, *aps)
        if self.tolerance is not None:
            _judge(parity, self.tolerance)
        return parity

    def _detections(
        self, exported: Runtime, selection: Selection, synthetic: list[ImageArray]
    ) -> tuple[list[Detections], list[Detections]]:
        """Return the detections of the network and of the file, for each image."""
        has_nms = exported.limits.max_detections is not None
        confidence = selection.confidence if has_nms else AP_CONFIDENCE
        reference, file = (
            Detector(runtime, confidence, selection.nms_iou, selection.max_detections)
            for runtime in (self.reference, exported)
        )
        expected = self._expected.setdefault(selection, [])
        found: list[Detections] = []
        count = len(self.samples) or len(synthetic)
        for start in range(0, count, IMAGES_AT_ONCE):
            images = synthetic or [
                read_image(sample.path) for sample in self.samples[start : start + IMAGES_AT_ONCE]
            ]
            if len(expected) <= start:
                expected += reference.predict_batch(images, multi_label=not has_nms)
            found += file.predict_batch(images, multi_label=not has_nms)
            if self.progress is not None:
                self.progress(len(found), count)
        return expected, found


def synthetic_images(count: int, seed: int = 0) -> list[ImageArray]:
    """Return images of colored ellipses on a shaded background, for checks without data."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:480, 0:640]
    images = []
    for _ in range(count):
        image = np.stack([rows * shade + 90 for shade in rng.uniform(0, 0.2, 3)], axis=-1)
        for _ in range(12):
            y, x, height, width = rng.uniform((0, 0, 20, 20), (480, 640, 120, 120))
            inside = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
            image[inside] = rng.uniform(0, 255, 3)
        noisy = image + rng.normal(0, 6, image.shape)
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return images


def network_inputs(
    images: Sequence[ImageArray], metadata: WeightsMetadata, limits: Limits
) -> list[NDArray[np.uint8]]:
    """Return batches for `compare_outputs`: one image, several, and other sizes if allowed.

    Args:
        images: RGB; the first few are used.
        metadata: metadata of the file.
        limits: limits of the file: whether batch and size are fixed.

    Returns:
        Batches of RGB or BGR images as the metadata says, each uint8, shape (n, H, W, 3).
    """
    height, width = metadata.input_hw
    kinds = [(1, (height, width))]
    if limits.batch is None:
        kinds.append((3, (height, width)))
    if limits.input_hw is None:
        kinds += [(2, (height + 32, max(64, width - 32))), (1, (64, 96))]
    color = metadata.preprocessing().color
    batches = []
    for count, hw in kinds:
        chosen = [images[index % len(images)] for index in range(count)]
        resized = [resize_to_input(image, hw, "letterbox", color)[0] for image in chosen]
        batches.append(np.stack(resized))
    return batches


def compare_outputs(
    reference: Runtime, exported: Runtime, batches: Sequence[NDArray[np.uint8]]
) -> tuple[float, float, float, float]:
    """Return the largest and mean difference of boxes, pixels, then those of scores.

    Args:
        reference: the network.
        exported: the file.
        batches: network inputs, uint8, each (n, H, W, 3).

    Raises:
        ExportError: if the outputs differ in shape or type.
    """
    box_parts, score_parts = [], []
    for inputs in batches:
        expected, found = reference.run(inputs), exported.run(inputs)
        input_hw = (inputs.shape[1], inputs.shape[2])
        if exported.limits.max_detections is None:
            differences = _compare_boxes(expected, found, input_hw)
        else:
            differences = _compare_detections(expected, found, input_hw, exported)
        box_parts.append(differences[0].ravel())
        score_parts.append(differences[1].ravel())
    boxes, scores = (np.concatenate(parts, dtype=np.float64) for parts in (box_parts, score_parts))
    return (
        float(boxes.max(initial=0)),
        float(boxes.sum() / max(1, len(boxes))),
        float(scores.max(initial=0)),
        float(scores.sum() / max(1, len(scores))),
    )


def _compare_boxes(
    expected: Output, found: Output, input_hw: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the differences of all boxes, clipped to the network input, and of all scores."""
    for one, wanted in zip(found, expected, strict=True):
        if one.shape != wanted.shape or one.dtype != wanted.dtype:
            raise ExportError(
                f"outputs must be {wanted.dtype} {wanted.shape}; got {one.dtype} {one.shape}. "
                "Nothing was written."
            )
    boxes, wanted = (clip_to_image(each[0].reshape(-1, 4), input_hw) for each in (found, expected))
    return np.abs(boxes - wanted), np.abs(found[1] - expected[1])


def _compare_detections(
    expected: Output, found: Output, input_hw: tuple[int, int], exported: Runtime
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the differences of each detection to the nearest one of its class in the file.

    Rows with nearly equal scores may be in another order. Detections just above the confidence
    threshold are not compared: in the file, their scores may be just below it.
    """
    transform, selection = Stretch(input_hw, input_hw), Selection.from_limits(exported.limits)
    classes = exported.metadata.classes
    box_parts, score_parts = [], []
    for rows in zip(*expected, *found, strict=True):
        wanted = select_detections(rows[0], rows[1], transform, classes, selection)
        ours = select_detections(rows[2], rows[3], transform, classes, selection)
        clear = _is_clear(wanted, selection.confidence)
        if len(wanted) == 0 or len(ours) == 0:
            lacking = clear.sum() + _is_clear(ours, selection.confidence).sum()
            box_parts.append(np.full(lacking, np.inf))
            score_parts.append(np.full(lacking, np.inf))
            continue
        distances = _box_distances(wanted, ours)[clear]
        nearest = distances.argmin(axis=1)
        box_parts.append(distances.min(axis=1))
        score_parts.append(np.abs(wanted.scores[clear] - ours.scores[nearest]))
    return np.concatenate(box_parts), np.concatenate(score_parts)


def _box_distances(a: Detections, b: Detections) -> NDArray[Any]:
    """Return the largest edge difference of each pair (n, m), infinite if the classes differ."""
    distances: NDArray[Any] = np.abs(a.boxes_xyxy[:, None] - b.boxes_xyxy[None]).max(axis=2)
    distances[a.class_ids[:, None] != b.class_ids[None]] = np.inf
    return distances


def _is_clear(detections: Detections, confidence: float) -> NDArray[np.bool_]:
    """Return the mask of detections clear of the threshold, which both outputs must have."""
    return detections.scores >= confidence + SAME_SCORE


def _count_same(
    expected: Sequence[Detections], found: Sequence[Detections], confidence: float
) -> tuple[int, int, int]:
    """Return how many detections both have, only the network has, and only the file has.

    Detections just above the confidence threshold are not counted.
    """
    same = missing = extra = 0
    for wanted, ours in zip(expected, found, strict=True):
        matched, clear = _has_match(wanted, ours), _is_clear(wanted, confidence)
        same += int((clear & matched).sum())
        missing += int((clear & ~matched).sum())
        extra += int((_is_clear(ours, confidence) & ~_has_match(ours, wanted)).sum())
    return same, missing, extra


def _has_match(a: Detections, b: Detections) -> NDArray[np.bool_]:
    """Return the mask of detections in ``a`` that are the same as one in ``b``."""
    if len(a) == 0 or len(b) == 0:
        return np.zeros(len(a), dtype=bool)
    score_differences = np.abs(a.scores[:, None] - b.scores[None])
    same = (_box_distances(a, b) <= SAME_PX) & (score_differences <= SAME_SCORE)
    matches: NDArray[np.bool_] = same.any(axis=1)
    return matches


def _judge(parity: Parity, tolerance: Tolerance) -> None:
    """Raise if a difference is above the tolerance."""
    extra = parity.extra / max(1, parity.same + parity.extra)
    missing = 1 - parity.same / max(1, parity.detections) if parity.detections else 0.0
    for name, value, limit, unit in (
        ("difference of boxes", parity.max_box_px, tolerance.box_px, " px"),
        ("difference of scores", parity.max_score, tolerance.score, ""),
        ("detections missing in the file", 100 * missing, 100 * tolerance.detections, " %"),
        ("detections only in the file", 100 * extra, 100 * tolerance.detections, " %"),
        ("difference of average precision", abs(parity.ap_loss), tolerance.ap, " points"),
    ):
        if not value <= limit:  # raises for NaN as well
            raise ExportError(
                f"{name} must be at most {limit:g}{unit}; got {value:.3g}{unit}. The exported file "
                "differs from the network. Nothing was written."
            )
