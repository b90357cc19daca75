"""Results as pictures: drawn boxes, drawn videos, and the objects cut out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attendet.errors import PictureError
from attendet.extras import require
from attendet.files import write_atomically
from attendet.inference.partial_file import PartialFile
from attendet.inference.video_writer import VideoWriter
from attendet.pictures import Picture
from attendet.report.draw import to_jpeg

if TYPE_CHECKING:
    from attendet.inference.pipeline import Result
    from attendet.inference.sources import Source

__all__ = ["CropSink", "DrawnSink", "PictureSink", "VideoSink"]

JPEG_QUALITY = 92
JPEG_MAX_SIDE = 65500


def _write_jpeg(path: Path, picture: Picture, label: str) -> None:
    height, width = picture.shape[:2]
    if max(height, width) > JPEG_MAX_SIDE:
        raise PictureError(
            f"a drawn picture must be at most {JPEG_MAX_SIDE} pixels wide and high; got "
            f"{width} x {height} ({label}). Save as json instead."
        )
    write_atomically(path, to_jpeg(picture, JPEG_QUALITY))


class PictureSink:
    """Pictures with boxes and names drawn: ``NAME.jpg``; of a video ``frames/NAME/000012.jpg``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, result: Result) -> None:
        """Draw and file one frame.

        Raises:
            PictureError: if it is too wide or high for a JPEG.
        """
        frame = result.frame
        folder = self._folder if frame.is_still else self._folder / "frames"
        _write_jpeg(folder / f"{frame.name}.jpg", result.drawn, frame.source.label)

    def drop(self) -> str:
        """Name the folder: each picture stands alone."""
        return f"a picture in {self._folder}"

    def close(self, *, whole: bool) -> None:
        """Do nothing: each picture is filed already."""


class CropSink:
    """Each object cut out of its picture: ``crops/CLASS/NAME-1.jpg``, without anything drawn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "crops"

    def write(self, result: Result) -> None:
        """File the objects of one frame, numbered from the best score on."""
        picture, found = result.frame.picture, result.detections
        height, width = picture.shape[:2]
        stem = result.frame.name.replace("/", "-")
        corners = np.concatenate(
            [np.floor(found.boxes_xyxy[:, :2]), np.ceil(found.boxes_xyxy[:, 2:])], axis=1
        ).astype(int)
        kinds = [re.sub(r"[^\w .-]+|^\.+$", "_", name) or "_" for name in found.names]
        places = zip(kinds, corners.tolist(), strict=True)
        for number, (kind, (left, top, right, bottom)) in enumerate(places, start=1):
            left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
            crop = picture[top : max(bottom, top + 1), left : max(right, left + 1)]
            path = self._folder / kind / f"{stem}-{number}.jpg"
            _write_jpeg(path, crop, result.frame.source.label)

    def drop(self) -> str:
        """Name the folder: each crop stands alone."""
        return f"a crop in {self._folder}"

    def close(self, *, whole: bool) -> None:
        """Do nothing: each crop is filed already."""


class VideoSink:
    """Videos with boxes and names drawn, ``NAME.mp4`` each, frames at their own times.

    Pictures that stand alone are left out. One video is in the making at a time.
    """

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        require("av", extra="video", purpose="reading and writing videos")
        self._folder, self._max_side = folder, max_side
        self._source: Source | None = None
        self._file: PartialFile | None = None
        self._writer: VideoWriter | None = None
        self._path = folder

    @property
    def is_open(self) -> bool:
        """Whether a video is in the making."""
        return self._writer is not None

    def write(self, result: Result) -> None:
        """Add one frame to the video of its source.

        Raises:
            OSError: if it cannot be written; the rest of this source is then left out.
        """
        frame = result.frame
        if frame.source != self._source:
            self.close(whole=True)
            self._source = frame.source
            if not frame.is_still:
                self._path = self._folder / f"{frame.source.name}.mp4"
                self._file = PartialFile(self._path)
                self._writer = VideoWriter(self._file.partial, max_side=self._max_side)
        if self._writer is not None and frame.seconds is not None:
            self._writer.write(result.drawn, frame.seconds)

    def drop(self) -> str:
        """Drop the video in the making; the next source begins a new one."""
        writer, self._writer = self._writer, None
        file, self._file = self._file, None
        if writer is not None:
            writer.abandon()
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


class DrawnSink:
    """Pictures as `PictureSink` and videos as `VideoSink` draw them."""

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        self._folder, self._max_side = folder, max_side
        self._pictures = PictureSink(folder)
        self._videos: VideoSink | None = None

    def write(self, result: Result) -> None:
        """Draw and file one frame."""
        if self._videos is None and not result.frame.is_still:
            self._videos = VideoSink(self._folder, self._max_side)
        if self._videos is not None:
            self._videos.write(result)
        if result.frame.is_still:
            self._pictures.write(result)

    def drop(self) -> str:
        """Drop the video in the making, if there is one."""
        if self._videos is not None and self._videos.is_open:
            return self._videos.drop()
        return self._pictures.drop()

    def close(self, *, whole: bool) -> None:
        """Finish the video in the making, or drop it."""
        if self._videos is not None:
            self._videos.close(whole=whole)
