"""Folders written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attendet.errors import ConfigError

__all__ = ["check_replaceable", "put_in_place", "work_folder"]

OURS = {"model.xml", "model.bin", "model.param", "attendet.json"}
"""What stands in a folder that an export made."""


def check_replaceable(path: Path) -> None:
    """Raise where a name is a link, or that of a folder with other things than an older export.

    Args:
        path: the name that a file or folder is to get.

    Raises:
        ConfigError: naming what is there.
    """
    if path.is_symlink():
        raise ConfigError(
            f"name of an export must not be a link; {path} is one. Remove it, or choose another "
            "--output."
        )
    others = sorted({each.name for each in path.iterdir()} - OURS) if path.is_dir() else []
    if others or (path.is_dir() and path.suffix):
        what = ", ".join(others[:3]) or "a folder"
        raise ConfigError(
            f"name of an export must be free, or that of an older one; got {what} ({path}). "
            "Choose another --output."
        )


@contextmanager
def work_folder(beside: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards, on the disk where the results will be.

    Args:
        beside: the folder that will hold the results; it is made.
    """
    beside.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=beside, prefix=".export.", suffix=".part"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def put_in_place(made: Path, path: Path) -> Path:
    """Give a finished file or folder its final name; return that.

    An older file is replaced in one step; an older folder is moved aside first and taken away when
    the new one stands.

    Args:
        made: the file or folder, on the same disk.
        path: its final name.
    """
    if not path.is_dir():
        return made.replace(path)
    older = made.with_name(f"{made.name}.older")
    path.replace(older)
    try:
        made.replace(path)
    except OSError:
        older.replace(path)
        raise
    shutil.rmtree(older, ignore_errors=True)
    return path
