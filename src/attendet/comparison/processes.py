"""Runs on the devices of this machine: one process per run, one or more runs per device.

Processes are started with `multiprocessing`: on Linux they are forked from a server that has
imported the libraries already, so that a run starts at once; elsewhere they are spawned. If a
process dies, only its own run stops, and that run is retried from its last resume state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

from attendet.comparison.run_job import run_and_report
from attendet.comparison.variants import Job
from attendet.errors import ConfigError
from attendet.system import available_cores, process_start_method
from attendet.training.plan import LoadedData

MAX_ATTEMPTS = 3
"""Largest number of attempts at a run whose process dies."""

PRELOADED = (
    "attendet.comparison.run_job",
    "faster_coco_eval",
    "lightning_fabric",
    "torch.utils.tensorboard",
    "matplotlib.backends.backend_agg",
)
"""Modules that every run needs."""

RunEvent = tuple[Job, dict[str, Any]]
"""A run and one of its events; "ended" or "failed" is the last event of each run."""


def device_names(accelerator: str, wanted: int | None, runs_per_device: int = 1) -> list[str]:
    """Return the device of each concurrent run: ``cuda:0``, ``cpu`` or ``mps``.

    Args:
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        wanted: number of devices; default: all GPUs, or one CPU.
        runs_per_device: number of concurrent runs on each device.

    Raises:
        ConfigError: if a number is below 1, or there are not enough GPUs.
    """
    per_device = runs_per_device
    ConfigError.check(
        per_device >= 1, "runs_per_device", "at least 1", per_device, "--runs-per-device"
    )
    ConfigError.check(wanted is None or wanted >= 1, "devices", "at least 1", wanted, "--devices")
    gpus = _gpu_names() if accelerator in ("auto", "cuda") else []
    if not gpus:
        if accelerator == "cuda":
            raise ConfigError(
                "accelerator must be available; got 'cuda', but there is no CUDA device "
                "(--accelerator)."
            )
        return ["mps" if accelerator == "mps" else "cpu"] * (wanted or 1) * per_device
    if wanted is not None and wanted > len(gpus):
        raise ConfigError.must(
            "devices", f"at most {len(gpus)}, the number of GPUs", wanted, "--devices"
        )
    return [f"cuda:{name}" for name in gpus[: wanted or len(gpus)]] * per_device


def _gpu_names() -> list[str]:
    """Return the names of the GPUs in CUDA_VISIBLE_DEVICES, without initializing one."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed:
        return [name.strip() for name in listed.split(",")][:count]
    return [str(number) for number in range(count)]


@dataclass
class _Attempt:
    """An attempt at a run, in its own process."""

    job: Job
    device: str
    number: int
    process: Any
    loaded: LoadedData | None
    ended: bool = False


class RunExecutor(Protocol):
    """Executor of runs, on this machine or on a cluster."""

    slots: int
    """Number of concurrent runs."""

    def run(
        self, jobs: Iterable[Job], load: Callable[[], LoadedData] | None = None, /
    ) -> Iterator[RunEvent]:
        """Yield the events of runs; ``load`` returns the data that runs on this machine use."""
        ...

    def close(self) -> None:
        """Stop the runs that are active."""
        ...


class LocalExecutor:
    """Executor of runs on this machine.

    Args:
        devices: names as `device_names` returns them, one for each concurrent run. If a name occurs
            twice, the CPU cores are divided between the runs.
        auto: start with one run on each device; after its first epoch, run as many as fit in the
            memory of the device, at most one for each CPU core in total. Each run has one thread.

    Attributes:
        slots: number of concurrent runs.
    """

    def __init__(self, devices: list[str], *, auto: bool = False) -> None:
        self._devices = list(dict.fromkeys(devices)) if auto else list(devices)
        self.slots = len(self._devices)
        self._unmeasured = set(devices) if auto else set()
        self._most_runs = max(1, available_cores() // self.slots)
        one_each = len(set(devices)) == len(devices) and not auto
        self._threads = None if one_each else max(1, available_cores() // len(devices))
        if auto:
            self._threads = 1
        self._running: dict[Any, _Attempt] = {}
        method = process_start_method()
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(list(PRELOADED))

    def run(
        self, jobs: Iterable[Job], load: Callable[[], LoadedData] | None = None
    ) -> Iterator[RunEvent]:
        """Yield the events of runs; a run is started when a device is free for it.

        A run whose process dies is retried, up to `MAX_ATTEMPTS` attempts in total.

        Args:
            jobs: the runs.
            load: returns the data that all runs use; by default each run reads it itself.
        """
        waiting = iter(jobs)
        free = list(self._devices)
        while True:
            while free and (job := next(waiting, None)) is not None:
                loaded = load() if load is not None else None
                self._start(job, free.pop(0), 1, loaded)
            if not self._running:
                return
            ready: list[Any] = wait(list(self._running))
            for connection in ready:
                attempt = self._running[connection]
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    yield from self._process_ended(connection, free)
                    continue
                attempt.ended |= event["event"] in ("ended", "failed")
                yield attempt.job, event
                if attempt.device in self._unmeasured and "possible_runs" in event:
                    runs = min(event["possible_runs"], self._most_runs)
                    self._unmeasured.remove(attempt.device)
                    self.slots += runs - 1
                    self._devices += [attempt.device] * (runs - 1)
                    free += [attempt.device] * (runs - 1)
                    chosen = {"event": "runs_chosen", "device": attempt.device, "runs": runs}
                    yield attempt.job, chosen

    def _start(self, job: Job, device: str, number: int, loaded: LoadedData | None) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_run_in_process,
            args=(job, device, self._threads, loaded, theirs),
            daemon=True,
        )
        with _without_main_module():
            process.start()
        theirs.close()
        self._running[ours] = _Attempt(job, device, number, process, loaded)

    def _process_ended(self, connection: Any, free: list[str]) -> Iterator[RunEvent]:
        """Free the device of a process that ended; retry its run if the run has not ended."""
        attempt = self._running.pop(connection)
        connection.close()
        attempt.process.join()
        if attempt.ended:
            free.append(attempt.device)
            return
        code = attempt.process.exitcode
        why = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        yield attempt.job, {"event": "lost", "why": why, "attempt": attempt.number}
        if attempt.number < MAX_ATTEMPTS:
            self._start(attempt.job, attempt.device, attempt.number + 1, attempt.loaded)
        else:
            free.append(attempt.device)
            yield attempt.job, {"event": "failed", "error": f"its process died ({why})"}

    def close(self) -> None:
        """Kill all processes."""
        for connection, attempt in self._running.items():
            attempt.process.kill()
            attempt.process.join()
            connection.close()
        self._running.clear()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep a child process from importing the script that called attendet."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run_in_process(
    job: Job, device: str, threads: int | None, loaded: LoadedData | None, events: Any
) -> None:
    """Execute one run and send its events; entry point of the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl+C
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    if threads is not None:
        import cv2
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    job.path.mkdir(parents=True, exist_ok=True)
    with (job.path / "run.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    events.send(run_and_report(job, events.send, loaded))
    events.close()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
