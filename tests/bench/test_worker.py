"""The measurements in the process of a candidate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet.bench import worker


class Machine:
    """A detector whose batches take known times on its own clock.

    Args:
        parallel: batches side by side, each as slow as a single one.
        seconds: of an image.
    """

    def __init__(self, parallel: int, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.parallel = parallel
        self.closed = False
        self.runtime = SimpleNamespace(run=lambda inputs: inputs, parallel=parallel)

    def perf_counter(self) -> float:
        return self.now

    def preprocess(self, image: Any) -> Any:
        return SimpleNamespace(padded=image)

    def stream(self, paths: Iterator[Path], batch: int) -> Iterator[Path]:
        self.now += 7.0  # while the first images are read
        try:
            while True:
                self.now += batch * self.seconds
                for _ in range(batch * self.parallel):
                    yield next(paths)
        finally:
            self.closed = True


@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("parallel", [1, 2])
def test_the_rate_of_a_stream_ignores_its_start(
    batch: int, parallel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    machine = Machine(parallel, seconds=0.025)
    monkeypatch.setattr(worker, "time", machine)

    rate = worker.Measurements(machine, [tmp_path / "one.png"]).stream(batch, seconds=0.5)

    assert rate == pytest.approx(parallel / 0.025)
    assert machine.closed


def test_the_rate_of_the_network_is_a_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every fourth batch takes five times as long: the median would ignore that."""
    machine = Machine(parallel=2, seconds=0.0)
    done = iter(range(10**6))

    def result() -> None:
        machine.now += 5 / 64 if next(done) % 4 == 3 else 1 / 64

    machine.runtime.submit = lambda inputs: SimpleNamespace(result=result)
    monkeypatch.setattr(worker, "time", machine)
    batches = itertools.repeat(np.zeros((8, 32, 32, 3), np.uint8))

    times = worker._saturate(machine.runtime, batches, seconds=2.0, images=8)

    assert times == [2 / 64 * 1e3 / 8]
