"""The recipe: every setting of a training run, with its default, unit and help text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from attendet.config import from_mapping
from attendet.errors import ConfigError, did_you_mean

__all__ = ["Recipe", "load_recipe", "recipe_names"]


_SHARES = (
    "mosaic",
    "mixup",
    "no_aug_fraction",
    "translate",
    "flip_lr",
    "flip_ud",
    "rotate90",
    "saturation",
    "value",
    "min_lr_ratio",
    "full_size_fraction",
    "ignore_iou",
)
_NEEDS = {"momentum": ("optimizer", "sgd"), "ignore_iou": ("assignment", "classic")}
"""Settings that count only where another has a certain value."""

_NOT_NEGATIVE = (
    "effective_batch",
    "warmup_epochs",
    "weight_decay",
    "clip_norm",
    "box_weight",
    "objectness_weight",
    "class_weight",
    "freeze_backbone_epochs",
)


@dataclass(frozen=True)
class Recipe:
    """The settings of a run; the text under each field is its help on the command line."""

    epochs: int = 100
    """Passes over the training images."""

    size: int = 416
    """Long side of the network's input in pixels, a multiple of 32."""

    resize: Literal["auto", "rect", "letterbox", "stretch"] = "auto"
    """Network input: rect has the aspect of the images, square letterboxes them, stretch fills a
    square without keeping the aspect; auto takes rect where nine images in ten have about one
    aspect."""

    batch: int = 16
    """Images a step, over all devices together."""

    effective_batch: int = 0
    """Gradients are accumulated until this many images are seen; 0: one step a batch."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Rule of the step."""

    lr: float = 0.001
    """Highest learning rate."""

    min_lr_ratio: float = 0.02
    """Learning rate at the end, as a share of the highest."""

    schedule: Literal["cosine", "flat-cosine"] = "flat-cosine"
    """cosine: falls from the warm-up on; flat-cosine: stays flat for the first half."""

    warmup_epochs: float = 2.0
    """Epochs in which the rate rises from 0 (at most a third of the run)."""

    momentum: float = 0.937
    """Momentum of SGD."""

    weight_decay: float = 0.05
    """Weight decay of convolutions; norms and biases have none."""

    clip_norm: float = 10.0
    """Gradients are scaled down to this norm; 0: not clipped."""

    ema_decay: float = 0.9998
    """Highest decay a step of the moving average of the weights, which is what is kept; 0: none."""

    assignment: Literal["dynamic", "classic"] = "dynamic"
    """Which predictions answer for an object: dynamic-k by cost, or the best anchor alone."""

    box_weight: float = 5.0
    """Weight of the box term."""

    objectness_weight: float = 1.0
    """Weight of the objectness term."""

    class_weight: float = 1.0
    """Weight of the class term."""

    ignore_iou: float = 0.5
    """classic: overlap from which a prediction is not called background."""

    label_smoothing: float = 0.0
    """Share of the class target that is spread over the classes, 0 to 1."""

    scale_x_y: float = 2.0
    """Reach of a cell's center: the center lies up to (this - 1) / 2 cells outside the cell."""

    anchors: Literal["auto", "default", "data", "base"] = "auto"
    """auto: the data's own anchors where clearly better; base: those of the base weights."""

    width_mult: float = 1.0
    """Multiplier of all channels."""

    attention_init: Literal["auto", "paper", "identity", "residual"] = "auto"
    """paper: gates near 1/2 at first, as published; identity: attention changes nothing until it
    is trained; auto: identity for new blocks in base weights, else paper."""

    mosaic: float = 0.5
    """Share of images that are put together from four."""

    mixup: float = 0.0
    """Share of images that are blended with another."""

    no_aug_fraction: float = 0.15
    """Last share of the epochs without mosaic and mix-up."""

    scale: float = 0.5
    """Images are scaled by 1 - this to 1 + this."""

    translate: float = 0.1
    """Images are moved by up to this share of their size."""

    degrees: float = 0.0
    """Images are turned by up to this many degrees."""

    shear: float = 0.0
    """Images are sheared by up to this many degrees."""

    flip_lr: float = 0.5
    """Share of images mirrored left to right."""

    flip_ud: float = 0.0
    """Share of images mirrored top to bottom."""

    rotate90: float = 0.0
    """Share of images turned by a random multiple of 90 degrees."""

    hue: float = 0.015
    """Hue is moved by up to this share of the circle."""

    saturation: float = 0.5
    """Saturation is multiplied by 1 - this to 1 + this."""

    value: float = 0.3
    """Brightness is multiplied by 1 - this to 1 + this."""

    start_size_fraction: float = 0.5
    """The first epochs train at this share of the size, rising to the whole."""

    full_size_fraction: float = 0.75
    """Share of the epochs after which the size is whole."""

    multi_scale: float = 0.0
    """Each step's size differs by up to this share, in steps of 32 pixels."""

    freeze_backbone_epochs: int = 0
    """First epochs in which the backbone's weights and statistics stand still."""

    patience: int | None = None
    """Stop after this many epochs without a better AP on the validation split."""

    evaluate_every: int = 5
    """Epochs between evaluations on the validation split; the last tenth evaluates each epoch."""

    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """auto: bf16 where the device multiplies it in hardware, else 32."""

    def __post_init__(self) -> None:
        rules: list[tuple[str, bool, str]] = [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("lr", self.lr > 0, "above 0"),
            ("width_mult", self.width_mult > 0, "above 0"),
            ("scale_x_y", self.scale_x_y >= 1, "at least 1"),
            ("evaluate_every", self.evaluate_every >= 1, "at least 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "from 0 to below 1"),
            ("scale", 0 <= self.scale <= 0.95, "from 0 to 0.95"),
            ("hue", 0 <= self.hue <= 0.5, "from 0 to 0.5"),
            ("degrees", 0 <= self.degrees <= 180, "from 0 to 180"),
            ("shear", 0 <= self.shear <= 45, "from 0 to 45"),
            ("momentum", 0 <= self.momentum < 1, "from 0 to below 1"),
            ("patience", self.patience is None or self.patience >= 1, "at least 1, or none"),
            ("start_size_fraction", 0 < self.start_size_fraction <= 1, "above 0, at most 1"),
            ("multi_scale", 0 <= self.multi_scale < 1, "from 0 to below 1"),
        ]
        rules += [(name, 0 <= getattr(self, name) <= 1, "from 0 to 1") for name in _SHARES]
        rules += [(name, getattr(self, name) >= 0, "at least 0") for name in _NOT_NEGATIVE]
        for name, good, rule in rules:
            if not good:
                raise ConfigError(f"{name} must be {rule}; got {getattr(self, name)!r}.")
        if self.size < 64 or self.size % 32:
            nearest = max(64, round(self.size / 32) * 32)
            raise ConfigError(
                f"size must be a multiple of 32, at least 64; got {self.size}. Nearest: {nearest}."
            )

    def check_effective(self, given: Collection[str]) -> None:
        """Refuse settings that somebody gave and that change nothing beside the others.

        Args:
            given: names of the settings that were given.

        Raises:
            ConfigError: naming the first such setting and what it needs.
        """
        for name, (other, value) in _NEEDS.items():
            if name in given and getattr(self, other) != value:
                raise ConfigError(
                    f"{name} changes nothing with {other} {getattr(self, other)}. "
                    f"Leave it out, or set {other} to {value}."
                )
        if "effective_batch" in given and 0 < self.effective_batch < self.batch:
            raise ConfigError(
                f"effective_batch must be 0, or at least batch ({self.batch}); "
                f"got {self.effective_batch}."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a plain mapping."""
        return asdict(self)


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes in the package."""
    folder = resources.files("attendet.training") / "recipes"
    return tuple(
        sorted(
            entry.name.removesuffix(".yaml")
            for entry in folder.iterdir()
            if entry.name.endswith(".yaml")
        )
    )


def _read(name_or_path: str) -> tuple[str, str]:
    if name_or_path.endswith((".yaml", ".yml")):
        try:
            return Path(name_or_path).read_text(encoding="utf-8"), name_or_path
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"recipe cannot be read ({name_or_path}): {error}") from None
    if name_or_path not in recipe_names():
        raise ConfigError(
            f"recipe must be a name or a .yaml file; got {name_or_path!r}. "
            f"{did_you_mean(name_or_path, recipe_names())}"
        )
    file = resources.files("attendet.training") / "recipes" / f"{name_or_path}.yaml"
    return file.read_text(encoding="utf-8"), f"recipe {name_or_path}"


def load_recipe(
    name_or_path: str = "default", overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Return a recipe of the package or of a YAML file, with some settings changed.

    Args:
        name_or_path: a name of `recipe_names`, or a path that ends in ``.yaml``.
        overrides: setting to value; these win.

    Raises:
        ConfigError: naming an unknown setting, with the nearest known one, or a wrong value.

    Example:
        >>> load_recipe("default", {"epochs": 3}).epochs
        3
        >>> load_recipe("default", {"epoch": 3})
        Traceback (most recent call last):
        ...
        attendet.errors.ConfigError: unknown setting 'epoch' (overrides). Did you mean 'epochs'?
    """
    text, source = _read(name_or_path)
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe is no YAML ({source}): {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe must be a map of settings; got {values!r} ({source}).")
    recipe = from_mapping(Recipe, values, source=source)
    if not overrides:
        return recipe
    checked = from_mapping(Recipe, dict(overrides), source="overrides")
    known = {field.name for field in fields(Recipe)} & set(overrides)
    return replace(recipe, **{name: getattr(checked, name) for name in known})
