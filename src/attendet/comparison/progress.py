"""What a study tells while it goes on."""

from __future__ import annotations

from typing import Any, Protocol

from attendet.comparison.grid import Job

__all__ = ["Quiet", "StudyReporter"]


class StudyReporter(Protocol):
    """Is told of a study's progress."""

    def planned(self, runs: int, there: int, folder: str) -> None:
        """The grid is laid out: runs in all, and those that an earlier start has made."""

    def run_event(self, job: Job, event: dict[str, Any]) -> None:
        """A run goes on: ``event`` is "planned", "epoch", "measuring" or "lost"."""

    def run_ended(self, job: Job, record: dict[str, Any]) -> None:
        """A run is done, waits for the others (``stopped`` "budget"), or failed."""

    def note(self, text: str) -> None:
        """Something that a person may want to know."""


class Quiet:
    """Tells nobody."""

    def planned(self, runs: int, there: int, folder: str) -> None:
        """Do nothing."""

    def run_event(self, job: Job, event: dict[str, Any]) -> None:
        """Do nothing."""

    def run_ended(self, job: Job, record: dict[str, Any]) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
