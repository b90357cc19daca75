"""Progress of a study, for displays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attendet.comparison.variants import Job


class StudyCallback:
    """Callback for the progress of a study; override the methods that you need."""

    def before_runs(self, runs: int, done: int, folder: str) -> None:
        """Called before the runs of a data set, with their number and how many are finished."""

    def run_event(self, job: Job, event: dict[str, Any]) -> None:
        """Called with each event of a run: planned, epoch, measuring, lost or runs_chosen."""

    def run_ended(self, job: Job, record: dict[str, Any]) -> None:
        """Called when a run is complete, paused (``stopped`` is "budget") or failed."""

    def note(self, text: str) -> None:
        """Called with a message for the user."""
