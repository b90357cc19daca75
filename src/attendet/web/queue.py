"""Calls that run one after the other, in order of arrival, with a limit of those that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from attendet.errors import AttendetError

T = TypeVar("T")


class BusyError(AttendetError):
    """More requests wait than are allowed."""


class InferenceQueue:
    """Runs calls in one thread, so that they are answered in the order in which they came.

    Args:
        max_waiting: most requests that are received, wait or run at one time.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Count a request from its first byte to its answer.

        Raises:
            BusyError: if too many wait already.
        """
        if self._waiting >= self.max_waiting:
            raise BusyError(
                f"requests that wait must be at most {self.max_waiting}; got one more. "
                "Try again in a moment."
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def run(self, call: Callable[[], T]) -> T:
        """Return the result of a call, after those of all earlier ones."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
