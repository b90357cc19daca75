"""Prediction on frames: detection in batches or tiles, tracking and counting."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.images import ImageArray
from attendet.media.counting import LineCounter, ZoneCounter
from attendet.media.frames import Frame
from attendet.media.sources import Skipped, Source
from attendet.media.tiling import predict_tiled, tile_windows
from attendet.media.tracking import LOW_FRACTION, Tracker

if TYPE_CHECKING:
    from attendet.inference.detector import Detector

MARK_COLOR = (255, 255, 255)


@dataclass(frozen=True)
class FrameOptions:
    """Options of `predict_frames`."""

    tile: int | None = None
    """Side of the tiles that images are split into, pixels; no tiles if None."""

    overlap: float = 0.2
    """Fraction of its side by which a tile overlaps the next, 0 to 0.9."""

    track: bool = False
    """Track objects from frame to frame and number them; always on with ``lines``."""

    lines: Sequence[Sequence[float]] = ()
    """Count objects that cross these lines: x1, y1, x2, y2 each, pixels."""

    zones: Sequence[Sequence[float]] = ()
    """Count objects in these polygons: x, y, x, y, ... each, pixels."""

    only: Sequence[str] | None = None
    """Names of the classes to detect; all if None."""

    def __post_init__(self) -> None:
        if self.tile is not None:
            tile_windows((1, 1), self.tile, self.overlap)
        if self.only is not None and len(self.only) == 0:
            raise ConfigError("only must name at least one class; got none. Remove it for all.")


@dataclass(frozen=True, eq=False)
class Result:
    """Result of one frame.

    Attributes:
        frame: the frame.
        detections: detections in pixels of the frame.
        counters: line and zone counters of the frame's source; later results update them.
        counts: counts of these counters up to this frame.
    """

    frame: Frame
    detections: Detections
    counters: Sequence[LineCounter | ZoneCounter] = ()
    counts: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def annotated(self) -> ImageArray:
        """The image with boxes, names, scores, track IDs, lines, zones and their counts drawn."""
        from attendet.report.draw import draw_detections
        from attendet.report.fonts import drawable_name

        found = self.detections
        labels = found.names
        if found.track_ids is not None:
            labels = [drawable_name(*one) for one in zip(labels, found.class_ids, strict=True)]
            labels = [
                f"{name} #{track_id}" if track_id else name
                for name, track_id in zip(labels, found.track_ids.tolist(), strict=True)
            ]
        image = self.frame.image
        if self.counters:
            image = image.copy()
            for counter in self.counters:
                _draw_counter(image, counter)
        return draw_detections(image, found.boxes_xyxy, labels, found.class_ids, found.scores)


def _draw_counter(image: ImageArray, counter: LineCounter | ZoneCounter) -> None:
    """Draw a line or zone and its counts, in place."""
    from attendet.report.draw import draw_text, fit_text, text_mask

    height, width = image.shape[:2]
    points = counter.points_xy.round().astype(np.int32)
    line = max(1, round((height * width) ** 0.5 / 300))
    closed = isinstance(counter, ZoneCounter)
    cv2.polylines(image, [points], closed, (0, 0, 0), line + 2, cv2.LINE_AA)
    cv2.polylines(image, [points], closed, MARK_COLOR, line, cv2.LINE_AA)
    letter = max(10, round((height * width) ** 0.5 / 40))
    left, top = np.clip(points.min(axis=0) + line + 2, 0, (width - 1, height - 1)).tolist()
    text = fit_text(counter.text, letter, width - left)
    if text:
        band_h, band_w = text_mask(text, letter).shape
        image[top : top + band_h, left : left + band_w] = 0
        draw_text(image, text, left=left, top=top, height=letter, color=MARK_COLOR)


def predict_frames(
    detector: Detector,
    frames: Iterable[Frame],
    options: FrameOptions | None = None,
    *,
    batch: int | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
) -> Generator[Result, None, None]:
    """Yield the result of each frame, in order.

    Images and video files are processed in batches while the next frames are read
    (`Detector.stream`); frames of cameras and streams are processed at once. Tracks and counts
    restart with each video; still images count as one video.

    Args:
        detector: any detector.
        frames: such as those of `attendet.media.frames.read_frames`.
        options: default: detection only.
        batch: maximum number of frames of one network input shape per batch; see
            `Detector.stream`.
        on_skip: called with each source whose images do not fit a line or zone; if None, that is
            an error.

    Raises:
        ConfigError: if a class, a line or a zone is invalid.
        MissingExtraError: if tracking or counting is requested and its extra is not installed.
    """
    ConfigError.check(batch is None or batch >= 1, "batch", "1 or more", batch)
    options = options or FrameOptions()
    watcher = _TrackingState(detector, options)
    fitting = _fitting(frames, watcher.counters, on_skip)
    found = _detect(detector, fitting, options, watcher.confidence, batch)
    with closing(found):
        for frame, detections in found:
            yield watcher.result(frame, detections)
            del frame, detections  # frees them while the next one is read


def _fitting(
    frames: Iterable[Frame],
    counters: Sequence[LineCounter | ZoneCounter],
    on_skip: Callable[[Skipped], None] | None,
) -> Generator[Frame, None, None]:
    """Yield the frames of the sources whose images fit all lines and zones."""
    source: Source | None = None
    fits = True
    for frame in frames:
        if frame.source != source:
            source = frame.source
            fits = _fits(frame, counters, on_skip)
            if not fits and source.is_live:
                return  # it never ends
        if fits:
            yield frame
        del frame  # frees it while the next one is read


def _fits(
    frame: Frame,
    counters: Sequence[LineCounter | ZoneCounter],
    on_skip: Callable[[Skipped], None] | None,
) -> bool:
    try:
        for counter in counters:
            counter.check((frame.image.shape[0], frame.image.shape[1]))
    except ConfigError as error:
        reason = f"{str(error).removesuffix('.')} ({frame.source.label})."
        if on_skip is None:
            raise ConfigError(reason) from None
        on_skip(Skipped(frame.source.label, reason))
        return False
    return True


def _detect(
    detector: Detector,
    frames: Iterable[Frame],
    options: FrameOptions,
    confidence: float | None,
    batch: int | None,
) -> Generator[tuple[Frame, Detections], None, None]:
    """Yield each frame with its detections; a live frame does not wait for the next one."""
    rule: dict[str, Any] = {"confidence": confidence, "only": options.only}
    for is_live, some in itertools.groupby(frames, lambda frame: frame.source.is_live):
        if options.tile is not None:
            for frame in some:
                yield (
                    frame,
                    predict_tiled(detector, frame.image, options.tile, options.overlap, **rule),
                )
        elif is_live:
            for frame in some:
                yield frame, detector.predict(frame.image, **rule)
        else:
            found = detector.stream(some, batch=batch, image_of=lambda frame: frame.image, **rule)
            with closing(found):
                for frame, _, detections in found:
                    yield frame, detections
                    del frame, detections


class _TrackingState:
    """Tracks and counts over the frames of one source, restarted for the next source."""

    def __init__(self, detector: Detector, options: FrameOptions) -> None:
        self._options = options
        self._tracks = options.track or bool(options.lines)
        self._sure = detector.selection.confidence
        # An exported file that includes NMS returns no scores below its own confidence.
        low = max(detector.min_confidence, LOW_FRACTION * self._sure)
        self.confidence = low if self._tracks else None
        self._source: Source | None = None
        self._begin()  # raises at once if an option is wrong

    def _begin(self) -> None:
        self._tracker = Tracker(self._sure) if self._tracks else None
        self.counters: list[LineCounter | ZoneCounter] = []
        self.counters += [LineCounter(line) for line in self._options.lines]
        self.counters += [ZoneCounter(zone) for zone in self._options.zones]

    def result(self, frame: Frame, detections: Detections) -> Result:
        source = None if frame.is_still else frame.source
        if source != self._source:
            self._source = source
            self._begin()
        if self._tracker is not None:
            detections = self._tracker.update(detections, frame.seconds)
        counts = [counter.update(detections) for counter in self.counters]
        return Result(frame, detections, tuple(self.counters), counts)
