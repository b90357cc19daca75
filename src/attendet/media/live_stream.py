"""Cameras and live streams: read the newest frame, and reconnect after a break."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from attendet.errors import ConfigError, DataError
from attendet.images import ImageArray
from attendet.media.sources import Source
from attendet.media.video import VideoReader, open_video, to_image
from attendet.prefetch import Buffer

FIRST_DELAY = 0.5
"""Seconds before the first reconnection attempt; each further one waits twice as long."""
LONGEST_DELAY = 30.0
STEADY_SECONDS = 5.0
"""After a connection that lasted this long, the next break starts at `FIRST_DELAY` again."""


@dataclass(frozen=True)
class LiveOptions:
    """Options for cameras and streams."""

    drop: bool = True
    """Drop frames that arrive while the detector is busy, so that it never lags behind."""

    reconnect: float = 60.0
    """Seconds for which to try to reconnect a broken source; 0: do not reconnect."""

    timeout: float = 10.0
    """Seconds without data after which a stream counts as broken."""

    stop_after: float = math.inf
    """Seconds after the first frame at which reading ends, even if no frames arrive."""

    on_event: Callable[[str], None] | None = None
    """Called with a message, from another thread, when a source is lost and when it is back."""

    def __post_init__(self) -> None:
        # NaN fails all these comparisons.
        ConfigError.check(self.reconnect >= 0, "reconnect", "0 or more seconds", self.reconnect)
        ConfigError.check(self.timeout > 0, "timeout", "above 0 seconds", self.timeout)
        advice = "Remove it to read until interrupted."
        after = self.stop_after
        ConfigError.check(after > 0, "stop_after", "above 0 seconds", after, advice=advice)


Take = Callable[[], ImageArray]
"""Function that returns the image of a frame, so that dropped frames are never converted."""

LiveFrame = tuple[Take, int, float]
"""Image function, number and time of a frame."""


class LiveReader:
    """Iterable of the frames of a camera or stream, which a thread reads.

    Args:
        source: the camera or stream.
        options: reading options.
    """

    def __init__(self, source: Source, options: LiveOptions) -> None:
        self._source, self._options = source, options
        self._buffer: Buffer[LiveFrame] = Buffer(8, latest=options.drop)
        self._stop = threading.Event()
        self._count = 0
        self._started: float | None = None

    def __iter__(self) -> Iterator[tuple[ImageArray, int, float]]:
        """Yield the image, number and arrival time of each frame.

        Dropped frames are numbered too. The time is in seconds since the first frame, by this
        machine's clock.

        Raises:
            DataError: if the source is not available, was lost and did not come back in time, or
                is a stored video that breaks off.
        """
        patience = max(self._options.stop_after, self._options.timeout)
        self._buffer.until = time.monotonic() + patience
        thread = threading.Thread(target=self._pump, name="live", daemon=True)
        thread.start()
        try:
            for take, index, seconds in self._buffer:
                if seconds >= self._options.stop_after:
                    break
                yield take(), index, seconds
        finally:
            self._stop.set()
            self._buffer.close()
            thread.join(2)  # a daemon: it may hang on a dead connection
        if self._started is None:
            raise DataError(
                f"{self._source.kind} must send frames; got none in {patience:g} s "
                f"({self._source.label}). Check that it is running."
            )

    def _pump(self) -> None:
        try:
            self._read_until_given_up()
        except Exception as error:  # raised again in the reader
            self._buffer.end(error)
        else:
            self._buffer.end()

    def _read_until_given_up(self) -> None:
        delay, lost_at = FIRST_DELAY, 0.0
        while True:
            opened_at, before = time.monotonic(), self._count
            reason = self._read_until_it_breaks(lost_at)
            if reason is None or self._stop.is_set():
                return
            now = time.monotonic()
            if self._count > before:
                lost_at = now
                if now - opened_at > STEADY_SECONDS:
                    delay = FIRST_DELAY
                self._report(
                    f"connection to {self._source.label} lost: {reason.rstrip('.')}. Reconnecting."
                )
            away = now - lost_at
            if self._count == 0 or away >= self._options.reconnect:
                raise DataError(reason if self._count == 0 else self._given_up(reason, away))
            self._stop.wait(min(delay, self._options.reconnect - away))
            delay = min(2 * delay, LONGEST_DELAY)

    def _read_until_it_breaks(self, lost_at: float) -> str | None:
        """Return why the source broke, or None if it ended or the reader wants no more frames.

        Raises:
            DataError: if it is a stored video that breaks off, because a new attempt would start
                from the beginning.
        """
        before = self._count
        reason = f"{self._source.kind} ended ({self._source.label})."
        stored: VideoReader | None = None
        try:
            with _open(self._source, self._options, self._buffer) as (takes, stored):
                for take in takes:
                    if not self._put_frame(take, None if self._count > before else lost_at):
                        return None
                if stored is not None:
                    stored.check_complete()
                    return None
        except DataError as error:
            if stored is not None and self._count > before:
                raise
            reason = str(error)
        return reason

    def _put_frame(self, take: Take, lost_at: float | None) -> bool:
        """Pass a frame to the reader; return False if it wants no more frames."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
            self._buffer.until = now + self._options.stop_after
        elif lost_at is not None:
            self._report(f"reconnected to {self._source.label} after {now - lost_at:.1f} s.")
        frame = take, self._count, now - self._started
        self._count += 1
        return self._buffer.put(frame) and not self._stop.is_set()

    def _given_up(self, reason: str, away: float) -> str:
        if self._options.reconnect == 0:
            return reason
        return f"{reason.rstrip('.')}; no reconnection within {away:.1f} s."

    def _report(self, text: str) -> None:
        if self._options.on_event is not None and self._options.reconnect > 0:
            self._options.on_event(text)


@contextmanager
def _open(
    source: Source, options: LiveOptions, buffer: Buffer[LiveFrame]
) -> Iterator[tuple[Iterator[Take], VideoReader | None]]:
    """Yield an image function for each frame, and the `VideoReader` if the video is stored."""
    if source.kind == "camera":
        with closing(_camera(source)) as takes:
            yield takes, None
        return
    with open_video(source, timeout=options.timeout) as video:
        # A stored video is sent as fast as the network allows and would lose most of its frames.
        buffer.latest = options.drop and not video.is_finite
        takes = (partial(to_image, frame) for frame, _ in video.frames())
        yield takes, video if video.is_finite else None


def _camera(source: Source) -> Generator[Take, None, None]:
    device = str(source.path).removeprefix("camera:")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(int(device) if device.isdecimal() else device)
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        if not capture.isOpened():
            raise DataError(
                f"camera cannot be opened ({source.label}). "
                "Check its number, the cable, and that no other program uses it."
            )
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        while True:
            good, bgr = capture.read()
            if not good or bgr is None:
                return
            yield partial(_rgb, bgr)
    finally:
        capture.release()


def _rgb(bgr: cv2.typing.MatLike) -> ImageArray:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
