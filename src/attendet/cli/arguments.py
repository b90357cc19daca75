"""What several commands do with the words on their command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

__all__ = ["given_settings", "size_hw"]


def size_hw(text: str) -> tuple[int, int]:
    """Return height and width in pixels from one number or two.

    Raises:
        argparse.ArgumentTypeError: if the text is neither.

    Example:
        >>> size_hw("416"), size_hw("320x416")
        ((416, 416), (320, 416))
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"must be like 416 or 320x416; got {text!r}")
    return int(sides[0]), int(sides[-1])


def given_settings(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    names: Iterable[str],
) -> list[str]:
    """Return which of some settings differ from their defaults.

    Args:
        args: the parsed flags.
        add_arguments: adds the command's flags to a parser, which then knows their defaults.
        names: of the settings, as they stand in ``args``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return [name for name in names if getattr(args, name) != parser.get_default(name)]
