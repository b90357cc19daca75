"""Queue of calls that run one at a time, in order of arrival, with a maximum length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from attendet.errors import AttendetError

T = TypeVar("T")


class BusyError(AttendetError):
    """The maximum number of requests is waiting."""


class InferenceQueue:
    """Queue that runs calls in one thread, in order of arrival.

    Args:
        max_waiting: maximum number of requests that are being received, waiting or running.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Count a request from its first byte to its answer.

        Raises:
            BusyError: if the queue is full.
        """
        if self._waiting >= self.max_waiting:
            raise BusyError(
                f"waiting requests must be at most {self.max_waiting}; got one more. "
                "Try again in a moment."
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call after all earlier calls and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
