"""Count objects that cross a line or are in a zone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.system import require

FORGET_AFTER = 1000
"""Frames after which an object that was not seen is no longer remembered as a visitor."""


class LineCounter:
    """Counts objects that cross a line, each way, with the library ``supervision``.

    An object counts when its whole box has come to the other side, between the ends of the line.
    Seen from the line's start towards its end, it goes ``in`` from right to left, and ``out`` from
    left to right: at a line drawn from the left of the image to its right, upwards is in.

    Args:
        line: x1, y1, x2, y2 in pixels of the image.

    Raises:
        ConfigError: if the line is none.
        MissingExtraError: if ``supervision`` is not installed.
    """

    def __init__(self, line: Sequence[float]) -> None:
        points = _points(line, "a line to count at", least=2, most=2)
        if (points[0] == points[1]).all():
            raise ConfigError(f"a line to count at must have a length; got {_text(points)}.")
        sv = require("supervision", extra="supervision", purpose="counting")
        self.points_xy = points
        start, end = (sv.Point(float(x), float(y)) for x, y in points)
        self._zone: Any = sv.LineZone(start=start, end=end)

    def check(self, image_hw: tuple[int, int]) -> None:
        """Refuse images of a size in which nothing could ever cross the line.

        Raises:
            ConfigError: if the line lies outside.
        """
        height, width = image_hw
        low, high = self.points_xy.min(axis=0), self.points_xy.max(axis=0)
        if (high < 0).any() or (low > (width, height)).any():
            raise ConfigError(
                f"a line to count at must meet the image of {width} x {height} pixels; "
                f"got {_text(self.points_xy)}."
            )

    def update(self, detections: Detections) -> dict[str, Any]:
        """Return the counts so far, after one more frame of tracked detections."""
        if detections.track_ids is None:
            raise ConfigError("counting at a line needs tracked detections; got plain ones.")
        # Unconfirmed tracks are all 0: as one track they would cross the line again and again.
        self._zone.trigger(detections[detections.track_ids > 0].to_supervision())
        return self.counts

    @property
    def counts(self) -> dict[str, Any]:
        """The counts so far: ``{"line": [x1, y1, x2, y2], "in": n, "out": n}``."""
        return {
            "line": [float(value) for value in self.points_xy.ravel()],
            "in": int(self._zone.in_count),
            "out": int(self._zone.out_count),
        }

    @property
    def text(self) -> str:
        """The counts for people."""
        return f"in {self._zone.in_count} out {self._zone.out_count}"


class ZoneCounter:
    """Counts objects whose middle lies in a polygon.

    Args:
        polygon: x, y, x, y, ... in pixels of the image; three corners or more.

    Raises:
        ConfigError: if the polygon is none.
    """

    def __init__(self, polygon: Sequence[float]) -> None:
        self.points_xy = _points(polygon, "a zone to count in", least=3)
        self._contour = self.points_xy.astype(np.float32)
        self._frame = 0
        self._visitors: dict[int, int] = {}
        self._inside = self._most = self._visits = 0
        self._is_tracked = False

    def check(self, image_hw: tuple[int, int]) -> None:
        """Refuse images of a size in which the polygon does not lie whole.

        Raises:
            ConfigError: if a corner lies outside.
        """
        height, width = image_hw
        if (self.points_xy < 0).any() or (self.points_xy > (width, height)).any():
            raise ConfigError(
                f"a zone to count in must lie in the image of {width} x {height} pixels; "
                f"got {_text(self.points_xy)}."
            )

    def update(self, detections: Detections) -> dict[str, Any]:
        """Return the counts so far, after one more frame.

        Raises:
            ConfigError: if the polygon does not lie in the image.
        """
        if not self._frame:
            self.check(detections.image_hw)
        inside = self._rows_inside(detections)
        self._frame += 1
        self._inside = len(inside)
        self._most = max(self._most, self._inside)
        if detections.track_ids is not None:
            self._is_tracked = True
            self._remember(detections.track_ids[inside].tolist())
        return self.counts

    def _rows_inside(self, detections: Detections) -> list[int]:
        """Return which detections have their middle in the polygon or on its edge."""
        middles = (detections.boxes_xyxy[:, :2] + detections.boxes_xyxy[:, 2:]) / 2
        return [
            row
            for row, (x, y) in enumerate(middles.tolist())
            if cv2.pointPolygonTest(self._contour, (x, y), measureDist=False) >= 0
        ]

    def _remember(self, track_ids: list[int]) -> None:
        for track_id in track_ids:
            if track_id > 0:
                self._visits += track_id not in self._visitors
                self._visitors[track_id] = self._frame
        if self._frame % FORGET_AFTER == 0:
            old = self._frame - FORGET_AFTER
            self._visitors = {one: seen for one, seen in self._visitors.items() if seen > old}

    @property
    def counts(self) -> dict[str, Any]:
        """The counts so far: ``{"zone": [x, y, ...], "inside": n, "most": n}``, tracked ``visits``.

        ``inside`` is now, ``most`` at one time, ``visits`` how many different objects.
        """
        counts = {
            "zone": [float(value) for value in self.points_xy.ravel()],
            "inside": self._inside,
            "most": self._most,
        }
        return {**counts, "visits": self._visits} if self._is_tracked else counts

    @property
    def text(self) -> str:
        """The counts for people."""
        visits = f", {self._visits} visits" if self._is_tracked else ""
        return f"inside {self._inside}, at most {self._most}{visits}"


def _points(
    values: Sequence[float], name: str, *, least: int, most: int | None = None
) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    count = points.size // 2
    good = points.ndim == 1 and points.size % 2 == 0 and np.isfinite(points).all()
    if not good or count < least or (most is not None and count > most):
        rule = "x1,y1,x2,y2" if most == 2 else "x,y of three corners or more"
        raise ConfigError(f"{name} must be {rule} in pixels; got {list(values)!r}.")
    return points.reshape(-1, 2)


def _text(points: NDArray[np.float64]) -> str:
    return ",".join(f"{value:g}" for value in points.ravel())
