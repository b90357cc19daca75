"""Command-line flags and argument types that several commands use."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from attendet.config import field_help, members_of, parse_value, settings_of

WEIGHTS_HELP = "weights file (.safetensors), hf://owner/name, or a name of: attendet weights list"
EXPORTED_HELP = "weights file, exported file, hf://owner/name, or a name of: attendet weights list"

CLASS_MAP: dict[str, Any] = {
    "metavar": "DATA=WEIGHTS,...",
    "help": "classes of the data that the weights name otherwise, such as auto=car,lorry=truck",
}
"""Options of the flag ``--class-map``."""

FLAGS = {"input_hw": "--size", "batches": "--batch"}
"""Flags that are named differently from their setting."""

METAVARS = {int: "N", int | None: "N", float: "X", float | None: "X", str | Path | None: "PATH"}


def flag(name: str) -> str:
    """Return the flag of a setting.

    Example:
        >>> flag("max_ap_loss"), flag("input_hw")
        ('--max-ap-loss', '--size')
    """
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def add_settings(
    parser: argparse._ActionsContainer,
    config: type,
    *,
    without: Collection[str] = (),
    suppress: bool = False,
) -> None:
    """Add a flag for each setting of a config; the text under its field is the help.

    Args:
        parser: parser or argument group.
        config: dataclass of the settings.
        without: settings that get no flag.
        suppress: omitted flags are absent from the parsed arguments, instead of their defaults.
    """
    texts = field_help(config)
    for name, setting in settings_of(config).items():
        if name in without:
            continue
        text = texts[name][0].lower() + texts[name][1:].removesuffix(".")
        default, annotation = setting.default, setting.annotation
        kind = next(one for one in members_of(annotation) if one is not type(None))
        options: dict[str, Any] = {"dest": name}
        options["default"] = argparse.SUPPRESS if suppress else default
        if annotation is bool:
            options["action"] = "store_true"
        elif name == "input_hw":
            options |= {"type": size_hw, "metavar": "PX|HxW"}
        elif name == "class_map":
            options["metavar"] = CLASS_MAP["metavar"]
        elif typing.get_origin(kind) is tuple:
            options |= {"type": typing.get_args(kind)[0], "nargs": "+", "metavar": "N"}
        else:
            choices = ",".join(typing.get_args(kind))
            metavar = f"{{{choices}}}" if choices else METAVARS.get(annotation, "NAME")
            parse = partial(parse_value, annotation=annotation, name=flag(name))
            options |= {"type": parse, "metavar": metavar}
        if default is None and suppress:
            text = f"{text} (default: none)"
        elif default is not None and default is not False:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text = f"{text} (default: {shown})"
        parser.add_argument(flag(name), help=text.replace("%", "%%"), **options)


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
        add_arguments: adds the flags of the command to a parser, for their defaults.
        names: of the settings, as in ``args``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return [name for name in names if getattr(args, name) != parser.get_default(name)]
