"""YOLO: one text file per image, one box per line, a ``data.yaml`` or a file of class names.

A line is ``class center_x center_y width height``: class ids count from 0, the other numbers are
fractions of the image's width and height. A line with a class and three or more points (a polygon)
is read as the box around the points. If the ``data.yaml`` has a ``kpt_shape``, keypoints follow the
box instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from attendet.data.formats.yolo_paths import (
    NAME_FILES,
    LabelFinder,
    find_entry,
    inner_folder,
    listed_images,
    resolved,
    text_files,
)
from attendet.data.sample import (
    MAX_CLASSES,
    SPLITS,
    SPLITS_FILE,
    Box,
    Corners,
    Issue,
    RawDataset,
    RawSample,
    assign_keys,
    class_name,
    decoded_name,
    list_issues,
    read_lines,
    split_folders,
)
from attendet.errors import DataError
from attendet.files import files_with_suffix
from attendet.images import IMAGE_SUFFIXES, image_files, images_below

LOOKED_FOR = "YOLO: data.yaml, obj.data, images/ with labels/*.txt, or *.txt next to images"

_SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def _has_labels(folder: Path) -> bool:
    """Return whether a folder holds ``images/`` with ``labels/``, or text files next to images."""
    labels = inner_folder(folder, "labels")
    if labels and inner_folder(folder, "images"):
        return any(
            path.suffix.lower() == ".txt" and path.name not in NAME_FILES
            for path in labels.rglob("*")
        )
    texts = text_files(folder)
    return any(
        path.stem in texts or decoded_name(path.stem) in texts for path in image_files(folder)
    )


def recognize_yolo(folder: Path) -> str | None:
    """Return the file or pattern that identifies a folder as YOLO, or None."""
    described = yaml_file(folder) or darknet_file(folder)
    if described:
        return described.name
    if _has_labels(folder):
        return "labels/**/*.txt" if inner_folder(folder, "labels") else "*.txt next to images"
    for part in split_folders(folder).values():
        if _has_labels(part):
            return f"{part.name}/**/*.txt"
    return None


class _Reader:
    """Reader that collects label files in one `RawDataset`."""

    def __init__(
        self,
        root: Path,
        names: dict[int, str] | None,
        issues: list[Issue],
        keypoint_fields: int = 0,
    ) -> None:
        self.raw = RawDataset(root, "yolo", issues=issues)
        self.names = names
        self.keypoint_fields = keypoint_fields
        self.finder = LabelFinder(root)
        self.image_of: dict[Path, Path] = {}
        if names is not None:
            self.raw.names = tuple(names[number] for number in sorted(names))

    def labeled(self, image: Path) -> RawSample:
        """Return an image with the boxes of its label file; no boxes if there is no such file."""
        file = self.finder.find(image)
        found = RawSample(image, file, [], relative=True)
        if not file.is_file():
            return found
        first = self.image_of.setdefault(file, image)
        if first != image:
            message = f"label file {file.name} is also used for {first.name}"
            self.raw.issues.append(Issue(image, None, "shared-labels", message, "kept"))
        lines, issues = read_lines(file)
        self.raw.issues += issues
        for line, text in lines:
            try:
                found.boxes.append(read_box(text, line, self.names, self.keypoint_fields))
            except ValueError as error:
                issue = Issue(file, line, "broken-label", str(error), "dropped")
                self.raw.issues.append(issue)
        return found

    def add(self, split: str, images: list[Path], source: Path) -> None:
        """Add images to a pool, each once; `source` is the file or folder that named them."""
        pool = self.raw.images_by_split.setdefault(split, [])
        there = {each.image for each in pool}
        new = [image for image in images if image not in there]
        pool += [self.labeled(image) for image in new]
        again = len(images) - len(new)
        if again:
            message = f"images of {split} listed more than once: {again}; each is used once"
            self.raw.issues.append(Issue(source, None, "repeated-image", message, "kept"))

    def finish(self, source: str) -> RawDataset:
        """Return the reading with keys set, and with issues for missing and unused label files.

        Raises:
            DataError: if no image has a label file.
        """
        raw = self.raw
        orphans = [
            Issue(path, None, "missing-image", "no image for this label file", "skipped image")
            for path in self.finder.orphans()
        ]
        bare = []
        for split, pool in raw.images_by_split.items():
            if pool and not any(each.labels.is_file() for each in pool):
                message = f"no label file for any image of {split} ({len(pool)} in all)"
                bare.append(Issue(pool[0].labels, None, "missing-label", message, "kept"))
        if len(bare) == sum(bool(pool) for pool in raw.images_by_split.values()):
            raise DataError(
                f"no label files found ({raw.root}). Looked for {LOOKED_FOR}."
                f" {list_issues(bare + orphans + raw.issues)}"
            )
        raw.issues += bare + orphans
        self._report_shifted_ids()
        raw.source = source
        assign_keys(raw.images, raw.root)
        return raw

    def _report_shifted_ids(self) -> None:
        """Report class ids that fit the names only if they are counted from 1."""
        names = self.names or {}
        images = self.raw.images
        used = {box.label for each in images for box in each.boxes}
        unnamed = {label for label in used if isinstance(label, int)}
        if len(used) > 1 and unnamed == {len(names)} and names.get(0) not in used:
            message = (
                f"class ids go up to {len(names)} and 0 is not used, but there are {len(names)} "
                "names. Ids must start at 0: if these start at 1, subtract 1 from each"
            )
            file = next(e.labels for e in images if any(b.label in unnamed for b in e.boxes))
            self.raw.issues.insert(0, Issue(file, None, "class-names", message, "kept"))


def _read_entries(reader: _Reader, document: dict[str, object], path: Path) -> RawDataset:
    """Return the images that the entries of a data.yaml or obj.data name, with their labels."""
    root, issues = reader.raw.root, reader.raw.issues
    count = document.get("nc")
    if reader.names is not None and count is not None and str(count) != str(len(reader.names)):
        message = f"the stated count is {count}, but there are {len(reader.names)} names"
        issues.append(Issue(path, None, "class-count", message, "kept"))
    for split, keys in _SPLIT_KEYS.items():
        for entry in as_list(next((document[key] for key in keys if document.get(key)), None)):
            if not isinstance(entry, str):
                raise DataError(f"{split} must be a path or a list of paths ({path}).")
            found_at, rival = find_entry(entry, root, path.parent)
            if found_at is None:
                message = f"{split}: {entry!r} not found"
                issues.append(Issue(path, None, "missing-image", message, "skipped image"))
                continue
            if rival:
                message = f"{split}: {entry!r} is read as {found_at}; {resolved(rival)} also exists"
                issues.append(Issue(path, None, "unclear-path", message, "kept"))
            found_at = resolved(found_at)
            found = (
                images_below(found_at)
                if found_at.is_dir()
                else listed_images(found_at, root, issues)
            )
            reader.add(split, found, path)
    images_by_split = {split: pool for split, pool in reader.raw.images_by_split.items() if pool}
    if not images_by_split:
        raise DataError(f"no image listed in {path.name} exists ({path}). {list_issues(issues)}")
    reader.raw.images_by_split = images_by_split
    return reader.finish(f"{path.name} {' '.join(images_by_split)}")


def _read_yaml(path: Path) -> RawDataset:
    document = load_yaml(path)
    issues: list[Issue] = []
    root = resolved(yaml_root(document, path))
    names = names_of(document, path)
    if names is None and root.is_dir():
        names = names_beside(root, issues)
    reader = _Reader(root, names, issues, keypoint_fields_of(document, path))
    return _read_entries(reader, document, path)


def _read_darknet(path: Path) -> RawDataset:
    issues: list[Issue] = []
    document = load_darknet(path, issues)
    return _read_entries(_Reader(path.parent, names_of(document, path), issues), document, path)


def _lists(root: Path) -> dict[str, Path]:
    """Return split name to the text file that lists its images.

    If the root has a splits file, lists of its keys (not of image files) are ignored.
    """
    lists = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
    if not (root / SPLITS_FILE).is_file():
        return lists
    return {
        split: path
        for split, path in lists.items()
        if all(Path(text).suffix.lower() in IMAGE_SUFFIXES for _, text in read_lines(path)[0])
    }


def _read_folder(root: Path) -> RawDataset:
    issues: list[Issue] = []
    reader = _Reader(root, names_beside(root, issues), issues)
    images = inner_folder(root, "images") or root
    parts = split_folders(images)
    lists = _lists(root)
    if lists:
        for split, list_file in lists.items():
            found = listed_images(list_file, root, reader.raw.issues)
            reader.add(split, found, list_file)
        source = f"lists {' '.join(path.name for path in lists.values())}"
    elif parts:
        for split, part in parts.items():
            reader.add(split, images_below(part), part)
        under = "" if images == root else f"{images.name}/"
        source = f"folders {' '.join(f'{under}{part.name}/' for part in parts.values())}"
    else:
        found = images_below(images) if images != root else image_files(root)
        reader.add("all", found, images)
        source = ""
    return reader.finish(source)


def read_yolo(path: Path) -> RawDataset:
    """Return the labels of a YOLO data set.

    Splits come from the first of these that exists: a ``data.yaml`` or darknet's ``obj.data`` (each
    entry is a folder, a text file of images, or a list of these); ``train.txt``, ``val.txt`` and
    ``test.txt``; folders train/ val/ test/ (inside ``images/`` or around it). Else there are no
    splits. An image without a label file is background.

    Args:
        path: a data.yaml, an obj.data, or a folder.

    Raises:
        DataError: if the data.yaml cannot be parsed, or there is no image or no label file.
    """
    if not path.is_dir():
        return _read_darknet(path) if path.suffix.lower() == ".data" else _read_yaml(path)
    described, darknet = yaml_file(path), darknet_file(path)
    if described:
        return _read_yaml(described)
    return _read_darknet(darknet) if darknet else _read_folder(path)


# --- data.yaml and obj.data ----------------------------------------------------------------------

_SCALARS = (str, int, float)
_YAML_ADVICE = "Write 'key: value' with a space and no tab. In paths, use / or omit the quotes."
_PLAIN_TAGS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    """Safe loader that reads ``on``, ``no`` and dates as text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in rows if tag not in _PLAIN_TAGS]
    for letter, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def yaml_file(folder: Path) -> Path | None:
    """Return the data.yaml of a folder, or its only YAML file with a ``train`` or ``val`` key."""
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return folder / name
    found = [
        path
        for path in files_with_suffix(folder, (".yaml", ".yml"))
        if any(line.startswith(("train:", "val:")) for _, line in read_lines(path)[0])
    ]
    return found[0] if len(found) == 1 else None


def load_yaml(path: Path) -> dict[str, object]:
    """Return the content of a data.yaml.

    Raises:
        DataError: if it is not YAML in UTF-8, or not a mapping.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        try:
            document: Any = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError.must(
            "data.yaml", "YAML", error.problem, f"{path}:{line}", _YAML_ADVICE
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"data.yaml must be YAML in UTF-8 ({path}): {text}") from None
    if not isinstance(document, dict):
        raise DataError(
            f"data.yaml must contain keys such as train and names ({path}). {_YAML_ADVICE}"
        )
    return document


def yaml_root(document: dict[str, object], path: Path) -> Path:
    """Return the folder that the entries of a data.yaml are relative to."""
    stated = document.get("path")
    if not isinstance(stated, str):
        return path.parent
    tries = (path.parent / stated, path.parent / stated.replace("\\", "/"))
    return next((folder for folder in tries if folder.is_dir()), path.parent)


def as_list(value: object) -> list[object]:
    """Return a list unchanged, None as an empty list, anything else as a list of one item."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def names_of(document: dict[str, object], path: Path) -> dict[int, str] | None:
    """Return class id to name from the ``names`` of a data.yaml, a list or a mapping.

    Raises:
        DataError: if it is neither, or an entry is not a plain name.
    """
    names = document.get("names")
    rows = names.items() if isinstance(names, dict) else enumerate(as_list(names))
    found = {
        int(number) if isinstance(number, str) and number.isdecimal() else number: name
        for number, name in rows
    }
    # Only plain scalars: nested YAML aliases could expand to a text of any length.
    plain = all(isinstance(n, int) and isinstance(name, _SCALARS) for n, name in found.items())
    twice = isinstance(names, dict) and len(found) < len(names)
    listed = isinstance(names, str) and "," in names
    if not plain or twice or listed or (names is not None and not found):
        raise DataError(
            f"names must be a list of class names or a mapping from unique class ids to names; "
            f"got {type(names).__name__} ({path})."
        )
    if found:
        return {int(number): class_name(str(name)) for number, name in found.items()}
    count = document.get("nc")
    if not isinstance(count, int):
        return None
    DataError.check(0 < count <= MAX_CLASSES, "nc", f"1 to {MAX_CLASSES}", count, path)
    return {n: str(n) for n in range(count)}


def keypoint_fields_of(document: dict[str, object], path: Path) -> int:
    """Return the count of keypoint numbers after each box, from ``kpt_shape``; 0 without it.

    Raises:
        DataError: if ``kpt_shape`` is not a count of keypoints and 2 or 3 numbers for each.
    """
    shape = document.get("kpt_shape")
    if shape is None:
        return 0
    match shape:
        case [int(count), int(numbers)] if count > 0 and numbers in (2, 3):
            return count * numbers
    raise DataError(
        f"kpt_shape must be [number of keypoints, 2 or 3], such as [17, 3]; "
        f"got {str(shape)[:40]!r} ({path}). Correct it, or remove it if there are no keypoints."
    )


def darknet_file(folder: Path) -> Path | None:
    """Return a folder's ``obj.data``, or its only ``.data`` file if it has a ``.names`` file."""
    if (folder / "obj.data").is_file():
        return folder / "obj.data"
    if not files_with_suffix(folder, (".names",)):
        return None
    found = files_with_suffix(folder, (".data",))
    return found[0] if len(found) == 1 else None


def load_darknet(path: Path, issues: list[Issue]) -> dict[str, object]:
    """Return the fields of an ``obj.data``, with ``classes`` as ``nc`` and ``names`` read."""
    lines, found_issues = read_lines(path)
    issues += found_issues
    rows = (text.partition("=") for _, text in lines if "=" in text)
    fields = {key.strip().lower(): value.strip() for key, _, value in rows}
    document: dict[str, object] = {key: fields[key] for key in fields if key != "names"}
    if fields.get("classes", "").isdecimal():
        document["nc"] = int(fields["classes"])
    stated = fields.get("names", "")
    found_at, _ = find_entry(stated, path.parent, path.parent) if stated else (None, None)
    found_at = found_at or next(iter(files_with_suffix(path.parent, (".names",))), None)
    if found_at and found_at.is_file():
        document["names"] = read_names(found_at, issues) or None
    else:
        message = f"names: {stated!r} not found; class ids are used as names"
        issues.append(Issue(path, None, "class-names", message, "kept"))
    return document


def read_names(path: Path, issues: list[Issue]) -> dict[int, str]:
    """Return class id to name from a file with one class name per line.

    As in darknet and labelImg, the class id is the line number from 0, counting blank lines. The id
    of a blank line, or of darknet's ``dont_show``, has no name.
    """
    lines, found_issues = read_lines(path)
    issues += found_issues
    names = {line - 1: class_name(text) for line, text in lines if text != "dont_show"}
    if not names:
        message = "file contains no class names; class ids are used as names"
        issues.append(Issue(path, None, "class-names", message, "kept"))
    last = max(names, default=-1)
    for line in sorted({number + 1 for number in range(last)} - {line for line, _ in lines}):
        message = (
            f"line is blank, so class id {line - 1} has no name; remove it if it is not a class"
        )
        issues.append(Issue(path, line, "class-names", message, "kept"))
    return names


def names_beside(root: Path, issues: list[Issue]) -> dict[int, str] | None:
    """Return class id to name from a names file in the root or near the labels, or None."""
    inner = [inner_folder(root, name) for name in ("labels", "images")]
    folders = [root, *(each for each in inner if each)]
    folders += [part for folder_ in tuple(folders) for part in split_folders(folder_).values()]
    folders += [labels for folder_ in folders[1:] if (labels := inner_folder(folder_, "labels"))]
    files = [
        folder_ / name for folder_ in folders for name in NAME_FILES if (folder_ / name).is_file()
    ]
    if not files:
        return None
    names = read_names(files[0], issues)
    for other in files[1:]:
        if other.name == files[0].name and read_names(other, []) != names:
            message = f"class names differ from those in {files[0]}, which are used"
            issues.append(Issue(other, None, "class-names", message, "kept"))
    return names or None


# --- one line ------------------------------------------------------------------------------------


def _corners_of_box(numbers: list[float]) -> Corners:
    x, y, width, height = numbers
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _corners(numbers: list[float], keypoint_fields: int) -> Corners:
    """Return the corners of a box (keypoints after it are ignored), or of a polygon's box."""
    if keypoint_fields:
        if len(numbers) == 4 + keypoint_fields:
            return _corners_of_box(numbers[:4])
        raise ValueError(
            f"line must have {5 + keypoint_fields} fields (a class id, 4 box numbers and, as in "
            f"kpt_shape, {keypoint_fields} keypoint numbers); got {len(numbers) + 1} fields"
        )
    if len(numbers) == 4:
        return _corners_of_box(numbers)
    if len(numbers) == 5:
        raise ValueError("line must have a class id and 4 numbers; got a 6th field. Remove scores")
    visible = numbers[6::3]
    if len(numbers) % 3 == 1 and 2 in visible and set(visible) <= {0, 1, 2}:
        shape = [len(visible), 3]
        raise ValueError(f"keypoints need kpt_shape in data.yaml; add kpt_shape: {shape}")
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        columns, rows = numbers[0::2], numbers[1::2]
        if not all(map(math.isfinite, numbers)):
            return math.nan, math.nan, math.nan, math.nan
        return min(columns), min(rows), max(columns), max(rows)
    raise ValueError(
        f"line must have a class id and 4 numbers or a polygon; got {len(numbers) + 1} fields"
    )


def read_box(
    text: str, line: int, names: Mapping[int, str] | None, keypoint_fields: int = 0
) -> Box:
    """Return the box of one line, corners as fractions of the image.

    Args:
        text: the line.
        line: line number.
        names: class id to name; an id without a name stays a number. None if the data set has no
            names.
        keypoint_fields: count of keypoint numbers after the box; 0 if there are no keypoints.

    Raises:
        ValueError: if the line cannot be read as a box or a polygon.
    """
    fields = text.split()
    if "," in text:
        raise ValueError(
            f"numbers must be separated by spaces and use decimal points; got {text[:40]!r}"
        )
    try:
        number = float(fields[0])
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise ValueError(f"class id must be a whole number; got {fields[0]!r}")
    xyxy = _corners([float(word) for word in fields[1:]], keypoint_fields)
    class_id = int(number)
    label = class_id if names is None else names.get(class_id, class_id)
    return Box(xyxy, label, line)
