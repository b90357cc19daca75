"""Flags of ``attendet predict`` that are settings of other flags, and lists of names."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from attendet.cli.arguments import given_settings
from attendet.errors import ConfigError

NEEDS = {"overlap": "tile", "port": "show"}
"""Settings that are settings of another flag."""

VIDEO_KINDS = ("annotated", "video")
"""Ways to save that write videos."""


def names(text: str) -> list[str]:
    """Return the names in a list with commas; an argparse type.

    Example:
        >>> names("json, csv")
        ['json', 'csv']
    """
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"must be one name or more, with commas; got {text!r}")
    return found


def check_needs(
    args: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Refuse a setting that would change nothing, as its user means it to.

    Args:
        args: the flags.
        add_arguments: adds them to a parser, which then knows their defaults.

    Raises:
        ConfigError: if one is given without that which it is a setting of.
    """
    for name in given_settings(args, add_arguments, NEEDS):
        if not getattr(args, NEEDS[name]):
            raise ConfigError(f"--{name} needs --{NEEDS[name]}; alone it changes nothing.")
    if args.max_side is not None and not (args.show or set(VIDEO_KINDS) & set(args.save)):
        raise ConfigError(
            f"--max-side needs --save {' or '.join(VIDEO_KINDS)}, or --show; alone it changes "
            "nothing."
        )
    if args.batch is not None and args.tile is not None:
        raise ConfigError(
            "--batch must be omitted with --tile: the tiles of an image are one batch."
        )
