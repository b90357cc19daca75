"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["staged_folder"]


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder``; it takes that name when the block ends well.

    What stood at ``folder`` is replaced; if the block raises, it is left as it was and the
    half-made folder is removed. When another process has put its own folder there in the
    meantime, theirs stays and ours is dropped.

    Args:
        folder: the final place; its parents are made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staging = workshop / "new"
        staging.mkdir()
        yield staging
        if folder.exists():
            with suppress(FileNotFoundError):
                folder.rename(workshop / "old")
        try:
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
