"""The settings of the recipe as flags, for every command that trains."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Collection
from typing import Any

from attendet.config import field_help, from_mapping, parse_value, settings_of
from attendet.training.recipe import Recipe, load_recipe

__all__ = ["add_recipe_flags", "flag", "recipe_overrides"]


def flag(name: str) -> str:
    """Return the flag of a setting.

    Example:
        >>> flag("weight_decay")
        '--weight-decay'
    """
    return "--" + name.replace("_", "-")


def add_recipe_flags(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add a flag for each setting of the recipe; the text under its field is the help."""
    group = parser.add_argument_group("recipe (defaults are those of the default recipe)")
    texts = field_help(Recipe)
    defaults = Recipe().as_dict()
    for name, setting in settings_of(Recipe).items():
        if name in without:
            continue
        default = "none" if defaults[name] is None else defaults[name]
        choices = typing.get_args(setting.annotation)
        is_choice = typing.get_origin(setting.annotation) is typing.Literal
        metavar = (
            f"{{{','.join(choices)}}}" if is_choice else _METAVARS.get(setting.annotation, "N")
        )
        text = texts[name].replace("%", "%%")
        group.add_argument(flag(name), metavar=metavar, help=f"{text} (default: {default})")


_METAVARS = {float: "X"}


def recipe_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were passed as flags, each checked under the flag's name.

    Raises:
        ConfigError: if one is not of its type, out of range, or has no effect in the recipe.
    """
    overrides: dict[str, Any] = {}
    for name, setting in settings_of(Recipe).items():
        if (text := getattr(args, name, None)) is not None:
            overrides[name] = parse_value(text, setting.annotation, name=flag(name))
            from_mapping(Recipe, {name: overrides[name]}, source=flag(name))
    if overrides:
        load_recipe(args.recipe, overrides).check_effective(overrides)
    return overrides
