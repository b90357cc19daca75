"""The settings of the recipe as flags, for every command that trains."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Collection
from typing import Any

from attendet.config import field_help, from_mapping, parse_value
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
    for field in dataclasses.fields(Recipe):
        if field.name in without:
            continue
        default = "none" if field.default is None else field.default
        text = texts[field.name].replace("%", "%%")
        group.add_argument(flag(field.name), metavar="V", help=f"{text} (default: {default})")


def recipe_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given as flags, each checked under the flag's name.

    Raises:
        ConfigError: if one is not of its type or out of range, or changes nothing in the recipe.
    """
    hints = typing.get_type_hints(Recipe)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(Recipe):
        if (text := getattr(args, field.name, None)) is not None:
            name = flag(field.name)
            given[field.name] = parse_value(text, hints[field.name], name=name)
            from_mapping(Recipe, {field.name: given[field.name]}, source=name)
    if given:
        load_recipe(args.recipe, given).check_effective(given)
    return given
