"""YOLO: one text file a picture, a box a line, with a ``data.yaml`` or a file of class names.

A line holds ``class centre_x centre_y width height``, class ids from 0, the rest as shares of the
picture's width and height. A line of a class and three or more points (a polygon) is read as the
box around it.
"""

from __future__ import annotations

import math
from pathlib import Path

import yaml

from attendet.data.samples import (
    SPLITS,
    SPLITS_FILE,
    Box,
    Fault,
    Labelled,
    Reading,
    assign_keys,
    read_lines,
    split_folders,
)
from attendet.errors import DataError
from attendet.pictures import PICTURE_SUFFIXES, picture_files

__all__ = ["LOOKED_FOR", "read_yolo", "recognise_yolo"]

LOOKED_FOR = "YOLO: data.yaml, images/ with labels/*.txt, or *.txt beside pictures"

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
_WORDS = (str, int, float)
_YAML_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def _yaml_file(folder: Path) -> Path | None:
    """Return the data.yaml of a folder, or its one YAML file that names pictures to train on."""
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return folder / name
    found = [
        path
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        if any(line.startswith(("train:", "val:")) for _, line in read_lines(path)[0])
    ]
    return found[0] if len(found) == 1 else None


def _has_labels(folder: Path) -> bool:
    """Return whether a folder holds ``images/`` with ``labels/``, or text files beside pictures."""
    labels, pictures = folder / "labels", folder / "images"
    if labels.is_dir() and pictures.is_dir():
        return any(path.name not in _NAME_FILES for path in labels.rglob("*.txt"))
    return any(path.with_suffix(".txt").is_file() for path in picture_files(folder))


def recognise_yolo(folder: Path) -> str | None:
    """Return what in a folder speaks for YOLO; None if nothing does."""
    yaml_file = _yaml_file(folder)
    if yaml_file:
        return yaml_file.name
    if _has_labels(folder):
        return "labels/**/*.txt" if (folder / "labels").is_dir() else "*.txt beside pictures"
    for part in split_folders(folder).values():
        if _has_labels(part):
            return f"{part.name}/**/*.txt"
    return None


def _label_file(picture: Path) -> Path:
    """Return where a picture's labels belong: ``labels/`` for ``images/``, else beside it."""
    parts = list(picture.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index].lower() == "images":
            twin = Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
            if twin.is_file() or twin.parent.is_dir():
                return twin
    return picture.with_suffix(".txt")


def _pictures_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    )


def _corners(numbers: list[float]) -> tuple[float, float, float, float]:
    """Return the corners of a box (4 numbers) or around a polygon (x, y of 3 or more points)."""
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        columns, rows = numbers[0::2], numbers[1::2]
        if not all(map(math.isfinite, numbers)):
            return math.nan, math.nan, math.nan, math.nan
        return min(columns), min(rows), max(columns), max(rows)
    raise ValueError(
        f"line must hold a class and 4 numbers, or points; got {len(numbers) + 1} fields"
    )


def _box(text: str, line: int, names: dict[int, str] | None) -> Box:
    words = text.split()
    number = float(words[0])
    if not number.is_integer():
        raise ValueError(f"class id must be a whole number; got {words[0]!r}")
    xyxy = _corners([float(word) for word in words[1:]])
    class_id = int(number)
    label: str | int = class_id
    if names is not None:
        label = names.get(class_id, class_id)
    return Box(xyxy, label, line)


class _Reader:
    """Reads label files into one `Reading`."""

    def __init__(self, root: Path, names: dict[int, str] | None) -> None:
        self.reading = Reading(root, "yolo")
        self.names = names
        self.label_files = 0
        if names is not None:
            self.reading.names = tuple(names[number] for number in sorted(names))

    def labelled(self, picture: Path) -> Labelled:
        """Return a picture with the boxes of its label file; none if there is no such file."""
        file = _label_file(picture)
        found = Labelled(picture, file, [], relative=True)
        if not file.is_file():
            return found
        self.label_files += 1
        lines, faults = read_lines(file)
        self.reading.faults += faults
        for line, text in lines:
            try:
                found.boxes.append(_box(text, line, self.names))
            except (ValueError, OverflowError) as error:
                fault = Fault(file, line, "broken-label", str(error), "dropped")
                self.reading.faults.append(fault)
        return found

    def add(self, split: str, pictures: list[Path]) -> None:
        """Add a pool of pictures, each once."""
        pool = self.reading.pools.setdefault(split, [])
        pool += [self.labelled(picture) for picture in dict.fromkeys(pictures)]

    def report_orphans(self, folder: Path) -> None:
        """Report label files below a ``labels`` folder that have no picture."""
        used = {each.labels for pool in self.reading.pools.values() for each in pool}
        for path in sorted(folder.rglob("*.txt")):
            if path not in used and path.name not in _NAME_FILES:
                message = "no picture for this label file"
                fault = Fault(path, None, "missing-picture", message, "skipped picture")
                self.reading.faults.append(fault)

    def finish(self, source: str) -> Reading:
        """Return the reading with keys set."""
        reading = self.reading
        if not self.label_files:
            raise DataError(f"no label files found ({reading.root}). Looked for {LOOKED_FOR}.")
        reading.source = source
        assign_keys((each for pool in reading.pools.values() for each in pool), reading.root)
        return reading


def _names_of(document: dict[str, object], path: Path) -> dict[int, str] | None:
    """Return class id to name from the ``names`` of a data.yaml, a list or a mapping."""
    names = document.get("names")
    rows = names.items() if isinstance(names, dict) else enumerate(_as_list(names))
    found = dict(rows)
    # Only plain words: nested aliases of YAML could grow without bound when written out.
    plain = all(isinstance(n, int) and isinstance(name, _WORDS) for n, name in found.items())
    if not plain or (names is not None and not found):
        raise DataError(
            f"names must be a list of class names or a mapping from class id to name; "
            f"got {type(names).__name__} ({path})."
        )
    if found:
        return {number: str(name) for number, name in found.items()}
    count = document.get("nc")
    return {n: str(n) for n in range(count)} if isinstance(count, int) else None


def _as_list(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _load_yaml(path: Path) -> dict[str, object]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"data set not found ({path}). Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"data.yaml must be YAML in UTF-8 ({path}): {words}") from None
    if not isinstance(document, dict):
        raise DataError(f"data.yaml must hold keys such as train and names ({path}).")
    return document


def _yaml_root(document: dict[str, object], path: Path) -> Path:
    """Return the folder that the entries of a data.yaml are relative to."""
    stated = document.get("path")
    folder = path.parent / stated if isinstance(stated, str) else path.parent
    return folder if folder.is_dir() else path.parent


def _entry_path(entry: str, root: Path, yaml_folder: Path) -> Path | None:
    """Return the folder or list that an entry names; ``../`` that leads nowhere is passed over."""
    plain = Path(*(part for part in Path(entry).parts if part not in ("..", "/")))
    tries = [root / entry, yaml_folder / entry, root / plain, yaml_folder / plain]
    return next((path for path in tries if path.exists()), None)


def _resolved(path: Path) -> Path:
    """Return a path without ``..``, so that keys and twin folders come out plain."""
    return path.resolve() if ".." in path.parts else path


def _listed(list_file: Path, root: Path, faults: list[Fault]) -> list[Path]:
    """Return the pictures that a text file lists, relative to itself or to the root."""
    lines, found_faults = read_lines(list_file)
    faults += found_faults
    pictures: dict[Path, None] = {}
    for line, text in lines:
        tries = [list_file.parent / text, root / text]
        path = next((_resolved(each) for each in tries if each.is_file()), None)
        if path is None:
            message, kind = f"no picture {text!r}", "missing-picture"
        elif path in pictures:
            message, kind = f"{text!r} is listed twice", "repeated-picture"
        else:
            pictures[path] = None
            continue
        faults.append(Fault(list_file, line, kind, message, "skipped picture"))
    return list(pictures)


def _read_yaml(path: Path) -> Reading:
    document = _load_yaml(path)
    root = _resolved(_yaml_root(document, path))
    names = _names_of(document, path)
    reader = _Reader(root, names)
    faults = reader.reading.faults
    count = document.get("nc")
    if names is not None and count is not None and count != len(names):
        message = f"nc is {count!r}, but there are {len(names)} names"
        faults.append(Fault(path, None, "class-count", message, "kept"))
    for split, keys in _YAML_KEYS.items():
        for entry in _as_list(next((document[key] for key in keys if document.get(key)), None)):
            if not isinstance(entry, str):
                raise DataError(f"{split} must be a path or a list of paths ({path}).")
            place = _entry_path(entry, root, path.parent)
            if place is None:
                message = f"{split}: {entry!r} is not there"
                faults.append(Fault(path, None, "missing-picture", message, "skipped picture"))
            elif place.is_dir():
                reader.add(split, _pictures_below(_resolved(place)))
            else:
                reader.add(split, _listed(place, root, faults))
    pools = {split: pool for split, pool in reader.reading.pools.items() if pool}
    if not pools:
        listed = "".join(f"\n  {fault}" for fault in faults[:5])
        raise DataError(f"data.yaml names no picture that is there ({path}).{listed}")
    reader.reading.pools = pools
    return reader.finish(f"{path.name} {' '.join(pools)}")


def _name_file(folder: Path) -> Path | None:
    places = [folder, folder / "labels", *split_folders(folder).values()]
    return next(
        (place / name for place in places for name in _NAME_FILES if (place / name).is_file()), None
    )


def _read_folder(root: Path) -> Reading:
    name_file = _name_file(root)
    lines, faults = read_lines(name_file) if name_file else ([], [])
    names = dict(enumerate(text for _, text in lines)) if name_file else None
    reader = _Reader(root, names)
    reader.reading.faults += faults
    pictures = root / "images" if (root / "images").is_dir() else root
    parts = split_folders(pictures)
    lists = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
    if lists and not (root / SPLITS_FILE).is_file():  # the file of splits has lists of its own
        for split, list_file in lists.items():
            reader.add(split, _listed(list_file, root, reader.reading.faults))
        source = f"lists {' '.join(path.name for path in lists.values())}"
    elif parts:
        for split, part in parts.items():
            reader.add(split, _pictures_below(part))
        under = "" if pictures == root else "images/"
        source = f"folders {' '.join(f'{under}{part.name}/' for part in parts.values())}"
    else:
        found = _pictures_below(pictures) if pictures != root else picture_files(root)
        reader.add("all", found)
        source = ""
    if (root / "labels").is_dir():
        reader.report_orphans(root / "labels")
    return reader.finish(source)


def read_yolo(path: Path) -> Reading:
    """Return the labels of a YOLO data set.

    Splits are those of the ``data.yaml`` (each entry a folder, a list of folders, or a text file
    of pictures), else of ``train.txt`` and its like, else of folders train/ val/ test/ (inside
    ``images/`` or around it), else none. A picture without a label file is background.

    Args:
        path: a data.yaml, or a folder.

    Raises:
        DataError: if the data.yaml cannot be read, or there is no picture or label file.
    """
    if path.is_dir():
        yaml_file = _yaml_file(path)
        return _read_yaml(yaml_file) if yaml_file else _read_folder(path)
    return _read_yaml(path)
