"""A process that makes runs, one after another, for the process that started it.

It reads a job a line from its standard input and writes an event a line to its standard output.
Each run is made by a process of its own, split off once the libraries are loaded: it starts at
once, its memory is its own, and where it dies the rest goes on. If the process that started the
worker is gone, worker and run end too.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import Any, TextIO

from attendet.comparison.grid import Job
from attendet.comparison.local import FORKS
from attendet.comparison.running import run_job
from attendet.errors import AttendetError

__all__ = ["main", "make_run"]

NEEDED_LATER = (
    "faster_coco_eval",
    "lightning_fabric",
    "torch.utils.tensorboard",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
"""What each run would load anew."""

LOOKS_EVERY = 0.05
"""Seconds between two looks at the run and at the process that started the worker."""


def make_run(job: Job, tell: Any) -> None:
    """Make a run, and tell how it ended: "ended" with its record, or "failed" with the reason."""
    try:
        record = run_job(job, tell)
    except AttendetError as error:
        tell({"event": "failed", "error": str(error)})
    except Exception as error:  # whatever it is, the other runs go on
        traceback.print_exc()
        tell({"event": "failed", "error": f"{type(error).__name__}: {error}"})
    else:
        tell({"event": "ended", "record": record})


class _Worker:
    def __init__(self, jobs: int, events: TextIO) -> None:
        self.jobs, self.events = jobs, events
        self.buffer = b""

    def tell(self, event: dict[str, Any]) -> None:
        self.events.write(json.dumps(event) + "\n")
        self.events.flush()

    def next_job(self) -> Job | None:
        while b"\n" not in self.buffer:
            more = os.read(self.jobs, 65536)
            if not more:
                return None
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return Job.from_json(line.decode())

    def split_off(self, job: Job) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(self.jobs)
                _log_to(job)
                make_run(job, self.tell)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if self.is_alone():
                os.kill(child, signal.SIGKILL)
                os._exit(1)
            time.sleep(LOOKS_EVERY)
        if os.WIFSIGNALED(status):
            self.tell({"event": "died", "why": f"signal {os.WTERMSIG(status)}"})
        elif status:  # it ended without telling how its run did
            self.tell({"event": "died", "why": f"exit status {os.WEXITSTATUS(status)}"})

    def is_alone(self) -> bool:
        """Return whether the process that started this one is gone: its end of the pipe closes."""
        readable, _, _ = select.select([self.jobs], [], [], 0)
        if not readable:
            return False
        more = os.read(self.jobs, 65536)
        self.buffer += more
        return not more


def _log_to(job: Job) -> None:
    """Send what libraries print to the run's own file."""
    job.path.mkdir(parents=True, exist_ok=True)
    with (job.path / "run.log").open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def main() -> None:
    """Make runs until there are no more."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    for module in NEEDED_LATER:
        importlib.import_module(module)
    worker = _Worker(0, events)
    worker.tell({"event": "ready"})
    while (job := worker.next_job()) is not None:
        if FORKS:
            worker.split_off(job)
        else:
            make_run(job, worker.tell)
            return


if __name__ == "__main__":
    main()
