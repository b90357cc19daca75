"""Ctrl-C as the normal end of a run on an endless source, such as a camera."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


def until_interrupted(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield items until SIGINT (Ctrl-C) or SIGTERM, which end the iteration without an error.

    The first signal interrupts the wait for the next item, but not the processing of an item, so
    that files are written completely. A second signal during processing raises KeyboardInterrupt.
    Outside the main thread, signals have no effect here.

    Args:
        items: an iterator; closed at the end if it has a method ``close``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield from items  # only the main thread receives signals
        return
    state = {"waiting": False, "asked": False}

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        if state["waiting"] or state["asked"]:
            raise KeyboardInterrupt
        state["asked"] = True

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not state["asked"]:
            state["waiting"] = True
            item = next(items, None)
            state["waiting"] = False
            if item is None:
                return
            yield item
    except KeyboardInterrupt:
        if not state["waiting"]:
            raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        close = getattr(items, "close", None)
        if close is not None:
            close()
