"""The benchmark: every candidate in its own process, one after the other in each round.

One process measures at a time, for a few seconds, while the others wait, so other load on the
machine affects all candidates equally. The order is reversed in every other round.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from attendet import __version__
from attendet.bench.candidates import Candidate
from attendet.bench.noise import LoadWatch, Probe, judge_noise
from attendet.bench.verdict import MIN_ROUNDS, name_fastest, no_verdict
from attendet.errors import AttendetError, ConfigError
from attendet.inference.loading import PACKAGES
from attendet.system import available_cores, describe_machine

LAYOUT = "attendet/bench/1"
"""Name and version of the layout of the record."""

ANSWER_SECONDS = 600
"""Timeout for an answer of a worker, in seconds."""

COLD_STARTS = 3

FIGURES = ("whole_ms", "network_ms", "around_ms", "images_per_s")

Row = dict[str, Any]
Answers = dict[tuple[Candidate, int], list[dict[str, Any]]]
MeasureAP = Callable[[Candidate], tuple[float | None, float | None]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a benchmark."""

    batches: tuple[int, ...] = (1,)
    """Batch sizes."""

    rounds: int = 7
    """Number of rounds, 5 or more."""

    seconds: float = 0.7
    """Seconds for each of the four measurements of a candidate in a round."""

    confidence: float | None = None
    """Lowest score of a detection, 0 to 1 (default: that of a file with suppression, or 0.25)."""

    input_hw: tuple[int, int] | None = None
    """Input size in pixels, multiples of 32 (default: that of the files)."""

    max_ap_loss: float = 0.5
    """Largest AP loss of the fastest candidate, in points below the best AP of the run."""

    def __post_init__(self) -> None:
        for good, name, rule, got in (
            (min(self.batches, default=0) >= 1, "batch", "1 or more", list(self.batches)),
            (self.rounds >= MIN_ROUNDS, "rounds", f"{MIN_ROUNDS} or more", self.rounds),
            (0 < self.seconds <= 60, "seconds", "above 0 and at most 60", self.seconds),
            (0 <= self.max_ap_loss <= 100, "max_ap_loss", "from 0 to 100", self.max_ap_loss),
        ):
            ConfigError.check(good, name, rule, got, f"--{name.replace('_', '-')}")


def run_bench(
    candidates: Sequence[Candidate],
    paths: Sequence[Path],
    settings: BenchSettings,
    *,
    measure_ap: MeasureAP | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Run a benchmark; return its record: machine, settings, noise, rows and verdicts.

    Args:
        candidates: candidates to measure.
        paths: image files, used in a cycle.
        settings: settings of the benchmark.
        measure_ap: returns AP and AP50 of a candidate, 0 to 1; called after the timing, once for
            each file, runtime and precision.
        progress: called with a line on each step.

    Raises:
        ConfigError: if no candidate can run.
    """
    watch, probe = LoadWatch(), Probe(available_cores())
    begun = time.perf_counter()
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        stack.callback(probe.close)
        workers, cold = _start_all(candidates, settings, paths, stack, failed, progress)
        answers = _run_rounds(workers, settings, probe, failed, progress)
        workers = [worker for worker in workers if worker.candidate.name not in failed]
        if not workers:
            name, reason = next(iter(failed.items()))
            raise ConfigError(f"no candidate can run; {name}: {reason}")
        rows = {
            (worker.candidate, batch): _row(
                worker, batch, cold[worker.candidate], answers[worker.candidate, batch]
            )
            for worker in workers
            for batch in sorted(settings.batches)
        }
    noise = judge_noise(probe.seconds, watch.other_load())  # the workers have finished
    if measure_ap is not None:
        _add_ap(rows, measure_ap, failed, progress)
    return {
        "layout": LAYOUT,
        "version": __version__,
        "machine": {**describe_machine(), "date": time.strftime("%Y-%m-%d")},
        "settings": {
            **dataclasses.asdict(settings),
            "batches": list(settings.batches),
            "images": len(paths),
        },
        "seconds": round(time.perf_counter() - begun, 1),
        "noise": noise,
        "rows": list(rows.values()),
        "failed": [{"name": name, "reason": reason} for name, reason in failed.items()],
        "verdicts": _verdicts(list(rows.values()), noise["too_noisy"], settings.max_ap_loss),
    }


class WorkerError(AttendetError):
    """Error of a candidate that cannot run; the others continue."""


class _Worker:
    """The process of a candidate (`attendet.bench.worker`)."""

    def __init__(
        self, candidate: Candidate, settings: BenchSettings, paths: Sequence[Path]
    ) -> None:
        self.candidate = candidate
        self._log: IO[bytes] = TemporaryFile()  # noqa: SIM115 (close() does)
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "attendet.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._stdin: Any = self._process.stdin
        self._stdout: Any = self._process.stdout
        task = {
            **dataclasses.asdict(candidate),
            "weights": str(candidate.weights),
            "input_hw": settings.input_hw,
            "confidence": settings.confidence,
            "images": [str(path) for path in paths],
        }
        try:
            self.ready = self.ask(task)
        except BaseException:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - begun

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Send one task and return the answer.

        Raises:
            WorkerError: if the candidate fails, or does not answer in time.
        """
        guard = threading.Timer(ANSWER_SECONDS, self._process.kill)
        guard.start()
        line = ""
        try:
            self._stdin.write(json.dumps(task) + "\n")
            self._stdin.flush()
            line = self._stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            guard.cancel()
        if not line:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise WorkerError(
                lines[-1] if lines else f"its process ended (exit code {self._process.wait()})"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._log):
            with suppress(BrokenPipeError):  # the process may not have read its last task
                stream.close()


def _start_all(
    candidates: Sequence[Candidate],
    settings: BenchSettings,
    paths: Sequence[Path],
    stack: ExitStack,
    failed: dict[str, str],
    progress: Progress,
) -> tuple[list[_Worker], dict[Candidate, list[float]]]:
    """Start every candidate several times; return its last process and all start times."""
    cold: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    workers: list[_Worker] = []
    for number in range(1, COLD_STARTS + 1):
        for candidate in candidates:
            if candidate.name in failed:
                continue
            progress(f"cold start {number} of {COLD_STARTS}: {candidate.name}")
            try:
                worker = _Worker(candidate, settings, paths)
            except WorkerError as error:
                failed[candidate.name] = str(error)
                continue
            cold[candidate].append(worker.cold_start_s)
            if number < COLD_STARTS:
                worker.close()
            else:
                stack.callback(worker.close)
                workers.append(worker)
    return workers, cold


def _run_rounds(
    workers: Sequence[_Worker],
    settings: BenchSettings,
    probe: Probe,
    failed: dict[str, str],
    progress: Progress,
) -> Answers:
    """Return the answers of each candidate at each batch size.

    The first answer is from a warm-up round, of which only the memory is used. Batch sizes increase
    in that round, so the peak memory so far is that of the current batch size.
    """
    pairs = [(worker, batch) for batch in sorted(settings.batches) for worker in workers]
    answers: Answers = {(worker.candidate, batch): [] for worker, batch in pairs}
    for number in range(settings.rounds + 1):
        for worker, batch in pairs if number % 2 == 0 else pairs[::-1]:
            candidate = worker.candidate
            if candidate.name in failed:
                continue
            step = f"round {number} of {settings.rounds}" if number else "warm-up"
            progress(f"{step}: {candidate.name}")
            if number:
                probe.run()
            try:
                answer = worker.ask({"batch": batch, "seconds": settings.seconds})
            except WorkerError as error:
                failed[candidate.name] = str(error)
            else:
                answers[candidate, batch].append(answer)
    return answers


def _row(
    worker: _Worker, batch: int, cold: Sequence[float], answers: Sequence[dict[str, Any]]
) -> Row:
    candidate = worker.candidate
    warm_up, *rounds = answers
    return {
        "name": f"{candidate.name}, batch {batch}",
        "weights": str(candidate.weights),
        "file": candidate.file,
        "runtime": candidate.runtime,
        "runtime_version": _runtime_version(candidate.runtime),
        "precision": worker.ready["precision"],
        "threads": candidate.threads,
        "mode": candidate.mode,
        "batch": batch,
        "input_hw": worker.ready["input_hw"],
        "file_mib": round(candidate.file_bytes / 2**20, 2),
        "memory_mib": warm_up["memory_mib"],
        "cold_start_s": _quartiles(cold),
        **{name: _quartiles([value for one in rounds for value in one[name]]) for name in FIGURES},
        "rounds": {name: [float(np.median(one[name])) for one in rounds] for name in FIGURES},
        "ap": None,
        "ap50": None,
    }


def _runtime_version(runtime: str) -> str | None:
    module = PACKAGES[runtime][0]
    for package in (module, f"{module}-gpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def _quartiles(values: Sequence[float]) -> dict[str, Any]:
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    return {"median": median, "q1": low, "q3": high, "count": len(values)}


def _add_ap(
    rows: dict[tuple[Candidate, int], Row],
    measure_ap: MeasureAP,
    failed: dict[str, str],
    progress: Progress,
) -> None:
    known: dict[tuple[Path, str, str], tuple[float | None, float | None]] = {}
    for (candidate, _), row in rows.items():
        key = (candidate.weights, candidate.runtime, candidate.precision)
        if key not in known:
            progress(f"average precision: {candidate.name}")
            try:
                known[key] = measure_ap(candidate)
            except AttendetError as error:
                known[key] = (None, None)
                failed[f"AP of {candidate.name}"] = str(error)
        row["ap"], row["ap50"] = known[key]


def _verdicts(rows: Sequence[Row], too_noisy: bool, max_ap_loss: float) -> dict[str, Any]:
    """Return the fastest for latency and for throughput, within the AP loss (points)."""
    if too_noisy:
        noisy = no_verdict("the machine was too noisy")
        return {"latency": noisy, "throughput": noisy}
    best = max((row["ap"] for row in rows if row["ap"] is not None), default=None)
    lowest = 0 if best is None else best - max_ap_loss / 100 - 1e-12
    able = [row for row in rows if (row["ap"] or 0) >= lowest]
    single = {row["name"]: row["rounds"]["whole_ms"] for row in able if row["batch"] == 1}
    many = {row["name"]: row["rounds"]["images_per_s"] for row in able}
    return {"latency": name_fastest(single), "throughput": name_fastest(many, higher=True)}
