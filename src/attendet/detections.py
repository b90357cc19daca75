"""Detections of one image, and their conversion to other formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from attendet.errors import ConfigError
from attendet.system import require

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, best score first.

    Attributes:
        boxes_xyxy: float32, shape (n, 4): left, top, right, bottom in pixels of the image.
        scores: float32, shape (n,), 0 to 1.
        class_ids: int64, shape (n,): index into ``classes``.
        classes: names of all classes of the detector.
        image_hw: height and width of the image in pixels.
        track_ids: int64, shape (n,): ID of the object over the frames of a video, from 1; 0 while
            its track is unconfirmed. None without tracking.

    Example:
        >>> found = Detections(
        ...     boxes_xyxy=np.array([[1, 2, 5, 8]], dtype=np.float32),
        ...     scores=np.array([0.9], dtype=np.float32),
        ...     class_ids=np.array([1]),
        ...     classes=("cat", "dog"),
        ...     image_hw=(10, 20),
        ... )
        >>> len(found), found.names
        (1, ['dog'])
        >>> found.to_yolo()
        '1 0.150000 0.500000 0.200000 0.600000 0.900000\\n'
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    classes: tuple[str, ...]
    image_hw: tuple[int, int]
    track_ids: NDArray[np.int64] | None = None

    @classmethod
    def empty(cls, classes: tuple[str, ...], image_hw: tuple[int, int]) -> Detections:
        """Return a `Detections` without boxes."""
        return cls(
            boxes_xyxy=np.zeros((0, 4), dtype=np.float32),
            scores=np.zeros(0, dtype=np.float32),
            class_ids=np.zeros(0, dtype=np.int64),
            classes=classes,
            image_hw=image_hw,
        )

    @classmethod
    def from_supervision(
        cls, theirs: supervision.Detections, classes: Sequence[str], image_hw: tuple[int, int]
    ) -> Detections:
        """Convert ``supervision.Detections``, best score first.

        Args:
            theirs: must have ``class_id``; without ``confidence``, every score is 1.
            classes: names by class id.
            image_hw: height and width of the image in pixels.

        Raises:
            ConfigError: if a class id is missing or has no name.
        """
        count = len(theirs)
        scores = np.ones(count) if theirs.confidence is None else theirs.confidence
        ids = np.full(count, -1) if theirs.class_id is None else theirs.class_id
        wrong = ids[(ids < 0) | (ids >= len(classes))]
        ConfigError.check(
            not wrong.size, "class_id", f"0 to {len(classes) - 1}", wrong[:1].tolist()
        )
        tracks = None if theirs.tracker_id is None else theirs.tracker_id.astype(np.int64)
        found = cls(
            theirs.xyxy.astype(np.float32),
            scores.astype(np.float32),
            ids.astype(np.int64),
            tuple(classes),
            image_hw,
            tracks,
        )
        return found[np.argsort(-found.scores, kind="stable")]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the detections as plain dictionaries (see `to_dicts`)."""
        return iter(self.to_dicts())

    def __getitem__(self, index: int | slice | NDArray[Any] | list[int]) -> Detections:
        """Return the detections at an index, a slice, a boolean mask or several indices."""
        if isinstance(index, int | np.integer):
            index = [int(index)]
        return Detections(
            self.boxes_xyxy[index],
            self.scores[index],
            self.class_ids[index],
            self.classes,
            self.image_hw,
            None if self.track_ids is None else self.track_ids[index],
        )

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.classes[class_id] for class_id in self.class_ids]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a plain dictionary per detection: class_id, name, score, box_xyxy in pixels.

        With tracking, also ``track_id``; None while the track is unconfirmed.
        """
        dicts = [
            {
                "class_id": int(class_id),
                "name": self.classes[class_id],
                "score": round(float(score), 6),
                "box_xyxy": [round(float(edge), 2) for edge in box],
            }
            for box, score, class_id in zip(
                self.boxes_xyxy, self.scores, self.class_ids, strict=True
            )
        ]
        if self.track_ids is not None:
            for entry, track_id in zip(dicts, self.track_ids.tolist(), strict=True):
                entry["track_id"] = track_id or None
        return dicts

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return COCO result entries: image_id, category_id (from 1), bbox (xywh), score."""
        boxes_xywh = xyxy_to_xywh(self.boxes_xyxy)
        return [
            {
                "image_id": image_id,
                "category_id": int(class_id) + 1,
                "bbox": [round(float(value), 3) for value in box],
                "score": round(float(score), 6),
            }
            for box, score, class_id in zip(boxes_xywh, self.scores, self.class_ids, strict=True)
        ]

    def to_yolo(self) -> str:
        """Return YOLO text: a line ``class cx cy w h score`` per box, as fractions of the image."""
        height, width = self.image_hw
        boxes_norm = xyxy_to_cxcywh(self.boxes_xyxy) / [width, height, width, height]
        return "".join(
            f"{class_id} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}\n"
            for class_id, box, score in zip(self.class_ids, boxes_norm, self.scores, strict=True)
        )

    def to_supervision(self) -> supervision.Detections:
        """Return ``supervision.Detections`` with ``data["class_name"]``, and track IDs if any.

        Raises:
            MissingExtraError: if the ``supervision`` extra is not installed.
        """
        sv = require("supervision", extra="supervision", purpose="to_supervision()")
        theirs: supervision.Detections = sv.Detections(
            xyxy=self.boxes_xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.astype(int),
            tracker_id=None if self.track_ids is None else self.track_ids.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return theirs
