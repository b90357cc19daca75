"""One number an object over the frames of a video: ByteTrack of the library ``trackers``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.system import require

LOW_FRACTION = 0.4
"""A tracked object is kept down to this fraction of the confidence (0.25: 0.1)."""

FRAME_RATE = 30.0
"""Frames/s in which ``trackers`` counts, for every video."""


class Tracker:
    """Gives the detections of one video numbers that stay with their objects.

    ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864) by the library ``trackers``: detections
    are matched to the objects known so far by motion and overlap, first the sure ones, then those
    that an object alone would not be begun with. Classes play no part in it.

    Args:
        confidence: score that a new object needs, 0 to 1. Known objects are followed down to
            `LOW_FRACTION` of it: give `update` the detections from there on.
        patience: seconds for which an object that is not seen is remembered.

    Raises:
        ConfigError: if a number is out of range.
        MissingExtraError: if ``trackers`` is not installed.
    """

    def __init__(self, confidence: float = 0.25, patience: float = 1.0) -> None:
        ConfigError.check(0 <= confidence <= 1, "confidence", "from 0 to 1", confidence)
        ConfigError.check(patience >= 0, "patience", "0 or more seconds", patience)
        trackers = require("trackers", extra="track", purpose="tracking")
        self._supervision = require("supervision", extra="track", purpose="tracking")
        self._confidence = confidence
        self._seconds: float | None = None
        self._tracker: Any = trackers.ByteTrackTracker(
            lost_track_buffer=round(patience * FRAME_RATE),
            frame_rate=FRAME_RATE,
            track_activation_threshold=confidence,
            high_conf_det_threshold=confidence,
            minimum_consecutive_frames=2,
        )

    def update(self, detections: Detections, seconds: float | None = None) -> Detections:
        """Return the detections of the next frame with ``track_ids``.

        Args:
            detections: of the frame, from `LOW_FRACTION` of the confidence on.
            seconds: its time, in order; None where frames have none: then each counts alike.

        Returns:
            Those of them that belong to a known object or reach the confidence themselves, best
            score first. An object has its number, from 1, from its second frame on; 0 until then.
        """
        theirs = self._supervision.Detections(
            xyxy=detections.boxes_xyxy.astype(np.float64),
            confidence=detections.scores.astype(np.float64),
            class_id=detections.class_ids.astype(int),
            data={"row": np.arange(len(detections))},
        )
        if seconds is not None:
            step = 1e-3 if self._seconds is None else self._seconds + 1e-3
            seconds = seconds if self._seconds is None else max(seconds, step)
            self._seconds = seconds
        tracked = self._tracker.update(theirs, timestamp=seconds)
        track_ids = np.zeros(len(detections), dtype=np.int64)
        if len(tracked):
            track_ids[tracked.data["row"].astype(int)] = tracked.tracker_id + 1
        wanted = (track_ids > 0) | (detections.scores >= self._confidence)
        return dataclasses.replace(detections, track_ids=track_ids)[wanted]
