"""Checks of labels and images: the kinds of issue, and how each is handled.

No check raises an error. A box that cannot be trained on is dropped, a box that leaves the image is
clipped, an image that cannot be used is skipped, and what is only unusual is kept. Each case is
recorded as an `Issue`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_image, iou_matrix
from attendet.data.coordinates import EDGE_TOLERANCE, fitting_coordinates, is_wrong_unit
from attendet.data.sample import Action, Box, Issue, RawSample, Sample
from attendet.errors import ImageError
from attendet.images import read_image, read_image_hw, read_orientation

NEAR_DUPLICATE_IOU = 0.9
"""Two boxes of one class with a larger IoU are reported as near duplicates."""

ISSUE_KINDS: dict[str, str] = {
    "broken-label": "label that cannot be parsed: a box is dropped, a whole file skips its image",
    "class-count": "number of class names differs from the stated count; the names are used",
    "class-names": "file of class names that is missing, is empty, has a blank line or differs "
    "from the one that is used; or class ids that seem to start at 1",
    "identical-images": "the same image in two splits; kept, since the data set defines its splits",
    "missing-label": "image without its label file; skipped (YOLO: background, and an issue only "
    "if no image of a split has a label file)",
    "missing-image": "label or list entry without its image; skipped",
    "near-duplicate": "box overlaps an earlier one of its class by IoU > 0.9; kept",
    "negative-size": "box whose right or bottom edge lies before the left or top one; dropped",
    "no-boxes": "train split without boxes; kept, but an error in training",
    "non-finite": "box with a corner that is not a finite number; dropped",
    "outside": "box wholly outside the image; dropped",
    "partly-outside": "box more than 1 px outside the image; clipped to the image",
    "repeated-image": "image listed twice in one split; used once, with the boxes of both",
    "shared-labels": "image with the same label file as another image; kept",
    "similar-names": "class names that mean the same, or differ only in case, spaces, hyphens or a "
    "plural; kept as separate classes",
    "size-mismatch": "image size stated by the label is not the image's; boxes kept as written",
    "truncated-image": "image whose pixels cannot be decoded; skipped",
    "unclear-path": "entry with ../ that matches two paths; the one inside the data set is used",
    "unknown-class": "box of a class that the data set does not have; dropped",
    "unlisted-image": "image that is not in the splits file; skipped",
    "unreadable-image": "file that is not an image, or is too large; skipped",
    "wrong-encoding": "text in an unexpected encoding; an XML file is skipped, a text file is kept",
    "wrong-unit": "box in pixels or percent in YOLO, or in fractions in VOC and COCO; dropped. "
    "If most boxes of an image are affected, it is skipped; if most of the data set, an error",
    "zero-size": "box without width or height; dropped",
}
"""Kind of issue to its meaning and how it is handled."""


@dataclass
class _BoxChecks:
    """Boxes of one image, with a mask of the boxes to keep and the issues found."""

    source: RawSample
    xyxy: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    keep: NDArray[np.bool_]
    issues: list[Issue]

    def report(self, rows: NDArray[np.bool_], kind: str, action: Action, cause: str = "") -> None:
        """Add an issue for each marked row, and clear it in `keep` if the box is dropped."""
        if not rows.any():
            return
        for row in np.flatnonzero(rows):
            box = self.source.boxes[row]
            corners = ", ".join(f"{number:g}" for number in box.xyxy)
            message = f"box of {box.label!r} at ({corners}){cause}"
            file = box.file or self.source.labels
            self.issues.append(Issue(file, box.line, kind, message, action))
        if action == "dropped":
            self.keep &= ~rows


def _apply_exif_orientation(
    xyxy: NDArray[np.float64], stored_hw: tuple[int, int], orientation: int
) -> NDArray[np.float64]:
    """Return boxes of a stored image in the image rotated by its EXIF orientation (5 to 8)."""
    height, width = stored_hw
    left, top, right, bottom = xyxy.T
    corners = {
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }[orientation]
    return np.stack(corners, axis=1)


def _in_pixels(
    source: RawSample, image_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], list[Issue]]:
    """Return the boxes in pixels of the upright image, and an issue if sizes disagree."""
    height, width = image_hw
    xyxy = np.array([box.xyxy for box in source.boxes], dtype=np.float64).reshape(-1, 4)
    if source.relative:
        with np.errstate(over="ignore"):
            return xyxy * (width, height, width, height), []
    declared = source.declared_hw
    if declared is None or declared == image_hw:
        return xyxy, []
    if declared == (width, height):
        orientation = read_orientation(source.image)
        if orientation in (5, 6, 7, 8):
            return _apply_exif_orientation(xyxy, declared, orientation), []
    message = f"label states {declared[1]} x {declared[0]}, but the image is {width} x {height}"
    return xyxy, [Issue(source.labels, None, "size-mismatch", message, "kept")]


def _check_boxes(
    marked: _BoxChecks, image_hw: tuple[int, int], wrong_unit: NDArray[np.bool_], cause: str
) -> None:
    """Apply the checks, the most severe first, so that a box is dropped for one reason only."""
    finite = np.asarray(np.isfinite(marked.xyxy).all(axis=1))
    marked.report(~finite, "non-finite", "dropped")
    marked.xyxy[~finite] = 0
    marked.report(marked.keep & wrong_unit, "wrong-unit", "dropped", cause)
    with np.errstate(over="ignore"):
        size = marked.xyxy[:, 2:] - marked.xyxy[:, :2]
    negative = (size < 0).any(axis=1)
    marked.report(marked.keep & negative, "negative-size", "dropped")
    marked.report(marked.keep & (size == 0).any(axis=1), "zero-size", "dropped")
    marked.report(marked.keep & (marked.class_ids < 0), "unknown-class", "dropped")
    clipped = clip_to_image(marked.xyxy, image_hw)
    # Boxes are stored as float32: drop those whose size is zero in it.
    kept_size = np.diff(clipped.astype(np.float32).reshape(-1, 2, 2), axis=1).reshape(-1, 2)
    marked.report(marked.keep & (kept_size <= 0).any(axis=1), "outside", "dropped")
    excess = np.abs(clipped - marked.xyxy).max(axis=1, initial=0)
    marked.report(marked.keep & (excess > EDGE_TOLERANCE), "partly-outside", "clipped")
    marked.xyxy = clipped.astype(np.float64)
    _report_near_duplicates(marked)


def _wrong_unit(source: RawSample, image_hw: tuple[int, int]) -> tuple[NDArray[np.bool_], str]:
    """Return which boxes of an image are in another unit, and a message that explains it."""
    xyxy = np.array([box.xyxy for box in source.boxes], dtype=np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        wrong = is_wrong_unit(xyxy, source.relative)
        if not wrong.any():
            return wrong, ""
        image_wh = np.tile(np.array(image_hw[::-1], dtype=np.float64), (wrong.sum(), 1))
        fitting = fitting_coordinates(xyxy[wrong], image_wh, "yolo" if source.relative else "voc")
    rule = (
        "fractions of the image must be at most 1" if source.relative else "boxes must be in pixels"
    )
    return wrong, f"; {rule}{f'; the values match {fitting}' if fitting else ''}"


def _report_near_duplicates(marked: _BoxChecks) -> None:
    if len(marked.xyxy) < 2:
        return
    same = marked.class_ids[:, None] == marked.class_ids[None, :]
    both = marked.keep[:, None] & marked.keep[None, :]
    close = np.tril(same & both & (iou_matrix(marked.xyxy, marked.xyxy) > NEAR_DUPLICATE_IOU), -1)
    marked.report(close.any(axis=1), "near-duplicate", "kept")


def check_image(
    source: RawSample, class_of: Mapping[str | int, int]
) -> tuple[Sample | None, list[Issue]]:
    """Return the sample of an image, with the boxes that pass the checks, and its issues.

    Only the image's header is read.

    Args:
        source: the image and its labels as written.
        class_of: class id of each known label.

    Returns:
        The sample, or None if the image cannot be used; and the issues found.
    """
    try:
        source.key.encode()
    except UnicodeEncodeError:
        message = "file name must be UTF-8; rename the file"
        return None, [Issue(source.image, None, "unreadable-image", message, "skipped image")]
    try:
        image_hw = read_image_hw(source.image)
    except ImageError as error:
        missing = not source.image.exists()
        kind = "missing-image" if missing else "unreadable-image"
        return None, [Issue(source.image, None, kind, str(error), "skipped image")]
    wrong_unit, cause = _wrong_unit(source, image_hw)
    if wrong_unit.sum() * 2 > len(wrong_unit):
        message = f"{wrong_unit.sum()} of {len(wrong_unit)} boxes are in another unit{cause}"
        first = source.boxes[int(np.argmax(wrong_unit))]
        file = first.file or source.labels
        return None, [Issue(file, first.line, "wrong-unit", message, "skipped image")]
    xyxy, issues = _in_pixels(source, image_hw)
    boxes: Sequence[Box] = source.boxes
    class_ids = np.array([class_of.get(box.label, -1) for box in boxes], dtype=np.int64)
    marked = _BoxChecks(source, xyxy, class_ids, np.ones(len(boxes), dtype=bool), issues)
    _check_boxes(marked, image_hw, wrong_unit, cause)
    sample = Sample(
        path=source.image,
        image_hw=image_hw,
        boxes_xyxy=marked.xyxy[marked.keep].astype(np.float32),
        class_ids=class_ids[marked.keep],
        difficult=np.array([box.difficult for box in boxes], dtype=bool)[marked.keep],
        key=source.key,
    )
    return sample, marked.issues


def decode_issues(
    samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
) -> list[Issue]:
    """Return an issue for each image whose pixels cannot be decoded.

    Args:
        samples: samples whose images are decoded completely.
        progress: called after each image with the number of images done and in total.
    """
    issues = []
    for done, sample in enumerate(samples, start=1):
        try:
            read_image(sample.path)
        except ImageError as error:
            issues.append(Issue(sample.path, None, "truncated-image", str(error), "skipped image"))
        if progress:
            progress(done, len(samples))
    return issues
