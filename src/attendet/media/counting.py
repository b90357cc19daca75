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
"""A zone forgets a track that was not inside for at least this many frames."""


class LineCounter:
    """Counter of objects that cross a line in each direction, with the library ``supervision``.

    An object counts when its whole box has moved to the other side, between the ends of the line.
    Seen from the line's start toward its end, ``in`` is from right to left, and ``out`` from left
    to right: if the line goes from the left of the image to the right, upward is ``in``.

    Args:
        line: x1, y1, x2, y2 in pixels of the image.

    Raises:
        ConfigError: if the line is not two different points.
        MissingExtraError: if ``supervision`` is not installed.
    """

    def __init__(self, line: Sequence[float]) -> None:
        points = _points(line, "counting line", least=2, most=2)
        if (points[0] == points[1]).all():
            raise ConfigError(f"counting line must have two different points; got {_text(points)}.")
        sv = require("supervision", extra="supervision", purpose="counting")
        self.points_xy = points
        start, end = (sv.Point(float(x), float(y)) for x, y in points)
        self._zone: Any = sv.LineZone(start=start, end=end)

    def check(self, image_hw: tuple[int, int]) -> None:
        """Check that the line meets images of this size.

        Raises:
            ConfigError: if the line is outside the image.
        """
        height, width = image_hw
        low, high = self.points_xy.min(axis=0), self.points_xy.max(axis=0)
        if (high < 0).any() or (low > (width, height)).any():
            raise ConfigError(
                f"counting line must not be outside the image of {width} x {height} pixels; "
                f"got {_text(self.points_xy)}."
            )

    def update(self, detections: Detections) -> dict[str, Any]:
        """Count one more frame, and return the counts so far.

        Raises:
            ConfigError: if the detections are not tracked.
        """
        if detections.track_ids is None:
            raise ConfigError(
                "line counting needs tracked detections; got detections without track ids."
            )
        # All unconfirmed tracks have ID 0: as one track they would cross the line again and again.
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
    """Counter of objects whose box center is in a polygon.

    Args:
        polygon: x, y, x, y, ... in pixels of the image; three corners or more.

    Raises:
        ConfigError: if the polygon does not have this form.
    """

    def __init__(self, polygon: Sequence[float]) -> None:
        self.points_xy = _points(polygon, "counting zone", least=3)
        self._contour = self.points_xy.astype(np.float32)
        self._frame = 0
        self._visitors: dict[int, int] = {}
        self._inside = self._most = self._visits = 0
        self._is_tracked = False

    def check(self, image_hw: tuple[int, int]) -> None:
        """Check that images of this size contain the whole polygon.

        Raises:
            ConfigError: if a corner is outside the image.
        """
        height, width = image_hw
        if (self.points_xy < 0).any() or (self.points_xy > (width, height)).any():
            raise ConfigError(
                f"counting zone must be inside the image of {width} x {height} pixels; "
                f"got {_text(self.points_xy)}."
            )

    def update(self, detections: Detections) -> dict[str, Any]:
        """Count one more frame, and return the counts so far.

        Raises:
            ConfigError: if the polygon is not in the image (checked on the first frame).
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
        """Return the indices of the detections with their center in the polygon or on its edge."""
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
        """The counts so far: ``{"zone": [x, y, ...], "inside": n, "most": n}``.

        ``inside`` is the number of objects in the latest frame, ``most`` the highest number in one
        frame. With tracking, ``visits`` is the number of different objects so far.
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
        rule = "x1,y1,x2,y2" if most == 2 else "x,y of three or more corners"
        raise ConfigError(f"{name} must be {rule} in pixels; got {list(values)!r}.")
    return points.reshape(-1, 2)


def _text(points: NDArray[np.float64]) -> str:
    return ",".join(f"{value:g}" for value in points.ravel())
