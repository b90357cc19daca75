"""Reading and writing of videos, with the time of each frame (PyAV)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from attendet.errors import ConfigError, DataError
from attendet.images import MAX_PIXELS, ImageArray, letterbox
from attendet.media.sources import STREAM_SCHEMES, Source
from attendet.system import require

if TYPE_CHECKING:
    import av
    import av.container

_TRANSPORTS = ("tcp", "udp", "rtp", "tls", "crypto", "httpproxy", "https", "http", "data")
_FROM_FILE = {"protocol_whitelist": "file"}
"""Keeps a file, such as a playlist, from making FFmpeg open URLs."""
_FROM_NETWORK = {
    "protocol_whitelist": ",".join((*_TRANSPORTS, *STREAM_SCHEMES)),
    "rtsp_transport": "tcp",
    "analyzeduration": "2000000",
}


@dataclass
class VideoReader:
    """Opened video: its frames and metadata.

    Attributes:
        kind: kind of source, for error messages.
        label: name in error messages.
        total: number of frames, stated by the container or estimated from its duration; or None.
        is_finite: False for a live stream.
        duration_seconds: duration stated by the container, or None.
        damaged: number of packets so far that are cut off or could not be decoded.
        done: number of frames yielded so far.
        reached: end time of the latest frame, in seconds from the first.
    """

    kind: str
    label: str
    total: int | None
    is_finite: bool
    duration_seconds: float | None
    _container: av.container.InputContainer
    _stream: av.VideoStream
    damaged: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    reached: float = field(default=0.0, init=False)

    def frames(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Yield each frame with its time in seconds from the first.

        Damaged packets are skipped and counted.

        Raises:
            DataError: if the file breaks off, after the last good frame, or a frame is too large.
        """
        av = require_av()
        first: float | None = None
        last = -1.0
        usual = 1 / (float(self._stream.average_rate or 0) or 25.0)
        for frame in self._decoded(av):
            _check_size(frame, self.label)
            due = last + usual if self.done else 0.0
            time = self._seconds(frame, frame.pts)
            if time is None:
                last = due
            else:
                first = time - due if first is None else first
                last = max(time - first, last + 1e-6)
            self.done += 1
            self.reached = last + (self._seconds(frame, frame.duration or None) or usual)
            yield frame, last

    def _seconds(self, frame: av.VideoFrame, ticks: int | None) -> float | None:
        """Convert ticks of a frame to seconds, or None; after a break, frames have no time base."""
        clock = frame.time_base or self._stream.time_base
        seconds = math.nan if ticks is None or not clock else float(ticks * clock)
        return seconds if math.isfinite(seconds) else None

    def check_complete(self) -> None:
        """Check, after the last frame, that nothing was missing.

        Raises:
            DataError: if there was no frame, packets were damaged, or the video ended early (by
                more than 1 s and 10% of its stated duration).
        """
        if self.done == 0:
            raise DataError(f"video must contain readable frames; got none ({self.label}).")
        if self.damaged:
            raise DataError(
                f"video is damaged or truncated: {self.damaged} of its packets are broken, "
                f"{self.done} frames could be read ({self.label})."
            )
        stated = self.duration_seconds
        if stated is not None and self.reached < stated - max(1.0, 0.1 * stated):
            raise DataError(
                f"video ends early: {self.reached:.1f} of {stated:.1f} s could be read "
                f"({self.label})."
            )

    def _decoded(self, av: Any) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        broken: Exception | None = None
        while broken is None:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                broken, packet = error, None
            try:
                if packet is not None:
                    self.damaged += packet.is_corrupt
                    yield from packet.decode()
                    continue
                yield from self._stream.codec_context.decode(None)  # flush the decoder
                break
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, ValueError):
                if packet is None:
                    break
                self.damaged += not packet.is_corrupt  # otherwise already counted
        if broken is not None:
            raise DataError(f"{self.kind} ended with an error ({self.label}): {_reason(broken)}")


def to_image(frame: av.VideoFrame) -> ImageArray:
    """Return a decoded frame as uint8 RGB of shape (H, W, 3), rotated as its container states."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    quarters = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


@contextmanager
def open_video(source: Source, *, timeout: float = 10.0) -> Iterator[VideoReader]:
    """Open a video file, or a video or stream at a URL.

    Args:
        source: source of kind video, stream or address.
        timeout: seconds without data from a URL before giving up.

    Raises:
        DataError: if it is missing, not a video, too large, or does not respond.
        MissingExtraError: if PyAV is not installed.
    """
    av = require_av()
    options = dict(_FROM_FILE if isinstance(source.path, Path) else _FROM_NETWORK)
    try:
        # FFmpeg takes what is before a colon in a relative path as a protocol.
        path = source.path.absolute() if isinstance(source.path, Path) else source.path
        container = av.open(str(path), options=options, timeout=(timeout, timeout))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = f"{source.kind} cannot be read ({source.label}): {_reason(error)}."
        raise DataError(reason) from None
    with container:
        if not container.streams.video:
            raise DataError(
                f"{source.kind} must contain a video stream; got none ({source.label})."
            )
        stream = container.streams.video[0]
        _check_size(stream.codec_context, source.label)
        is_finite = bool(container.duration and container.duration > 0)
        # Frame threads are faster, but each adds a delay of one frame: not for live streams.
        stream.thread_type = "AUTO" if is_finite else "SLICE"
        seconds = _stated_seconds(stream, container) if is_finite else None
        total = stream.frames or round((seconds or 0) * float(stream.average_rate or 0)) or None
        kind = "video" if is_finite else source.kind  # instead of an address of unknown kind
        yield VideoReader(kind, source.label, total, is_finite, seconds, container, stream)


def _stated_seconds(stream: Any, container: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # With an audio stream, the container's duration may be that of the audio.
    return float(container.duration / 1e6) if len(container.streams) == 1 else None


def _check_size(frame: Any, label: str) -> None:
    if frame.width * frame.height > MAX_PIXELS:
        raise DataError(
            f"video must have at most {MAX_PIXELS} pixels per frame; got {frame.width} x "
            f"{frame.height} ({label})."
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def require_av() -> Any:
    """Return PyAV.

    Raises:
        MissingExtraError: if it is not installed.
    """
    return require("av", extra="video", purpose="reading and writing videos")


ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
"""H.264 encoders in FFmpeg builds, best first."""

CLOCK = Fraction(1, 90_000)
"""Time base of the frames; the usual frame rates divide 90,000."""

QUALITY = "23"
"""Constant rate factor (CRF) of libx264: 0 is lossless, 51 the worst."""

BT709 = 1
LIMITED_RANGE = 1


class VideoWriter:
    """Writer of an MP4 file: H.264, 4:2:0, BT.709.

    Sides are made even by repeating the last row or column, as 4:2:0 requires. The first frame sets
    the size; later frames of another size are letterboxed into it.

    Args:
        path: file to write.
        max_side: frames with a longer side are scaled down to this many pixels; None: never.

    Raises:
        MissingExtraError: if PyAV is not installed.
        ConfigError: if PyAV has no H.264 encoder.
    """

    def __init__(self, path: Path, *, max_side: int | None = None) -> None:
        self._av = require_av()
        self._encoder = _encoder(self._av)
        self._path, self._max_side = path, max_side
        self._hw = (0, 0)
        with self._as_os_error():
            self._container = self._av.open(
                str(path), "w", format="mp4", options={"movflags": "faststart"}
            )
        self._stream: Any = None
        self._last = -1

    def write(self, image: ImageArray, seconds: float) -> None:
        """Add a frame.

        Args:
            image: uint8 RGB, shape (H, W, 3).
            seconds: time of the frame; frames must be in order of time.

        Raises:
            OSError: if it cannot be written: the disk is full, or the frame too large for H.264.
        """
        image = _even(scale_down(image, self._max_side))
        if self._stream is None:
            self._open_stream(image)
        if image.shape[:2] != self._hw:
            image = letterbox(image, self._hw)[0]
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        self._last = max(self._last + 1, round(seconds / CLOCK))
        frame.pts, frame.time_base = self._last, CLOCK
        with self._as_os_error():
            self._container.mux(self._stream.encode(frame))

    def _open_stream(self, image: ImageArray) -> None:
        self._hw = (image.shape[0], image.shape[1])
        quality = {"crf": QUALITY, "preset": "veryfast"} if self._encoder == "libx264" else {}
        stream = self._container.add_stream(self._encoder, rate=30, options=quality)
        stream.height, stream.width = self._hw
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = CLOCK
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._stream = stream

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: if it cannot be written.
        """
        with self._as_os_error():
            try:
                if self._stream is not None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(self._av.error.FFmpegError, OSError, ValueError):
            self._container.close()

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Convert FFmpeg's errors to an OSError that names the file and the frame size."""
        try:
            yield
        except OSError:
            raise  # some of FFmpeg's errors are, such as no space left
        except self._av.error.FFmpegError as error:
            height, width = self._hw
            reason = f"{error.strerror or error}, with frames of {width} x {height}"
            raise OSError(error.errno, reason, str(self._path)) from None


def _encoder(av: Any) -> str:
    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise ConfigError(
        "PyAV must include an H.264 encoder; got a build without one. "
        "Install the build of PyPI: pip install --force-reinstall av"
    )


def scale_down(image: ImageArray, max_side: int | None) -> ImageArray:
    """Return an image whose longer side has at most ``max_side`` pixels; unchanged if None."""
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _even(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
