"""A process of its own that runs one candidate, in turns.

Started as ``python -m attendet.bench.worker``. It reads one JSON line a task and answers with one
each; whatever libraries print goes to standard error. The first line says what to load; the answer
comes when the first image has been through, so that its time is the cold start.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attendet.system import peak_memory_mib

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attendet.inference.detector import Detector

__all__ = ["main"]

LEAST_TIMES = 3
"""Each thing is done at least so often in a turn."""

MAX_INPUTS = 16


def _load(task: dict[str, Any]) -> Detector:
    import attendet
    from attendet.inference import Detector

    loaded = attendet.load(
        task["weights"],
        runtime=task["runtime"],
        device="cpu",
        threads=task["threads"],
        mode=task["mode"],
        precision=task["precision"],
    )
    size = task["input_hw"]
    return Detector(
        loaded.runtime, task["confidence"], input_hw=None if size is None else tuple(size)
    )


class _Timed:
    """The four things that are timed, each for so many seconds, as milliseconds an image.

    Args:
        detector: the candidate.
        paths: the images, taken in turn.
    """

    def __init__(self, detector: Detector, paths: Sequence[Path]) -> None:
        from attendet.images import read_image

        self._detector = detector
        self._paths = itertools.cycle(paths)
        laid = [detector.lay(read_image(path)).padded for path in paths[:MAX_INPUTS]]
        commonest = Counter(padded.shape for padded in laid).most_common(1)[0][0]
        self._input = [padded for padded in laid if padded.shape == commonest]
        outputs = [detector.runtime.run(padded[None]) for padded in laid]
        self._done = itertools.cycle(list(zip(paths, outputs, strict=False)))

    def whole(self, batch: int, seconds: float) -> list[float]:
        """From files to detections: one after the other, or read and run together."""
        from attendet.images import read_image

        detector = self._detector
        if batch == 1:
            return _repeat(lambda: detector.predict(next(self._paths)), seconds)
        return _repeat(
            lambda: detector.predict_batch([read_image(next(self._paths)) for _ in range(batch)]),
            seconds,
            batch,
        )

    def network(self, batch: int, seconds: float, *, mode: str) -> list[float]:
        """The runtime on network inputs that are there already; for throughput with all places
        taken."""
        import numpy as np

        from attendet.inference.runtimes.base import AsyncRuntime

        runtime = self._detector.runtime
        inputs = itertools.cycle(self._input)
        stacks = [np.stack([next(inputs) for _ in range(batch)]) for _ in range(8)]
        given = itertools.cycle(stacks)
        if mode == "latency" or not isinstance(runtime, AsyncRuntime):
            return _repeat(lambda: runtime.run(next(given)), seconds, batch)
        return _saturate(runtime, given, seconds, batch)

    def around(self, seconds: float) -> list[float]:
        """Everything but the network: reading, letterbox, and selection from a kept output."""
        from attendet.images import read_image

        detector = self._detector

        def once() -> None:
            path, output = next(self._done)
            detector.select(output, 0, detector.lay(read_image(path)).transform)

        return _repeat(once, seconds)

    def stream(self, batch: int, seconds: float) -> float:
        """Return the images a second of a stream in flow.

        The results of a batch come all at once, and runtimes that work on several batches side by
        side give these nearly at once. The clock therefore runs between the ends of whole groups of
        them, and the stream is broken off at such an end: neither the first results, which were
        waited for before, nor the emptying at an end without new images is in it.
        """
        group = batch * getattr(self._detector.runtime, "parallel", 1)
        ends: list[float] = []
        with contextlib.closing(self._detector.stream(self._paths, batch=batch)) as stream:
            for number, _ in enumerate(stream, 1):
                if number % group == 0:
                    ends.append(time.perf_counter())
                    if len(ends) > LEAST_TIMES and ends[-1] - ends[0] >= seconds:
                        break
        return group * (len(ends) - 1) / (ends[-1] - ends[0])


def _repeat(do: Callable[[], object], seconds: float, images: int = 1) -> list[float]:
    """Return milliseconds an image of each time that something was done."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < LEAST_TIMES or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        do()
        times.append((time.perf_counter() - start) * 1e3 / images)
    return times


def _saturate(
    runtime: Any, given: Iterator[NDArray[np.uint8]], seconds: float, images: int
) -> list[float]:
    """Return the milliseconds an image while every place is taken, one figure for the whole turn.

    Like the rate of a stream it is images over time, so that the two can be divided by each
    other: the median of short spells would pass over those in which the machine was slow.
    """
    running = deque(runtime.submit(next(given)) for _ in range(2 * runtime.parallel))
    running.popleft().result()
    spells = 0
    begun = time.perf_counter()
    while spells < LEAST_TIMES or time.perf_counter() - begun < seconds:
        for _ in range(runtime.parallel):
            running.append(runtime.submit(next(given)))
            running.popleft().result()
        spells += 1
    took = time.perf_counter() - begun
    while running:
        running.popleft().result()
    return [took * 1e3 / (spells * runtime.parallel * images)]


def _turn(timed: _Timed, task: dict[str, Any], mode: str) -> dict[str, Any]:
    batch, seconds = task["batch"], task["seconds"]
    return {
        "whole_ms": timed.whole(batch, seconds),
        "network_ms": timed.network(batch, seconds, mode=mode),
        "around_ms": timed.around(seconds),
        "images_per_s": [timed.stream(batch, seconds)],
        "memory_mib": peak_memory_mib(),
    }


def _serve(read: Callable[[], str], answer: Callable[[dict[str, Any]], None]) -> None:
    task = json.loads(read())
    paths = [Path(path) for path in task["images"]]
    detector = _load(task)
    detector.predict(paths[0])
    answer({"ready": True, "input_hw": detector.input_hw, "precision": _precision(detector, task)})
    timed: _Timed | None = None
    while line := read():
        timed = timed or _Timed(detector, paths)
        answer(_turn(timed, json.loads(line), task["mode"]))


def _precision(detector: Detector, task: dict[str, Any]) -> str:
    info = getattr(detector.runtime, "info", None)
    own = "float32" if info is None else info.precision
    asked = str(task["precision"])
    return own if asked == "float32" else asked if own == "float32" else f"{own}, {asked}"


def main() -> int:
    """Serve one candidate until standard input ends; return 0, or 1 after an error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    from attendet.errors import AttendetError

    try:
        _serve(sys.stdin.readline, answer)
    except AttendetError as error:
        answer({"error": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
