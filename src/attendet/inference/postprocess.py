"""From every decoded box of an image to its detections.

B is the boxes of one image, K the classes, n the candidates that passed the confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_image, non_maximum_suppression
from attendet.detections import Detections
from attendet.errors import ConfigError, did_you_mean
from attendet.inference.preprocess import ResizeTransform

__all__ = ["MAX_CANDIDATES", "Selection", "class_ids_of", "select_boxes", "select_detections"]

MAX_CANDIDATES = 3000
"""Non-maximum suppression sees at most this many of the best pairs of box and class."""


@dataclass(frozen=True)
class Selection:
    """Which of the decoded boxes become detections."""

    confidence: float = 0.25
    """Lowest score that counts, 0 to 1."""

    nms_iou: float = 0.5
    """Of two boxes of a class that overlap more than this, the better one stays; 0 to 1."""

    max_detections: int = 300
    """At most this many an image, the best."""

    multi_label: bool = False
    """A box may stand for every class above the confidence, not for its best class alone."""

    only: tuple[int, ...] | None = None
    """Class numbers that are wanted; all if none."""

    def __post_init__(self) -> None:
        for name in ("confidence", "nms_iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be from 0 to 1; got {value!r}.")
        if self.max_detections < 1:
            raise ConfigError(f"max_detections must be 1 or more; got {self.max_detections!r}.")


def class_ids_of(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of classes given by name.

    Args:
        names: some of the classes.
        classes: all classes, in the order of the network's outputs.

    Raises:
        ConfigError: if a name is none of the classes.

    Example:
        >>> class_ids_of(["dog"], ["cat", "dog"])
        (1,)
        >>> class_ids_of(["dgo"], ["cat", "dog"])
        Traceback (most recent call last):
        ...
        attendet.errors.ConfigError: the detector knows no class 'dgo'. Did you mean 'dog'?
    """
    for name in names:
        if name not in classes:
            raise ConfigError(
                f"the detector knows no class {name!r}. {did_you_mean(name, classes)}"
            )
    return tuple(list(classes).index(name) for name in names)


def _candidates(
    scores: NDArray[np.float32], selection: Selection
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and class numbers of the best pairs above the confidence."""
    num_classes = scores.shape[1]
    pairs = np.flatnonzero(scores >= selection.confidence)
    if selection.multi_label:
        rows, class_ids = pairs // num_classes, pairs % num_classes
    else:
        rows = pairs // num_classes
        rows = rows[np.diff(rows, prepend=-1) > 0]
        class_ids = scores[rows].argmax(axis=1)
    if selection.only is not None:
        wanted = np.isin(class_ids, selection.only)
        rows, class_ids = rows[wanted], class_ids[wanted]
    if len(rows) > MAX_CANDIDATES:
        best = np.argpartition(-scores[rows, class_ids], MAX_CANDIDATES)[:MAX_CANDIDATES]
        rows, class_ids = rows[best], class_ids[best]
    return rows, class_ids


def select_boxes(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    transform: ResizeTransform,
    selection: Selection,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
    """Return which decoded boxes become detections, best score first.

    Boxes above the confidence are mapped to the image and clipped there; boxes completely outside
    are removed; then non-maximum suppression per class.

    Args:
        boxes_xyxy: shape (B, 4), network input pixels.
        scores: shape (B, K), 0 to 1.
        transform: from the image to the network input.
        selection: which boxes stay.

    Returns:
        Row numbers (n,), class numbers (n,) and boxes in image pixels (n, 4).
    """
    rows, class_ids = _candidates(scores, selection)
    in_image = clip_to_image(transform.to_image(boxes_xyxy[rows]), transform.image_hw)
    # A comparison with NaN is false, so that a broken box goes with the empty ones.
    solid = (in_image[:, 2] > in_image[:, 0]) & (in_image[:, 3] > in_image[:, 1])
    rows, class_ids, in_image = rows[solid], class_ids[solid], in_image[solid]
    kept = non_maximum_suppression(
        in_image,
        scores[rows, class_ids],
        class_ids,
        iou_threshold=selection.nms_iou,
        max_detections=selection.max_detections,
    )
    return rows[kept], class_ids[kept].astype(np.int64), in_image[kept]


def select_detections(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    transform: ResizeTransform,
    classes: tuple[str, ...],
    selection: Selection,
) -> Detections:
    """Return the detections of one image in image pixels, best score first; see `select_boxes`.

    Args:
        boxes_xyxy: shape (B, 4), network input pixels.
        scores: shape (B, K), 0 to 1.
        transform: from the image to the network input.
        classes: K names.
        selection: which boxes stay.
    """
    rows, class_ids, in_image = select_boxes(boxes_xyxy, scores, transform, selection)
    return Detections(
        boxes_xyxy=in_image.astype(np.float32),
        scores=scores[rows, class_ids].astype(np.float32),
        class_ids=class_ids,
        classes=classes,
        image_hw=transform.image_hw,
    )
