"""Runs on the devices of this machine: one worker process a device."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from attendet.comparison.grid import Job
from attendet.errors import ConfigError

__all__ = ["ATTEMPTS", "LocalRuns", "RunEvent", "device_names"]

ATTEMPTS = 3
"""Times that a run is tried whose process dies."""

FORKS = sys.platform.startswith("linux")
"""Elsewhere a process that was split off may not use the system's libraries: there a worker makes
one run and ends."""

RunEvent = tuple[Job, dict[str, Any]]
"""A run and what it tells; "ended" or "failed" is the last of each run."""


def device_names(accelerator: str, wanted: int | None) -> list[str]:
    """Return a name for each device that runs go to: ``cuda:0``, or ``cpu`` so many times.

    Args:
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        wanted: number of devices; all GPUs, or one CPU, if left out.

    Raises:
        ConfigError: if there are not that many.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError(f"devices must be at least 1; got {wanted} (--devices).")
    gpus = _gpu_names() if accelerator in ("auto", "cuda") else []
    if not gpus:
        if accelerator == "cuda":
            raise ConfigError("accelerator must be there; there is no GPU (--accelerator cuda).")
        return ["mps" if accelerator == "mps" else "cpu"] * (wanted or 1)
    if wanted is not None and wanted > len(gpus):
        raise ConfigError(f"devices must be at most {len(gpus)} here; got {wanted} (--devices).")
    return [f"cuda:{name}" for name in gpus[: wanted or len(gpus)]]


def _gpu_names() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls each GPU; asks without taking one."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed:
        return [name.strip() for name in listed.split(",")][:count]
    return [str(number) for number in range(count)]


class _WorkerProcess:
    """A worker on one device, started when first needed and again after it died."""

    def __init__(self, device: str, threads: int | None) -> None:
        self.environment = dict(os.environ)
        if device.startswith("cuda:"):
            self.environment["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
        if threads is not None:
            self.environment["OMP_NUM_THREADS"] = str(threads)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start the process where it does not run."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "attendet.comparison.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env=self.environment,
            )
        return self.process

    def make(self, job: Job) -> Iterator[dict[str, Any]]:
        """Give the events of one run; "died" where its process, or the worker's, ended."""
        process = self.start()
        try:
            stdin, stdout = _pipes(process)
            stdin.write(job.to_json() + "\n")
            stdin.flush()
            for line in stdout:
                event = json.loads(line)
                if event["event"] != "ready":
                    yield event
                if event["event"] in ("ended", "failed", "died"):
                    if not FORKS:
                        self.stop()
                    return
        except (OSError, json.JSONDecodeError):
            pass
        self.stop()
        yield {"event": "died", "why": "its worker is gone"}

    def stop(self) -> None:
        """End the process, and with it the run that it makes."""
        process, self.process = self.process, None
        if process is None:
            return
        stdin, stdout = _pipes(process)
        with contextlib.suppress(OSError):
            stdin.close()  # the worker takes it for the end of this process
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stdout.close()


def _pipes(process: subprocess.Popen[str]) -> tuple[TextIO, TextIO]:
    if process.stdin is None or process.stdout is None:
        raise OSError("the worker has no pipes")
    return process.stdin, process.stdout  # type: ignore[return-value]


class LocalRuns:
    """Makes runs on this machine, one at a time on each device.

    Args:
        devices: names as `device_names` gives them.
    """

    def __init__(self, devices: list[str]) -> None:
        cpus = devices.count("cpu")
        threads = max(1, (os.cpu_count() or 1) // cpus) if cpus > 1 else None
        self.slots = len(devices)
        self._closing = False
        self._workers = [_WorkerProcess(device, threads) for device in devices]

    def make(self, jobs: Iterable[Job]) -> Iterator[RunEvent]:
        """Give the events of runs as they come; a job is taken when a device is free for it.

        A run whose process dies is tried again, up to `ATTEMPTS` times in all.
        """
        coming = iter(jobs)
        told: queue.Queue[tuple[int, Job, dict[str, Any]]] = queue.Queue()
        idle = list(range(self.slots))
        busy = 0
        while True:
            while idle and (job := next(coming, None)) is not None:
                slot = idle.pop(0)
                threading.Thread(target=self._watch, args=(slot, job, told), daemon=True).start()
                busy += 1
            if not busy:
                return
            slot, job, event = told.get()
            if event["event"] in ("ended", "failed"):
                busy -= 1
                idle.append(slot)
            yield job, event

    def _watch(self, slot: int, job: Job, told: queue.Queue[Any]) -> None:
        """Pass on the events of one run, which end with how it did; in a thread of its own."""
        try:
            self._try_until_done(slot, job, told)
        except Exception as error:  # else the study would wait for ever
            told.put((slot, job, {"event": "failed", "error": f"{type(error).__name__}: {error}"}))

    def _try_until_done(self, slot: int, job: Job, told: queue.Queue[Any]) -> None:
        why = ""
        for attempt in range(1, ATTEMPTS + 1):
            for event in self._workers[slot].make(job):
                if event["event"] != "died":
                    told.put((slot, job, event))
                    if event["event"] in ("ended", "failed"):
                        return
                    continue
                why = event["why"]
            if self._closing:
                return
            told.put((slot, job, {"event": "lost", "why": why, "attempt": attempt}))
        told.put((slot, job, {"event": "failed", "error": f"its process died ({why})"}))

    def close(self) -> None:
        """End the workers, and the runs that they make."""
        self._closing = True
        for worker in self._workers:
            worker.stop()
