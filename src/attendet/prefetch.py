"""Prefetching with bounded memory: a buffer between threads, and a map over threads."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Generic, TypeVar

from attendet.errors import ImageError

Item = TypeVar("Item")
Made = TypeVar("Made")

MAX_BYTES = 256 * 1024 * 1024
"""Most bytes that are read ahead; one item may be larger."""


class Buffer(Generic[Item]):
    """Items from a writing thread, in order, for a reading one.

    A full buffer makes the writer wait; one that keeps only the latest drops what is older
    instead, so that the reader is never behind.

    Args:
        ahead: items that are held, at most.
        max_bytes: what they may hold together.
        latest: keep only the newest item.

    Attributes:
        until: when the reader no longer waits for an item, by `time.monotonic`.
    """

    def __init__(self, ahead: int, max_bytes: int = MAX_BYTES, *, latest: bool = False) -> None:
        self._items: deque[tuple[Item, int]] = deque()
        self._ahead, self._max_bytes = ahead, max_bytes
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self.latest = latest
        self.closed = False
        self.until = math.inf

    def put(self, item: Item, size: int = 0) -> bool:
        """Add an item of so many bytes; return False if the reader has closed the buffer."""
        with self._changed:
            if self.latest:
                self._items.clear()
                self._bytes = 0
            while self._is_full(size) and not self.closed:
                self._changed.wait()
            if self.closed:
                return False
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()
            return True

    def _is_full(self, size: int) -> bool:
        over = self._bytes + size > self._max_bytes
        return bool(self._items) and (len(self._items) >= self._ahead or over)

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more comes; an error is raised in the reader behind the last item."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more is wanted."""
        with self._changed:
            self.closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Give the items, waiting for them, up to the end or until it is time."""
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    left = self.until - time.monotonic()
                    if left <= 0:
                        return
                    self._changed.wait(min(left, 0.5))  # so that Ctrl-C is seen everywhere
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
            yield item


def read_in_thread(
    items: Iterator[Item], *, ahead: int, size_of: Callable[[Item], int]
) -> Iterator[Item]:
    """Give the items of an iterator while a thread fetches the next ones.

    Args:
        items: run in the thread, which also closes it.
        ahead: items held at most.
        size_of: bytes of an item; together they stay below `MAX_BYTES`.

    Example:
        >>> list(read_in_thread(iter("abc"), ahead=2, size_of=len))
        ['a', 'b', 'c']
    """
    buffer: Buffer[Item] = Buffer(ahead)

    def pump() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not buffer.put(item, size_of(item)):
                    break
        except BaseException as raised:  # raised again in the reader
            error = raised
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            buffer.end(error)

    thread = threading.Thread(target=pump, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield from buffer
    finally:
        buffer.close()
        thread.join()


def map_in_threads(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    ahead: int,
    workers: int,
    size_of: Callable[[Made], int],
) -> Generator[tuple[Item, Future[Made]], None, None]:
    """Give each item with what a function makes of it, in order, while threads make the next.

    Args:
        function: called in the threads.
        items: taken from only as many ahead as are made ahead.
        ahead: results that are made or in the making, at most; fewer where they are large.
        workers: threads.
        size_of: bytes of a result; as many are made ahead as stay below `MAX_BYTES`; estimated
            from the latest ones.

    Yields:
        The item and the future of its result, which is there: ``result()`` gives or raises it.

    Example:
        >>> numbers = map_in_threads(abs, [-1, -2], ahead=2, workers=1, size_of=lambda _: 8)
        >>> [future.result() for _, future in numbers]
        [1, 2]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    remaining = iter(items)
    pending: deque[tuple[Item, Future[Made]]] = deque()
    sizes: deque[int] = deque(maxlen=ahead)

    def may_start(limit: int) -> bool:
        if not sizes and len(pending) >= workers:  # their size is not known yet
            return False
        return len(pending) < limit and (len(pending) + 1) * max(sizes, default=0) <= MAX_BYTES

    def fill(limit: int, least: int = 0) -> None:
        while len(pending) < least or may_start(limit):
            try:
                item = next(remaining)
            except StopIteration:
                return
            pending.append((item, pool.submit(function, item)))

    try:
        while True:
            fill(ahead, least=1)  # one alone may be larger than the limit
            if not pending:
                return
            item, future = pending.popleft()
            if future.exception() is None:
                sizes.append(size_of(future.result()))
                fill(ahead - 1)
            yield item, future
            del item, future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_in_threads(
    read: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    ahead: int,
    workers: int,
    size_of: Callable[[Made], int],
    on_skip: Callable[[Item, ImageError], object] | None = None,
) -> Generator[tuple[Item, Made], None, None]:
    """Give each item with what was read of it, as `map_in_threads`, without unreadable images.

    Args:
        read: called in the threads.
        items: as in `map_in_threads`.
        ahead: as in `map_in_threads`.
        workers: threads.
        size_of: bytes of a result.
        on_skip: called with each item that is no readable image; without it that is an error.
    """
    results = map_in_threads(read, items, ahead=ahead, workers=workers, size_of=size_of)
    with closing(results):
        for item, future in results:
            try:
                made = future.result()
            except ImageError as error:
                if on_skip is None:
                    raise
                on_skip(item, error)
                continue
            del future
            yield item, made
            del item, made  # while the next one is read, these may go
