"""Settings that change during a run: learning rate, input size, mosaic, evaluation."""

from __future__ import annotations

import math
import random

from attendet.inference.preprocess import STRIDE
from attendet.training.recipe import Recipe


def lr_factor(progress: float, *, recipe: Recipe) -> float:
    """Return the learning rate as a fraction of its highest value.

    Args:
        progress: epochs done, with fractions: 1.5 is the middle of the second epoch.
        recipe: warm-up, schedule, final ratio and number of epochs.

    Example:
        >>> from attendet.training.recipe import load_recipe
        >>> changes = {"epochs": 10, "warmup_epochs": 1, "min_lr_ratio": 0.1}
        >>> recipe = load_recipe("default", changes)
        >>> [round(lr_factor(at, recipe=recipe), 3) for at in (0.5, 1, 5, 10)]
        [0.5, 1.0, 1.0, 0.1]
    """
    config, epochs = recipe.optimizer, recipe.epochs
    warmup = min(config.warmup_epochs, epochs / 3)
    if progress < warmup:
        return progress / warmup
    start = max(warmup, epochs / 2) if config.schedule == "flat-cosine" else warmup
    if progress <= start:
        return 1.0
    fraction = min(1.0, (progress - start) / max(epochs - start, 1e-9))
    end = config.min_lr_ratio
    return end + (1 - end) * (1 + math.cos(math.pi * fraction)) / 2


def mosaic_at(epoch: int, *, recipe: Recipe) -> bool:
    """Return whether mosaic and mixup are used in an epoch (counting from 0)."""
    return epoch < recipe.epochs - math.ceil(recipe.epochs * recipe.no_aug_fraction)


def _rounded(input_hw: tuple[int, int], fraction: float) -> tuple[int, int]:
    height, width = (max(2 * STRIDE, round(side * fraction / STRIDE) * STRIDE) for side in input_hw)
    return height, width


def input_hw_at(
    epoch: int, step: int, *, input_hw: tuple[int, int], recipe: Recipe, seed: int
) -> tuple[int, int]:
    """Return the input size of a step; it grows in the first epochs, and multi-scale varies it.

    Args:
        epoch: counting from 0.
        step: within the epoch, counting from 0.
        input_hw: full input size, pixels.
        recipe: ``start_size_fraction``, ``full_size_fraction`` and ``multi_scale``.
        seed: seed of the run; a step has the same size whether or not the run was resumed.

    Returns:
        Height and width in pixels, multiples of 32.

    Example:
        >>> recipe = Recipe(epochs=10, start_size_fraction=0.5, full_size_fraction=0.5)
        >>> [input_hw_at(e, 0, input_hw=(320, 416), recipe=recipe, seed=0) for e in (0, 3, 5)]
        [(160, 192), (256, 320), (320, 416)]
    """
    ramp = recipe.epochs * recipe.full_size_fraction
    fraction = 1.0
    if recipe.start_size_fraction < 1 and epoch < ramp:
        fraction = recipe.start_size_fraction + (1 - recipe.start_size_fraction) * epoch / ramp
    if recipe.multi_scale > 0:
        draw = random.Random(f"{seed}/{epoch}/{step}/size").uniform(-1, 1)
        fraction *= 1 + recipe.multi_scale * draw
    return input_hw if fraction == 1.0 else _rounded(input_hw, fraction)


def evaluates_at(epoch: int, *, recipe: Recipe) -> bool:
    """Return whether an epoch (counting from 0) ends with an evaluation."""
    last_tenth = epoch >= recipe.epochs - max(1, recipe.epochs // 10)
    return last_tenth or (epoch + 1) % recipe.evaluate_every == 0
