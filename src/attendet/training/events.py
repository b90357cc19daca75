"""What a run tells while it goes on."""

from __future__ import annotations

from typing import Any, Protocol

from attendet.training.plan import Plan

__all__ = ["Reporter", "Silent"]


class Reporter(Protocol):
    """Is told of a run's progress; the command line draws it, a notebook may plot it."""

    def decoded(self, done: int, total: int) -> None:
        """Images are being decoded into the cache."""

    def planned(self, plan: Plan, folder: str) -> None:
        """The run is about to start."""

    def stepped(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """A step is done; terms are the loss terms of the step."""

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """An epoch is done; the record is that of results.jsonl."""

    def evaluated(self, done: int, total: int) -> None:
        """Images of the validation split are being evaluated."""


class Silent:
    """Tells nobody."""

    def decoded(self, done: int, total: int) -> None:
        """Do nothing."""

    def planned(self, plan: Plan, folder: str) -> None:
        """Do nothing."""

    def stepped(self, epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """Do nothing."""

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def evaluated(self, done: int, total: int) -> None:
        """Do nothing."""
