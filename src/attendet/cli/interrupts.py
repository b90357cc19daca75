"""Ctrl-C as the ordinary end of a run that has no other."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


def until_interrupted(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Give items until Ctrl-C or a request to terminate, which then is no error.

    The signal ends the wait for the next item, but never the work on one: what is being written is
    written. A second signal does.

    Args:
        items: an iterator, closed in the end if it can be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield from items  # signals reach the main thread alone
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
