"""The file that describes a YOLO set: a ``data.yaml``, or darknet's ``obj.data``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from attendet.data.formats.yolo_paths import NAME_FILES, find_entry, inner_folder
from attendet.data.sample import Issue, class_name, read_lines, split_folders
from attendet.errors import DataError

__all__ = [
    "as_list",
    "darknet_file",
    "keypoint_fields_of",
    "load_darknet",
    "load_yaml",
    "names_beside",
    "names_of",
    "yaml_file",
    "yaml_root",
]

_WORDS = (str, int, float)
_PLAIN_WORDS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    """A safe loader for which ``on``, ``no`` and a date are words like any other."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in rows if tag not in _PLAIN_WORDS]
    for letter, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def yaml_file(folder: Path) -> Path | None:
    """Return the data.yaml of a folder, or its one YAML file that names images to train on."""
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return folder / name
    found = [
        path
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        if any(line.startswith(("train:", "val:")) for _, line in read_lines(path)[0])
    ]
    return found[0] if len(found) == 1 else None


def load_yaml(path: Path) -> dict[str, object]:
    """Return what a data.yaml says.

    Raises:
        DataError: if it is not there, no YAML, or no mapping.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        try:
            document: Any = loader.get_single_data()
        finally:
            loader.dispose()
    except FileNotFoundError:
        raise DataError(f"data set not found ({path}). Check the path.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"data.yaml must be YAML in UTF-8 ({path}): {words}") from None
    if not isinstance(document, dict):
        raise DataError(f"data.yaml must hold keys such as train and names ({path}).")
    return document


def yaml_root(document: dict[str, object], path: Path) -> Path:
    """Return the folder that the entries of a data.yaml are relative to."""
    stated = document.get("path")
    if not isinstance(stated, str):
        return path.parent
    tries = (path.parent / stated, path.parent / stated.replace("\\", "/"))
    return next((folder for folder in tries if folder.is_dir()), path.parent)


def as_list(value: object) -> list[object]:
    """Return a list as it is, nothing as an empty one, anything else as a list of one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def names_of(document: dict[str, object], path: Path) -> dict[int, str] | None:
    """Return class id to name from the ``names`` of a data.yaml, a list or a mapping.

    Raises:
        DataError: if it is neither, or not of plain words.
    """
    names = document.get("names")
    rows = names.items() if isinstance(names, dict) else enumerate(as_list(names))
    found = {
        int(number) if isinstance(number, str) and number.isdecimal() else number: name
        for number, name in rows
    }
    # Only plain words: nested aliases of YAML could grow without bound when written out.
    plain = all(isinstance(n, int) and isinstance(name, _WORDS) for n, name in found.items())
    twice = isinstance(names, dict) and len(found) < len(names)
    if not plain or twice or (names is not None and not found):
        raise DataError(
            f"names must be a list of class names or a mapping from class id to name, each id "
            f"once; got {type(names).__name__} ({path})."
        )
    if found:
        return {int(number): class_name(str(name)) for number, name in found.items()}
    count = document.get("nc")
    return {n: str(n) for n in range(count)} if isinstance(count, int) else None


def keypoint_fields_of(document: dict[str, object], path: Path) -> int:
    """Return how many numbers of keypoints follow each box, from ``kpt_shape``; 0 without it.

    Raises:
        DataError: if it is not a count of keypoints with 2 or 3 numbers each.
    """
    shape = document.get("kpt_shape")
    if shape is None:
        return 0
    match shape:
        case [int(count), int(numbers)] if count > 0 and numbers in (2, 3):
            return count * numbers
    raise DataError(
        f"kpt_shape must be a count of keypoints and 2 or 3 numbers for each, as [17, 3]; "
        f"got {str(shape)[:40]!r} ({path}). Correct it, or leave it out if there are no keypoints."
    )


def darknet_file(folder: Path) -> Path | None:
    """Return darknet's description of a set: ``obj.data``, or one ``.data`` beside a ``.names``."""
    if (folder / "obj.data").is_file():
        return folder / "obj.data"
    if not any(folder.glob("*.names")):
        return None
    found = sorted(folder.glob("*.data"))
    return found[0] if len(found) == 1 else None


def load_darknet(path: Path, issues: list[Issue]) -> dict[str, object]:
    """Return what darknet's description says, ``names`` read from its file, ``classes`` as ``nc``.

    Raises:
        DataError: if it is not there.
    """
    if not path.is_file():
        raise DataError(f"data set not found ({path}). Check the path.")
    lines, found_issues = read_lines(path)
    issues += found_issues
    rows = (text.partition("=") for _, text in lines if "=" in text)
    words = {key.strip().lower(): value.strip() for key, _, value in rows}
    document: dict[str, object] = {key: words[key] for key in words if key != "names"}
    if words.get("classes", "").isdecimal():
        document["nc"] = int(words["classes"])
    stated = words.get("names", "")
    place, _ = find_entry(stated, path.parent, path.parent) if stated else (None, None)
    place = place or next(iter(sorted(path.parent.glob("*.names"))), None)
    if place and place.is_file():
        name_lines, found_issues = read_lines(place)
        issues += found_issues
        document["names"] = [name for _, name in name_lines] or None
    else:
        message = f"names: {stated!r} is not there; classes go by their numbers"
        issues.append(Issue(path, None, "class-names", message, "kept"))
    return document


def names_beside(root: Path, issues: list[Issue]) -> dict[int, str] | None:
    """Return class id to name from a file of names in the root or beside labels; None without."""
    inner = [inner_folder(root, name) for name in ("labels", "images")]
    places = [root, *(each for each in inner if each)]
    places += [part for place in tuple(places) for part in split_folders(place).values()]
    places += [labels for place in places[1:] if (labels := inner_folder(place, "labels"))]
    files = [place / name for place in places for name in NAME_FILES if (place / name).is_file()]
    if not files:
        return None
    lines, found_issues = read_lines(files[0])
    issues += found_issues
    names = [text for _, text in lines]
    for other in files[1:]:
        if other.name == files[0].name and [text for _, text in read_lines(other)[0]] != names:
            message = f"other class names than in {files[0]}, which count"
            issues.append(Issue(other, None, "class-names", message, "kept"))
    return {number: class_name(name) for number, name in enumerate(names)}
