"""The process that measures one candidate.

Started as ``python -m attendet.bench.worker``. It reads one JSON line per task and answers with
one; output of libraries goes to standard error. The first task loads the file and is answered after
the first image, so its time is the cold start. Each further task measures one round.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.errors import AttendetError
from attendet.images import read_image
from attendet.inference import Detector, Runtime, load
from attendet.system import peak_memory_mib

MIN_REPEATS = 3
"""Smallest number of repetitions of each measurement in a round."""

MAX_INPUTS = 16


def _load(task: dict[str, Any]) -> Detector:
    names = ("runtime", "threads", "mode", "precision")
    loaded = load(task["weights"], device="cpu", **{name: task[name] for name in names})
    size = task["input_hw"] and tuple(task["input_hw"])
    return Detector(loaded.runtime, task["confidence"], input_hw=size)


class Measurements:
    """Measurements of one candidate, each for some seconds, in milliseconds per image.

    Args:
        detector: the candidate.
        paths: image files, used in a cycle.
    """

    def __init__(self, detector: Detector, paths: Sequence[Path]) -> None:
        self._detector = detector
        self._paths = itertools.cycle(paths)
        inputs = [detector.preprocess(read_image(path)).padded for path in paths[:MAX_INPUTS]]
        self._inputs = [padded for padded in inputs if padded.shape == inputs[0].shape]
        outputs = [detector.runtime.run(padded[None]) for padded in inputs]
        self._outputs = itertools.cycle(list(zip(paths, outputs, strict=False)))

    def whole(self, batch: int, seconds: float) -> list[float]:
        """Measure from files to detections; the images of a batch are read first, then run."""

        def predict() -> object:
            paths = itertools.islice(self._paths, batch)
            return self._detector.predict_batch([read_image(path) for path in paths])

        return _repeat(predict, seconds, batch)

    def network(self, batch: int, seconds: float, *, mode: str) -> list[float]:
        """Measure the runtime on prepared inputs; in throughput mode with all workers busy."""
        runtime, inputs = self._detector.runtime, itertools.cycle(self._inputs)
        batches = itertools.cycle(
            [np.stack(list(itertools.islice(inputs, batch))) for _ in range(8)]
        )
        if mode == "latency":
            return _repeat(lambda: runtime.run(next(batches)), seconds, batch)
        return _saturate(runtime, batches, seconds, batch)

    def pre_and_postprocessing(self, seconds: float) -> list[float]:
        """Measure everything except the network: reading, preprocessing and postprocessing."""
        detector = self._detector

        def once() -> None:
            path, output = next(self._outputs)
            transform = detector.preprocess(read_image(path)).transform
            detector.postprocess(output, 0, transform)

        return _repeat(once, seconds)

    def stream(self, batch: int, seconds: float) -> float:
        """Return the images per second of a running stream.

        The results of parallel batches arrive at nearly the same time. Time is therefore measured
        between the ends of groups of parallel batches, and the stream is stopped at the end of a
        group: neither the start nor the shutdown of the stream is measured.
        """
        group = batch * self._detector.runtime.parallel
        ends: list[float] = []
        with contextlib.closing(self._detector.stream(self._paths, batch=batch)) as stream:
            for number, _ in enumerate(stream, 1):
                if number % group == 0:
                    ends.append(time.perf_counter())
                    if len(ends) > MIN_REPEATS and ends[-1] - ends[0] >= seconds:
                        break
        return group * (len(ends) - 1) / (ends[-1] - ends[0])

    def round(self, task: dict[str, Any], mode: str) -> dict[str, Any]:
        """Return all measurements of one round."""
        batch, seconds = task["batch"], task["seconds"]
        return {
            "whole_ms": self.whole(batch, seconds),
            "network_ms": self.network(batch, seconds, mode=mode),
            "around_ms": self.pre_and_postprocessing(seconds),
            "images_per_s": [self.stream(batch, seconds)],
            "memory_mib": peak_memory_mib(),
        }


def _repeat(function: Callable[[], object], seconds: float, images: int = 1) -> list[float]:
    """Return the milliseconds per image of each call."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < MIN_REPEATS or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1e3 / images)
    return times


def _saturate(
    runtime: Runtime, batches: Iterator[NDArray[np.uint8]], seconds: float, images: int
) -> list[float]:
    """Return the mean milliseconds per image while every worker of the runtime is busy.

    It is one mean, as in a stream, so that the two rates can be compared: the median of shorter
    measurements would ignore the moments in which the machine was slow.
    """
    running = deque(runtime.submit(next(batches)) for _ in range(2 * runtime.parallel))
    running.popleft().result()
    repeats = 0
    begun = time.perf_counter()
    while repeats < MIN_REPEATS or time.perf_counter() - begun < seconds:
        for _ in range(runtime.parallel):
            running.append(runtime.submit(next(batches)))
            running.popleft().result()
        repeats += 1
    elapsed = time.perf_counter() - begun
    for pending in running:
        pending.result()
    return [elapsed * 1e3 / (repeats * runtime.parallel * images)]


def _serve(read: Callable[[], str], answer: Callable[[dict[str, Any]], None]) -> None:
    task = json.loads(read())
    paths = [Path(path) for path in task["images"]]
    detector = _load(task)
    detector.predict(paths[0])
    precision, requested = detector.runtime.precision, task["precision"]
    if requested != "float32":
        precision = requested if precision == "float32" else f"{precision}, {requested}"
    answer({"input_hw": detector.input_hw, "precision": precision})
    measurements: Measurements | None = None
    while line := read():
        measurements = measurements or Measurements(detector, paths)
        answer(measurements.round(json.loads(line), task["mode"]))


def main() -> int:
    """Serve one candidate until standard input ends; return 0, or 1 after an error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    try:
        _serve(sys.stdin.readline, answer)
    except AttendetError as error:
        answer({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
