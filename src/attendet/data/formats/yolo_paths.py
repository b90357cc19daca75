"""Path resolution of YOLO data sets: images, labels and lists, written by any system or tool."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from attendet.data.sample import Issue, decoded_name, filename_variants, is_there, read_lines
from attendet.files import files_with_suffix
from attendet.images import image_files

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
"""Names of files with class names, the most likely first."""

_DRIVE = re.compile(r"^[A-Za-z]:")


def inner_folder(folder: Path, name: str) -> Path | None:
    """Return the subfolder of a name, in any letter case; None if there is none."""
    if (folder / name).is_dir():
        return folder / name
    try:
        found = [path for path in sorted(folder.iterdir()) if path.name.lower() == name]
        return next((path for path in found if path.is_dir()), None)
    except OSError:  # the folder does not exist or cannot be listed
        return None


def text_files(folder: Path) -> dict[str, Path]:
    """Return stem to text file (``.txt`` or ``.TXT``) for the files directly in a folder.

    Returns:
        Each file by its stem as written and as decoded. Empty if the folder does not exist.
    """
    if not folder.is_dir():
        return {}
    files = files_with_suffix(folder, (".txt",))
    return {decoded_name(path.stem): path for path in files} | {path.stem: path for path in files}


def _stems(folder: Path) -> set[str]:
    return {decoded_name(path.stem) for path in image_files(folder)}


class LabelFinder:
    """Finder of the label file of each image; every folder is listed once.

    If the path of an image has a folder ``images``, labels are expected in the same place below
    ``labels``. If that does not exist, they are searched for next to the image, in the folder whose
    path has ``labels`` in place of one component, and in ``labels`` inside the image's folder.

    Args:
        root: folder of the data set. Only components below it are replaced; for an image outside
            of it, only the last component.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._texts: dict[Path, dict[str, Path]] = {}
        self._folders: dict[Path, tuple[list[Path], Path]] = {}
        self._served: dict[Path, set[Path]] = {}
        self._beside: set[Path] = set()

    def find(self, image: Path) -> Path:
        """Return the label file of an image, or the default path for it if none is found."""
        folder = image.parent
        if folder not in self._folders:
            self._folders[folder] = _label_folders(folder, self.root)
        folders_, home = self._folders[folder]
        stems = (image.stem, decoded_name(image.stem))
        found = ((each, self._listed(each).get(stem)) for each in folders_ for stem in stems)
        label_folder, file = next(((each, file) for each, file in found if file), (home, None))
        if label_folder != folder:
            self._served.setdefault(label_folder, set()).add(folder)
        else:
            self._beside.add(folder)
        return file or label_folder / f"{image.stem}.txt"

    def _listed(self, folder: Path) -> dict[str, Path]:
        if folder not in self._texts:
            self._texts[folder] = text_files(folder)
        return self._texts[folder]

    def _without(self, folder: Path, stems: set[str]) -> set[Path]:
        """Return the text files of a folder whose decoded stem is not in `stems`."""
        files = self._listed(folder).values()
        return {path for path in files if decoded_name(path.stem) not in stems}

    def orphans(self) -> list[Path]:
        """Return label files without an image, in the used folders and the root's ``labels``."""
        found: set[Path] = set()
        for folder in self._beside:
            found |= {path for path in self._without(folder, _stems(folder)) if _is_label(path)}
        for label_folder, folders in self._served.items():
            found |= self._without(label_folder, {s for folder in folders for s in _stems(folder)})
        labels = inner_folder(self.root, "labels") or self.root / "labels"
        twins = inner_folder(self.root, "images") or self.root
        inner = [path for path in labels.rglob("*") if path.is_dir()]
        for label_folder in (labels, *inner):
            inside = label_folder.relative_to(labels)
            if label_folder in self._served or any(part.startswith(".") for part in inside.parts):
                continue
            twin = twins / inside
            found |= self._without(label_folder, _stems(twin) if twin.is_dir() else set())
        return sorted(path for path in found if path.name not in NAME_FILES)


def _is_label(path: Path) -> bool:
    """Return whether a text file next to images is a label file, judged by its first line."""
    lines, _ = read_lines(path)
    return bool(lines) and re.fullmatch(r"\d+(\s+[\d.eE+-]+){4,}", lines[0][1]) is not None


def _label_folders(folder: Path, root: Path) -> tuple[list[Path], Path]:
    """Return the folders in which to search for an image folder's labels, and the default one."""
    parts = folder.parts
    home = None
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() == "images":
            labels = inner_folder(Path(*parts[:index]), "labels")
            twin = (labels or Path(*parts[:index], "labels")).joinpath(*parts[index + 1 :])
            if twin.is_dir():
                return [twin], twin
            home = home or twin
    below = folder.relative_to(root).parts if folder.is_relative_to(root) else parts[-1:]
    folders_ = []
    for index in range(len(parts) - 1, len(parts) - 1 - len(below), -1):
        labels = inner_folder(Path(*parts[:index]), "labels")
        if labels:
            folders_.append(labels.joinpath(*parts[index + 1 :]))
    inside = inner_folder(folder, "labels")
    folders_ += [inside] if inside else []
    there = [each for each in folders_ if each.is_dir() and each != folder]
    return [folder, *there], home or (there[-1] if there else folder)


def _path_suffixes(written: str) -> list[Path]:
    """Return a written path without drive and ``..``, and then its ever shorter ends."""
    plain = PurePosixPath(_DRIVE.sub("", written.replace("\\", "/")))
    parts = [part for part in plain.parts if part not in ("..", "/", "//")]
    return [Path(*parts[index:]) for index in range(len(parts))]


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if is_there(path)), None)


def find_entry(entry: str, root: Path, folder: Path) -> tuple[Path | None, Path | None]:
    """Return the folder or list file that an entry of a data.yaml refers to.

    The entry may be written for another system or another folder: ``\\`` counts as ``/``, and if
    the path does not exist, ever shorter ends of it are tried. Exporters write ``../train/images``
    for ``train/images`` in the root, so the latter is tried first.

    Args:
        entry: the path as written.
        root: folder that entries are relative to.
        folder: folder of the data.yaml.

    Returns:
        The path, or None if nothing is found; and a second path, which also fits an entry with
        ``../``, or None.
    """
    bases = list(dict.fromkeys((root, folder)))
    plain = entry.replace("\\", "/")
    tails = _path_suffixes(entry)
    stated = _first(base / text for text in dict.fromkeys((entry, plain)) for base in bases)
    if plain.startswith("../") and tails:
        inside = _first([root / tails[0]])
        if inside:
            rival = stated if stated and stated.resolve() != inside.resolve() else None
            return inside, rival
    if stated:
        return stated, None
    absolute = plain.startswith("/") or bool(_DRIVE.match(plain))
    for tail in tails:
        for path in (base / tail for base in bases):
            # The last component of a relative path is too ambiguous, unless it is a file.
            if is_there(path) and (
                absolute or tail == tails[0] or tail.parent.name or path.is_file()
            ):
                return path, None
    return None, None


def resolved(path: Path) -> Path:
    """Return a path with any ``..`` resolved, as keys and label folders need it."""
    return path.resolve() if ".." in path.parts else path


def listed_images(list_file: Path, root: Path, issues: list[Issue]) -> list[Path]:
    """Return the images that a text file lists, each once; problems are added to `issues`.

    Paths are relative to the list or to the root. If a path does not exist, for example because it
    is from another machine, ever shorter ends of it are tried.
    """
    lines, found_issues = read_lines(list_file)
    issues += found_issues
    bases = list(dict.fromkeys((list_file.parent, root)))
    images: dict[Path, None] = {}
    for line, text in lines:
        tails = (end for name in filename_variants(text) for end in _path_suffixes(name))
        ends = [Path(text), Path(text.replace("\\", "/")), *tails]
        tries = (base / end for end in ends for base in bases)
        path = next((resolved(each) for each in tries if is_there(each) and each.is_file()), None)
        if path is None:
            message, kind = f"image {text!r} not found", "missing-image"
        elif path in images:
            message, kind = f"{text!r} is listed twice", "repeated-image"
        else:
            images[path] = None
            continue
        issues.append(Issue(list_file, line, kind, message, "skipped image"))
    return list(images)
