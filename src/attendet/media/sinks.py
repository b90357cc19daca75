"""Where results go: JSON, JSON lines, CSV, YOLO text, COCO results, images, videos.

A file appears under its final name only when it is whole. What cannot be written (the disk is
full, say) is told and dropped; the other files go on.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from attendet.errors import AttendetError, ConfigError, did_you_mean
from attendet.files import write_atomically
from attendet.media.drawn_sinks import (
    AnnotatedSink,
    CropSink,
    ImageSink,
    UnfinishedError,
    VideoSink,
)
from attendet.media.partial_file import PartialFile
from attendet.media.pipeline import Result
from attendet.media.sources import Source

__all__ = [
    "SINKS",
    "CocoSink",
    "CsvSink",
    "JsonLinesSink",
    "JsonSink",
    "Sink",
    "YoloSink",
    "open_sinks",
]


class Sink(Protocol):
    """Takes one result after the other."""

    def write(self, result: Result) -> None:
        """Take the result of one frame."""
        ...

    def drop(self) -> str:
        """Drop the file in the making, which could not be written, and name it."""
        ...

    def close(self, *, whole: bool) -> None:
        """Finish the file, or drop it where the run broke off (``whole`` is false)."""
        ...


class _TextFile:
    """A text file that gets its final name when it is closed whole; then it takes no more."""

    def __init__(self, path: Path) -> None:
        self._file = PartialFile(path)
        self.path = path
        self._stream: IO[str] | None = self._file.partial.open(
            "w", encoding="utf-8", errors="backslashreplace", newline=""
        )

    def write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)

    def close(self, *, whole: bool) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            stream.close()
        except OSError:
            self._file.drop()
            if whole:
                raise
            return
        if whole:
            self._file.finish()
        else:
            self._file.drop()


class _OneFile:
    """A sink whose results all go into one text file."""

    ending = ""

    def __init__(self, path: Path, opening: str = "") -> None:
        self._file = _TextFile(path)
        self._file.write(opening)

    def drop(self) -> str:
        """Drop the file; what comes later is not taken."""
        self._file.close(whole=False)
        return str(self._file.path)

    def close(self, *, whole: bool) -> None:
        """Finish the file, or drop it."""
        if whole:
            self._file.write(self.ending)
        self._file.close(whole=whole)


class YoloSink:
    """YOLO text, ``yolo/NAME.txt`` each: a line ``class cx cy w h score`` a detection."""

    def __init__(self, folder: Path) -> None:
        self._folder = self._path = folder / "yolo"

    def write(self, result: Result) -> None:
        """File the text of one frame; an empty file where nothing was found."""
        self._path = self._folder / f"{result.frame.name}.txt"
        write_atomically(self._path, result.detections.to_yolo())

    def drop(self) -> str:
        """Name the latest text: each stands alone."""
        return str(self._path)

    def close(self, *, whole: bool) -> None:
        """Do nothing: each text is filed already."""


class CsvSink(_OneFile):
    """One table, ``detections.csv``: a row a detection, boxes in pixels, times in seconds."""

    HEAD = (
        *("image", "class_id", "name", "score", "left", "top", "right", "bottom"),
        *("frame", "seconds", "track_id"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "detections.csv")
        self._table = csv.writer(self._file)
        self._table.writerow(self.HEAD)

    def write(self, result: Result) -> None:
        """Add the rows of one frame."""
        frame = result.frame
        place = ["", ""] if frame.is_still else [frame.index, _seconds(frame.seconds)]
        for entry in result.detections.to_dicts():
            told = [entry["class_id"], entry["name"], entry["score"], *entry["box_xyxy"]]
            self._table.writerow([frame.source.label, *told, *place, entry.get("track_id")])


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _entry(result: Result) -> dict[str, object]:
    """Return what JSON says of one frame."""
    frame = result.frame
    entry: dict[str, object] = {"image": frame.source.label, "name": frame.source.name}
    if not frame.is_still:
        entry.update(frame=frame.index, seconds=_seconds(frame.seconds))
    entry.update(image_hw=list(result.detections.image_hw), detections=result.detections.to_dicts())
    if result.counts:
        entry["counts"] = list(result.counts)
    return entry


class JsonLinesSink(_OneFile):
    """One file, ``detections.jsonl``: a line a frame, the entries of `JsonSink`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "detections.jsonl")

    def write(self, result: Result) -> None:
        """Add the line of one frame."""
        self._file.write(json.dumps(_entry(result), ensure_ascii=False) + "\n")


class JsonSink(_OneFile):
    """One file, ``detections.json``: ``{"images": [...]}``, an entry a frame, boxes in pixels."""

    ending = "\n]}\n"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "detections.json", '{"images": [')
        self._comma = "\n"

    def write(self, result: Result) -> None:
        """Add the entry of one frame."""
        self._file.write(self._comma + json.dumps(_entry(result), ensure_ascii=False))
        self._comma = ",\n"


class CocoSink(_OneFile):
    """One file of COCO results, ``coco.json``: an entry a detection.

    ``image_id`` is the image's name, as a number where it is one (``000139`` gives 139) as in
    COCO's own files, or ``NAME/000012`` in a video; ``category_id`` counts from 1.
    """

    ending = "\n]\n"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "coco.json", "[")
        self._comma = "\n"
        self._numbers: set[int] = set()

    def write(self, result: Result) -> None:
        """Add the entries of one frame."""
        for entry in result.detections.to_coco(self._image_id(result.frame.name)):
            self._file.write(self._comma + json.dumps(entry, ensure_ascii=False))
            self._comma = ",\n"

    def _image_id(self, name: str) -> int | str:
        if not (name.isascii() and name.isdigit()) or int(name) in self._numbers:
            return name
        self._numbers.add(int(name))
        return int(name)


SINKS: dict[str, Callable[[Path, int | None], Sink]] = {
    "annotated": AnnotatedSink,
    "image": lambda folder, _: ImageSink(folder),
    "video": VideoSink,
    "crops": lambda folder, _: CropSink(folder),
    "json": lambda folder, _: JsonSink(folder),
    "jsonl": lambda folder, _: JsonLinesSink(folder),
    "csv": lambda folder, _: CsvSink(folder),
    "yolo": lambda folder, _: YoloSink(folder),
    "coco": lambda folder, _: CocoSink(folder),
}
"""Sinks by the name that ``--save`` takes, made of a folder and the longest side of videos."""


class _Guarded:
    """A sink that tells what it could not write, and goes on."""

    def __init__(self, kind: str, sink: Sink, on_fail: Callable[[str], None]) -> None:
        self._kind, self._sink, self._on_fail = kind, sink, on_fail

    def write(self, result: Result) -> None:
        try:
            self._sink.write(result)
        except UnfinishedError as error:
            self._fail(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            self.write(result)
        except Exception as error:  # of whatever kind: it must not cost what the others hold
            self._fail(error)

    def drop(self) -> str:
        return self._sink.drop()

    def close(self, *, whole: bool) -> None:
        try:
            self._sink.close(whole=whole)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        try:
            name = self._sink.drop()
        except Exception:  # what cannot be written can often not be removed either
            name = f"a result of --save {self._kind}"
        if isinstance(error, AttendetError):
            self._on_fail(str(error))
        else:
            self._on_fail(f"{name} could not be written: {_reason(error)}.")


def _reason(error: Exception) -> str:
    """Return why something failed, on one line."""
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
) -> Iterator[list[Sink]]:
    """Open several sinks over one folder; leaving the block by an error drops unfinished files.

    A sink that cannot finish its file does not keep the others from finishing theirs.

    Args:
        names: some of `SINKS`.
        folder: where results go; made if it is missing.
        sources: what is to come; none of it is ever written over.
        on_fail: told of each file that cannot be written, and the others go on; without it that is
            an error.
        max_side: videos with a longer side are scaled down to this many pixels; None: never.

    Yields:
        The sinks, in the order of their names.

    Raises:
        ConfigError: if a name is unknown, or a result would take the place of a source.
        MissingExtraError: if videos are wanted and the extra ``video`` is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"there is no way to save as {name!r}. {did_you_mean(name, SINKS)}")
    _check_targets(names, folder, sources)
    folder.mkdir(parents=True, exist_ok=True)
    sinks: list[Sink] = []
    try:
        for name in dict.fromkeys(names):
            sink = SINKS[name](folder, max_side)
            sinks.append(sink if on_fail is None else _Guarded(name, sink, on_fail))
        yield sinks
    except BaseException:
        _close(sinks, whole=False)
        raise
    for error in _close(sinks, whole=True)[:1]:
        raise error


def _close(sinks: Sequence[Sink], *, whole: bool) -> list[BaseException]:
    """Close every sink, whatever becomes of the others; return what went wrong."""
    errors: list[BaseException] = []
    for sink in sinks:
        try:
            sink.close(whole=whole)
        except BaseException as error:  # Ctrl-C while closing, too, costs one file
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
                    f"output must not take the place of a source; got {target}. "
                    "Choose another output folder."
                )
