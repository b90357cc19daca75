"""Result of an importer, and files of class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attendet.errors import ConfigError
from attendet.models.detector import DetectionNetwork
from attendet.models.metadata import WeightsMetadata

MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Imported:
    """A network that came from other files."""

    network: DetectionNetwork
    """In eval mode, on the CPU."""

    metadata: WeightsMetadata
    """Its description."""

    notes: tuple[str, ...] = ()
    """Notes for the user."""


def read_names(path: str | Path) -> tuple[str, ...]:
    """Return the class names in a text file, one a line; empty lines at the end do not count.

    Raises:
        ConfigError: if the file is missing, no text, holds a name twice or none.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            lines = [line.strip() for line in stream.read(MOST_BYTES).splitlines()]
    except OSError as error:
        raise ConfigError(f"names cannot be read: {error.strerror or error} ({path}).") from None
    except UnicodeDecodeError:
        raise ConfigError(f"names must be UTF-8 text, a class a line ({path}).") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ConfigError(f"names must be at least one, a class a line; got none ({path}).")
    first: dict[str, int] = {}
    for number, name in enumerate(lines, start=1):
        if not name:
            raise ConfigError(f"each line must hold a name; got an empty one ({path}:{number}).")
        if name in first:
            raise ConfigError(
                f"names must differ; got {name!r} in lines {first[name]} and {number} ({path})."
            )
        first[name] = number
    return tuple(lines)


def class_names(names: str | Path | None, num_classes: int, *, source: str) -> tuple[str, ...]:
    """Return the names of the classes: those of the file, or ``class_0`` and so on without one.

    Args:
        names: text file, one name a line.
        num_classes: number of classes.
        source: what says so, for errors.

    Raises:
        ConfigError: if the file cannot be read, or holds another number of names.

    Example:
        >>> class_names(None, 2, source="a.cfg")
        ('class_0', 'class_1')
    """
    if names is None:
        return tuple(f"class_{number}" for number in range(num_classes))
    found = read_names(names)
    if len(found) != num_classes:
        raise ConfigError(
            f"names must be as many as the network's classes, {num_classes} ({source}); "
            f"got {len(found)} ({names}). Give the names file that the network was trained with."
        )
    return found
