"""The order of an epoch's images and its batches, one made ahead while the last one trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from attendet.data import Batch

__all__ = ["epoch_order", "prefetched"]


def epoch_order(count: int, batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the image numbers of each step of an epoch.

    Every image comes once; the last batch is filled from the front of the epoch, so that all
    batches have one size.

    Args:
        count: images in all.
        batch: images a step.
        seed: of the run.
        epoch: counting from 0.

    Example:
        >>> order = epoch_order(5, 2, seed=0, epoch=0)
        >>> [len(indices) for indices in order], sorted(set(sum(order, [])))
        ([2, 2, 2], [0, 1, 2, 3, 4])
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    steps = -(-count // batch)
    filled = np.resize(order, steps * batch)
    return [[int(index) for index in row] for row in filled.reshape(steps, batch)]


def prefetched(make: Callable[[int], Batch], steps: int) -> Iterator[Batch]:
    """Give the batch of each step; the next one is made in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="make-batch") as maker:
        coming = maker.submit(make, 0)
        for step in range(steps):
            batch = coming.result()
            if step + 1 < steps:
                coming = maker.submit(make, step + 1)
            yield batch
