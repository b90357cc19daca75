"""Threads in which PyTorch works on several batches side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from attendet.inference.runtimes.base import Output, RuntimeOptions
from attendet.system import available_cores

__all__ = ["TorchPlaces", "places_for"]


def places_for(options: RuntimeOptions, device: torch.device) -> int:
    """Return how many batches PyTorch works on side by side: for throughput one a core of a CPU.

    With one place all threads of PyTorch share a batch. Where images are read meanwhile, the
    readers take a core from them and the others wait at every operator: on 2 cores a stream made
    19 images/s that way and 28 with two places (batches of 4, 416 px, docs/benchmarks.md).
    """
    if options.mode != "throughput" or device.type != "cpu":
        return 1
    return options.threads or available_cores()


class TorchPlaces:
    """So many threads, each with a batch of its own.

    PyTorch's number of threads belongs to the calling thread and is inherited by new ones. Where
    there is more than one place, each place keeps 1 to itself and the process keeps its number.

    Args:
        count: places; with one, the batch has all threads of PyTorch.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        if count == 1:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="torch")
            return
        usual = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(count, "torch", initializer=_work_alone)
        everybody = threading.Barrier(count)  # a pool starts a thread only if none is free
        list(self._pool.map(lambda _: everybody.wait(), range(count)))
        torch.set_num_threads(usual)

    def submit(
        self, run: Callable[[NDArray[np.uint8]], Output], inputs: NDArray[np.uint8]
    ) -> Future[Output]:
        """Run a batch in the next place that is free."""
        return self._pool.submit(run, inputs)


def _work_alone() -> None:
    torch.get_num_threads()  # a thread takes the process's number at its first question, not later
    torch.set_num_threads(1)
