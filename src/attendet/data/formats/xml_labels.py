"""One Pascal VOC XML file, read safely: no entity is ever declared or expanded, none fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from attendet.data.sample import Box, Issue, class_name

__all__ = ["Annotation", "read_annotation"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LEAVES = frozenset({*_CORNERS, "name", "difficult", "filename", "width", "height"})
_MAX_BYTES = 64 * 1024 * 1024
"""A larger file is no annotation; it is refused before it is read."""


@dataclass
class Annotation:
    """What an annotation file says.

    Attributes:
        filename: the image's name as written; empty if none.
        declared_hw: stated image size; None if it states none, or zero.
        boxes: corners in pixels as written.
        issues: boxes left out because they could not be read.
    """

    filename: str = ""
    declared_hw: tuple[int, int] | None = None
    boxes: list[Box] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)


class _RefusedError(Exception):
    """The file holds something that an annotation never needs."""


class _Handler:
    """Collects the few elements that matter; everything else, such as ``part``, is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = Annotation()
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.EntityDeclHandler = self._refuse_entity
        self.parser.ExternalEntityRefHandler = self._refuse_entity
        self._open: list[str] = []
        self._words: list[str] = []
        self._top: dict[str, str] = {}
        self._size: dict[str, str] = {}
        self._object: dict[str, str] = {}
        self._line = 0

    def _refuse_entity(self, *_: object) -> int:
        raise _RefusedError("XML must declare no entities; they are never needed in labels")

    def _start(self, tag: str, _: dict[str, str]) -> None:
        if not self._open and tag.lower() != "annotation":
            raise _RefusedError(f"root element must be 'annotation'; got {tag!r}")
        self._open.append(tag)
        if tag in _LEAVES:
            self._words.clear()
            self.parser.CharacterDataHandler = self._words.append
        elif tag == "object" and len(self._open) == 2:
            self._object, self._line = {}, self.parser.CurrentLineNumber

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag in _LEAVES:
            self.parser.CharacterDataHandler = None
            home = self._home(self._open[1:])
            if home is not None:
                home[tag] = "".join(self._words).strip()
        elif tag == "object" and len(self._open) == 1:
            self._close_object()

    def _home(self, path: list[str]) -> dict[str, str] | None:
        """Return where an element's text belongs; None for one of no concern, as in ``part``."""
        match path:
            case ["object", "bndbox"] | ["object"]:
                return self._object
            case ["size"]:
                return self._size
            case []:
                return self._top
        return None

    def _close_object(self) -> None:
        try:
            left, top, right, bottom = (float(self._object[corner]) for corner in _CORNERS)
        except KeyError as error:
            self._drop(f"object has no {error.args[0]}")
        except ValueError as error:
            self._drop(f"box corner is no number: {error}")
        else:
            name = class_name(self._object.get("name", ""))
            if not name:
                self._drop("object has no name")
                return
            difficult = self._object.get("difficult", "0").lower() in ("1", "true")
            box = Box((left, top, right, bottom), name, self._line, difficult)
            self.found.boxes.append(box)

    def _drop(self, message: str) -> None:
        issue = Issue(self.path, self._line, "broken-label", message, "dropped")
        self.found.issues.append(issue)

    def finish(self) -> Annotation:
        """Return what was found, with the size if both its numbers are there."""
        self.found.filename = self._top.get("filename", "")
        try:
            height, width = (float(self._size.get(side, "0")) for side in ("height", "width"))
        except ValueError:
            return self.found
        if height >= 1 and width >= 1 and math.isfinite(height) and math.isfinite(width):
            self.found.declared_hw = (round(height), round(width))
        return self.found


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_annotation(path: Path) -> Annotation | Issue:
    """Return what a Pascal VOC XML file says, or the issue that makes it unreadable.

    Corners are taken as they are written: nothing is subtracted. (The VOC devkit counts pixels
    from 1 and includes the last one; LabelImg and most sets made since write 0-based corners.
    The difference is one pixel at most and guessing would be wrong for somebody.)

    Args:
        path: the XML file.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            message = f"file must have at most {_MAX_BYTES} bytes"
            return Issue(path, None, "broken-label", message, "skipped image")
        content = path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        return Issue(path, None, "broken-label", message, "skipped image")
    handler = _Handler(path)
    try:
        handler.parser.Parse(content, True)
    except _RefusedError as error:
        line = handler.parser.CurrentLineNumber
        return Issue(path, line, "broken-label", str(error), "skipped image")
    except expat.ExpatError as error:
        # Text in another encoding than the declared one shows as an invalid token.
        invalid = error.code == expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]
        kind = "wrong-encoding" if invalid and not _is_utf8(content) else "broken-label"
        message = f"XML: {expat.ErrorString(error.code)}"
        return Issue(path, error.lineno, kind, message, "skipped image")
    except (LookupError, ValueError) as error:  # an encoding that Python does not know
        return Issue(path, 1, "wrong-encoding", f"XML: {error}", "skipped image")
    return handler.finish()
