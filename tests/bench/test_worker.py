"""What the process of a contender times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet.bench import worker


class Machine:
    """A detector whose batches take known times by a clock of its own.

    Args:
        parallel: batches side by side, each of which takes as long as one alone.
        seconds: of a picture.
    """

    def __init__(self, parallel: int, seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.parallel = parallel
        self.closed = False
        self.runtime = SimpleNamespace(run=lambda canvases: canvases)
        if parallel > 1:
            self.runtime.parallel = parallel

    def perf_counter(self) -> float:
        return self.now

    def lay(self, picture: Any) -> Any:
        return SimpleNamespace(canvas=picture)

    def stream(self, paths: Iterator[Path], batch: int) -> Iterator[Path]:
        self.now += 7.0  # until the first pictures are read
        try:
            while True:
                self.now += batch * self.seconds
                for _ in range(batch * self.parallel):
                    yield next(paths)
        finally:
            self.closed = True


@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("parallel", [1, 2])
def test_the_rate_of_a_stream_is_that_of_its_flow(
    batch: int, parallel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    machine = Machine(parallel, seconds=0.025)
    monkeypatch.setattr(worker, "time", machine)

    rate = worker._Timed(machine, [tmp_path / "one.png"]).stream(batch, seconds=0.5)

    assert rate == pytest.approx(parallel / 0.025)
    assert machine.closed
