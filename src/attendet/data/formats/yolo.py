"""YOLO: one text file an image, a box a line, with a ``data.yaml`` or a file of class names.

A line holds ``class center_x center_y width height``, class ids from 0, the rest as shares of the
image's width and height. A line of a class and three or more points (a polygon) is read as the
box around it; where the ``data.yaml`` states a ``kpt_shape``, keypoints follow the box instead.
"""

from __future__ import annotations

from pathlib import Path

from attendet.data.formats.yolo_files import (
    as_list,
    darknet_file,
    keypoint_fields_of,
    load_darknet,
    load_yaml,
    names_beside,
    names_of,
    yaml_file,
    yaml_root,
)
from attendet.data.formats.yolo_lines import read_box
from attendet.data.formats.yolo_paths import (
    NAME_FILES,
    LabelFinder,
    find_entry,
    images_below,
    inner_folder,
    listed_images,
    resolved,
    text_files,
)
from attendet.data.sample import (
    SPLITS,
    SPLITS_FILE,
    Issue,
    Labeled,
    Reading,
    assign_keys,
    read_lines,
    split_folders,
)
from attendet.errors import DataError
from attendet.images import IMAGE_SUFFIXES, image_files

__all__ = ["LOOKED_FOR", "read_yolo", "recognize_yolo"]

LOOKED_FOR = "YOLO: data.yaml, obj.data, images/ with labels/*.txt, or *.txt beside images"

_SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_ISSUES_SHOWN = 5


def _has_labels(folder: Path) -> bool:
    """Return whether a folder holds ``images/`` with ``labels/``, or text files beside images."""
    labels = inner_folder(folder, "labels")
    if labels and inner_folder(folder, "images"):
        return any(
            path.suffix.lower() == ".txt" and path.name not in NAME_FILES
            for path in labels.rglob("*")
        )
    texts = text_files(folder)
    return any(path.stem in texts for path in image_files(folder))


def recognize_yolo(folder: Path) -> str | None:
    """Return what in a folder speaks for YOLO; None if nothing does."""
    described = yaml_file(folder) or darknet_file(folder)
    if described:
        return described.name
    if _has_labels(folder):
        return "labels/**/*.txt" if inner_folder(folder, "labels") else "*.txt beside images"
    for part in split_folders(folder).values():
        if _has_labels(part):
            return f"{part.name}/**/*.txt"
    return None


def _in_words(issues: list[Issue]) -> str:
    """Return the first issues, each on a line of its own."""
    return "".join(f"\n  {issue}" for issue in issues[:_ISSUES_SHOWN])


class _Reader:
    """Reads label files into one `Reading`."""

    def __init__(self, root: Path, names: dict[int, str] | None, keypoint_fields: int = 0) -> None:
        self.reading = Reading(root, "yolo")
        self.names = names
        self.keypoint_fields = keypoint_fields
        self.finder = LabelFinder(root)
        if names is not None:
            self.reading.names = tuple(names[number] for number in sorted(names))

    def labeled(self, image: Path) -> Labeled:
        """Return an image with the boxes of its label file; none if there is no such file."""
        file = self.finder.find(image)
        found = Labeled(image, file, [], relative=True)
        if not file.is_file():
            return found
        lines, issues = read_lines(file)
        self.reading.issues += issues
        for line, text in lines:
            try:
                found.boxes.append(read_box(text, line, self.names, self.keypoint_fields))
            except (ValueError, OverflowError) as error:
                issue = Issue(file, line, "broken-label", str(error), "dropped")
                self.reading.issues.append(issue)
        return found

    def add(self, split: str, images: list[Path], source: Path) -> None:
        """Add images to a pool, each once; `source` is the file or folder that named them."""
        pool = self.reading.pools.setdefault(split, [])
        there = {each.image for each in pool}
        new = [image for image in images if image not in there]
        pool += [self.labeled(image) for image in new]
        again = len(images) - len(new)
        if again:
            message = f"{again} of the images of {split} named again; each counts once"
            self.reading.issues.append(Issue(source, None, "repeated-image", message, "kept"))

    def finish(self, source: str) -> Reading:
        """Return the reading with keys set, after a look at what is left over.

        Raises:
            DataError: if no image has a label file.
        """
        reading = self.reading
        bare = []
        for split, pool in reading.pools.items():
            if pool and not any(each.labels.is_file() for each in pool):
                message = f"no label file for any image of {split} ({len(pool)} in all)"
                bare.append(Issue(pool[0].labels, None, "missing-label", message, "kept"))
        if len(bare) == sum(bool(pool) for pool in reading.pools.values()):
            raise DataError(
                f"no label files found ({reading.root}). Looked for {LOOKED_FOR}."
                f"{_in_words(bare + reading.issues)}"
            )
        reading.issues += bare
        reading.issues += [
            Issue(path, None, "missing-image", "no image for this label file", "skipped image")
            for path in self.finder.orphans()
        ]
        reading.source = source
        assign_keys((each for pool in reading.pools.values() for each in pool), reading.root)
        return reading


def _read_entries(reader: _Reader, document: dict[str, object], path: Path) -> Reading:
    """Return the images that the entries of a data.yaml or obj.data name, with their labels."""
    root, issues = reader.reading.root, reader.reading.issues
    count = document.get("nc")
    if reader.names is not None and count is not None and count != len(reader.names):
        message = f"the stated count is {count!r}, but there are {len(reader.names)} names"
        issues.append(Issue(path, None, "class-count", message, "kept"))
    for split, keys in _SPLIT_KEYS.items():
        for entry in as_list(next((document[key] for key in keys if document.get(key)), None)):
            if not isinstance(entry, str):
                raise DataError(f"{split} must be a path or a list of paths ({path}).")
            place, rival = find_entry(entry, root, path.parent)
            if place is None:
                message = f"{split}: {entry!r} is not there"
                issues.append(Issue(path, None, "missing-image", message, "skipped image"))
                continue
            if rival:
                message = f"{split}: {entry!r} is taken as {place}; {resolved(rival)} is there too"
                issues.append(Issue(path, None, "unclear-path", message, "kept"))
            place = resolved(place)
            found = images_below(place) if place.is_dir() else listed_images(place, root, issues)
            reader.add(split, found, path)
    pools = {split: pool for split, pool in reader.reading.pools.items() if pool}
    if not pools:
        raise DataError(f"{path.name} names no image that is there ({path}).{_in_words(issues)}")
    reader.reading.pools = pools
    return reader.finish(f"{path.name} {' '.join(pools)}")


def _read_yaml(path: Path) -> Reading:
    document = load_yaml(path)
    issues: list[Issue] = []
    root = resolved(yaml_root(document, path))
    names = names_of(document, path)
    if names is None and root.is_dir():
        names = names_beside(root, issues)
    reader = _Reader(root, names, keypoint_fields_of(document, path))
    reader.reading.issues += issues
    return _read_entries(reader, document, path)


def _read_darknet(path: Path) -> Reading:
    issues: list[Issue] = []
    document = load_darknet(path, issues)
    reader = _Reader(path.parent, names_of(document, path))
    reader.reading.issues += issues
    return _read_entries(reader, document, path)


def _lists(root: Path) -> dict[str, Path]:
    """Return split name to the text file that lists its images.

    Beside a file of splits, lists of keys belong to it; they name no image files.
    """
    lists = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
    if not (root / SPLITS_FILE).is_file():
        return lists
    return {
        split: path
        for split, path in lists.items()
        if all(Path(text).suffix.lower() in IMAGE_SUFFIXES for _, text in read_lines(path)[0])
    }


def _read_folder(root: Path) -> Reading:
    issues: list[Issue] = []
    reader = _Reader(root, names_beside(root, issues))
    reader.reading.issues += issues
    images = inner_folder(root, "images") or root
    parts = split_folders(images)
    lists = _lists(root)
    if lists:
        for split, list_file in lists.items():
            found = listed_images(list_file, root, reader.reading.issues)
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


def read_yolo(path: Path) -> Reading:
    """Return the labels of a YOLO data set.

    Splits are those of the ``data.yaml`` or of darknet's ``obj.data`` (each entry a folder, a list
    of folders, or a text file of images), else of ``train.txt`` and its like, else of folders
    train/ val/ test/ (inside ``images/`` or around it), else none. An image without a label file
    is background.

    Args:
        path: a data.yaml, an obj.data, or a folder.

    Raises:
        DataError: if the data.yaml cannot be read, or there is no image or label file.
    """
    if not path.is_dir():
        return _read_darknet(path) if path.suffix.lower() == ".data" else _read_yaml(path)
    described, darknet = yaml_file(path), darknet_file(path)
    if described:
        return _read_yaml(described)
    return _read_darknet(darknet) if darknet else _read_folder(path)
