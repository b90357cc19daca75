"""Command-line flags and argument types that several commands use."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from attendet.config import Setting, field_help, members_of, parse_value, settings_of
from attendet.errors import ConfigError

FLAGS = {"input_hw": "--size", "batches": "--batch"}
"""Setting to flag, if their names differ."""

METAVARS = {(int,): "N", (float,): "X", (str, Path): "PATH"}

DataFormat = Literal["voc", "yolo", "coco"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Data = Annotated[Path, "DATA"]
File = Annotated[Path, "FILE"]
Folder = Annotated[Path, "DIR"]
Iou = Annotated[float, "IOU"]
Pixels = Annotated[int, "PX"]
Score = Annotated[float, "SCORE"]


@dataclass(frozen=True)
class DataFlags:
    """Flags of commands that measure on a data set."""

    split: str = "test"
    """Split of DATA: train, val, test or all."""

    format: DataFormat | None = None
    """Format of DATA (default: recognized)."""

    class_map: str | None = None
    """Classes of DATA that have another name in WEIGHTS, such as auto=car,lorry=truck."""


@dataclass(frozen=True)
class ThresholdFlags:
    """Flags of commands that detect; the defaults are the thresholds of the detector."""

    confidence: Score | None = None
    """Lowest score of a detection, 0 to 1 (default: 0.25, or that of a file with NMS)."""

    nms_iou: Iou | None = None
    """IoU threshold of non-maximum suppression, 0 to 1 (default: 0.5, or that of a file with NMS
    inside)."""


@dataclass(frozen=True)
class RuntimeFlags:
    """Flags of commands that run weights or an exported file."""

    input_hw: tuple[int, int] | None = None
    """Input size in pixels, multiples of 32 (default: that of the weights)."""

    runtime: Annotated[str, "{auto,torch,onnx,openvino,ncnn}"] = "auto"
    """Runtime; auto: the fastest installed one that can run the file."""

    device: str | None = None
    """cpu, cuda, cuda:1 (default: a GPU if available)."""


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

    A setting without a default is a positional argument. An ``Annotated`` type holds the metavar
    and, optionally, the function that parses the value.

    Args:
        parser: parser or argument group.
        config: dataclass of the settings.
        without: settings that get no flag.
        suppress: whether omitted flags are absent from the parsed arguments, instead of set to
            their defaults.
    """
    texts, hints = field_help(config), typing.get_type_hints(config, include_extras=True)
    for name, setting in settings_of(config).items():
        if name in without:
            continue
        options = _options(setting, hints.get(name))
        options["help"] = _help(texts[name], setting.default, suppress).replace("%", "%%")
        if setting.default is dataclasses.MISSING:
            parser.add_argument(name, **options)
        else:
            options["default"] = argparse.SUPPRESS if suppress else setting.default
            parser.add_argument(flag(name), dest=name, **options)


def _options(setting: Setting, hint: Any) -> dict[str, Any]:
    """Return the keyword arguments of ``add_argument`` for a setting."""
    annotation, is_positional = setting.annotation, setting.default is dataclasses.MISSING
    if annotation is bool:
        return {"action": "store_true"}
    if setting.name == "input_hw":
        return {"type": size_hw, "metavar": "PX|HxW"}
    options: dict[str, Any] = {}
    kinds = tuple(kind for kind in members_of(annotation) if kind is not NoneType)
    if typing.get_origin(kinds[0]) is tuple:
        annotation, options["nargs"] = typing.get_args(kinds[0])[0], "+"
        kinds = (annotation,)
    if typing.get_origin(kinds[0]) is Literal:
        options["metavar"] = f"{{{','.join(typing.get_args(kinds[0]))}}}"
    elif setting.name == "class_map":
        options["metavar"] = "DATA=WEIGHTS,..."
    else:
        options["metavar"] = setting.name.upper() if is_positional else METAVARS.get(kinds, "NAME")
    parse = partial(parse_value, annotation=annotation, name=flag(setting.name))
    options["type"] = Path if kinds == (Path,) else parse
    for kind in members_of(hint):
        options |= dict(zip(("metavar", "type"), getattr(kind, "__metadata__", ()), strict=False))
    return options


def _help(text: str, default: Any, suppress: bool) -> str:
    """Return the help of a setting: the text under its field, and the default."""
    if text.split()[0].istitle():  # but not IoU or ONNX
        text = text[0].lower() + text[1:]
    text = text.removesuffix(".")
    if "(default: " in text or default is dataclasses.MISSING or default is False:
        return text
    if default is None:
        return f"{text} (default: none)" if suppress else text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})"


def size_hw(text: str) -> tuple[int, int]:
    """Return height and width in pixels from one number or two.

    Raises:
        argparse.ArgumentTypeError: if the text is not one or two whole numbers.

    Example:
        >>> size_hw("416"), size_hw("320x416")
        ((416, 416), (320, 416))
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"must be like 416 or 320x416; got {text!r}")
    return int(sides[0]), int(sides[-1])


def add_action(
    commands: Any, name: str, summary: str, action: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Add a subcommand and return its parser; it stores the function to run as ``action``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary}.", allow_abbrev=False
    )
    parser.set_defaults(action=action)
    return parser


def names(text: str) -> list[str]:
    """Return the names in a comma-separated list; an argparse type.

    Example:
        >>> names("json, csv")
        ['json', 'csv']
    """
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError(
            f"must be one or more names separated by commas; got {text!r}"
        )
    return found


def weights_output(output: Path | None, usual: Path) -> Path:
    """Return the weights file to write: ``output``, else ``usual``.

    Raises:
        ConfigError: if it is not a .safetensors file, or if ``usual`` exists already.
    """
    path = output or usual
    rule, where = "a .safetensors file", "--output"
    ConfigError.check(path.suffix == ".safetensors", "output", rule, str(path), where)
    if output is None and path.exists():
        raise ConfigError(f"output must be set, because the default {path} exists (--output).")
    return path


def command_line() -> str:
    """Return the command line of this process, quoted for a shell, without --debug."""
    return shlex.join(["attendet", *(word for word in sys.argv[1:] if word != "--debug")])


def settings_from(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """Return the settings of a config from the parsed flags."""
    return {name: getattr(args, name) for name in settings_of(config)}


def given_settings(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    names: Iterable[str],
) -> list[str]:
    """Return the names of the settings that differ from their defaults.

    Args:
        args: the parsed flags.
        add_arguments: adds the flags of the command, with their defaults, to a parser.
        names: names of the settings to check, as in ``args``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return [name for name in names if getattr(args, name) != parser.get_default(name)]
