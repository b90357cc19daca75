"""One run: every contender in a process of its own, turn by turn, into one record.

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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from attendet import __version__
from attendet.bench.contenders import Contender
from attendet.bench.noise import LoadWatch, Probe, judge_noise
from attendet.bench.verdict import LEAST_ROUNDS, Verdict, name_fastest
from attendet.errors import AttendetError, ConfigError
from attendet.inference.loading import PACKAGES
from attendet.machine import available_cores, describe_machine

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
    """Pictures that go through the network together."""

    rounds: int = 7
    """Turns of each contender."""

    seconds: float = 0.7
    """Of each of the four things that are timed in a turn."""

    confidence: float = 0.25
    """Lowest score that counts, 0 to 1."""

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
    """A contender cannot run; the others go on."""


class _Worker:
    """A contender's process, from this side."""

    def __init__(
        self, contender: Contender, settings: BenchSettings, paths: Sequence[Path]
    ) -> None:
        self.contender = contender
        self._log: IO[bytes] = TemporaryFile()  # noqa: SIM115 (close() does)
        task = {
            "weights": str(contender.weights),
            "runtime": contender.runtime,
            "threads": contender.threads,
            "mode": contender.mode,
            "precision": contender.precision,
            "input_hw": settings.input_hw,
            "confidence": settings.confidence,
            "pictures": [str(path) for path in paths],
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
            WorkerError: if the contender cannot do it, died, or did not answer in time.
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
    contenders: Sequence[Contender],
    settings: BenchSettings,
    paths: Sequence[Path],
    stack: ExitStack,
    progress: Callable[[str], None],
) -> tuple[list[_Worker], dict[Contender, list[float]], list[dict[str, str]]]:
    """Start every contender several times, and keep the last process of each."""
    cold: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    workers: list[_Worker] = []
    left_out: dict[Contender, str] = {}
    for turn in range(COLD_STARTS):
        for contender in contenders:
            if contender in left_out:
                continue
            progress(f"cold start {turn + 1} of {COLD_STARTS}: {contender.name}")
            try:
                worker = _Worker(contender, settings, paths)
            except WorkerError as error:
                left_out[contender] = str(error)
                continue
            cold[contender].append(worker.cold_start_s)
            if turn < COLD_STARTS - 1:
                worker.close()
            else:
                stack.callback(worker.close)
                workers.append(worker)
    reasons = [{"name": contender.name, "reason": text} for contender, text in left_out.items()]
    return workers, cold, reasons


def _take_turns(
    workers: Sequence[_Worker],
    settings: BenchSettings,
    probe: Probe,
    progress: Callable[[str], None],
) -> dict[tuple[Contender, int], list[dict[str, Any]]]:
    """Return the answers of each contender at each batch, a warm-up round left out."""
    places = [(worker, batch) for batch in sorted(settings.batches) for worker in workers]
    answers: dict[tuple[Contender, int], list[dict[str, Any]]] = {
        (worker.contender, batch): [] for worker, batch in places
    }
    for turn in range(settings.rounds + 1):
        for worker, batch in places if turn % 2 == 0 else places[::-1]:
            if turn:
                progress(f"round {turn} of {settings.rounds}: {worker.contender.name}")
                probe.run()
            else:
                progress(f"warm-up: {worker.contender.name}")
            answer = worker.ask({"batch": batch, "seconds": settings.seconds})
            if turn == 0:  # batches grow, so that the peak so far is that of this batch
                answers[worker.contender, batch].append({"memory_mib": answer["memory_mib"]})
            else:
                answers[worker.contender, batch].append(answer)
    return answers


def _row(
    worker: _Worker, batch: int, cold: Sequence[float], answers: Sequence[dict[str, Any]]
) -> Row:
    contender = worker.contender
    warm_up, *turns = answers
    things = ("whole_ms", "network_ms", "around_ms", "pictures_per_s")
    samples = {thing: [value for turn in turns for value in turn[thing]] for thing in things}
    return {
        "name": f"{contender.name}, batch {batch}",
        "weights": str(contender.weights),
        "runtime": contender.runtime,
        "runtime_version": _runtime_version(contender.runtime),
        "precision": worker.ready["precision"],
        "threads": contender.threads,
        "mode": contender.mode,
        "batch": batch,
        "input_hw": worker.ready["input_hw"],
        "file_mib": round(contender.file_bytes / 2**20, 2),
        "memory_mib": warm_up["memory_mib"],
        "cold_start_s": _spread(cold),
        **{thing: _spread(values) for thing, values in samples.items()},
        "rounds": {thing: [float(np.median(turn[thing])) for turn in turns] for thing in things},
        "ap": None,
        "ap50": None,
    }


def run_bench(
    contenders: Sequence[Contender],
    paths: Sequence[Path],
    settings: BenchSettings,
    *,
    measure_ap: Callable[[Contender], tuple[float | None, float | None]] | None = None,
    max_loss: float = 0.005,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the record of a run: machine, settings, noise, a row a contender and batch, verdicts.

    Args:
        contenders: who is measured.
        paths: picture files, taken in turn.
        settings: how.
        measure_ap: gives AP and AP50 of a contender, 0 to 1; called after the timing, once for each
            file, runtime and precision.
        max_loss: what the AP of the fastest may be below the best AP of the run, 0 to 1.
        progress: told what is done now.

    Raises:
        ConfigError: if no contender can run.
    """
    watch, probe = LoadWatch(), Probe(available_cores())
    begun = time.perf_counter()
    with ExitStack() as stack:
        stack.callback(probe.close)
        workers, cold, left_out = _start_all(contenders, settings, paths, stack, progress)
        if not workers:
            first = left_out[0]
            raise ConfigError(f"no contender can run; {first['name']}: {first['reason']}")
        answers = _take_turns(workers, settings, probe, progress)
        rows = [
            _row(worker, batch, cold[worker.contender], answers[worker.contender, batch])
            for worker in workers
            for batch in sorted(settings.batches)
        ]
        other_load = watch.other_load(worker.process_id for worker in workers)
    noise = judge_noise(probe.seconds, other_load)
    if measure_ap is not None:
        _add_ap(rows, [worker.contender for worker in workers], measure_ap, progress)
    return {
        "layout": LAYOUT,
        "version": __version__,
        "machine": {**describe_machine(), "date": time.strftime("%Y-%m-%d")},
        "settings": {
            **dataclasses.asdict(settings),
            "batches": list(settings.batches),
            "pictures": len(paths),
            "max_loss": max_loss,
        },
        "seconds": round(time.perf_counter() - begun, 1),
        "noise": noise,
        "rows": rows,
        "left_out": left_out,
        "verdicts": _verdicts(rows, noise["too_noisy"], max_loss),
    }


def _add_ap(
    rows: Sequence[Row],
    contenders: Sequence[Contender],
    measure_ap: Callable[[Contender], tuple[float | None, float | None]],
    progress: Callable[[str], None],
) -> None:
    known: dict[tuple[str, str, str], tuple[float | None, float | None]] = {}
    for contender in contenders:
        key = (str(contender.weights), contender.runtime, contender.precision)
        if key not in known:
            progress(f"average precision: {contender.name}")
            known[key] = measure_ap(contender)
        for row in rows:
            if row["name"].startswith(f"{contender.name}, batch "):
                row["ap"], row["ap50"] = known[key]


def _verdicts(rows: Sequence[Row], too_noisy: bool, max_loss: float) -> dict[str, Any]:
    """Return who is the fastest for one picture and for many, among those whose AP will do."""
    best = max((row["ap"] for row in rows if row["ap"] is not None), default=None)
    able = [row for row in rows if best is None or (row["ap"] or 0) >= best - max_loss - 1e-12]
    if too_noisy:
        reason = "the machine was too noisy"
        refused: Verdict = {"fastest": None, "ahead": None, "tied": [], "reason": reason}
        return {"latency": refused, "throughput": refused}
    single = {row["name"]: row["rounds"]["whole_ms"] for row in able if row["batch"] == 1}
    many = {row["name"]: row["rounds"]["pictures_per_s"] for row in able}
    return {"latency": name_fastest(single), "throughput": name_fastest(many, higher=True)}
