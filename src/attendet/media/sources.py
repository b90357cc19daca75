"""Sources of images: files, folders, patterns, lists, videos, cameras, streams and URLs.

Only folders and lists are opened here; `attendet.media.frames` reads the sources.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from attendet.errors import ConfigError, DataError, did_you_mean
from attendet.files import files_with_suffix, is_resource_fork
from attendet.images import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".flv", ".ogv", ".3gp", ".mjpeg", ".mjpg", ".h264", ".hevc"}
)
STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp")
WEB_SCHEMES = ("http", "https")

Kind = Literal["image", "video", "camera", "stream", "address"]


@dataclass(frozen=True)
class Source:
    """One image, video, camera or stream to read.

    Attributes:
        name: file name without suffix, made unique among the sources of one call; used as the name
            of results.
        path: path of a file; otherwise the argument: a URL, ``camera:0``, or ``-`` for an image on
            standard input.
        kind: kind of the source. An ``address`` is an http(s) URL whose suffix does not show the
            kind: the server is asked when it is opened.
    """

    name: str
    path: Path | str
    kind: Kind = "image"

    @property
    def label(self) -> str:
        """Name in messages and results: the path, without user and password."""
        return _without_user(str(self.path))

    @property
    def is_live(self) -> bool:
        """True for a camera or a stream, which has no end."""
        return self.kind in ("camera", "stream")


def _without_user(address: str) -> str:
    # A password may contain @: the host begins after the last one.
    return re.sub(r"(?<=://)[^/?#]*@", "", address)


@dataclass(frozen=True)
class Skipped:
    """Source that could not be read, or not to its end.

    Attributes:
        path: `Source.label` of the source.
        reason: error message, with the name of the source.
        frames: number of frames read before it broke off; 0 if nothing could be read.
    """

    path: str
    reason: str
    frames: int = 0


def find_sources(arguments: Sequence[str | Path]) -> list[Source]:
    """Return the sources of command-line arguments, in order and without duplicates.

    - a file: a video if its suffix is known as one, otherwise an image. A missing file is included,
      so that reading it raises the error;
    - a folder: the images and videos directly in it, in name order;
    - a pattern such as ``shots/**/*.png``: the images and videos that match;
    - a ``.txt`` list: the files and URLs in its lines; paths are relative to the list's folder or
      to the current one;
    - ``0`` or ``camera:0``: a camera by number; ``camera:/dev/video2`` by device;
    - a URL: ``rtsp://...`` and the others of `STREAM_SCHEMES`, or ``http(s)://`` for an image, a
      video or a stream;
    - ``-``: an image on standard input.

    Raises:
        DataError: if a folder, pattern or list contains nothing to read, or there is no argument.
        ConfigError: if a URL or camera is invalid, or a live source is combined with others.

    Example:
        >>> [(one.name, one.kind) for one in find_sources(["a.jpg", "http://host/street.mp4"])]
        [('a', 'image'), ('street', 'video')]
        >>> find_sources(["rtsp://user:secret@host:554/lobby"])[0].label
        'rtsp://host:554/lobby'
    """
    found: dict[str, tuple[Path | str, Kind]] = {}
    for argument in arguments:
        for path, kind in _expand(argument):
            key = os.path.abspath(path) if isinstance(path, Path) else path  # noqa: PTH100 (links stay apart)
            found.setdefault(key, (path, kind))
    if not found:
        raise DataError(
            "source must name at least one image or video; got none. Pass a file or folder."
        )
    sources = _named(found.values())
    for source in sources:
        if source.is_live and len(sources) > 1:
            raise ConfigError(
                "a live source must be the only source, because it does not end; got "
                f"{source.label} and {len(sources) - 1} more. Run one command for each."
            )
    return sources


def _expand(argument: str | Path) -> list[tuple[Path | str, Kind]]:
    path = Path(argument)
    if isinstance(argument, str):
        named = _kind_of_argument(argument)
        if named is not None:
            return [(argument, named)]
    if path.is_dir():
        found = files_with_suffix(path, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        if not found:
            raise DataError(
                f"folder must contain images or videos; got none directly in it ({path}). "
                f"For its subfolders, pass the pattern '{path}/**/*'."
            )
        return [(one, _kind_of(one)) for one in found]
    if path.suffix.lower() == ".txt" and path.is_file():
        return _read_list(path)
    if not path.exists() and glob.has_magic(str(path)):
        matches = map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207 (may be absolute)
        found = sorted(one for one in matches if _is_readable(one))
        if not found:
            raise DataError(
                f"pattern must match images or videos; got none ({path}). Check the path."
            )
        return [(one, _kind_of(one)) for one in found]
    return [(path, _kind_of(path))]


def _kind_of_argument(argument: str) -> Kind | None:
    """Return the kind of standard input, a camera or a URL; None for a path."""
    if argument == "-":
        return "image"
    if argument.startswith("camera:"):
        device = argument.removeprefix("camera:")
        if not (device.isdecimal() or device.startswith("/dev/")):
            raise ConfigError(
                f"camera must be a number or a device; got {argument!r}. Example: camera:0."
            )
        return "camera"
    if argument.isdecimal() and not Path(argument).exists():
        return "camera"
    scheme, separator, rest = argument.partition("://")
    if not separator or not scheme.isalnum() or len(scheme) < 2 or not rest:
        return None
    try:
        parts = urlsplit(_without_user(argument))
    except ValueError as error:
        raise ConfigError(
            f"address must have a valid host; got {_without_user(argument)!r} ({error}). Check it."
        ) from None
    if scheme.lower() in STREAM_SCHEMES:
        return "stream"
    if scheme.lower() not in WEB_SCHEMES:
        known = (*WEB_SCHEMES, *STREAM_SCHEMES)
        raise ConfigError(
            f"address must start with a known scheme; got {scheme + '://'!r}. "
            f"{did_you_mean(scheme.lower(), known)}"
        )
    suffix = PurePosixPath(parts.path).suffix.lower()
    if suffix in (".mjpg", ".mjpeg", ".m3u8"):  # names of camera streams and playlists
        return "stream"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "video" if suffix in VIDEO_SUFFIXES else "address"


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not is_resource_fork(path)


def _kind_of(path: Path) -> Kind:
    return "video" if path.suffix.lower() in VIDEO_SUFFIXES else "image"


def _read_list(path: Path) -> list[tuple[Path | str, Kind]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"list must be UTF-8 text with one path per line ({path}).") from None
    arguments = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not arguments:
        raise DataError(f"list must name at least one image; got none ({path}).")
    entries: list[tuple[Path | str, Kind]] = []
    for argument in arguments:
        named = _kind_of_argument(argument) if "://" in argument else None
        if named is not None:
            entries.append((argument, named))
            continue
        entry = Path(argument)
        here = _is_file(entry) and not _is_file(path.parent / entry)
        entry = entry if here else path.parent / entry
        entries.append((entry, _kind_of(entry)))
    return entries


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name too long for the file system
        return False


def _stem(path: Path | str) -> str:
    """Return the name of a source before it is made unique."""
    if isinstance(path, Path):
        return path.stem
    if path == "-":
        return "stdin"
    if "://" not in path:
        path = f"camera-{path.removeprefix('camera:').removeprefix('/dev/')}"
    parts = urlsplit(_without_user(path))
    stem = PurePosixPath(parts.path).stem or parts.hostname or "stream"
    return re.sub(r"[^\w.-]+", "_", stem)


def _named(found: Iterable[tuple[Path | str, Kind]]) -> list[Source]:
    """Return the sources with names that are unique even without regard to case."""
    entries = [(_stem(path), path, kind) for path, kind in found]
    stems = {stem.casefold() for stem, _, _ in entries}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    sources = []
    for stem, path, kind in entries:
        name, key = stem, stem.casefold()
        while name.casefold() in taken or (name != stem and name.casefold() in stems):
            counts[key] = counts.get(key, 1) + 1
            name = f"{stem}-{counts[key]}"
        taken.add(name.casefold())
        sources.append(Source(name, path, kind))
    return sources
