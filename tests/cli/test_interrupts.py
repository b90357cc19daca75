from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from attendet.cli.interrupts import until_interrupted


def _send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def _numbers(closed: list[bool], block_at: int = -1) -> Iterator[int]:
    try:
        for number in range(100):
            if number == block_at:
                threading.Timer(0.1, _send).start()
                time.sleep(5)
            yield number
    finally:
        closed.append(True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_the_work_lets_it_be_finished(number: int) -> None:
    done, closed = [], []
    for item in until_interrupted(_numbers(closed)):
        if item == 3:
            _send(number)
        done.append(item)

    assert done == [0, 1, 2, 3]
    assert closed == [True]


def test_a_signal_ends_the_wait_for_the_next_item() -> None:
    closed: list[bool] = []
    started = time.monotonic()

    assert list(until_interrupted(_numbers(closed, block_at=2))) == [0, 1]
    assert time.monotonic() - started < 4
    assert closed == [True]


def test_a_second_signal_breaks_off() -> None:
    def work() -> None:
        for _ in until_interrupted(_numbers([])):
            _send()
            _send()

    with pytest.raises(KeyboardInterrupt):
        work()


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    list(until_interrupted(iter([1, 2])))

    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_gets_its_items_too() -> None:
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(until_interrupted(iter([1, 2]))))
    thread.start()
    thread.join()

    assert got == [1, 2]
