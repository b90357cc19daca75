"""The queue: one call at a time, in order; entries are counted."""

from __future__ import annotations

import asyncio

import pytest

from attendet.web.queue import BusyError, InferenceQueue


def test_calls_run_one_after_the_other_in_order() -> None:
    queue, running, order = InferenceQueue(10), 0, []

    def call(number: int) -> int:
        nonlocal running
        running += 1
        assert running == 1
        order.append(number)
        running -= 1
        return number

    async def all_at_once() -> list[int]:
        return list(await asyncio.gather(*(queue.run(lambda n=n: call(n)) for n in range(20))))

    assert asyncio.run(all_at_once()) == order == list(range(20))


def test_an_entry_is_free_again_after_an_error() -> None:
    queue = InferenceQueue(1)

    def enter_twice() -> None:
        with queue.entry(), queue.entry():
            pass

    for _ in range(2):
        with pytest.raises(BusyError, match="at most 1"):
            enter_twice()
