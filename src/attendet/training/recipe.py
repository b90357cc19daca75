"""The recipe: every setting of a training run, with its default and help."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from attendet.config import from_mapping, replace_settings, to_mapping
from attendet.data.augment_plan import AugmentConfig
from attendet.errors import ConfigError, did_you_mean
from attendet.losses.loss_config import LossConfig
from attendet.models.metadata import SIZES

RECIPES = Path(__file__).parent / "recipes"
"""Folder of the recipes in the package."""

_REQUIRED_SETTINGS = {
    "momentum": ("optimizer", "sgd"),
    "muon_lr": ("optimizer", "muon"),
    "ignore_iou": ("assignment", "classic"),
}
"""Settings that have an effect only with a certain value of another setting."""

_LATER_SETTINGS = {"levels": 2, "cuda_graphs": False, "batch_norm": "train"}
"""Settings added after the first published runs, with the value that keeps training unchanged."""


def _check(config: Any, rules: Mapping[str, tuple[bool, str]]) -> None:
    for name, (good, rule) in rules.items():
        ConfigError.check(good, name, rule, getattr(config, name))


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer, learning rate schedule and moving average of the weights."""

    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    """Optimizer; muon: Muon for convolution weights, AdamW for the other parameters."""

    lr: float = 0.001
    """Highest learning rate of AdamW and SGD."""

    muon_lr: float = 0.005
    """Highest learning rate of Muon."""

    min_lr_ratio: float = 0.02
    """Learning rate at the end, as a fraction of the highest."""

    schedule: Literal["cosine", "flat-cosine"] = "flat-cosine"
    """cosine: decays from the end of the warm-up; flat-cosine: is constant for the first half."""

    warmup_epochs: float = 2.0
    """Epochs in which the learning rate rises from 0 (at most a third of the run)."""

    momentum: float = 0.937
    """Momentum of SGD."""

    weight_decay: float = 0.05
    """Weight decay of convolution weights; norms and biases have none."""

    clip_norm: float = 10.0
    """Gradients are scaled down to this norm; 0: no clipping."""

    ema_decay: float = 0.9998
    """Highest decay per step of the moving average of the weights, which is saved; 0: none."""

    def __post_init__(self) -> None:
        _check(
            self,
            {
                "lr": (self.lr > 0, "above 0"),
                "muon_lr": (self.muon_lr > 0, "above 0"),
                "min_lr_ratio": (0 <= self.min_lr_ratio <= 1, "from 0 to 1"),
                "warmup_epochs": (self.warmup_epochs >= 0, "at least 0"),
                "momentum": (0 <= self.momentum < 1, "from 0 to below 1"),
                "weight_decay": (self.weight_decay >= 0, "at least 0"),
                "clip_norm": (self.clip_norm >= 0, "at least 0"),
                "ema_decay": (0 <= self.ema_decay < 1, "from 0 to below 1"),
            },
        )


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run; the text under a field is its help on the command line."""

    epochs: int = 100
    """Passes over the training images."""

    min_steps: int = 0
    """With few images, epochs are added up to this many steps; 0 if only --epochs is set."""

    size: int = 416
    """Long side of the network input in pixels, a multiple of 32."""

    resize: Literal["auto", "rect", "letterbox", "stretch"] = "auto"
    """rect: input with the aspect ratio of the images; letterbox: square input, padded; stretch:
    square input, aspect ratio not kept; auto: rect if 9 of 10 images have about the same aspect
    ratio, else letterbox."""

    batch: int = 16
    """Images per step, over all devices together."""

    effective_batch: int = 0
    """Gradients are accumulated over this many images; 0: one optimizer step per batch."""

    scale_x_y: float = 2.0
    """Range of box centers: up to (this - 1) / 2 cells outside their grid cell."""

    anchors: Literal["auto", "default", "data", "base"] = "auto"
    """auto: computed from the data if clearly better than the defaults; base: those of the
    pretrained weights."""

    class_map: str | None = None
    """Classes with another name in the pretrained weights, as DATA=WEIGHTS, such as
    auto=car,lorry=truck; their output weights are copied."""

    model: Literal["yolov4-tiny-n", "yolov4-tiny-s", "yolov4-tiny"] = "yolov4-tiny"
    """Network to train: a quarter, half or all of the channels."""

    width_mult: float | None = None
    """Multiplier of all channel counts; replaces that of --model."""

    levels: int = 2
    """Prediction levels: 2 (strides 32 and 16), or 3 (also stride 8, for small objects)."""

    attention_init: Literal["auto", "paper", "identity"] = "auto"
    """paper: as published; identity: attention changes nothing until it is trained; auto: identity
    for new blocks in pretrained weights, else paper."""

    no_aug_fraction: float = 0.15
    """Fraction of the epochs, at the end, without mosaic and mixup."""

    start_size_fraction: float = 0.5
    """Input size in the first epoch, as a fraction of size; it grows to the full size."""

    full_size_fraction: float = 0.75
    """Fraction of the epochs after which the input has the full size."""

    multi_scale: float = 0.0
    """The input size of each step varies by up to this fraction, in steps of 32 pixels."""

    freeze_backbone_epochs: int = 0
    """First epochs in which the weights and statistics of the backbone are frozen."""

    batch_norm: Literal["train", "frozen"] = "train"
    """train: uses the statistics of each batch; frozen: uses those of the pretrained weights, which
    is faster, mostly for depthwise networks on a CPU."""

    patience: int | None = None
    """Stop after this many epochs without a better AP on the validation split."""

    evaluate_every: int = 5
    """Epochs between evaluations on the validation split; the last tenth evaluates each epoch."""

    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """auto: bf16 if the device supports it in hardware, else 16 on CUDA, else 32."""

    cuda_graphs: bool = False
    """Record the training steps on one GPU as CUDA graphs, and replay them."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _check(
            self,
            {
                "epochs": (self.epochs >= 1, "at least 1"),
                "min_steps": (self.min_steps >= 0, "at least 0"),
                "batch": (self.batch >= 1, "at least 1"),
                "effective_batch": (self.effective_batch >= 0, "at least 0"),
                "scale_x_y": (self.scale_x_y >= 1, "at least 1"),
                "width_mult": (self.width_mult is None or self.width_mult > 0, "above 0"),
                "levels": (self.levels in (2, 3), "2 or 3"),
                "no_aug_fraction": (0 <= self.no_aug_fraction <= 1, "from 0 to 1"),
                "start_size_fraction": (0 < self.start_size_fraction <= 1, "above 0, at most 1"),
                "full_size_fraction": (0 <= self.full_size_fraction <= 1, "from 0 to 1"),
                "multi_scale": (0 <= self.multi_scale < 1, "from 0 to below 1"),
                "freeze_backbone_epochs": (self.freeze_backbone_epochs >= 0, "at least 0"),
                "patience": (self.patience is None or self.patience >= 1, "at least 1, or none"),
                "evaluate_every": (self.evaluate_every >= 1, "at least 1"),
            },
        )
        if self.size < 64 or self.size % 32:
            nearest = max(64, round(self.size / 32) * 32)
            raise ConfigError.must(
                "size", "a multiple of 32, at least 64", self.size, advice=f"Nearest: {nearest}."
            )

    def check_effective(self, given: Collection[str]) -> None:
        """Raise an error if a setting that the user set has no effect with the others.

        Args:
            given: names of the settings that the user set.

        Raises:
            ConfigError: names the first such setting and its requirement.
        """
        values = self.as_dict()
        for name, (other, value) in _REQUIRED_SETTINGS.items():
            if name in given and values[other] != value:
                raise ConfigError(
                    f"{name} has no effect with {other} {values[other]}. "
                    f"Remove it, or set {other} to {value}."
                )
        if "effective_batch" in given and 0 < self.effective_batch < self.batch:
            raise ConfigError.must(
                "effective_batch", f"0, or at least batch ({self.batch})", self.effective_batch
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a flat mapping."""
        return to_mapping(self)

    def content(self) -> dict[str, Any]:
        """Return the settings that determine the weights, for content keys.

        Settings that were added later are omitted if their value changes nothing, so that the keys
        of earlier runs stay valid.
        """
        values = self.as_dict()
        if self.optimizer.optimizer != "muon":
            del values["muon_lr"]
        return {
            k: v for k, v in values.items() if k not in _LATER_SETTINGS or v != _LATER_SETTINGS[k]
        }

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some settings changed, by their flat names."""
        return replace_settings(self, **changes)

    @property
    def resolved_width_mult(self) -> float:
        """Multiplier of all channel counts: ``width_mult``, else that of ``model``."""
        return SIZES[self.model] if self.width_mult is None else self.width_mult

    def for_images(self, count: int) -> Recipe:
        """Return the recipe with enough epochs for ``min_steps``.

        Args:
            count: number of training images.

        Example:
            >>> recipe = Recipe(epochs=30, batch=8, min_steps=400)
            >>> recipe.for_images(20).epochs, recipe.for_images(200).epochs
            (134, 30)
        """
        steps = math.ceil(max(1, count) / self.batch)
        return self.replace(epochs=max(self.epochs, math.ceil(self.min_steps / steps)))


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes in the package."""
    return tuple(sorted(file.stem for file in RECIPES.glob("*.yaml")))


def _read(name_or_path: str) -> Recipe:
    path, source = Path(name_or_path), name_or_path
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in recipe_names():
            rule, advice = "a name or a .yaml file", did_you_mean(name_or_path, recipe_names())
            raise ConfigError.must("recipe", rule, name_or_path, advice=advice)
        path, source = RECIPES / f"{name_or_path}.yaml", f"recipe {name_or_path}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe cannot be read ({source}): {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe is not YAML ({source}): {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe must be a mapping of settings; got {values!r} ({source}).")
    return from_mapping(Recipe, values, source=source)


def load_recipe(
    recipe: str | Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    pretrained: bool = False,
) -> Recipe:
    """Return a recipe of the package or of a YAML file, with some settings changed.

    Args:
        recipe: a name of `recipe_names`, a path that ends in ``.yaml``, or a `Recipe`; default:
            ``fine-tune`` with pretrained weights, else ``default``.
        overrides: setting to value; they replace those of the recipe. If they contain ``epochs``
            but not ``min_steps``, ``min_steps`` becomes 0.
        pretrained: whether the run starts from pretrained weights.

    Raises:
        ConfigError: if a setting is unknown (it names the nearest known one) or a value is wrong.

    Example:
        >>> load_recipe("default", {"epochs": 3}).epochs
        3
        >>> load_recipe("default", {"epoch": 3})
        Traceback (most recent call last):
        ...
        attendet.errors.ConfigError: unknown setting 'epoch' (overrides). Did you mean 'epochs'?
    """
    recipe = recipe or ("fine-tune" if pretrained else "default")
    settings = recipe if isinstance(recipe, Recipe) else _read(str(recipe))
    if not overrides:
        return settings
    overrides = {"min_steps": 0, **overrides} if "epochs" in overrides else overrides
    checked = from_mapping(Recipe, dict(overrides), source="overrides").as_dict()
    return settings.replace(**{name: checked[name] for name in overrides if name in checked})
