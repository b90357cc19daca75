"""Results as files: JSON, JSON lines, CSV, YOLO text, COCO, annotated images, videos, crops.

Unlike with supervision's sinks, video frames keep their own times (variable frame rate), files
appear complete or not at all, and a failing sink does not stop the others.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from attendet.errors import AttendetError, ConfigError, ImageError, did_you_mean
from attendet.files import replacing, write_atomically
from attendet.images import ImageArray
from attendet.media.pipeline import Result
from attendet.media.sources import Source
from attendet.media.video import VideoWriter, require_av
from attendet.report.draw import to_jpeg

JPEG_QUALITY = 92
JPEG_MAX_SIDE = 65500


class UnfinishedError(OSError):
    """The previous video could not be finished and is dropped; the result is not written yet."""


class _DroppedError(Exception):
    """Raised in `attendet.files.replacing` so that it writes no file."""


class PartialFile(ExitStack):
    """File that gets its final name when it is closed; its writer is closed first.

    Args:
        path: final path of the file; parent folders are created.

    Attributes:
        partial: temporary path to write to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.partial = self.enter_context(replacing(path))

    def drop(self) -> None:
        """Discard the file."""
        dropped = _DroppedError()
        with contextlib.suppress(OSError):
            self.__exit__(_DroppedError, dropped, None)


class Sink:
    """Base of the sinks, which write one result after the other.

    A subclass may keep one unfinished file open in ``_file``; `drop` and `close` handle it.

    Args:
        folder: output folder.
        max_side: videos with a longer side are scaled down to this many pixels; None: never.
    """

    _path = Path()
    _file: PartialFile | None = None

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        self._folder, self._max_side = folder, max_side

    def write(self, result: Result) -> None:
        """Write the result of one frame.

        Raises:
            OSError: if the file cannot be written.
            ImageError: if an annotated image is too large for JPEG.
        """
        raise NotImplementedError

    def drop(self) -> str:
        """Discard the unfinished file, if any; return the path of the file written last."""
        file, self._file = self._file, None
        if file is not None:
            file.drop()
        return str(self._path)

    def close(self, *, whole: bool) -> None:
        """Finish the open file, or discard it if the run was aborted (not ``whole``).

        Raises:
            OSError: if it cannot be finished; the file is then discarded.
        """
        if not whole:
            self.drop()
        file, self._file = self._file, None
        if file is not None:
            with file:
                self._finish()

    def _finish(self) -> None:
        """Write the end of the open file."""

    def _write_jpeg(self, path: Path, image: ImageArray, label: str) -> None:
        height, width = image.shape[:2]
        if max(height, width) > JPEG_MAX_SIDE:
            raise ImageError(
                f"annotated image must be at most {JPEG_MAX_SIDE} pixels wide and high; got "
                f"{width} x {height} ({label}). Save as json instead."
            )
        self._path = path
        write_atomically(path, to_jpeg(image, JPEG_QUALITY))


class ImageSink(Sink):
    """Annotated images: ``NAME.jpg``; frames of a video: ``frames/NAME/000012.jpg``."""

    def write(self, result: Result) -> None:
        """Draw and save one frame."""
        frame = result.frame
        folder = self._folder if frame.is_still else self._folder / "frames"
        self._write_jpeg(folder / f"{frame.name}.jpg", result.annotated, frame.source.label)


class CropSink(Sink):
    """Crop of each object, without anything drawn: ``crops/CLASS/NAME-1.jpg``.

    From a video: ``crops/CLASS/NAME/000012-1.jpg``.
    """

    def write(self, result: Result) -> None:
        """Save the crops of one frame, numbered from the best score."""
        image, found = result.frame.image, result.detections
        height, width = image.shape[:2]
        corners = np.concatenate(
            [np.floor(found.boxes_xyxy[:, :2]), np.ceil(found.boxes_xyxy[:, 2:])], axis=1
        ).astype(int)
        kinds = [re.sub(r"[^\w .-]+|^\.+$", "_", name) or "_" for name in found.names]
        regions = zip(kinds, corners.tolist(), strict=True)
        for number, (kind, (left, top, right, bottom)) in enumerate(regions, start=1):
            left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
            crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
            path = self._folder / "crops" / kind / f"{result.frame.name}-{number}.jpg"
            self._write_jpeg(path, crop, result.frame.source.label)


class YoloSink(Sink):
    """YOLO text files, ``yolo/NAME.txt``: a line ``class cx cy w h score`` per detection."""

    def write(self, result: Result) -> None:
        """Save the text of one frame; an empty file if nothing was detected."""
        self._path = self._folder / "yolo" / f"{result.frame.name}.txt"
        write_atomically(self._path, result.detections.to_yolo())


class AnnotatedSink(Sink):
    """Annotated images ``NAME.jpg`` and videos ``NAME.mp4``, whose frames keep their times.

    Only one video is open at a time.
    """

    draws_stills = True

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        super().__init__(folder, max_side)
        self._source: Source | None = None
        self._writer: VideoWriter | None = None

    def write(self, result: Result) -> None:
        """Draw one frame, into its own file or into the video of its source.

        Raises:
            UnfinishedError: if the previous video cannot be finished.
            OSError: if the file cannot be written.
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
                writer = VideoWriter(self._file.partial, max_side=self._max_side)
                self._writer = self._file.enter_context(writer)
        if self._file is not None and self._writer is not None and frame.seconds is not None:
            self._writer.write(result.annotated, frame.seconds)
        elif frame.is_still and self.draws_stills:
            path = self._folder / f"{frame.name}.jpg"
            self._write_jpeg(path, result.annotated, frame.source.label)


class VideoSink(AnnotatedSink):
    """The videos of `AnnotatedSink`, without the images."""

    draws_stills = False

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        require_av()
        super().__init__(folder, max_side)


class _TextSink(Sink):
    """Sink that writes all results into one text file; after `drop` it ignores results."""

    name = ""
    opening = ""
    ending = ""

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        super().__init__(folder, max_side)
        self._path = folder / self.name
        self._file = PartialFile(self._path)
        partial = self._file.partial
        self._stream = self._file.enter_context(
            partial.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        )
        self._stream.write(self.opening)
        self._separator = "\n"

    def _add(self, entry: object) -> None:
        """Append a value to the JSON list in the file."""
        if self._file is not None:
            self._stream.write(self._separator + json.dumps(entry, ensure_ascii=False))
            self._separator = ",\n"

    def _finish(self) -> None:
        self._stream.write(self.ending)


class CsvSink(_TextSink):
    """Table ``detections.csv``: a row per detection, boxes in pixels, times in seconds."""

    name = "detections.csv"
    HEAD = (
        *("image", "class_id", "name", "score", "left", "top", "right", "bottom"),
        *("frame", "seconds", "track_id"),
    )

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        super().__init__(folder, max_side)
        self._table = csv.writer(self._stream)
        self._table.writerow(self.HEAD)

    def write(self, result: Result) -> None:
        """Add the rows of one frame."""
        frame = result.frame
        position = ["", ""] if frame.is_still else [frame.index, _seconds(frame.seconds)]
        for entry in result.detections.to_dicts() if self._file is not None else ():
            columns = [entry["class_id"], entry["name"], entry["score"], *entry["box_xyxy"]]
            self._table.writerow([frame.source.label, *columns, *position, entry.get("track_id")])


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _entry(result: Result) -> dict[str, object]:
    """Return the JSON entry of one frame."""
    frame = result.frame
    entry: dict[str, object] = {"image": frame.source.label, "name": frame.source.name}
    if not frame.is_still:
        entry.update(frame=frame.index, seconds=_seconds(frame.seconds))
    entry.update(image_hw=list(result.detections.image_hw), detections=result.detections.to_dicts())
    if result.counts:
        entry["counts"] = list(result.counts)
    return entry


class JsonLinesSink(_TextSink):
    """File ``detections.jsonl``: a line per frame, with the entries of `JsonSink`."""

    name = "detections.jsonl"

    def write(self, result: Result) -> None:
        """Add the line of one frame."""
        if self._file is not None:
            self._stream.write(json.dumps(_entry(result), ensure_ascii=False) + "\n")


class JsonSink(_TextSink):
    """File ``detections.json``: ``{"images": [...]}``, an entry per frame, boxes in pixels."""

    name, opening, ending = "detections.json", '{"images": [', "\n]}\n"

    def write(self, result: Result) -> None:
        """Add the entry of one frame."""
        self._add(_entry(result))


class CocoSink(_TextSink):
    """File ``coco.json`` of COCO results: an entry per detection.

    ``image_id`` is the image's name, or ``NAME/000012`` in a video. A name that is a number, as in
    COCO's own files, becomes that number if no other image has it (``000139`` gives 139).
    ``category_id`` counts from 1.
    """

    name, opening, ending = "coco.json", "[", "\n]\n"

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        super().__init__(folder, max_side)
        self._numbers: set[int] = set()

    def write(self, result: Result) -> None:
        """Add the entries of one frame."""
        for entry in result.detections.to_coco(self._image_id(result.frame.name)):
            self._add(entry)

    def _image_id(self, name: str) -> int | str:
        if not (name.isascii() and name.isdigit()) or int(name) in self._numbers:
            return name
        self._numbers.add(int(name))
        return int(name)


SINKS: dict[str, Callable[[Path, int | None], Sink]] = {
    "annotated": AnnotatedSink,
    "image": ImageSink,
    "video": VideoSink,
    "crops": CropSink,
    "json": JsonSink,
    "jsonl": JsonLinesSink,
    "csv": CsvSink,
    "yolo": YoloSink,
    "coco": CocoSink,
}
"""Sinks by their ``--save`` name; each is called with ``folder`` and ``max_side``."""


class _Guarded(Sink):
    """Wrapper of a sink that reports errors instead of raising them, so other sinks continue."""

    def __init__(self, kind: str, sink: Sink, on_fail: Callable[[str], None]) -> None:
        self._kind, self._sink, self._on_fail = kind, sink, on_fail

    def write(self, result: Result) -> None:
        try:
            self._sink.write(result)
        except UnfinishedError as error:
            self._fail(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            self.write(result)
        except Exception as error:  # any error: the other sinks continue
            self._fail(error)

    def close(self, *, whole: bool) -> None:
        try:
            self._sink.close(whole=whole)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        try:
            name = self._sink.drop()
        except Exception:  # a file that cannot be written often cannot be removed
            name = f"a result of --save {self._kind}"
        if isinstance(error, AttendetError):
            self._on_fail(str(error))
        else:
            self._on_fail(f"{name} could not be written: {_reason(error)}.")


def _reason(error: Exception) -> str:
    """Return the reason of an error, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__} "
    return f"{kind}{' '.join(str(error).split())}".strip().removesuffix(".")


@contextlib.contextmanager
def open_sinks(
    names: Sequence[str],
    folder: Path,
    sources: Sequence[Source],
    *,
    on_fail: Callable[[str], None] | None = None,
    max_side: int | None = None,
    as_labels: bool = False,
) -> Iterator[list[Sink]]:
    """Open several sinks on one folder; an error in the block discards unfinished files.

    A sink that cannot finish its file does not keep the others from finishing theirs.

    Args:
        names: names from `SINKS`.
        folder: output folder; created if it is missing.
        sources: sources of the results; their files are never overwritten.
        on_fail: called with a message for each file that cannot be written; if None, that is an
            error.
        max_side: videos with a longer side are scaled down to this many pixels; None: never.
        as_labels: write "voc", "yolo" and "coco" as data sets for annotation tools, without scores
            (`attendet.media.label_sinks`).

    Yields:
        The sinks, in the order of ``names``.

    Raises:
        ConfigError: if a name is unknown, or a result would replace a source or labels.
        MissingExtraError: if "video" is named and the extra ``video`` is not installed.
    """
    from attendet.media.label_sinks import LABEL_SINKS

    sink_of = {**SINKS, **LABEL_SINKS} if as_labels else SINKS
    for name in names:
        if name not in sink_of:
            raise ConfigError(
                f"save must be a known kind; got {name!r} (--save). {did_you_mean(name, sink_of)}"
            )
    _check_targets(names, folder, sources)
    folder.mkdir(parents=True, exist_ok=True)
    sinks: list[Sink] = []
    try:
        for name in dict.fromkeys(names):
            sink = sink_of[name](folder, max_side)
            sinks.append(sink if on_fail is None else _Guarded(name, sink, on_fail))
        yield sinks
    except BaseException:
        _close(sinks, whole=False)
        raise
    for error in _close(sinks, whole=True)[:1]:
        raise error


def _close(sinks: Sequence[Sink], *, whole: bool) -> list[BaseException]:
    """Close every sink and return the errors."""
    errors: list[BaseException] = []
    for sink in sinks:
        try:
            sink.close(whole=whole)
        except BaseException as error:  # even Ctrl-C while closing costs one file only
            errors.append(error)
    return errors


def _check_targets(names: Sequence[str], folder: Path, sources: Sequence[Source]) -> None:
    originals = {source.path.resolve() for source in sources if isinstance(source.path, Path)}
    for source in sources:
        for name, suffix, stills in (("image", ".jpg", True), ("video", ".mp4", False)):
            written = name in names or "annotated" in names
            if not written or stills != (source.kind == "image"):
                continue
            target = folder / f"{source.name}{suffix}"
            if target.resolve() in originals:
                raise ConfigError(
                    f"output must not replace a source; got {target}. Choose another output folder."
                )
