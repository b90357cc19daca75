"""One run: every candidate in a process of its own, turn by turn, into one record.

The processes wait while it is not their turn, and a turn is a second or so: whatever else the
machine does falls on all alike. The order turns round each round.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
from attendet.bench.verdict import LEAST_ROUNDS, Verdict, name_fastest
from attendet.errors import AttendetError, ConfigError
from attendet.inference.loading import PACKAGES
from attendet.system import available_cores, describe_machine

__all__ = ["LAYOUT", "BenchSettings", "run_bench"]

LAYOUT = "attendet/bench/1"
"""Name and version of the layout of the record."""

ANSWER_SECONDS = 600
"""A worker that does not answer for so long has failed."""

COLD_STARTS = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class BenchSettings:
    """How a run measures."""

    batches: tuple[int, ...] = (1,)
    """Images that go through the network together."""

    rounds: int = 7
    """Turns of each candidate."""

    seconds: float = 0.7
    """Of each of the four things that are timed in a turn."""

    confidence: float | None = None
    """Lowest score that counts, 0 to 1; the file's own or 0.25 if none."""

    input_hw: tuple[int, int] | None = None
    """Input size in pixels; that of the files if none."""

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batch must be 1 or more; got {list(self.batches)}.")
        if self.rounds < LEAST_ROUNDS:
            raise ConfigError(
                f"rounds must be {LEAST_ROUNDS} or more; got {self.rounds}. "
                "Fewer cannot show that one is faster."
            )
        if not 0 < self.seconds <= 60:
            raise ConfigError(f"seconds must be above 0 and at most 60; got {self.seconds:g}.")


class WorkerError(AttendetError):
    """A candidate cannot run; the others go on."""


class _Worker:
    """A candidate's process, from this side."""

    def __init__(
        self, candidate: Candidate, settings: BenchSettings, paths: Sequence[Path]
    ) -> None:
        self.candidate = candidate
        self._log: IO[bytes] = TemporaryFile()  # noqa: SIM115 (close() does)
        task = {
            "weights": str(candidate.weights),
            "runtime": candidate.runtime,
            "threads": candidate.threads,
            "mode": candidate.mode,
            "precision": candidate.precision,
            "input_hw": settings.input_hw,
            "confidence": settings.confidence,
            "images": [str(path) for path in paths],
        }
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "attendet.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.ready = self.ask(task)
        except BaseException:
            self.close()
            raise
        self.cold_start_s = time.perf_counter() - begun

    @property
    def process_id(self) -> int:
        return self._process.pid

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one task.

        Raises:
            WorkerError: if the candidate cannot do it, died, or did not answer in time.
        """
        pipes = self._process.stdin, self._process.stdout
        if pipes[0] is None or pipes[1] is None:
            raise WorkerError("the process has no pipes")
        guard = threading.Timer(ANSWER_SECONDS, self._process.kill)
        guard.start()
        try:
            pipes[0].write(json.dumps(task) + "\n")
            pipes[0].flush()
            line = pipes[1].readline()
        except BrokenPipeError:
            line = ""
        finally:
            guard.cancel()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it stopped without a word (code {self._process.poll()})"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):  # of words that the process did not live to hear
                    stream.close()


def _runtime_version(runtime: str) -> str | None:
    for package in {"onnx": ("onnxruntime", "onnxruntime-gpu")}.get(runtime, PACKAGES[runtime][:1]):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def _spread(values: Sequence[float]) -> dict[str, Any]:
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    return {"median": median, "q1": low, "q3": high, "count": len(values)}


def _start_all(
    candidates: Sequence[Candidate],
    settings: BenchSettings,
    paths: Sequence[Path],
    stack: ExitStack,
    progress: Callable[[str], None],
) -> tuple[list[_Worker], dict[Candidate, list[float]], list[dict[str, str]]]:
    """Start every candidate several times, and keep the last process of each."""
    cold: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    workers: list[_Worker] = []
    left_out: dict[Candidate, str] = {}
    for turn in range(COLD_STARTS):
        for candidate in candidates:
            if candidate in left_out:
                continue
            progress(f"cold start {turn + 1} of {COLD_STARTS}: {candidate.name}")
            try:
                worker = _Worker(candidate, settings, paths)
            except WorkerError as error:
                left_out[candidate] = str(error)
                continue
            cold[candidate].append(worker.cold_start_s)
            if turn < COLD_STARTS - 1:
                worker.close()
            else:
                stack.callback(worker.close)
                workers.append(worker)
    reasons = [{"name": candidate.name, "reason": text} for candidate, text in left_out.items()]
    return workers, cold, reasons


def _take_turns(
    workers: Sequence[_Worker],
    settings: BenchSettings,
    probe: Probe,
    progress: Callable[[str], None],
) -> tuple[dict[tuple[Candidate, int], list[dict[str, Any]]], dict[Candidate, str]]:
    """Return the answers of each candidate at each batch, and why some could not go on.

    A warm-up round is left out, but for the memory: batches grow in it, so that the peak so far is
    that of this batch.
    """
    places = [(worker, batch) for batch in sorted(settings.batches) for worker in workers]
    answers: dict[tuple[Candidate, int], list[dict[str, Any]]] = {
        (worker.candidate, batch): [] for worker, batch in places
    }
    lost: dict[Candidate, str] = {}
    for turn in range(settings.rounds + 1):
        for worker, batch in places if turn % 2 == 0 else places[::-1]:
            if worker.candidate in lost:
                continue
            if turn:
                progress(f"round {turn} of {settings.rounds}: {worker.candidate.name}")
                probe.run()
            else:
                progress(f"warm-up: {worker.candidate.name}")
            try:
                answer = worker.ask({"batch": batch, "seconds": settings.seconds})
            except WorkerError as error:
                lost[worker.candidate] = str(error)
                continue
            kept = answer if turn else {"memory_mib": answer["memory_mib"]}
            answers[worker.candidate, batch].append(kept)
    return answers, lost


def _row(
    worker: _Worker, batch: int, cold: Sequence[float], answers: Sequence[dict[str, Any]]
) -> Row:
    candidate = worker.candidate
    warm_up, *turns = answers
    things = ("whole_ms", "network_ms", "around_ms", "images_per_s")
    samples = {thing: [value for turn in turns for value in turn[thing]] for thing in things}
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
        "cold_start_s": _spread(cold),
        **{thing: _spread(values) for thing, values in samples.items()},
        "rounds": {thing: [float(np.median(turn[thing])) for turn in turns] for thing in things},
        "ap": None,
        "ap50": None,
    }


def run_bench(
    candidates: Sequence[Candidate],
    paths: Sequence[Path],
    settings: BenchSettings,
    *,
    measure_ap: Callable[[Candidate], tuple[float | None, float | None]] | None = None,
    max_ap_loss: float = 0.005,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the record of a run: machine, settings, noise, a row a candidate and batch, verdicts.

    Args:
        candidates: who is measured.
        paths: image files, taken in turn.
        settings: how.
        measure_ap: gives AP and AP50 of a candidate, 0 to 1; called after the timing, once for each
            file, runtime and precision.
        max_ap_loss: what the AP of the fastest may be below the best AP of the run, 0 to 1.
        progress: told what is done now.

    Raises:
        ConfigError: if no candidate can run.
    """
    watch, probe = LoadWatch(), Probe(available_cores())
    begun = time.perf_counter()
    with ExitStack() as stack:
        stack.callback(probe.close)
        workers, cold, left_out = _start_all(candidates, settings, paths, stack, progress)
        if not workers:
            raise _nobody(left_out)
        answers, lost = _take_turns(workers, settings, probe, progress)
        left_out += [{"name": one.name, "reason": why} for one, why in lost.items()]
        workers = [worker for worker in workers if worker.candidate not in lost]
        if not workers:
            raise _nobody(left_out)
        rows = {
            (worker.candidate, batch): _row(
                worker, batch, cold[worker.candidate], answers[worker.candidate, batch]
            )
            for worker in workers
            for batch in sorted(settings.batches)
        }
        other_load = watch.other_load(worker.process_id for worker in workers)
    noise = judge_noise(probe.seconds, other_load)
    if measure_ap is not None:
        left_out += _add_ap(rows, measure_ap, progress)
    return {
        "layout": LAYOUT,
        "version": __version__,
        "machine": {**describe_machine(), "date": time.strftime("%Y-%m-%d")},
        "settings": {
            **dataclasses.asdict(settings),
            "batches": list(settings.batches),
            "images": len(paths),
            "max_ap_loss": max_ap_loss,
        },
        "seconds": round(time.perf_counter() - begun, 1),
        "noise": noise,
        "rows": list(rows.values()),
        "left_out": left_out,
        "verdicts": _verdicts(list(rows.values()), noise["too_noisy"], max_ap_loss),
    }


def _nobody(left_out: Sequence[dict[str, str]]) -> ConfigError:
    first = left_out[0]
    return ConfigError(f"no candidate can run; {first['name']}: {first['reason']}")


def _add_ap(
    rows: Mapping[tuple[Candidate, int], Row],
    measure_ap: Callable[[Candidate], tuple[float | None, float | None]],
    progress: Callable[[str], None],
) -> list[dict[str, str]]:
    """Add the average precisions to the rows; return of whom there is none, and why."""
    known: dict[tuple[Path, str, str], tuple[float | None, float | None]] = {}
    failed = []
    for (candidate, _), row in rows.items():
        key = (candidate.weights, candidate.runtime, candidate.precision)
        if key not in known:
            progress(f"average precision: {candidate.name}")
            try:
                known[key] = measure_ap(candidate)
            except AttendetError as error:
                known[key] = (None, None)
                failed.append({"name": f"AP of {candidate.name}", "reason": str(error)})
        row["ap"], row["ap50"] = known[key]
    return failed


def _verdicts(rows: Sequence[Row], too_noisy: bool, max_ap_loss: float) -> dict[str, Any]:
    """Return who is the fastest for one image and for many, among those whose AP will do."""
    best = max((row["ap"] for row in rows if row["ap"] is not None), default=None)
    able = [row for row in rows if best is None or (row["ap"] or 0) >= best - max_ap_loss - 1e-12]
    if too_noisy:
        reason = "the machine was too noisy"
        refused: Verdict = {"fastest": None, "ahead": None, "tied": [], "reason": reason}
        return {"latency": refused, "throughput": refused}
    single = {row["name"]: row["rounds"]["whole_ms"] for row in able if row["batch"] == 1}
    many = {row["name"]: row["rounds"]["images_per_s"] for row in able}
    return {"latency": name_fastest(single), "throughput": name_fastest(many, higher=True)}
