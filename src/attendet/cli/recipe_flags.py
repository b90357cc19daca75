"""Recipe settings as flags, for the commands that train."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from attendet.cli.arguments import add_settings, flag
from attendet.config import from_mapping, settings_of
from attendet.training.recipe import Recipe, load_recipe, recipe_names


def add_recipe_flags(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add ``--recipe``, and a flag for each setting of the recipe."""
    names = ", ".join(recipe_names())
    usual = "default; with --pretrained: fine-tune"
    text = f"{names} or a .yaml file (default: {usual})"
    parser.add_argument("--recipe", metavar="NAME|FILE", help=text)
    group = parser.add_argument_group("recipe (defaults are those of the default recipe)")
    add_settings(group, Recipe, without=without, suppress=True)


def recipe_overrides(args: argparse.Namespace, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the recipe settings that were passed as flags.

    Args:
        args: the parsed flags.
        without: settings without a recipe flag, as in `add_recipe_flags`.

    Raises:
        ConfigError: naming the flag, if a value is out of range or has no effect in the recipe.
    """
    names = [name for name in settings_of(Recipe) if name in args and name not in without]
    overrides = {name: getattr(args, name) for name in names}
    for name, value in overrides.items():
        from_mapping(Recipe, {name: value}, source=flag(name))
    if overrides:
        pretrained = args.pretrained is not None
        load_recipe(args.recipe, overrides, pretrained=pretrained).check_effective(overrides)
    return overrides
