from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("av")

from attendet.errors import ConfigError, DataError
from attendet.inference import LiveOptions, live, read_frames
from attendet.inference.sources import Skipped

QUICK = {"timeout": 2.0}


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_DELAY", 0.05)


def test_a_stream_over_http_gives_its_frames(camera_server: Any) -> None:
    frames = read_frames(camera_server.address, live=LiveOptions(drop=False, **QUICK))

    got = [next(frames) for _ in range(10)]
    frames.close()

    assert [frame.index for frame in got] == list(range(10))
    lefts = [int(np.flatnonzero(frame.picture[30, :, 0] > 128)[0]) for frame in got]
    assert np.diff(lefts).tolist() == [4] * 9
    seconds = [frame.seconds for frame in got]
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    assert not any(thread.name == "live" for thread in threading.enumerate())


def test_a_slow_reader_gets_the_newest_frame(camera_server: Any) -> None:
    camera_server.pause = 0.01
    frames = read_frames(camera_server.address, live=LiveOptions(**QUICK))

    first = next(frames)
    time.sleep(0.4)
    behind = camera_server.sent - 1
    later = [next(frames) for _ in range(2)]
    frames.close()

    assert later[-1].index - first.index > 10
    assert later[-1].index > behind / 2


def test_all_frames_are_kept_on_request(camera_server: Any) -> None:
    camera_server.pause = 0.005
    frames = read_frames(camera_server.address, live=LiveOptions(drop=False, **QUICK))

    got = []
    for _ in range(12):
        got.append(next(frames).index)
        time.sleep(0.02)
    frames.close()

    assert got == list(range(12))


def test_a_stream_that_breaks_comes_back(camera_server: Any) -> None:
    camera_server.per_connection = 30
    told: list[str] = []
    frames = read_frames(
        camera_server.address,
        live=LiveOptions(drop=False, on_event=told.append, reconnect=20, **QUICK),
    )

    got = [next(frames) for _ in range(70)]
    frames.close()

    assert [frame.index for frame in got] == list(range(70))
    assert camera_server.connections >= 3
    assert [("lost" in words, "back after" in words) for words in told[:4]] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert all(camera_server.address in words for words in told)


def test_a_stream_that_is_down_for_a_while_comes_back(camera_server: Any) -> None:
    camera_server.pause = 0.01
    frames = read_frames(camera_server.address, live=LiveOptions(reconnect=20, **QUICK))
    next(frames)
    camera_server.is_down = True
    threading.Timer(0.5, lambda: setattr(camera_server, "is_down", False)).start()

    deadline = time.monotonic() + 15
    before = camera_server.sent
    while camera_server.sent < before + 20 and time.monotonic() < deadline:
        next(frames)
    frames.close()

    assert camera_server.sent >= before + 20
    assert camera_server.connections >= 3  # at least one was turned away in between


def test_a_stream_that_stays_away_is_given_up(camera_server: Any) -> None:
    camera_server.per_connection = 20
    skipped: list[Skipped] = []
    frames = read_frames(
        camera_server.address,
        on_skip=skipped.append,
        live=LiveOptions(drop=False, reconnect=0.4, **QUICK),
    )

    next(frames)
    camera_server.per_connection = 0
    rest = list(frames)

    assert 1 <= len(rest) < 20
    assert "given up after 0.4 s" in skipped[0].reason
    assert skipped[0].frames == 1 + len(rest)


def test_without_reconnection_the_first_break_is_the_end(camera_server: Any) -> None:
    camera_server.per_connection = 20
    skipped: list[Skipped] = []
    options = LiveOptions(drop=False, reconnect=0, **QUICK)

    got = list(read_frames(camera_server.address, on_skip=skipped.append, live=options))

    assert 10 <= len(got) <= 20
    assert "breaks off" in skipped[0].reason
    assert camera_server.connections == 1


@pytest.mark.parametrize(
    "address",
    ["rtsp://127.0.0.1:9/x", "http://127.0.0.1:9/live.mjpg", "rtmp://127.0.0.1:9/a/b"],
)
def test_a_stream_that_was_never_there_is_one_clear_line_at_once(address: str) -> None:
    started = time.monotonic()

    with pytest.raises(DataError, match=r"stream cannot be read \(.*127.0.0.1:9") as caught:
        list(read_frames(address, live=LiveOptions(timeout=2.0)))

    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_password_is_never_told() -> None:
    with pytest.raises(DataError) as caught:
        list(read_frames("rtsp://admin:hunter2@127.0.0.1:9/x", live=LiveOptions(timeout=2.0)))

    assert "hunter2" not in str(caught.value)
    assert "rtsp://127.0.0.1:9/x" in str(caught.value)


# --- cameras -----------------------------------------------------------------------------------


class Camera:
    """Stands for cv2.VideoCapture: gives so many frames, then none."""

    opened: ClassVar[list[object]] = []
    frames = 3
    is_there = True

    def __init__(self, device: object) -> None:
        self.opened.append(device)
        self.left = self.frames

    def isOpened(self) -> bool:
        return self.is_there

    def set(self, *_: object) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        bgr = np.zeros((4, 6, 3), dtype=np.uint8)
        bgr[..., 0] = 250
        return (True, bgr) if self.left >= 0 else (False, None)

    def release(self) -> None: ...


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[Camera]:
    monkeypatch.setattr(live.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "opened", [])
    return Camera


@pytest.mark.parametrize(
    ("word", "device"),
    [("0", 0), ("camera:2", 2), ("camera:/dev/video3", "/dev/video3")],
)
def test_a_camera_gives_its_frames_as_rgb(camera: type[Camera], word: str, device: object) -> None:
    options = LiveOptions(drop=False, reconnect=0)

    got = list(read_frames(word, live=options, on_skip=lambda _: None))

    assert camera.opened == [device]
    assert [frame.index for frame in got] == [0, 1, 2]
    assert got[0].picture[0, 0].tolist() == [0, 0, 250]


def test_an_unplugged_camera_is_opened_again(camera: type[Camera]) -> None:
    frames = read_frames("0", live=LiveOptions(drop=False, reconnect=10))

    got = [next(frames).index for _ in range(7)]
    frames.close()

    assert got == list(range(7))
    assert len(camera.opened) >= 3


def test_a_missing_camera_is_one_clear_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"camera must be there and free; got none \(camera:97\)"):
        list(read_frames("camera:97"))

    assert capfd.readouterr().err == ""  # OpenCV would say more


@pytest.mark.parametrize("wrong", [{"reconnect": -1.0}, {"timeout": 0.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        LiveOptions(**wrong)


def test_an_error_in_the_reading_thread_reaches_the_reader(
    monkeypatch: pytest.MonkeyPatch, camera: type[Camera]
) -> None:
    def broken(*_: object) -> Callable[[], None]:
        raise ZeroDivisionError

    monkeypatch.setattr(Camera, "read", broken)

    with pytest.raises(ZeroDivisionError):
        list(read_frames("0"))
