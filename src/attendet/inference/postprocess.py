"""Select the detections of an image from its decoded boxes.

B is the number of boxes of one image, K the number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_image, non_maximum_suppression
from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.inference.preprocess import ResizeTransform

MAX_CANDIDATES = 3000
"""Most pairs of box and class that enter non-maximum suppression; the best ones are kept."""


@dataclass(frozen=True)
class Selection:
    """Settings that select detections from the decoded boxes.

    Attributes:
        confidence: lowest score of a detection, 0 to 1.
        nms_iou: IoU threshold of non-maximum suppression within a class, 0 to 1.
        max_detections: most detections per image, the best ones.
        multi_label: keep a box once for every class above the confidence, not only for its best
            class.
        only: ids of the classes to keep; None: all.
    """

    confidence: float = 0.25
    nms_iou: float = 0.5
    max_detections: int = 300
    multi_label: bool = False
    only: tuple[int, ...] | None = None

    @classmethod
    def from_limits(cls, limits: object) -> Selection:
        """Return the thresholds of an exported file with suppression, else the defaults.

        Args:
            limits: object with ``confidence``, ``nms_iou`` and ``max_detections``; None where the
                file sets no limit.
        """
        names = ("confidence", "nms_iou", "max_detections")
        values = {name: getattr(limits, name) for name in names}
        return cls(**{name: value for name, value in values.items() if value is not None})

    def __post_init__(self) -> None:
        for name in ("confidence", "nms_iou"):
            value = getattr(self, name)
            ConfigError.check(0 <= value <= 1, name, "from 0 to 1", value)
        count = self.max_detections
        ConfigError.check(count >= 1, "max_detections", "1 or more", count)


def class_ids_of(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of classes by name.

    Args:
        names: some of the classes.
        classes: all classes, in the order of the network's outputs.

    Raises:
        ConfigError: if a name is not one of the classes.

    Example:
        >>> class_ids_of(["dog"], ["cat", "dog"])
        (1,)
        >>> class_ids_of(["dgo"], ["cat", "dog"])
        Traceback (most recent call last):
        ...
        attendet.errors.ConfigError: class must be a known name; got 'dgo'. Did you mean 'dog'?
    """
    if isinstance(names, str):
        raise ConfigError.must("only", "a list of class names", names)
    for name in names:
        if name not in classes:
            raise ConfigError.unknown("class", name, classes)
    return tuple(list(classes).index(name) for name in names)


def _candidates(
    scores: NDArray[np.float32], selection: Selection
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and class ids of the best pairs above the confidence."""
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
    """Return the decoded boxes that become detections, best score first.

    Boxes above the confidence are mapped to the image and clipped to it. Boxes completely outside
    are removed. Then non-maximum suppression runs per class.

    Args:
        boxes_xyxy: shape (B, 4), network input pixels.
        scores: shape (B, K), 0 to 1.
        transform: between the image and its network input.
        selection: which boxes to keep.

    Returns:
        Row indices (n,), class ids (n,) and boxes in image pixels (n, 4).
    """
    rows, class_ids = _candidates(scores, selection)
    in_image = clip_to_image(transform.to_image(boxes_xyxy[rows]), transform.image_hw)
    # A comparison with NaN is false, so boxes with NaN are removed as well.
    nonempty = (in_image[:, 2] > in_image[:, 0]) & (in_image[:, 3] > in_image[:, 1])
    rows, class_ids, in_image = rows[nonempty], class_ids[nonempty], in_image[nonempty]
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
        transform: between the image and its network input.
        classes: K names.
        selection: which boxes to keep.
    """
    rows, class_ids, in_image = select_boxes(boxes_xyxy, scores, transform, selection)
    return Detections(
        boxes_xyxy=in_image.astype(np.float32),
        scores=scores[rows, class_ids].astype(np.float32),
        class_ids=class_ids,
        classes=classes,
        image_hw=transform.image_hw,
    )
