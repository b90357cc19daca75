"""Files of a folder by suffix; atomic writes of files and folders; JSON files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attendet.errors import DataError


def is_resource_fork(path: Path) -> bool:
    """Return whether a file is a ``._NAME``, which macOS writes next to NAME on other disks."""
    return path.name.startswith("._")


def files_with_suffix(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files directly in a folder with one of the suffixes, in name order.

    The case of a file's suffix is ignored; ``suffixes`` are lower case. Resource forks of macOS
    are skipped.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not is_resource_fork(path) and path.is_file()
    )


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block succeeds.

    Parent folders are created. Readers see the old file or the complete new one, also after a
    kill or a power cut.

    Args:
        path: the file to write.

    Raises:
        OSError: if the file cannot be written; the error names ``path``.

    Example:
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(target) as partial:
        ...     _ = partial.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial: Path | None = None
    try:
        # A short name: the name of the file itself may already have the maximum length.
        name = path.parent / f".{uuid.uuid4().hex}.part"
        name.touch(exist_ok=False)  # with the mode that the umask leaves, unlike tempfile
        partial = name
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None or not _concerns(error, partial):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _concerns(error: OSError, partial: Path | None) -> bool:
    """Return whether an error concerns the temporary file, or names no file."""
    return partial is None or error.filename is None or str(error.filename) == str(partial)


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file atomically, text as UTF-8, and return its path."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def files_of(path: Path) -> list[Path]:
    """Return a file as a list, or all files below a folder."""
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder, in bytes."""
    return sum(file.stat().st_size for file in files_of(path))


def replace_folder(new: Path, folder: Path) -> None:
    """Rename the complete folder ``new`` to ``folder``, on the same file system.

    An existing ``folder`` is renamed to ``NEW.old``, and back if renaming ``new`` fails. If another
    process creates ``folder`` in the meantime, its folder is kept.
    """
    older = new.with_name(f"{new.name}.old")
    with suppress(FileNotFoundError):
        folder.rename(older)
    try:
        new.rename(folder)
    except OSError:
        if folder.is_dir():
            return
        if older.exists():
            older.rename(folder)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``folder`` when the block succeeds.

    If the block raises, ``folder`` is unchanged and the new folder is removed; see also
    `replace_folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staging = temporary / "new"
        staging.mkdir()
        yield staging
        replace_folder(staging, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def json_line(record: dict[str, Any]) -> str:
    """Return a record as one line of a JSON Lines file.

    Raises:
        ValueError: if a number is not finite.
    """
    return json.dumps(record, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object; None if there is no such file.

    Raises:
        DataError: if it is damaged or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read as JSON ({path}): {error}") from None
    if not isinstance(value, dict):
        raise DataError.must(path.name, "a JSON object", value, path)
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file, without a truncated last line.

    If there is no file, the list is empty.

    Raises:
        DataError: if another line is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                rule = f"each line of {path.name} must be valid JSON"
                raise DataError(f"{rule}; got an invalid line ({path}:{number}).") from None
    return records
