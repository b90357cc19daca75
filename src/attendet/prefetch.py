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
ResultT = TypeVar("ResultT")

MAX_BYTES = 256 * 1024 * 1024
"""Limit on the prefetched bytes; a single item may be larger."""


class Buffer(Generic[Item]):
    """Bounded queue of items from a writer thread to a reader thread.

    If the buffer is full, the writer waits. With ``latest``, a new item replaces older ones
    instead, so that the reader never lags behind.

    Args:
        ahead: maximum number of items held.
        max_bytes: limit on the total size of the items held; a single item may be larger.
        latest: keep only the newest item.

    Attributes:
        until: time at which the reader stops waiting for an item, by `time.monotonic`.
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
        """Add an item of ``size`` bytes; return False if the reader has closed the buffer."""
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
        """Mark the end of the stream; an error is raised in the reader after the last item."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Close the reader's side: drop the items held and refuse further ones."""
        with self._changed:
            self.closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items, waiting for each, up to the end of the stream or the time ``until``."""
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    left = self.until - time.monotonic()
                    if left <= 0:
                        return
                    self._changed.wait(min(left, 0.5))  # short, so that Ctrl-C works on all systems
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
    """Yield the items of an iterator while a thread fetches the next ones.

    Args:
        items: iterated and closed in the thread.
        ahead: maximum number of items held.
        size_of: returns the bytes of an item; the items held stay below `MAX_BYTES`.

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
    function: Callable[[Item], ResultT],
    items: Iterable[Item],
    *,
    ahead: int,
    workers: int,
    size_of: Callable[[ResultT], int],
) -> Generator[tuple[Item, Future[ResultT]], None, None]:
    """Yield each item with the result of a function, in order; threads compute the next ones.

    Args:
        function: called in the threads.
        items: consumed only as far as results are computed ahead.
        ahead: maximum number of results that are ready or being computed; fewer if they are large.
        workers: number of threads.
        size_of: returns the bytes of a result. The results computed ahead stay below `MAX_BYTES`,
            estimated by the largest of the latest results.

    Yields:
        The item and the finished future of its result: ``result()`` returns or raises at once.

    Example:
        >>> numbers = map_in_threads(abs, [-1, -2], ahead=2, workers=1, size_of=lambda _: 8)
        >>> [future.result() for _, future in numbers]
        [1, 2]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    remaining = iter(items)
    pending: deque[tuple[Item, Future[ResultT]]] = deque()
    sizes: deque[int] = deque(maxlen=ahead)

    def may_start(limit: int) -> bool:
        if not sizes and len(pending) >= workers:  # sizes are not known yet
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
            fill(ahead, least=1)  # a single result may exceed the limit
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
    read: Callable[[Item], ResultT],
    items: Iterable[Item],
    *,
    ahead: int,
    workers: int,
    size_of: Callable[[ResultT], int],
    on_skip: Callable[[Item, ImageError], object] | None = None,
) -> Generator[tuple[Item, ResultT], None, None]:
    """Yield each item with its data, read as in `map_in_threads`; skip unreadable images.

    Args:
        read: returns the data of an item; called in the threads.
        items: as in `map_in_threads`.
        ahead: as in `map_in_threads`.
        workers: number of threads.
        size_of: returns the bytes of an item's data.
        on_skip: called with each unreadable item and the error; if None, the error is raised.
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
            del item, made  # frees them while the next one is read
