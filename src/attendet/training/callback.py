"""Progress of a training run, for displays and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attendet.training.plan import Plan


class TrainingCallback:
    """Base class of callbacks for the progress of a run; override the methods that you need."""

    def images_decoded(self, done: int, total: int) -> None:
        """Called while training images are decoded into the cache, with images done and total."""

    def before_train(self, plan: Plan, folder: str) -> None:
        """Called once, before the first epoch of this call."""

    def after_step(self, epoch: int, step: int, steps: int, losses: dict[str, float]) -> None:
        """Called after each batch; epoch and step count from 0."""

    def after_epoch(self, record: dict[str, Any]) -> None:
        """Called after each epoch with its record, as in results.jsonl."""

    def images_evaluated(self, done: int, total: int) -> None:
        """Called while validation images are evaluated, with images done and total."""
