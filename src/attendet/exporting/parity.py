"""Whether an exported file says what the network says: raw outputs, detections, average precision.

N is the batch, B the boxes of one picture, K the classes, M the rows of a file with suppression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_picture
from attendet.data.samples import Sample
from attendet.detections import Detections
from attendet.errors import ExportError
from attendet.evaluation import compute_metrics
from attendet.exporting.running import ExportedRuntime, Outputs, Run
from attendet.inference import Detector, Runtime, Selection
from attendet.inference.postprocess import select_detections
from attendet.inference.preprocess import Stretch, lay_on_canvas
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata
from attendet.pictures import Picture, read_picture

__all__ = ["LIMITS", "Limits", "Parity", "Subject", "canvases_for", "check_parity", "compare_raw"]

SAME_PX, SAME_SCORE = 1.0, 0.01
"""Two detections of a class are the same within these."""

LOWEST_SCORE = 0.001
"""Detections below do not count for average precision."""

PICTURES_AT_ONCE = 8
RAW_PICTURES = 4


@dataclass(frozen=True)
class Limits:
    """How far a file may be from the network before that is an error."""

    box_px: float
    """Largest difference of an edge of any box, cut at the canvas, pixels."""

    score: float
    """Largest difference of any score."""

    same_share: float
    """Least share of the network's detections that the file has, and the other way round."""

    ap: float
    """Largest difference of average precision, 0 to 1."""


LIMITS = {
    "float32": Limits(box_px=0.1, score=0.001, same_share=0.995, ap=0.001),
    "float16": Limits(box_px=8.0, score=0.05, same_share=0.95, ap=0.005),
}


@dataclass(frozen=True)
class Parity:
    """How far a file is from the network, as it stands in the file."""

    max_box_px: float
    """Largest difference of an edge, pixels; boxes cut at the canvas."""

    mean_box_px: float
    """Mean difference of all edges, pixels."""

    max_score: float
    """Largest difference of a score."""

    mean_score: float
    """Mean difference of all scores."""

    pictures: int
    """Pictures whose detections were compared."""

    detections: int
    """Detections of the network on them."""

    same: int
    """Of these, how many the file has too: same class, within 1 px and 0.01."""

    extra: int
    """Detections that the file alone has."""

    split: str | None = None
    """Part of the data set that the pictures are; none for drawn pictures."""

    ap: float | None = None
    """Average precision of the network there, 0 to 1."""

    ap_exported: float | None = None
    """Average precision of the file there, 0 to 1."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """A network and the file that was made of it."""

    reference: Runtime
    """The network in eager PyTorch, nothing folded."""

    run: Run
    """The file."""

    metadata: WeightsMetadata
    """What stands in the file about the network."""

    info: ExportInfo
    """What stands in the file about the export."""

    @property
    def selection(self) -> Selection:
        """What of the network's boxes a file with suppression gives."""
        info = self.info
        if info.confidence is None or info.iou is None or info.max_detections is None:
            return Selection()
        return Selection(info.confidence, info.iou, info.max_detections)


def drawn_pictures(count: int, seed: int = 0) -> list[Picture]:
    """Return pictures of coloured blots on a shaded ground, for checks without data."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:480, 0:640]
    pictures = []
    for _ in range(count):
        ground = np.stack([rows * shade + 90 for shade in rng.uniform(0, 0.2, 3)], axis=-1)
        for _ in range(12):
            y, x, height, width = rng.uniform((0, 0, 20, 20), (480, 640, 120, 120))
            inside = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
            ground[inside] = rng.uniform(0, 255, 3)
        noisy = ground + rng.normal(0, 6, ground.shape)
        pictures.append(noisy.clip(0, 255).astype(np.uint8))
    return pictures


def canvases_for(
    pictures: Sequence[Picture], metadata: WeightsMetadata, dynamic: Sequence[str]
) -> list[NDArray[np.uint8]]:
    """Return batches to compare raw outputs on: of one, of several, and of other sizes if allowed.

    Args:
        pictures: RGB; the first few are taken.
        metadata: says the input size and the order of channels.
        dynamic: which of ``batch`` and ``size`` may differ.

    Returns:
        Each uint8, shape (n, H, W, 3).
    """
    height, width = metadata.input_hw
    kinds = [(1, (height, width))]
    if "batch" in dynamic:
        kinds.append((3, (height, width)))
    if "size" in dynamic:
        kinds += [(2, (height + 32, max(64, width - 32))), (1, (64, 96))]
    bgr = metadata.preprocessing().colour == "bgr"
    made = []
    for count, hw in kinds:
        chosen = [pictures[index % len(pictures)] for index in range(count)]
        canvases = np.stack([lay_on_canvas(picture, hw, "square")[0] for picture in chosen])
        made.append(np.ascontiguousarray(canvases[..., ::-1]) if bgr else canvases)
    return made


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
        samples: pictures with their truth; drawn pictures are taken if there are none.
        split: the samples' name, kept in the result.
        classes: of the samples.
        limits: what is too far; None compares without judging.
        progress: called with pictures done and pictures in all.

    Raises:
        ExportError: if it is too far; says in what and by how much.
    """
    drawn = [] if samples else drawn_pictures(RAW_PICTURES)
    first = drawn or [read_picture(sample.path) for sample in samples[:RAW_PICTURES]]
    raw = compare_raw(subject, canvases_for(first, subject.metadata, subject.info.dynamic))
    _judge_raw(raw, limits)
    expected, found = [], []
    for pictures in _batches(drawn, samples):
        expected += _reference_detections(subject, pictures)
        found += _file_detections(subject, pictures)
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


def _batches(drawn: Sequence[Picture], samples: Sequence[Sample]) -> Iterator[list[Picture]]:
    if drawn:
        yield list(drawn)
    for start in range(0, len(samples), PICTURES_AT_ONCE):
        chosen = samples[start : start + PICTURES_AT_ONCE]
        yield [read_picture(sample.path) for sample in chosen]


def compare_raw(
    subject: Subject, batches: Sequence[NDArray[np.uint8]]
) -> tuple[float, float, float, float]:
    """Return the largest and the mean difference of boxes, pixels, and those of scores.

    Args:
        subject: the network and the file.
        batches: canvases, uint8, each (n, H, W, 3).

    Raises:
        ExportError: if outputs have other shapes or types.
    """
    differences: list[list[NDArray[Any]]] = [[], []]
    for canvases in batches:
        expected = _reference_outputs(subject, canvases)
        outputs = subject.run(canvases)
        for output, wanted in zip(outputs, expected, strict=True):
            if output.shape != wanted.shape or output.dtype != wanted.dtype:
                raise ExportError(
                    f"outputs must be {wanted.dtype} {wanted.shape}; got {output.dtype} "
                    f"{output.shape} for canvases {canvases.shape}. Nothing was written."
                )
        apart = _rows_apart if subject.info.nms else _outputs_apart
        for parts, values in zip(differences, apart(outputs, expected, canvases), strict=True):
            parts.append(values.ravel())
    of_boxes, of_scores = (np.concatenate(parts).astype(np.float64) for parts in differences)
    largest = [float(np.max(each, initial=0.0)) for each in (of_boxes, of_scores)]
    mean = [float(np.mean(each)) if len(each) else 0.0 for each in (of_boxes, of_scores)]
    return largest[0], mean[0], largest[1], mean[1]


def _reference_outputs(subject: Subject, canvases: NDArray[np.uint8]) -> Outputs:
    """Return what the file should give for canvases."""
    boxes_xyxy, scores = subject.reference.run(canvases)
    if not subject.info.nms:
        return boxes_xyxy, scores
    canvas_hw = (canvases.shape[1], canvases.shape[2])
    fit, selection = Stretch(canvas_hw, canvas_hw), subject.selection
    sheet = np.zeros((len(canvases), selection.max_detections, 6), dtype=np.float32)
    sheet[..., 5] = -1
    for rows, boxes, own in zip(sheet, boxes_xyxy, scores, strict=True):
        kept = select_detections(boxes, own, fit, subject.metadata.classes, selection)
        rows[: len(kept), :4] = kept.boxes_xyxy
        rows[: len(kept), 4] = kept.scores
        rows[: len(kept), 5] = kept.class_ids
    return (sheet,)


def _outputs_apart(
    outputs: Outputs, expected: Outputs, canvases: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the differences of boxes, cut at the canvas, and of scores."""
    canvas_hw = (canvases.shape[1], canvases.shape[2])
    boxes, wanted = (
        clip_to_picture(each[0].reshape(-1, 4), canvas_hw) for each in (outputs, expected)
    )
    return np.abs(boxes - wanted), np.abs(outputs[1] - expected[1])


def _rows_apart(
    outputs: Outputs, expected: Outputs, canvases: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return how far each detection of the network is from the nearest of its class in the file.

    Rows of nearly equal scores may change places.
    """
    del canvases
    far, off = [np.zeros(0)], [np.zeros(0)]
    for rows, wanted in zip(outputs[0], expected[0], strict=True):
        rows, wanted = rows[rows[:, 4] > 0], wanted[wanted[:, 4] > 0]
        if len(rows) == 0 or len(wanted) == 0:
            missing = np.full(max(len(rows), len(wanted)), np.inf)
            far.append(missing)
            off.append(missing)
            continue
        distance = np.abs(wanted[:, None, :4] - rows[None, :, :4]).max(axis=2)
        distance[wanted[:, None, 5] != rows[None, :, 5]] = np.inf
        nearest = distance.argmin(axis=1)
        far.append(distance.min(axis=1))
        off.append(np.abs(wanted[:, 4] - rows[nearest, 4]))
    return np.concatenate(far), np.concatenate(off)


def _reference_detections(subject: Subject, pictures: Sequence[Picture]) -> list[Detections]:
    detector = Detector(subject.reference, **_thresholds(subject))
    return detector.predict_batch(pictures, multi_label=not subject.info.nms)


def _file_detections(subject: Subject, pictures: Sequence[Picture]) -> list[Detections]:
    if subject.info.nms:
        return [_suppressed(subject, picture) for picture in pictures]
    detector = Detector(ExportedRuntime(subject.run, subject.metadata), **_thresholds(subject))
    return detector.predict_batch(pictures, multi_label=True)


def _thresholds(subject: Subject) -> dict[str, Any]:
    selection = subject.selection
    return {
        "confidence": selection.confidence if subject.info.nms else LOWEST_SCORE,
        "iou": selection.iou,
        "max_detections": selection.max_detections,
    }


def _suppressed(subject: Subject, picture: Picture) -> Detections:
    """Return the detections of a file with suppression inside."""
    preprocess = subject.metadata.preprocessing()
    canvas, fit = lay_on_canvas(picture, subject.metadata.input_hw, preprocess.fit)
    if preprocess.colour == "bgr":
        canvas = canvas[..., ::-1]
    (rows,) = subject.run(np.ascontiguousarray(canvas[None]))
    there = rows[0][rows[0][:, 4] > 0]
    return Detections(
        clip_to_picture(fit.to_picture(there[:, :4]), fit.image_hw).astype(np.float32),
        there[:, 4],
        there[:, 5].astype(np.int64),
        subject.metadata.classes,
        fit.image_hw,
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
                f"on {parity.pictures} pictures. Nothing was written."
            )
    if parity.ap is None or parity.ap_exported is None:
        return
    if abs(parity.ap - parity.ap_exported) > limits.ap:
        raise ExportError(
            f"average precision must stay within {100 * limits.ap:g} points; got "
            f"{100 * parity.ap_exported:.2f} after {100 * parity.ap:.2f} on {parity.split}. "
            "Nothing was written."
        )
