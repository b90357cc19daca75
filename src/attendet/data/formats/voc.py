"""Pascal VOC: VOCdevkit folders, and flat folders with XML files next to the images.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from attendet.data.sample import (
    SPLITS,
    Box,
    Issue,
    RawDataset,
    RawSample,
    assign_keys,
    class_name,
    merge_repeated,
    read_lines,
    split_folders,
)
from attendet.errors import DataError, list_names
from attendet.files import files_with_suffix, is_resource_fork
from attendet.images import IMAGE_SUFFIXES, image_files

LOOKED_FOR = "VOC: Annotations/*.xml with JPEGImages/, VOCdevkit/VOC2007/, or *.xml next to images"

_XML = "*.[xX][mM][lL]"
_XML_FOLDERS = ("annotations", "xmls", "labels")
_IMAGE_FOLDERS = ("jpegimages", "images")
_CLASS_FILES = ("classes.txt", "labels.txt")

_FLAG = re.compile(r"\s+-?[01]$")
"""Flag at the end of a line in the image list of one class: whether the image shows it."""

Folders = tuple[Path, Path]
"""Folder of XML files, folder of images."""


def _has_xml(folder: Path, pattern: str) -> bool:
    return any(not is_resource_fork(path) for path in folder.glob(pattern))


def _xml_files(folders: Folders) -> dict[str, Path]:
    """Return path without suffix, relative to the folder of XML files, to XML file.

    Subfolders are searched if the folder of images has them too. If there are none of these and no
    XML file directly in the folder, all subfolders are searched.
    """
    xml_folder, image_folder = folders
    files = files_with_suffix(xml_folder, (".xml",))
    if xml_folder != image_folder:
        inner = [path for path in sorted(xml_folder.rglob("[!.]*")) if path.is_dir()]
        both = [path for path in inner if (image_folder / path.relative_to(xml_folder)).is_dir()]
        for each in both if files or both else inner:
            files += files_with_suffix(each, (".xml",))
    return {path.relative_to(xml_folder).with_suffix("").as_posix(): path for path in files}


def _label_folders(folder: Path) -> Folders | None:
    """Return the folders of XML files and images in a folder (may be itself), or None."""
    inner = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    images = next((inner[name] for name in _IMAGE_FOLDERS if name in inner), folder)
    for name in _XML_FOLDERS:
        if name in inner and _has_xml(inner[name], f"**/{_XML}"):
            return inner[name], images
    return (folder, folder) if _has_xml(folder, _XML) else None


def _devkits(folder: Path) -> list[Path]:
    """Return the VOC folders (``VOC2007``) one or two levels below a folder."""
    below = [path for path in folder.glob("VOC*") if path.is_dir()]
    below += [path for path in folder.glob("VOCdevkit/VOC*") if path.is_dir()]
    return sorted(path for path in below if (path / "Annotations").is_dir())


def recognize_voc(folder: Path) -> str | None:
    """Return the files that identify a folder as Pascal VOC, as a pattern, or None."""
    found = _label_folders(folder)
    if found:
        return f"{found[0].name}/*.xml"
    devkits = _devkits(folder)
    if devkits:
        return f"{devkits[0].relative_to(folder)}/Annotations"
    for part in split_folders(folder).values():
        if _label_folders(part):
            return f"{part.name}/**/*.xml"
    return None


class _Reader:
    """Reader that collects annotation files in one `RawDataset`."""

    def __init__(self, root: Path) -> None:
        self.raw = RawDataset(root, "voc")
        self._images: dict[Path, dict[str, Path]] = {}
        self._twins: dict[Path, list[Path]] = {}

    def _issue(self, file: Path, line: int | None, kind: str, message: str) -> None:
        self.raw.issues.append(Issue(file, line, kind, message, "skipped image"))

    def images(self, folder: Path) -> dict[str, Path]:
        """Return name without suffix to image file; each folder is listed once."""
        if folder not in self._images:
            files = image_files(folder)
            self._images[folder] = {path.stem: path for path in files}
            for path in files:
                self._twins.setdefault(path.with_suffix(""), []).append(path)
        return self._images[folder]

    def _image_for_xml(self, image: Path, xml: Path, filename: str) -> Path:
        """Return the image of an XML file, of those with the same stem (``a.jpg``, ``a.png``)."""
        twins = self._twins[image.with_suffix("")]
        named = _file_name(filename)
        meant = next((path for path in twins if path.name == named), image)
        for twin in twins:
            if twin != meant:
                self._issue(twin, None, "missing-label", f"{xml.name} belongs to {meant.name}")
        return meant

    def labeled(self, name: str, xml: Path, images: Path) -> RawSample | None:
        """Return the image of one XML file with its boxes; None if either cannot be read.

        Args:
            name: path of the XML file in its folder, without suffix.
            xml: the file.
            images: folder of images. The image of ``sub/name`` is in its ``sub``, if that exists.
        """
        annotation = read_annotation(xml)
        if isinstance(annotation, Issue):
            self.raw.issues.append(annotation)
            return None
        inner = (images / name).parent
        images = inner if inner.is_dir() else images
        there = self.images(images)
        named = _file_name(annotation.filename)
        image = there.get(xml.stem) or there.get(Path(named).stem) or there.get(named)
        if image is None:
            self._issue(xml, None, "missing-image", f"no image {xml.stem}.* in {images}")
            return None
        image = self._image_for_xml(image, xml, annotation.filename)
        self.raw.issues += annotation.issues
        return RawSample(image, xml, annotation.boxes, annotation.declared_hw)

    def folder(self, folders: Folders) -> list[RawSample]:
        """Return the labeled images of a folder; images without labels become issues."""
        xml_folder, image_folder = folders
        files = _xml_files(folders)
        self.images(image_folder)
        found = [self.labeled(name, xml, image_folder) for name, xml in files.items()]
        kept = [each for each in found if each is not None]
        used = {each.image.with_suffix("") for each in kept}
        used |= {image_folder / name for name in files}
        for folder, images in self._images.items():
            for stem, image in images.items():
                if folder.is_relative_to(image_folder) and folder / stem not in used:
                    self._issue(image, None, "missing-label", f"no {stem}.xml in {xml_folder}")
        return merge_repeated(kept, self.raw.issues)

    def listed(self, list_file: Path, folders: Folders) -> list[RawSample]:
        """Return the images that a split's list names, in its order."""
        xml_folder, image_folder = folders
        there = _xml_files(folders)
        known = there.keys() | self.images(image_folder).keys()
        lines, issues = read_lines(list_file)
        self.raw.issues += issues
        kept: dict[str, RawSample | None] = {}
        for line, written in lines:
            name = _listed_name(written, known)
            if name in kept:
                self._issue(list_file, line, "repeated-image", f"{name!r} is listed twice")
            elif name in there:
                kept[name] = self.labeled(name, there[name], image_folder)
            elif name in self.images(image_folder):
                self._issue(list_file, line, "missing-label", f"no {name}.xml in {xml_folder}")
            else:
                self._issue(list_file, line, "missing-image", f"image {name!r} not found")
        found = [each for each in kept.values() if each is not None]
        return merge_repeated(found, self.raw.issues)


def _file_name(written: str) -> str:
    """Return the file name of a path written on any system."""
    return PurePosixPath(written.replace("\\", "/")).name


def _listed_name(written: str, known: Collection[str]) -> str:
    """Return the name on a line such as ``000012``, ``000012  1``, ``my 12.jpg`` or ``a/12``."""
    plain = written.replace("\\", "/")
    for name in dict.fromkeys((plain, _FLAG.sub("", plain), plain.split()[0])):
        path = PurePosixPath(name)
        stem = path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path
        for each in (name, str(stem), stem.name):
            if each in known:
                return each
    return _FLAG.sub("", plain)


def _split_lists(folder: Path) -> dict[str, Path]:
    """Return the non-empty lists of ImageSets/Main; ``trainval`` if train and val are missing."""
    lists = {}
    for split in SPLITS:
        path = folder / "ImageSets" / "Main" / f"{split}.txt"
        if path.is_file() and path.stat().st_size:
            lists[split] = path
    both = folder / "ImageSets" / "Main" / "trainval.txt"
    if "train" not in lists and "val" not in lists and both.is_file() and both.stat().st_size:
        lists["train"] = both
    return lists


def _devkit_root(folder: Path) -> Path:
    devkits = _devkits(folder)
    if len(devkits) > 1:
        names = list_names(path.relative_to(folder).as_posix() for path in devkits)
        raise DataError(
            f"path must contain one VOC folder; got {names} ({folder}). Pass one of them."
        )
    return devkits[0] if devkits else folder


def _by_folder(images: list[RawSample], folders: dict[str, Path]) -> dict[str, list[RawSample]]:
    """Return split name to the images in its folder; empty if an image is in none of them."""
    images_by_split: dict[str, list[RawSample]] = {}
    for each in images:
        split = next((s for s, folder in folders.items() if each.image.is_relative_to(folder)), "")
        images_by_split.setdefault(split, []).append(each)
    return {} if "" in images_by_split else images_by_split


def _names(folders: Iterable[Path]) -> str:
    return " ".join(f"{folder.name}/" for folder in folders)


def read_voc(path: Path) -> RawDataset:
    """Return the labels of a Pascal VOC folder.

    Splits come from ``ImageSets/Main``, else from folders train/ val/ test/ (inside the folder of
    images, or each with its own images and labels); else there are no splits. Class names come
    from a ``classes.txt`` or ``labels.txt`` in the root; else there are none.

    Args:
        path: a VOC folder, the VOCdevkit folder above it, or a flat folder.

    Raises:
        DataError: if there is no XML file, or more than one VOC folder.
    """
    DataError.check(path.is_dir(), "path", "a folder for format 'voc'", str(path))
    root = path if _label_folders(path) else _devkit_root(path)
    reader, folders = _Reader(root), _label_folders(root)
    raw = reader.raw
    parts = {name: _label_folders(part) for name, part in split_folders(root).items()}
    if folders:
        lists = _split_lists(root)
        for split, list_file in lists.items():
            raw.images_by_split[split] = reader.listed(list_file, folders)
        raw.source = "ImageSets/Main" if lists else ""
        if not lists:
            images = reader.folder(folders)
            inner = split_folders(folders[1]) if folders[0] != folders[1] else {}
            raw.images_by_split = _by_folder(images, inner) or {"all": images}
            if "all" not in raw.images_by_split:
                raw.source = f"folders {_names(inner[split] for split in raw.images_by_split)}"
    else:
        found = {name: part for name, part in parts.items() if part}
        for split, part in found.items():
            raw.images_by_split[split] = reader.folder(part)
        raw.source = f"folders {_names(split_folders(root)[name] for name in found)}"
    if not raw.images_by_split:
        raise DataError(f"no XML labels found ({root}). Looked for {LOOKED_FOR}.")
    key_root = folders[1] if folders else root
    assign_keys(raw.images, key_root)
    for name in _CLASS_FILES:
        if (root / name).is_file():
            lines, issues = read_lines(root / name)
            raw.names = tuple(class_name(text) for _, text in lines) or None
            raw.issues += issues
            break
    return raw


# --- one XML file -----------------------------------------------------------------------------

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""")
_CODEC_FOR_ENCODING = {
    **dict.fromkeys((b"gb2312", b"gbk", b"gb18030"), "gb18030"),
    **dict.fromkeys((b"big5", b"cp950"), "cp950"),
    **dict.fromkeys((b"shift_jis", b"shift-jis", b"sjis", b"cp932"), "cp932"),
    **dict.fromkeys((b"euc-kr", b"cp949"), "cp949"),
}
"""Encoding that expat does not support, to the widest codec of its family."""

_MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of an annotation file; a larger one is refused before it is read."""


@dataclass
class Annotation:
    """Content of an annotation file.

    Attributes:
        filename: the image's name as written; empty if none.
        declared_hw: image size stated in the file; None if there is none, or it is zero.
        boxes: corners in pixels as written.
        issues: boxes that could not be read.
    """

    filename: str
    declared_hw: tuple[int, int] | None
    boxes: list[Box]
    issues: list[Issue]


class _RefusedError(Exception):
    """Error for XML content that an annotation never has."""


def _parse(content: bytes | str, parser: expat.XMLParserType) -> Element:
    """Return the root element of an annotation; objects have their line as an attribute."""
    builder = TreeBuilder()

    def refuse_entity(*_: object) -> int:
        raise _RefusedError("XML must not declare entities; labels never need them")

    def start_root(tag: str, attributes: dict[str, str]) -> None:
        if tag.lower() != "annotation":
            export = " (CVAT's own XML: export as Pascal VOC)" if tag == "annotations" else ""
            raise _RefusedError(f"root element must be 'annotation'; got {tag!r}{export}")
        parser.StartElementHandler = start
        builder.start(tag, attributes)

    def start(tag: str, _: dict[str, str]) -> None:
        builder.start(tag, {"line": str(parser.CurrentLineNumber)} if tag == "object" else {})

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start_root, builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse_entity
    parser.Parse(content, True)
    return builder.close()


def _read_object(element: Element, path: Path) -> Box | Issue:
    line = int(element.get("line", 0))
    corners = [element.findtext(f"bndbox/{name}", element.findtext(name)) for name in _CORNERS]
    name = class_name(element.findtext("name", ""))
    message = "" if name else "object has no name"
    missing = [name for name, text in zip(_CORNERS, corners, strict=True) if not text]
    if missing:
        message = f"object has no {missing[0]}"
    try:
        left, top, right, bottom = (float(text or 0) for text in corners)
    except ValueError as error:
        message = f"box corner is not a number: {error}"
    if message:
        return Issue(path, line, "broken-label", message, "dropped")
    difficult = element.findtext("difficult", "").strip().lower() in ("1", "true")
    return Box((left, top, right, bottom), name, line, difficult)


def _declared_hw(root: Element) -> tuple[int, int] | None:
    """Return the image size that an annotation states; None if it is missing or invalid."""
    try:
        height, width = (float(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
    except ValueError:
        return None
    is_size = height >= 1 and width >= 1 and math.isfinite(height) and math.isfinite(width)
    return (round(height), round(width)) if is_size else None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_annotation(path: Path) -> Annotation | Issue:
    """Return the content of a Pascal VOC XML file, or an issue if it cannot be read.

    Corners are read as they are written: nothing is subtracted. (The VOC devkit counts pixels
    from 1 and includes the last one; LabelImg and most later data sets write 0-based corners.
    The difference is at most one pixel, and a guess would be wrong for some data sets.)

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
    declared = _DECLARED.match(content)
    encoding = _CODEC_FOR_ENCODING.get(declared[1].lower()) if declared else None
    parser = expat.ParserCreate("utf-8" if encoding else None)
    try:
        root = _parse(content.decode(encoding) if encoding else content, parser)
    except _RefusedError as error:
        line = parser.CurrentLineNumber
        return Issue(path, line, "broken-label", str(error), "skipped image")
    except expat.ExpatError as error:
        # expat reports text in another encoding than the declared one as an invalid token.
        invalid = error.code == expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN]
        kind = "wrong-encoding" if invalid and not _is_utf8(content) else "broken-label"
        wrong = "text is not in the declared encoding (default: UTF-8); save it in that encoding"
        message = f"XML: {wrong if kind == 'wrong-encoding' else expat.ErrorString(error.code)}"
        return Issue(path, error.lineno, kind, message, "skipped image")
    except (LookupError, ValueError) as error:  # an encoding that Python does not support
        return Issue(path, 1, "wrong-encoding", f"XML: {error}", "skipped image")
    objects = [_read_object(element, path) for element in root.iterfind("object")]
    return Annotation(
        root.findtext("filename", "").strip(),
        _declared_hw(root),
        [one for one in objects if isinstance(one, Box)],
        [one for one in objects if isinstance(one, Issue)],
    )
