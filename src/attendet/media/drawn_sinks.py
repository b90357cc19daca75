"""Results as images: drawn boxes, drawn videos, and the objects cut out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attendet.errors import ImageError
from attendet.files import write_atomically
from attendet.images import ImageArray
from attendet.media.partial_file import PartialFile
from attendet.media.video_writer import VideoWriter
from attendet.report.draw import to_jpeg
from attendet.system import require

if TYPE_CHECKING:
    from attendet.media.pipeline import Result
    from attendet.media.sources import Source

__all__ = ["CropSink", "AnnotatedSink", "ImageSink", "UnfinishedError", "VideoSink"]

JPEG_QUALITY = 92
JPEG_MAX_SIDE = 65500


def _write_jpeg(path: Path, image: ImageArray, label: str) -> None:
    height, width = image.shape[:2]
    if max(height, width) > JPEG_MAX_SIDE:
        raise ImageError(
            f"a drawn image must be at most {JPEG_MAX_SIDE} pixels wide and high; got "
            f"{width} x {height} ({label}). Save as json instead."
        )
    write_atomically(path, to_jpeg(image, JPEG_QUALITY))


class UnfinishedError(OSError):
    """The video before could not be finished, and is dropped; the result has yet to be written."""


class ImageSink:
    """Images with boxes and names drawn: ``NAME.jpg``; of a video ``frames/NAME/000012.jpg``."""

    def __init__(self, folder: Path) -> None:
        self._folder = self._path = folder

    def write(self, result: Result) -> None:
        """Draw and file one frame.

        Raises:
            ImageError: if it is too wide or high for a JPEG.
        """
        frame = result.frame
        folder = self._folder if frame.is_still else self._folder / "frames"
        self._path = folder / f"{frame.name}.jpg"
        _write_jpeg(self._path, result.annotated, frame.source.label)

    def drop(self) -> str:
        """Name the latest image: each stands alone."""
        return str(self._path)

    def close(self, *, whole: bool) -> None:
        """Do nothing: each image is filed already."""


class CropSink:
    """Each object cut out of its image: ``crops/CLASS/NAME-1.jpg``, without anything drawn.

    Of a video it is ``crops/CLASS/NAME/000012-1.jpg``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = self._path = folder / "crops"

    def write(self, result: Result) -> None:
        """File the objects of one frame, numbered from the best score on."""
        image, found = result.frame.image, result.detections
        height, width = image.shape[:2]
        corners = np.concatenate(
            [np.floor(found.boxes_xyxy[:, :2]), np.ceil(found.boxes_xyxy[:, 2:])], axis=1
        ).astype(int)
        kinds = [re.sub(r"[^\w .-]+|^\.+$", "_", name) or "_" for name in found.names]
        places = zip(kinds, corners.tolist(), strict=True)
        for number, (kind, (left, top, right, bottom)) in enumerate(places, start=1):
            left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
            crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
            self._path = self._folder / kind / f"{result.frame.name}-{number}.jpg"
            _write_jpeg(self._path, crop, result.frame.source.label)

    def drop(self) -> str:
        """Name the latest crop: each stands alone."""
        return str(self._path)

    def close(self, *, whole: bool) -> None:
        """Do nothing: each crop is filed already."""


class VideoSink:
    """Videos with boxes and names drawn, ``NAME.mp4`` each, frames at their own times.

    Images that stand alone are left out. One video is in the making at a time.
    """

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        require("av", extra="video", purpose="reading and writing videos")
        self._folder, self._max_side = folder, max_side
        self._source: Source | None = None
        self._file: PartialFile | None = None
        self._writer: VideoWriter | None = None
        self._path = folder

    def write(self, result: Result) -> None:
        """Add one frame to the video of its source.

        Raises:
            UnfinishedError: if the video before cannot be finished.
            OSError: if it cannot be written; the rest of this source is then left out.
        """
        frame = result.frame
        if frame.source != self._source:
            try:
                self.close(whole=True)
            except Exception as error:
                raise UnfinishedError(str(error)) from error
            self._source = frame.source
            if not frame.is_still:
                self._path = self._folder / f"{frame.source.name}.mp4"
                self._file = PartialFile(self._path)
                self._writer = VideoWriter(self._file.partial, max_side=self._max_side)
        if self._writer is not None and frame.seconds is not None:
            self._writer.write(result.annotated, frame.seconds)

    def drop(self) -> str:
        """Drop the video in the making; the next source begins a new one."""
        writer, self._writer = self._writer, None
        file, self._file = self._file, None
        try:
            if writer is not None:
                writer.abandon()
        finally:
            if file is not None:
                file.drop()
        return str(self._path)

    def close(self, *, whole: bool) -> None:
        """Finish the video in the making, or drop it.

        Raises:
            OSError: if it cannot be finished; it is dropped then.
        """
        if not whole or self._writer is None or self._file is None:
            self.drop()
            return
        try:
            self._writer.close()
        except BaseException:
            self.drop()
            raise
        file, self._writer, self._file = self._file, None, None
        file.finish()


class AnnotatedSink:
    """Images as `ImageSink` and videos as `VideoSink` draw them."""

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        self._folder, self._max_side = folder, max_side
        self._images = ImageSink(folder)
        self._videos: VideoSink | None = None
        self._latest: ImageSink | VideoSink = self._images

    def write(self, result: Result) -> None:
        """Draw and file one frame."""
        if self._videos is None and not result.frame.is_still:
            self._videos = VideoSink(self._folder, self._max_side)
        if self._videos is not None:
            self._latest = self._videos
            self._videos.write(result)
        if result.frame.is_still:
            self._latest = self._images
            self._images.write(result)

    def drop(self) -> str:
        """Drop the video in the making, if there is one; name what was written to."""
        return self._latest.drop()

    def close(self, *, whole: bool) -> None:
        """Finish the video in the making, or drop it."""
        if self._videos is not None:
            self._videos.close(whole=whole)
