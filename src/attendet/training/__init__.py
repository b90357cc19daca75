"""Training: recipe, one visible loop, checkpoint and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attendet.extras import require
from attendet.training.recipe import Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from attendet.training.events import Reporter
    from attendet.training.run import TrainingResult, train

__all__ = ["Recipe", "Reporter", "TrainingResult", "load_recipe", "recipe_names", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Reporter", "TrainingResult", "train"):
        for module in ("torch", "lightning_fabric", "faster_coco_eval", "tensorboard"):
            require(module, extra="train", purpose="training")
        if name == "Reporter":
            from attendet.training.events import Reporter

            return Reporter
        from attendet.training import run

        return getattr(run, name)
    raise AttributeError(f"module 'attendet.training' has no attribute {name!r}")
