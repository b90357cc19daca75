"""PyTorch on several batches side by side: one thread each, and the process keeps its own."""

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
from attendet.inference.runtimes.torch_runtime import parallel_batches, torch_pool  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def usual_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def _threads_elsewhere() -> int:
    """Return PyTorch's number of threads in a new Python thread."""
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    return seen[0]


@pytest.mark.parametrize(("count", "threads"), [(1, 3), (2, 1), (3, 1)])
def test_each_worker_has_one_thread_and_the_process_keeps_its_own(count: int, threads: int) -> None:
    all_started = threading.Barrier(count)
    seen: list[tuple[int, int]] = []

    def run(inputs: NDArray[np.uint8]) -> Any:
        all_started.wait(timeout=10)  # fails if fewer run at once
        torch.rand(64, 64) @ torch.rand(64, 64)
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return inputs, inputs

    pool = torch_pool(count)
    padded = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    pending = [pool.submit(run, padded) for _ in range(2 * count)]
    for one in pending:
        one.result()

    assert len({thread for thread, _ in seen}) == count
    assert {of_torch for _, of_torch in seen} == {threads}
    assert torch.get_num_threads() == 3
    assert _threads_elsewhere() == 3


def test_only_throughput_on_a_cpu_runs_batches_side_by_side() -> None:
    assert parallel_batches(RuntimeOptions(mode="throughput", threads=5), CPU) == 5
    assert parallel_batches(RuntimeOptions(mode="latency", threads=5), CPU) == 1
    assert parallel_batches(RuntimeOptions(mode="throughput", threads=5), torch.device("cuda")) == 1


@pytest.mark.parametrize("file", ["torch", "torchscript"])
def test_batches_side_by_side_have_the_same_outputs(exported: dict[str, Path], file: str) -> None:
    runtime: Any = load(exported[file], device="cpu", mode="throughput", threads=3).runtime
    assert runtime.parallel == 3
    inputs = np.random.default_rng(1).integers(0, 256, (12, 1, 64, 96, 3), dtype=np.uint8)
    alone = [runtime.run(one) for one in inputs]

    together = [runtime.submit(one) for one in inputs]

    for pending, (boxes, scores) in zip(together, alone, strict=True):
        np.testing.assert_allclose(pending.result()[0], boxes, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(pending.result()[1], scores, rtol=1e-4, atol=1e-5)
    assert torch.get_num_threads() == 3
