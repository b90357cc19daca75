"""Candidates that run alternately on one machine, one round each, stopped while the others run.

A candidate is a process, possibly of another environment. It answers when it is ready, and then
once per round. While others run, its process group is stopped by SIGSTOP, so that loaders that read
ahead neither gain time nor take it from the others.

The benchmark uses `Candidate`, the candidates use `Rounds`. Standard library only, since the other
environment imports this too. POSIX only; peak memory is read from Linux's /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 600
"""A candidate that is not ready in this time has failed."""


class Rounds:
    """The side of the candidate: waits for its round, records the times of an epoch, answers.

    Output of libraries goes to standard error; standard output has the answers only.
    """

    def __init__(self):
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._started = False

    def wait(self):
        """Report once that the candidate is ready, and return when its round starts."""
        if not self._started:
            self._started = True
            self._answer({"ready": True})
        if not sys.stdin.readline():
            sys.stdout.flush()
            os._exit(0)

    def begin_epoch(self):
        """Start the clock."""
        self._began = time.perf_counter()
        self._steps = []

    def end_step(self, images):
        """Record the end of a step with this number of images."""
        self._steps.append((time.perf_counter() - self._began, images))

    def end_epoch(self, **more):
        """Answer with the times of the steps, in seconds since the epoch began."""
        self._answer({"steps": self._steps, **more})

    def _answer(self, record):
        self._answers.write(json.dumps(record) + "\n")
        self._answers.flush()


class Candidate:
    """The side of the benchmark.

    Args:
        name: in the table.
        command: of the process.
        log: file for its output.
    """

    def __init__(self, name, command, log: Path):
        self.name = name
        self.log = log
        self._command = [str(word) for word in command]
        self._process = None

    def start(self):
        """Start it, wait until it is ready, then stop it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as stream:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path())},
            )
        with _alarm(START_SECONDS, f"{self.name} is not ready after {START_SECONDS} s"):
            self._read()
        self._signal(signal.SIGSTOP)

    def run_round(self):
        """Run one round; return the answer."""
        self._signal(signal.SIGCONT)
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._read()
        self._signal(signal.SIGSTOP)
        return {**answer, "memory_mib": self._peak_memory_mib()}

    def close(self):
        """End the process and its children."""
        if self._process is None:
            return
        for number in (signal.SIGKILL, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self._signal(number)
        self._process.wait()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            tail = self.log.read_text(errors="replace").splitlines()[-12:]
            raise SystemExit("\n".join([f"{self.name} stopped; the end of {self.log}:", *tail]))
        return json.loads(line)

    def _signal(self, number):
        os.killpg(self._process.pid, number)

    def _peak_memory_mib(self):
        """Return the sum of the peaks of its processes; common pages count several times."""
        kib = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.getpgid(int(status.parent.name)) == self._process.pid:
                    lines = status.read_text().splitlines()
                    kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return round(kib / 1024)


def search_path():
    """Return the module path of a candidate: this folder, then PYTHONPATH."""
    return [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]


@contextlib.contextmanager
def _alarm(seconds, message):
    def ring(*_):
        raise SystemExit(message)

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def describe_machine():
    """Return a description of this machine and of what it does now."""
    from attendet import system  # not in the environment of the peers

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **system.describe_machine(),
        "memory_gib": round(memory / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def warn_of_load(machine):
    """Warn on standard error if other work runs on the machine."""
    if machine["load_before"] > 0.5:
        print(
            f"warning: load {machine['load_before']}: other work runs here, or has just ended; "
            "the figures are not reliable",
            file=sys.stderr,
        )
