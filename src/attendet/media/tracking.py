"""Tracking of objects over the frames of a video: ByteTrack of the library ``trackers``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.system import require

LOW_FRACTION = 0.4
"""Tracks are continued by scores down to this fraction of the confidence (0.25: 0.1)."""

FRAME_RATE = 30.0
"""Frames/s by which ``trackers`` converts times to frames, for every video."""


class Tracker:
    """Tracker that assigns track IDs to the detections of one video.

    ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864) of the library ``trackers``: detections
    are matched to the existing tracks by motion and overlap, first those with high scores, then
    those with scores too low to start a track. Classes are ignored.

    Args:
        confidence: score that starts a track, 0 to 1. Tracks are continued down to `LOW_FRACTION`
            of it: pass `update` the detections from that score up.
        patience: seconds for which a lost track is kept.

    Raises:
        ConfigError: if a number is out of range.
        MissingExtraError: if ``trackers`` or ``supervision`` is not installed.
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
            detections: detections of the frame, with scores from `LOW_FRACTION` of the confidence.
            seconds: time of the frame, in order; None if frames have no times: they are then
                equally spaced.

        Returns:
            The detections that belong to a track or reach the confidence, best score first. An
            object gets its ID, from 1, in its second frame; 0 before.
        """
        theirs = self._supervision.Detections(
            xyxy=detections.boxes_xyxy.astype(np.float64),
            confidence=detections.scores.astype(np.float64),
            class_id=detections.class_ids.astype(int),
            data={"row": np.arange(len(detections))},
        )
        if seconds is not None:
            if self._seconds is not None:
                seconds = max(seconds, self._seconds + 1e-3)
            self._seconds = seconds
        tracked = self._tracker.update(theirs, timestamp=seconds)
        track_ids = np.zeros(len(detections), dtype=np.int64)
        if len(tracked):
            track_ids[tracked.data["row"].astype(int)] = tracked.tracker_id + 1
        wanted = (track_ids > 0) | (detections.scores >= self._confidence)
        return dataclasses.replace(detections, track_ids=track_ids)[wanted]
