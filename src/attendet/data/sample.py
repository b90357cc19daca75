"""Records of a data set: `RawSample` (as read), `Sample` (as checked), `Issue` and `RawDataset`.

A format's reader returns a `RawDataset`; `attendet.data.checks` turns its images into samples.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

Format = Literal["voc", "yolo", "coco"]
Action = Literal["dropped", "clipped", "kept", "skipped image"]

_ISSUES_SHOWN = 5

MAX_CLASSES = 10_000
"""Limit for class ids in data sets without class names; this or a larger id is a label error."""

SPLITS = ("train", "val", "test")
SPLITS_FILE = "attendet-splits.json"
"""Name of the file that records which image is in which split; see `attendet.data.splits`."""

_SPLIT_FOLDERS = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "testing", "test2017"),
}


@dataclass(frozen=True)
class Issue:
    """Problem in a data set, and how it was handled.

    Attributes:
        file: the file with the problem.
        line: line number in the file, from 1; None if it has no meaning.
        kind: slug, one of `attendet.data.checks.ISSUE_KINDS`.
        message: what is wrong, with the value.
        action: "dropped" a box, "clipped" a box, "kept" as it is, or "skipped image".
    """

    file: Path
    line: int | None
    kind: str
    message: str
    action: Action

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line is not None else str(self.file)
        text = f"{where}: {self.kind}: {self.message} ({self.action})"
        return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its checked boxes.

    Attributes:
        path: the image file.
        image_hw: height and width, pixels, after the EXIF orientation is applied.
        boxes_xyxy: float32, shape (n, 4), pixels, inside the image, never empty.
        class_ids: int64, shape (n,), indices into the data set's classes.
        difficult: bool, shape (n,); VOC ``difficult`` or COCO ``iscrowd``: not trained on and
            ignored in evaluation.
        key: stable and unique within the data set: path under the root (VOC: under the folder of
            images), without suffix where that is unique.
    """

    path: Path
    image_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    key: str


Corners = tuple[float, float, float, float]
"""Left, top, right and bottom of a box."""


@dataclass(frozen=True, slots=True)
class Box:
    """One box as written: four corner numbers and a class name, or the id of an unnamed class.

    Corners are in pixels, or fractions of the image's width and height if `RawSample.relative`.
    `file` is set only if the box comes from another file than `RawSample.labels`.
    """

    xyxy: Corners
    label: str | int
    line: int | None = None
    difficult: bool = False
    file: Path | None = None


@dataclass
class RawSample:
    """One image with its labels as written, not yet checked.

    Attributes:
        image: the image file.
        labels: the file that holds the labels; issues refer to it.
        boxes: in file order.
        declared_hw: image size stated in the labels; None if there is none.
        relative: whether corners are fractions of the image's size.
        key: see `Sample.key`; set by `assign_keys`.
    """

    image: Path
    labels: Path
    boxes: list[Box]
    declared_hw: tuple[int, int] | None = None
    relative: bool = False
    key: str = ""


@dataclass
class RawDataset:
    """Result of a format's reader.

    Attributes:
        root: folder that keys are relative to.
        format: "voc", "yolo" or "coco".
        images_by_split: split name to its images; "all" if the data set defines no splits.
        source: where the splits are defined; empty for "all".
        names: class names in the data set's own order; None if it has no names.
        issues: found while reading.
    """

    root: Path
    format: Format
    images_by_split: dict[str, list[RawSample]] = field(default_factory=dict)
    source: str = ""
    names: tuple[str, ...] | None = None
    issues: list[Issue] = field(default_factory=list)

    @property
    def images(self) -> list[RawSample]:
        """Images of all splits; an image in two splits occurs twice."""
        return [each for pool in self.images_by_split.values() for each in pool]


def class_name(text: str) -> str:
    """Return a class name with whitespace normalized to single spaces.

    Example:
        >>> class_name("  red   cell ")
        'red cell'
    """
    return " ".join(text.split())


def decoded_name(name: str) -> str:
    """Return a file name with URL escapes decoded, in Unicode normal form C.

    Tools write ``%20`` for a space, and macOS may store an accented letter as two characters.

    Example:
        >>> decoded_name("caf%C3%A9") == decoded_name("cafe\u0301") == "caf\u00e9"
        True
    """
    return unicodedata.normalize("NFC", unquote(name))


def filename_variants(name: str) -> list[str]:
    """Return a file name as written, decoded, and as macOS may store it, each once."""
    decoded = decoded_name(name)
    return list(dict.fromkeys((name, decoded, unicodedata.normalize("NFD", decoded))))


def is_there(path: Path) -> bool:
    """Return whether a file or folder exists; False if its name is invalid."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null character
        return False


def list_issues(issues: Sequence[Issue]) -> str:
    """Return a text with the number of issues and the first five, one per line."""
    shown = "".join(f"\n  {issue}" for issue in issues[:_ISSUES_SHOWN])
    more = f"\n  and {len(issues) - _ISSUES_SHOWN} more" if len(issues) > _ISSUES_SHOWN else ""
    return f"{len(issues)} issue{'' if len(issues) == 1 else 's'}{shown}{more}"


def merge_repeated(images: Iterable[RawSample], issues: list[Issue]) -> list[RawSample]:
    """Return each image once, with the boxes of all its labels; repetitions become issues."""
    by_file: dict[Path, RawSample] = {}
    for each in images:
        first = by_file.setdefault(each.image, each)
        if first is each:
            continue
        first.boxes += [replace(box, file=box.file or each.labels) for box in each.boxes]
        message = f"{each.image.name!r} is already in {first.labels.name}; its boxes are merged"
        issues.append(Issue(each.labels, None, "repeated-image", message, "kept"))
    return list(by_file.values())


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders named train, val (valid, validation) and test inside a folder.

    Returns:
        Split name to folder, only for existing folders.
    """
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    found = {}
    for split, names in _SPLIT_FOLDERS.items():
        for name in names:
            if name in there:
                found[split] = there[name]
                break
    return found


def _relative(path: Path, root: Path) -> Path:
    try:
        return path.relative_to(root)
    except ValueError:
        return Path(os.path.relpath(path, root))


def assign_keys(images: Iterable[RawSample], root: Path) -> None:
    """Set each image's key: its path relative to `root`, without suffix if that is unique."""
    owners: dict[str, set[Path]] = {}
    plain = [(each, _relative(each.image, root)) for each in images]
    for each, path in plain:
        owners.setdefault(path.with_suffix("").as_posix(), set()).add(each.image)
    for each, path in plain:
        key = path.with_suffix("").as_posix()
        each.key = key if len(owners[key]) == 1 else path.as_posix()


def read_lines(path: Path) -> tuple[list[tuple[int, str]], list[Issue]]:
    """Return the non-empty lines of a text file with their numbers, and its issues.

    A file that is not UTF-8 (or UTF-16 with a byte order mark) is read as Latin-1, with an issue of
    kind ``wrong-encoding``.
    """
    content = path.read_bytes()
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    issues: list[Issue] = []
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        message = "text must be UTF-8; read as Latin-1. Save it as UTF-8"
        issues.append(Issue(path, None, "wrong-encoding", message, "kept"))
    # str.splitlines also splits at characters that are part of a name in other encodings. Text
    # mode on Windows writes \r\r\n for a \r\n in the text.
    written = re.split(r"\r*\n|\r", text)
    lines = ((number, line.strip()) for number, line in enumerate(written, start=1))
    return [(number, line) for number, line in lines if line], issues
