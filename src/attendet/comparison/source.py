"""What all runs of a study have in common, and whether a folder holds a study of the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attendet import __version__
from attendet.data import DataSet, load_dataset
from attendet.errors import ConfigError
from attendet.models import read_metadata
from attendet.training.recipe import Recipe

__all__ = ["Source", "check_same"]

SETUP_WORDS = {
    "data": "the data",
    "pretrained": "--pretrained",
    "recipe": "the recipe",
    "version": "the version of attendet",
    "split": "the split that is measured",
}


@dataclass(frozen=True)
class Source:
    """What all runs of a study have in common."""

    data: Path
    """Path of the data set."""

    format: str | None
    """Of the data set, where it is not to be recognized."""

    dataset: DataSet
    """The data set."""

    recipe: Recipe
    """All settings."""

    pretrained: Path | None
    """Weights file that all runs start from."""

    setup: dict[str, Any]
    """What decides the runs, as plain values: part of every run's content key."""

    split: str
    """Split that runs are measured on."""

    @classmethod
    def look(
        cls,
        data: str | Path,
        format: Any,
        recipe: Recipe,
        pretrained: str | Path | None,
    ) -> Source:
        """Return what the arguments of a study give.

        Raises:
            DataError: if the data cannot be read.
            ConfigError: if there is nothing to measure on, or base weights have no named sites.
            WeightsError: if the base weights cannot be read.
        """
        dataset = load_dataset(data, format=format)
        split = "test" if "test" in dataset.splits else "val"
        if split not in dataset.splits:
            raise ConfigError(
                f"data must have a test or a val split to measure on ({data}). "
                "Give it more images, so that a split can be cut."
            )
        if all(sample.difficult.all() for sample in dataset.split(split)):
            raise ConfigError(
                f"data must have a box that counts in its {split} split, which is measured; it has "
                f"none ({data}). See: attendet data check {data}"
            )
        digest = None
        if pretrained is not None:
            if read_metadata(pretrained).graph:
                raise ConfigError(
                    f"pretrained must be a network with named sites; got {str(pretrained)!r} "
                    "(--pretrained), which has layers of its own."
                )
            content = Path(pretrained).read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        settings = {k: v for k, v in recipe.as_dict().items() if k != "attention_init"}
        setup = {
            "version": __version__,
            "data": {name: dataset.fingerprint(name) for name in dataset.splits},
            "recipe": settings,
            "pretrained": digest,
            "split": split,
        }
        base = None if pretrained is None else Path(pretrained).resolve()
        return cls(Path(data).resolve(), format, dataset, recipe, base, setup, split)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise where a folder holds a study of other data or under another recipe."""
    for name, words in SETUP_WORDS.items():
        if before.get(name) == now[name]:
            continue
        what = words
        if name == "recipe":
            old = before.get(name) or {}
            changed = [k for k, v in now[name].items() if old.get(k) != v]
            what = f"--{changed[0].replace('_', '-')}" if changed else words
        raise ConfigError(
            f"output must be a new folder or one of the same study; {what} differs there "
            f"({folder}). Choose another --output."
        )
