"""PyTorch on several batches side by side: one thread for each, and the process keeps its own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from attendet.inference import load  # noqa: E402
from attendet.inference.runtimes.base import RuntimeOptions  # noqa: E402
from attendet.inference.runtimes.torch_replicas import TorchPlaces, places_for  # noqa: E402

CPU = torch.device("cpu")
Canvases = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def usual_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def _threads_elsewhere() -> int:
    """PyTorch's threads in a Python thread that is new."""
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    return seen[0]


@pytest.mark.parametrize(("count", "threads"), [(1, 3), (2, 1), (3, 1)])
def test_each_place_has_one_thread_and_the_process_what_it_had(count: int, threads: int) -> None:
    everybody = threading.Barrier(count)
    seen: list[tuple[int, int]] = []

    def run(inputs: Canvases) -> Any:
        everybody.wait(timeout=10)  # so many are at work at once, or this breaks
        torch.rand(64, 64) @ torch.rand(64, 64)
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return inputs, inputs

    places = TorchPlaces(count)
    padded = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    pending = [places.submit(run, padded) for _ in range(2 * count)]
    for one in pending:
        one.result()

    assert len({thread for thread, _ in seen}) == count
    assert {of_torch for _, of_torch in seen} == {threads}
    assert torch.get_num_threads() == 3
    assert _threads_elsewhere() == 3


def test_only_a_processor_in_mode_throughput_has_several_places() -> None:
    assert places_for(RuntimeOptions(mode="throughput", threads=5), CPU) == 5
    assert places_for(RuntimeOptions(mode="latency", threads=5), CPU) == 1
    assert places_for(RuntimeOptions(mode="throughput", threads=5), torch.device("cuda")) == 1


@pytest.mark.parametrize("file", ["torch", "torchscript"])
def test_side_by_side_gives_what_one_after_the_other_gives(
    exported: dict[str, Path], file: str
) -> None:
    runtime: Any = load(exported[file], device="cpu", mode="throughput", threads=3).runtime
    assert runtime.parallel == 3
    inputs = np.random.default_rng(1).integers(0, 256, (12, 1, 64, 96, 3), dtype=np.uint8)
    alone = [runtime.run(one) for one in inputs]

    together = [runtime.submit(one) for one in inputs]

    for pending, (boxes, scores) in zip(together, alone, strict=True):
        np.testing.assert_allclose(pending.result()[0], boxes, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(pending.result()[1], scores, rtol=1e-4, atol=1e-5)
    assert torch.get_num_threads() == 3
