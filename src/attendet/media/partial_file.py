"""A file in the making that several calls write to."""

from __future__ import annotations

from pathlib import Path

from attendet.files import replacing

__all__ = ["PartialFile"]


class _DroppedError(Exception):
    """Makes `attendet.files.replacing` leave no file."""


class PartialFile:
    """A file that gets its final name when it is finished, for writers that outlive one block.

    Args:
        path: the file that is to be there in the end; folders on the way are made.

    Attributes:
        path: its final name.
        partial: where to write for now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replacing = replacing(path)
        self.partial = self._replacing.__enter__()

    def finish(self) -> None:
        """Give the file its final name.

        Raises:
            OSError: if that cannot be done; the file is gone then.
        """
        self._replacing.__exit__(None, None, None)

    def drop(self) -> None:
        """Remove the file."""
        dropped = _DroppedError()
        self._replacing.__exit__(type(dropped), dropped, None)
