"""Where detections go: drawn pictures, JSON, CSV, YOLO text and COCO results.

A file appears under its final name only when it is whole.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import cv2

from attendet.detections import Detections
from attendet.errors import ConfigError, PictureError, did_you_mean
from attendet.inference.sources import Source
from attendet.pictures import Picture

__all__ = [
    "SINKS",
    "CocoSink",
    "CsvSink",
    "JsonSink",
    "PictureSink",
    "Sink",
    "YoloSink",
    "open_sinks",
]

JPEG_QUALITY = 92
JPEG_MAX_SIDE = 65500


class Sink(Protocol):
    """Takes the detections of one picture after the other."""

    def write(self, source: Source, picture: Picture, detections: Detections) -> None:
        """Take the detections of one picture."""
        ...

    def close(self, *, whole: bool) -> None:
        """Finish the file, or drop it where the run broke off (``whole`` is false)."""
        ...


class _Partial:
    """A text file that gets its final name when it is closed whole."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self._partial = Path(name)
        self.stream: IO[str] = os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline=""
        )

    def close(self, *, whole: bool) -> None:
        try:
            self.stream.close()
            if whole:
                self._partial.chmod(0o644)
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[IO[str]]:
    partial = _Partial(path)
    whole = False
    try:
        yield partial.stream
        whole = True
    finally:
        partial.close(whole=whole)


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


class PictureSink:
    """Pictures with boxes and names drawn, ``NAME.jpg`` each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def target(folder: Path, source: Source) -> Path:
        """Return the file that a source's drawn picture goes to."""
        return folder / f"{source.name}.jpg"

    def write(self, source: Source, picture: Picture, detections: Detections) -> None:
        """Draw and file one picture."""
        from attendet.report.draw import draw_detections

        height, width = detections.image_hw
        if max(height, width) > JPEG_MAX_SIDE:
            raise PictureError(
                f"a drawn picture must be at most {JPEG_MAX_SIDE} pixels wide and high; got "
                f"{width} x {height} ({source.path}). Save as json instead."
            )
        drawn = draw_detections(
            picture,
            detections.boxes_xyxy,
            detections.names,
            detections.class_ids,
            detections.scores,
        )
        bgr = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _write_bytes(self.target(self._folder, source), encoded.tobytes())

    def close(self, *, whole: bool) -> None:
        """Do nothing: each picture is filed already."""


class YoloSink:
    """YOLO text, ``yolo/NAME.txt`` each: a line ``class cx cy w h score`` a detection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "yolo"

    def write(self, source: Source, picture: Picture, detections: Detections) -> None:
        """File the text of one picture; an empty file where nothing was found."""
        del picture
        with _written_whole(self._folder / f"{source.name}.txt") as stream:
            stream.write(detections.to_yolo())

    def close(self, *, whole: bool) -> None:
        """Do nothing: each text is filed already."""


class CsvSink:
    """One table, ``detections.csv``: a row a detection, boxes in pixels."""

    columns = ("picture", "class_id", "name", "score", "left", "top", "right", "bottom")

    def __init__(self, folder: Path) -> None:
        self._file = _Partial(folder / "detections.csv")
        self._rows = csv.writer(self._file.stream)
        self._rows.writerow(self.columns)

    def write(self, source: Source, picture: Picture, detections: Detections) -> None:
        """Add the rows of one picture."""
        del picture
        self._rows.writerows(
            [str(source.path), one["class_id"], one["name"], one["score"], *one["box_xyxy"]]
            for one in detections.to_dicts()
        )

    def close(self, *, whole: bool) -> None:
        """Finish the table, or drop it."""
        self._file.close(whole=whole)


class _JsonArray:
    """A JSON file that grows entry by entry, so that memory stays flat."""

    def __init__(self, path: Path, opening: str, closing: str) -> None:
        self._file = _Partial(path)
        self._file.stream.write(opening)
        self._closing = closing
        self._comma = "\n"

    def add(self, entry: object) -> None:
        self._file.stream.write(self._comma + json.dumps(entry, ensure_ascii=False))
        self._comma = ",\n"

    def close(self, *, whole: bool) -> None:
        if whole:
            self._file.stream.write(self._closing)
        self._file.close(whole=whole)


class JsonSink:
    """One file, ``detections.json``: ``{"pictures": [...]}``, boxes in pixels."""

    def __init__(self, folder: Path) -> None:
        self._array = _JsonArray(folder / "detections.json", '{"pictures": [', "\n]}\n")

    def write(self, source: Source, picture: Picture, detections: Detections) -> None:
        """Add the entry of one picture."""
        del picture
        self._array.add(
            {
                "picture": str(source.path),
                "name": source.name,
                "image_hw": list(detections.image_hw),
                "detections": detections.to_dicts(),
            }
        )

    def close(self, *, whole: bool) -> None:
        """Finish the file, or drop it."""
        self._array.close(whole=whole)


class CocoSink:
    """One file of COCO results, ``coco.json``: an entry a detection.

    ``image_id`` is the picture's name, as a number where it is one (``000139`` gives 139) as in
    COCO's own files; ``category_id`` counts from 1.
    """

    def __init__(self, folder: Path) -> None:
        self._array = _JsonArray(folder / "coco.json", "[", "\n]\n")
        self._numbers: set[int] = set()

    def write(self, source: Source, picture: Picture, detections: Detections) -> None:
        """Add the entries of one picture."""
        del picture
        for entry in detections.to_coco(self._image_id(source.name)):
            self._array.add(entry)

    def _image_id(self, name: str) -> int | str:
        if not (name.isascii() and name.isdigit()) or int(name) in self._numbers:
            return name
        self._numbers.add(int(name))
        return int(name)

    def close(self, *, whole: bool) -> None:
        """Finish the file, or drop it."""
        self._array.close(whole=whole)


SINKS: dict[str, Callable[[Path], Sink]] = {
    "picture": PictureSink,
    "json": JsonSink,
    "csv": CsvSink,
    "yolo": YoloSink,
    "coco": CocoSink,
}
"""Sinks by the name that ``--save`` takes."""


@contextlib.contextmanager
def open_sinks(
    names: Sequence[str], folder: Path, sources: Sequence[Source]
) -> Iterator[list[Sink]]:
    """Open several sinks over one folder; leaving the block by an error drops unfinished files.

    Args:
        names: some of `SINKS`.
        folder: where results go; made if it is missing.
        sources: pictures to come; none of them is ever written over.

    Yields:
        The sinks, in the order of their names.

    Raises:
        ConfigError: if a name is unknown, or a drawn picture would take the place of a source.
    """
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"there is no way to save as {name!r}. {did_you_mean(name, SINKS)}")
    if "picture" in names:
        _check_targets(folder, sources)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        for name in dict.fromkeys(names):
            sink = SINKS[name](folder)
            sinks.append(sink)
            stack.push(functools.partial(_close, sink))
        yield sinks


def _close(sink: Sink, kind: type[BaseException] | None, *_: object) -> None:
    sink.close(whole=kind is None)


def _check_targets(folder: Path, sources: Sequence[Source]) -> None:
    originals = {os.path.realpath(source.path) for source in sources}
    for source in sources:
        target = PictureSink.target(folder, source)
        if os.path.realpath(target) in originals:
            raise ConfigError(
                f"output must not take the place of a source picture; got {target}. "
                "Choose another output folder."
            )
