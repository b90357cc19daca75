"""Result of an importer, and files of class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attendet.errors import ConfigError
from attendet.models.detector import DetectionNetwork
from attendet.models.metadata import WeightsMetadata

MAX_TEXT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Imported:
    """Network imported from files of another program."""

    network: DetectionNetwork
    """In eval mode, on the CPU."""

    metadata: WeightsMetadata
    """Description of the network."""

    notes: tuple[str, ...] = ()
    """Notes for the user."""


def read_names(path: str | Path) -> tuple[str, ...]:
    """Return the class names in a text file, one per line; empty lines at the end are ignored.

    Raises:
        ConfigError: if the file is missing or not UTF-8, has no name, has an empty line before the
            last name, or has a name twice.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            lines = [line.strip() for line in stream.read(MAX_TEXT_BYTES).splitlines()]
    except OSError as error:
        raise ConfigError(f"names cannot be read: {error.strerror or error} ({path}).") from None
    except UnicodeDecodeError:
        raise ConfigError(f"names must be UTF-8 text, one class per line ({path}).") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ConfigError(
            f"names must contain at least one class, one per line; got none ({path})."
        )
    first: dict[str, int] = {}
    for number, name in enumerate(lines, start=1):
        if not name:
            raise ConfigError(f"each line must have a name; got an empty line ({path}:{number}).")
        if name in first:
            raise ConfigError(
                f"names must be unique; got {name!r} in lines {first[name]} and {number} ({path})."
            )
        first[name] = number
    return tuple(lines)


def class_names(names: str | Path | None, num_classes: int, *, source: str) -> tuple[str, ...]:
    """Return the class names from a file; without one, ``class_0``, ``class_1`` and so on.

    Args:
        names: text file with one name per line.
        num_classes: number of classes.
        source: file that has this number of classes, for error messages.

    Raises:
        ConfigError: if the file cannot be read, or has another number of names.

    Example:
        >>> class_names(None, 2, source="a.cfg")
        ('class_0', 'class_1')
    """
    if names is None:
        return tuple(f"class_{number}" for number in range(num_classes))
    found = read_names(names)
    if len(found) != num_classes:
        raise ConfigError(
            f"number of names must be {num_classes}, as in the network ({source}); "
            f"got {len(found)} ({names}). Use the names file that the network was trained with."
        )
    return found
