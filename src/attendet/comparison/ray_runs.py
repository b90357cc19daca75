"""Runs on a Ray cluster: one Ray task per run, retried if its worker is lost.

A machine that can access the study's folder trains there, and a lost run resumes from its last
resume state. Any other machine trains in a temporary folder and sends the files back, and a lost
run starts again. The data set must be at the same path on all machines; a different data set at
that path is refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from attendet.comparison.processes import MAX_ATTEMPTS, RunEvent
from attendet.comparison.run_job import KEPT_ON_RESTART, run_and_report
from attendet.comparison.variants import Job
from attendet.errors import ConfigError, first_line
from attendet.files import read_json, write_atomically
from attendet.report.study import STUDY
from attendet.system import require

POLL_SECONDS = 0.5
"""Seconds between two polls of the tasks."""

CONNECT_TIMEOUT = 10.0
"""Timeout of the connection to a cluster, in seconds."""


def execute_on_worker(job: Job, report: Any) -> dict[str, Any]:
    """Execute a run on this machine and return its last event.

    The event has the files of the run if this machine cannot access the study's folder.

    Args:
        job: the run; its study's folder is used if it contains this very study.
        report: receives the events.
    """
    there = read_json(Path(job.study) / STUDY)
    if there is not None and there.get("setup") == job.setup:
        return run_and_report(job, report)
    with tempfile.TemporaryDirectory(prefix="attendet-study-") as folder:
        last = run_and_report(dataclasses.replace(job, study=folder), report)
        files = {
            path.name: path.read_bytes()
            for path in (Path(folder) / job.folder).iterdir()
            if path.is_file() and path.name not in KEPT_ON_RESTART
        }
    return {**last, "files": files}


def save_remote_files(job: Job, event: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a run's last event into the study; return the event without them."""
    for name, content in event.get("files", {}).items():
        write_atomically(job.path / Path(name).name, content)
    return {name: value for name, value in event.items() if name != "files"}


def _check_reached(address: str) -> None:
    """Raise quickly if nothing listens at the address; Ray itself retries for most of a minute."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise ValueError("not in the form HOST:PORT")
    socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()


class RayExecutor:
    """Executor of runs on a Ray cluster.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``local`` to start Ray on this machine.
        accelerator: accelerator of the runs; with ``auto`` or ``cuda``, each run takes one GPU of
            a cluster that has GPUs.
        devices: number of concurrent runs; default: as many as the cluster can run.

    Raises:
        MissingExtraError: if Ray is not installed.
        ConfigError: if ``devices`` is below 1, no cluster is at the address, or ``accelerator`` is
            ``cuda`` and the cluster has no GPU.
    """

    def __init__(self, address: str, accelerator: str, devices: int | None) -> None:
        if devices is not None and devices < 1:
            raise ConfigError(f"devices must be at least 1; got {devices} (--devices).")
        self.ray = require("ray", extra="ray", purpose="compare --ray")
        self._started = not self.ray.is_initialized()
        if self._started:
            self._connect(address)
        total = self.ray.cluster_resources()
        cpus, gpus = int(total.get("CPU", 1)), int(total.get("GPU", 0))
        on_gpu = gpus > 0 and accelerator in ("auto", "cuda")
        if accelerator == "cuda" and not gpus:
            raise ConfigError(
                "accelerator must be available; got 'cuda', but the cluster has no GPU "
                "(--accelerator)."
            )
        self.slots = min(devices or cpus, gpus if on_gpu else cpus)
        needs = {"num_cpus": max(1, cpus // self.slots), "num_gpus": 1 if on_gpu else 0}
        self._task = self.ray.remote(
            # One process per run: its peak memory is measured, and all of it is freed at the end.
            max_retries=MAX_ATTEMPTS - 1,
            max_calls=1,
            **needs,
        )(_ray_task)
        self._events = require("ray.util.queue", extra="ray", purpose="compare --ray").Queue(
            actor_options={"num_cpus": 0}
        )
        self._threads = needs["num_cpus"]

    def _connect(self, address: str) -> None:
        options = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address == "local":
                self.ray.init(include_dashboard=False, **options)
            else:
                if address != "auto" and "://" not in address:
                    _check_reached(address)
                self.ray.init(address=address, **options)
        except (OSError, ValueError, RuntimeError, self.ray.exceptions.RayError) as error:
            raise ConfigError(
                f"ray must be the address of a running cluster; got {address!r} "
                f"({first_line(error)}). "
                "Start one with: ray start --head, or give --ray local."
            ) from None

    def run(self, jobs: Iterable[Job], _: object = None) -> Iterator[RunEvent]:
        """Yield the events of runs as they arrive; at most `slots` runs are active.

        Each run reads the data set itself, because it may be on another machine.
        """
        coming = iter(jobs)
        running: dict[Any, Job] = {}
        starts: Counter[str] = Counter()
        while True:
            for job in itertools.islice(coming, self.slots - len(running)):
                running[self._task.remote(job, self._events, self._threads)] = job
            if not running:
                return
            done, _ = self.ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            by_key = {job.key: job for job in running.values()}
            yield from self._progress(by_key, starts)
            for handle in done:
                job = running.pop(handle)
                yield job, self._outcome(job, handle)

    def _progress(self, by_key: dict[str, Job], starts: Counter[str]) -> Iterator[RunEvent]:
        for key, event in self._events.get_nowait_batch(self._events.qsize()):
            if key not in by_key:
                continue
            if event["event"] != "taken":
                yield by_key[key], event
                continue
            starts[key] += 1
            if starts[key] > 1:
                why = "its worker was lost"
                yield by_key[key], {"event": "lost", "why": why, "attempt": starts[key] - 1}

    def _outcome(self, job: Job, handle: Any) -> dict[str, Any]:
        try:
            return save_remote_files(job, self.ray.get(handle))
        except self.ray.exceptions.RayError as error:
            return {"event": "failed", "error": f"its worker was lost ({first_line(error)})"}

    def close(self) -> None:
        """Disconnect, and stop a local cluster; keep a connection that the caller had before."""
        if self._started:
            self.ray.shutdown()
        else:
            with suppress(self.ray.exceptions.RayError):
                self._events.shutdown(force=True)


def _ray_task(job: Job, events: Any, threads: int) -> dict[str, Any]:
    """Execute a run on a worker; the function of the Ray task."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)

    def report(event: dict[str, Any]) -> None:
        events.put((job.key, event))

    report({"event": "taken", "pid": os.getpid(), "at": time.time()})
    return execute_on_worker(job, report)
