"""Files written whole or not at all; what goes wrong names the file that was to be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_atomically"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; it becomes ``path`` if all goes well, and is gone otherwise.

    Folders on the way are made. A reader sees the old file or the new one, never a part; so does
    the next start after a kill or a power cut.

    Args:
        path: the file that is to be there in the end.

    Raises:
        OSError: if it cannot be written, with its name.

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
        # Its name is short, whatever that of the file: a long one may be all that fits.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        partial = Path(name)
        os.close(handle)
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
    except OSError as error:
        if error.errno is None or not _is_of(error, partial):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _is_of(error: OSError, partial: Path | None) -> bool:
    """Whether an error is of the file in the making, and not of another one that it names."""
    return partial is None or error.filename is None or str(error.filename) == str(partial)


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all; return its path.

    Args:
        path: the file.
        content: text is written as UTF-8.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)
