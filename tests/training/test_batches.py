from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.prefetch import map_in_threads
from attendet.training.trainer import epoch_order


def _prefetched(make: Callable[[int], Any], steps: int) -> Iterator[Any]:
    """Yield batches as the trainer does."""
    items = map_in_threads(make, range(steps), ahead=2, workers=1, size_of=lambda _: 0)
    return (future.result() for _, future in items)


@given(count=st.integers(1, 60), batch=st.integers(1, 20), epoch=st.integers(0, 5))
def test_every_image_is_used_and_batches_are_full(count: int, batch: int, epoch: int) -> None:
    order = epoch_order(count, batch, seed=3, epoch=epoch)
    flat = [index for indices in order for index in indices]

    assert {len(indices) for indices in order} == {batch}
    assert len(order) == -(-count // batch)
    assert sorted(flat[:count]) == list(range(count))
    counts = Counter(flat)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    order = epoch_order(40, 8, seed=0, epoch=0)

    assert epoch_order(40, 8, seed=0, epoch=0) == order
    assert epoch_order(40, 8, seed=1, epoch=0) != order
    assert epoch_order(40, 8, seed=0, epoch=1) != order


def test_batches_are_in_order_and_one_is_made_ahead() -> None:
    made = [threading.Event() for _ in range(4)]

    def make(step: int) -> Any:
        made[step].set()
        return step

    batches = _prefetched(make, 4)
    for step in range(4):
        assert next(batches) == step
        if step < 3:
            assert made[step + 1].wait(timeout=30)
        assert not any(event.is_set() for event in made[step + 2 :])
    assert list(batches) == []


def test_an_error_while_making_a_batch_is_raised_in_the_loop() -> None:
    def make(step: int) -> Any:
        if step == 1:
            raise ValueError("cannot")
        return step

    batches = _prefetched(make, 3)
    assert next(batches) == 0
    with pytest.raises(ValueError, match="cannot"):
        next(batches)
