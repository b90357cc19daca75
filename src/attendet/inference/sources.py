"""Where pictures come from: files, folders, patterns and lists, read ahead of the network."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from attendet.errors import DataError, PictureError
from attendet.pictures import PICTURE_SUFFIXES, Picture, picture_files, read_picture

__all__ = ["Skipped", "Source", "find_sources", "read_ahead"]


@dataclass(frozen=True)
class Source:
    """One picture that is to be read.

    Attributes:
        name: file name without suffix, made unique among the sources of one call; results are
            filed under it.
        path: the picture file.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read.

    Attributes:
        path: the picture file.
        reason: why, in words that name the file.
    """

    path: Path
    reason: str


def find_sources(words: Sequence[str | Path]) -> list[Source]:
    """Return the pictures that files, folders, patterns and lists name, each once.

    A folder gives the pictures directly in it, in name order; a pattern such as ``shots/**/*.png``
    the pictures that match; a ``.txt`` list the paths in its lines, which are relative to the
    list's folder or to the current one. A file that is named stays even if it is missing, so that
    reading it can say so.

    Args:
        words: what names the pictures.

    Returns:
        The sources in the order named; two files of one stem get different names.

    Raises:
        DataError: if a folder, pattern or list names no picture, or there is none at all.
    """
    paths: dict[str, Path] = {}
    for word in words:
        for path in _expand(Path(word)):
            paths.setdefault(os.path.abspath(path), path)  # noqa: PTH100 (links stay apart)
    if not paths:
        raise DataError(
            "source must name at least one picture; got none. Give a picture or folder."
        )
    return _named(list(paths.values()))


def _expand(word: Path) -> list[Path]:
    if word.is_dir():
        found = picture_files(word)
        if not found:
            raise DataError(
                f"folder must hold pictures; got none directly in it ({word}). "
                f"For folders below it give the pattern '{word}/**/*'."
            )
        return found
    if word.suffix.lower() == ".txt" and word.is_file():
        return _read_list(word)
    if not word.exists() and glob.has_magic(str(word)):
        matches = map(Path, glob.iglob(str(word), recursive=True))  # noqa: PTH207 (may be absolute)
        found = sorted(path for path in matches if path.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            raise DataError(f"pattern must match pictures; got none ({word}). Check the path.")
        return found
    return [word]


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"list must be UTF-8 text, a path a line ({path}).") from None
    entries = [Path(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise DataError(f"list must name at least one picture; got none ({path}).")
    return [
        entry if _is_file(entry) and not _is_file(path.parent / entry) else path.parent / entry
        for entry in entries
    ]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system, say
        return False


def _named(paths: Sequence[Path]) -> list[Source]:
    """Return sources whose names differ even where letter case does not count."""
    stems = {path.stem.casefold() for path in paths}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    sources = []
    for path in paths:
        name, stem = path.stem, path.stem.casefold()
        while name.casefold() in taken or (name != path.stem and name.casefold() in stems):
            counts[stem] = counts.get(stem, 1) + 1
            name = f"{path.stem}-{counts[stem]}"
        taken.add(name.casefold())
        sources.append(Source(name, path))
    return sources


def read_ahead(
    sources: Sequence[Source],
    *,
    on_skip: Callable[[Skipped], None] | None = None,
    ahead: int = 16,
    workers: int = 2,
) -> Iterator[tuple[Source, Picture]]:
    """Give each source with its picture, in order, while threads read the next ones.

    Args:
        sources: what to read.
        on_skip: told of each picture that cannot be read; the others go on.
        ahead: pictures that are held in memory at most.
        workers: reading threads.

    Yields:
        The source and its picture, uint8 RGB of shape (H, W, 3).
    """
    pending: deque[tuple[Source, Future[Picture]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    remaining = iter(sources)
    try:
        while True:
            while len(pending) < ahead and (source := next(remaining, None)) is not None:
                pending.append((source, pool.submit(read_picture, source.path)))
            if not pending:
                return
            source, future = pending.popleft()
            try:
                picture = future.result()
            except PictureError as error:
                if on_skip is not None:
                    on_skip(Skipped(source.path, str(error)))
                continue
            yield source, picture
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
