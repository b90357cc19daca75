"""COCO JSON: one file per split, boxes as left, top, width, height in pixels.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, arXiv:1405.0312. ``iscrowd``
becomes `Sample.difficult`. Line numbers are not useful in JSON, so issues name the annotation id.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from attendet.data.sample import (
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
    filename_variants,
    is_there,
    merge_repeated,
    split_folders,
)
from attendet.errors import DataError, list_names
from attendet.files import files_with_suffix
from attendet.images import images_below

LOOKED_FOR = "COCO: annotations/*.json, train/_annotations.coco.json, or one .json with images"

_ROBOFLOW = "_annotations.coco.json"
_SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|val|valid|validation|test)(?![a-z])")
_NO_CLASSES = ("_background_", "__background__", "__ignore__")
_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
_MOST_DIGITS = 100
"""Maximum length of a text that is read as a numeric id; Python refuses thousands of digits."""


def _split_of(stem: str) -> str:
    """Return the split that a file name contains, "all" if there is none.

    Example:
        >>> _split_of("instances_val2017"), _split_of("cells")
        ('val', 'all')
    """
    found = _SPLIT_WORD.findall(stem.lower())
    if not found:
        return "all"
    return "val" if found[-1].startswith("val") else str(found[-1])


def _json_files(folder: Path) -> dict[str, Path]:
    """Return split name to JSON file for a folder.

    Raises:
        DataError: if two files are for the same split.
    """
    parts = {
        split: part / _ROBOFLOW
        for split, part in split_folders(folder).items()
        if (part / _ROBOFLOW).is_file()
    }
    if parts:
        return parts
    for folder_ in (folder / "annotations", folder / "Annotations", folder):
        found = files_with_suffix(folder_, (".json",)) if folder_.is_dir() else []
        files = [path for path in found if path.name != SPLITS_FILE and _is_coco(path)]
        files = [path for path in files if not path.name.startswith(_OTHER_TASKS)]
        instances = [path for path in files if path.name.startswith("instances_")]
        files = instances or files
        splits = [_split_of(path.stem) for path in files]
        if len(set(splits)) < len(files):
            names = list_names(path.name for path in files)
            raise DataError(
                f"each split must have one JSON file; got {names} ({folder_}). Pass one of them."
            )
        if "all" in splits and len(files) > 1:
            files = [path for path in files if _split_of(path.stem) != "all"]
        if files:
            return {_split_of(path.stem): path for path in files}
    return {}


def recognize_coco(folder: Path) -> str | None:
    """Return the file that identifies a folder as COCO, or None."""
    folders = (folder, folder / "annotations", folder / "Annotations")
    for folder_ in (*folders, *split_folders(folder).values()):
        for path in files_with_suffix(folder_, (".json",)) if folder_.is_dir() else []:
            if _is_coco(path):
                return path.relative_to(folder).as_posix()
    return None


def _is_coco(path: Path) -> bool:
    """Return whether a JSON file looks like COCO, judged by its first 64 KiB.

    A shorter file with nothing but categories may be the notes of a YOLO export.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    goes_on = len(head) == 1 << 16
    return any(word in head for word in (b'"images"', b'"annotations"')) or (
        goes_on and b'"categories"' in head
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(f"JSON is invalid ({path}:{error.lineno}): {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"JSON cannot be parsed ({path}): {error}") from None
    wanted = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list) for key in wanted
    ):
        raise DataError(f"COCO JSON must have lists images, annotations and categories ({path}).")
    return document


def _category_names(document: dict[str, Any], path: Path) -> dict[Any, str]:
    """Return category id to name in id order, without unused categories that are not classes.

    Roboflow exports begin with such a category: it is the ``supercategory`` of the others and has
    no annotation. LabelMe exports begin with a background category.
    """
    try:
        named = {_number(row["id"]): class_name(str(row["name"])) for row in document["categories"]}
        names = dict(sorted(named.items()))
        parents = {
            row.get("supercategory")
            for row in document["categories"]
            if row.get("supercategory") != row["name"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"each category must have an id and a name; got {error!r} ({path})."
        ) from None
    used = {
        _number(row["category_id"])
        for row in document["annotations"]
        if isinstance(row, dict) and isinstance(row.get("category_id"), int | str)
    }
    no_classes = {*parents, *_NO_CLASSES}
    return {n: name for n, name in names.items() if n in used or name not in no_classes}


class _ImageFinder:
    """Finder of the images of one JSON file: in its folder, in folders around it, or below."""

    def __init__(self, path: Path, root: Path) -> None:
        stem = path.stem.removeprefix("instances_")
        split = _split_of(path.stem)
        folders = []
        for base in dict.fromkeys((path.parent, root, path.parent.parent)):
            for name in (stem, split, ""):
                folders += [base / "images" / name, base / name]
        self.folders = [folder_ for folder_ in dict.fromkeys(folders) if folder_.is_dir()]
        own = [folder_ for folder_ in self.folders if folder_.name in (stem, split)]
        around = root if path.parent.name.lower() == "annotations" else path.parent
        self._home = own[0] if own else around
        self._below: dict[str, list[Path]] | None = None

    def find(self, file_name: str) -> Path | None:
        """Return the path of an image, None if it is not found.

        The folder of the last image found is searched first. If no folder has the image, the only
        image of that name in the folders below is returned. Label Studio writes local files as
        ``?d=folder/name``.
        """
        plain = file_name.replace("\\", "/").rpartition("?d=")[2]
        plain = plain.partition("?")[0] if "://" in plain else plain
        names = (each for name in filename_variants(plain) for each in (name, Path(name).name))
        for name in dict.fromkeys(names):
            for index, folder_ in enumerate(self.folders):
                if is_there(folder_ / name) and (folder_ / name).is_file():
                    self.folders.insert(0, self.folders.pop(index))
                    return folder_ / name
        if self._below is None:
            self._below = {}
            for path in images_below(self._home):
                self._below.setdefault(decoded_name(path.name), []).append(path)
        found = self._below.get(decoded_name(Path(plain).name), [])
        return found[0] if len(found) == 1 else None


def _number(written: Any) -> Any:
    """Return an id as an int if it is the text of one, else unchanged."""
    if not isinstance(written, str) or len(written) > _MOST_DIGITS or not written.isdecimal():
        return written
    return int(written) if str(int(written)) == written else written


def _size(row: dict[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = int(row["height"]), int(row["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _images_of(
    document: dict[str, Any], path: Path, root: Path, issues: list[Issue]
) -> dict[Any, RawSample | None]:
    """Return image id to image, None if the image file is missing."""
    finder = _ImageFinder(path, root)
    images: dict[Any, RawSample | None] = {}
    for index, row in enumerate(document["images"]):
        try:
            number, name = _number(row["id"]), str(row["file_name"])
            known = number in images
        except (KeyError, TypeError) as error:
            message = f"images[{index}] must have an id and a file_name; got {error!r}"
            issues.append(Issue(path, None, "broken-label", message, "skipped image"))
            continue
        if known:
            message = f"image id {number!r} occurs twice"
            issues.append(Issue(path, None, "repeated-image", message, "skipped image"))
            continue
        image = finder.find(name)
        images[number] = RawSample(image, path, [], _size(row)) if image else None
        if image is None:
            message = f"image {name!r} not found (image id {number!r})"
            issues.append(Issue(path, None, "missing-image", message, "skipped image"))
    return images


def _box(row: dict[str, Any], names: dict[Any, str]) -> Box:
    category = _number(row["category_id"])
    label = names.get(category, f"category id {category}")
    return Box(read_xyxy(row), label, None, read_crowd(row))


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no {error.args[0]}"
    if isinstance(error, ValueError):
        return str(error)
    return f"cannot be read: {error}"


def _read_file(path: Path, root: Path) -> tuple[list[RawSample], dict[Any, str], list[Issue]]:
    """Return the images of one JSON file, its category names, and its issues."""
    document = _load_json(path)
    issues: list[Issue] = []
    names = _category_names(document, path)
    images = _images_of(document, path, root, issues)
    for index, row in enumerate(document["annotations"]):
        where = f"annotations[{index}]"
        with suppress(KeyError, TypeError):
            where = f"annotation id {row['id']!r}"
        try:
            number, box = _number(row["image_id"]), _box(row, names)
            image = images.get(number, _MISSING)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"{where}: {_describe(error)}"
            issues.append(Issue(path, None, "broken-label", message, "dropped"))
            continue
        if image is _MISSING:
            message = f"{where}: no image with id {number!r}"
            issues.append(Issue(path, None, "missing-image", message, "dropped"))
        elif image is not None:
            image.boxes.append(box)
    return [each for each in images.values() if each is not None], names, issues


_MISSING = RawSample(Path(), Path(), [])


def read_coco(path: Path) -> RawDataset:
    """Return the labels of a COCO data set.

    Splits come from file names (``instances_train2017.json``), or from folders train/ valid/ test/
    with a ``_annotations.coco.json`` each; a single file has no splits. Classes are the categories
    of each file in id order, one file after another, each name once.

    Args:
        path: a JSON file, or a folder.

    Raises:
        DataError: if a JSON file is broken, or there is no JSON file.
    """
    files = _json_files(path) if path.is_dir() else {"all": path}
    if not files:
        raise DataError(f"no JSON labels found ({path}). Looked for {LOOKED_FOR}.")
    root = path if path.is_dir() else path.parent
    if not path.is_dir() and root.name.lower() == "annotations":
        root = root.parent
    raw = RawDataset(root, "coco")
    names: dict[str, None] = {}
    for split in ("all", *SPLITS):
        if split not in files:
            continue
        images, categories, issues = _read_file(files[split], root)
        names |= dict.fromkeys(categories.values())
        raw.images_by_split[split] = merge_repeated(images, issues)
        raw.issues += issues
    raw.names = tuple(names)
    raw.source = "" if "all" in files else f"files {_listed(files, root)}"
    assign_keys(raw.images, root)
    return raw


def _listed(files: dict[str, Path], root: Path) -> str:
    counts = Counter(path.name for path in files.values())
    return " ".join(
        path.name if counts[path.name] == 1 else path.relative_to(root).as_posix()
        for path in files.values()
    )


# --- one annotation ---------------------------------------------------------------------------
# A segmentation is a list of polygons (x, y, x, y, ..., pixels) or a run-length mask: counts of
# background and object pixels, column by column, as numbers or packed into a text.


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _around_polygons(polygons: list[Any]) -> Corners:
    numbers = [[float(number) for number in polygon] for polygon in polygons]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in numbers):
        raise ValueError("a polygon must have x and y of 3 or more points")
    columns = [x for polygon in numbers for x in polygon[0::2]]
    rows = [y for polygon in numbers for y in polygon[1::2]]
    if any(map(math.isnan, columns + rows)):
        return math.nan, math.nan, math.nan, math.nan
    return min(columns), min(rows), max(columns), max(rows)


def _decode_rle(text: str) -> list[int]:
    """Return the run lengths that COCO packs into text.

    A character holds 5 bits, the lowest first; its 6th bit is set if the number goes on. From the
    fourth number on, only the difference to the number two places before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("run lengths of the segmentation are invalid")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def _around_mask(mask: dict[str, Any]) -> Corners:
    counts = mask["counts"]
    counts = _decode_rle(counts) if isinstance(counts, str) else [int(count) for count in counts]
    height, width = (int(side) for side in mask["size"])
    if height < 1 or width < 1 or min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError("run lengths of the segmentation do not match its size")
    columns: list[int] = []
    rows: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        if index % 2 and count:
            last = start + count - 1
            columns += [start // height, last // height]
            one_column = start // height == last // height
            rows += [start % height, last % height] if one_column else [0, height - 1]
        start += count
    if not columns:
        raise ValueError("mask of the segmentation is empty")
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def read_xyxy(row: dict[str, Any]) -> Corners:
    """Return the corners of an annotation's box, pixels.

    Example:
        >>> read_xyxy({"bbox": [4, 5, 16, 20]})
        (4.0, 5.0, 20.0, 25.0)
        >>> read_xyxy({"segmentation": [[4, 5, 20, 5, 20, 25]]})
        (4.0, 5.0, 20.0, 25.0)

    Raises:
        ValueError: if there is no box and no segmentation, or it cannot be read.
    """
    box, shape = row.get("bbox"), row.get("segmentation")
    try:
        if box:
            left, top, width, height = (float(number) for number in box)
            return left, top, left + width, top + height
        if shape:
            return _around_mask(shape) if isinstance(shape, dict) else _around_polygons(shape)
    except KeyError as error:
        raise ValueError(f"segmentation has no {error.args[0]!r}") from None
    except TypeError:
        pass
    except OverflowError:
        raise ValueError("numbers of the box are too large") from None
    except ValueError as error:
        if not box:
            raise ValueError(f"segmentation cannot be read: {error}") from None
    raise ValueError(
        f"bbox must be 4 numbers, or missing with a valid segmentation; got bbox {_shown(box)}"
    )


def read_crowd(row: dict[str, Any]) -> bool:
    """Return whether an annotation is a crowd, from ``iscrowd``; False by default.

    Raises:
        ValueError: if ``iscrowd`` is neither 0 nor 1.
    """
    written = row.get("iscrowd") or 0
    try:
        number = int(written)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number not in (0, 1):
        raise ValueError(f"iscrowd must be 0 or 1; got {_shown(written)}")
    return bool(number)
