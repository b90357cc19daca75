"""Videos written as H.264 in MP4, by PyAV (FFmpeg), each frame at its own time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from attendet.errors import ConfigError
from attendet.images import ImageArray, letterbox
from attendet.system import require

__all__ = ["VideoWriter", "scale_down"]

ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
"""H.264 encoders of FFmpeg's builds, the best first."""

CLOCK = Fraction(1, 90_000)
"""Unit of time of the frames; the usual rates of video divide it."""

QUALITY = "23"
"""libx264's constant rate factor: 0 is lossless, 51 the worst."""

BT709 = 1
LIMITED_RANGE = 1


class VideoWriter:
    """Writes frames to an MP4 file; H.264, 4:2:0, BT.709.

    Sides are made even by repeating the last row or column, as 4:2:0 needs. The first frame sets
    the size; a later one of another size is letterboxed into it.

    Args:
        path: file to write.
        max_side: frames with a longer side are scaled down to this many pixels; None: never.

    Raises:
        MissingExtraError: if PyAV is not installed.
        ConfigError: if it has no encoder for H.264.
    """

    def __init__(self, path: Path, *, max_side: int | None = None) -> None:
        self._av = require("av", extra="video", purpose="reading and writing videos")
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
            seconds: its time; frames come in order of time.

        Raises:
            OSError: if it cannot be written: the disk is full, or frames are too large for H.264.
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

    def abandon(self) -> None:
        """Let go of a file that is not wanted any more, whatever state it is in."""
        with contextlib.suppress(self._av.error.FFmpegError, OSError, ValueError):
            self._container.close()

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Turn FFmpeg's own errors into an OSError that says of which file and frames."""
        try:
            yield
        except OSError:
            raise  # some of FFmpeg's are: no space left, say
        except self._av.error.FFmpegError as error:
            height, width = self._hw
            reason = f"{error.strerror or error}, with frames of {width} x {height}"
            raise OSError(error.errno, reason, str(self._path)) from None


def _encoder(av: Any) -> str:
    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise ConfigError(
        "PyAV must come with an H.264 encoder; got one that has none. "
        "Install the PyAV of the Python package index: pip install --force-reinstall av"
    )


def scale_down(image: ImageArray, max_side: int | None) -> ImageArray:
    """Return an image whose longer side has at most ``max_side`` pixels; as it is if None."""
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
