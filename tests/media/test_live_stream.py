from __future__ import annotations

import http.server
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("av")

from attendet.errors import ConfigError, DataError
from attendet.media import LiveOptions, live_stream, read_frames
from attendet.media.sources import Skipped, Source

QUICK = {"timeout": 2.0}


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "FIRST_DELAY", 0.05)


def test_a_stream_over_http_gives_its_frames(camera_server: Any) -> None:
    frames = read_frames(camera_server.address, live=LiveOptions(drop=False, **QUICK))

    got = [next(frames) for _ in range(10)]
    frames.close()

    assert [frame.index for frame in got] == list(range(10))
    lefts = [int(np.flatnonzero(frame.image[30, :, 0] > 128)[0]) for frame in got]
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
    messages: list[str] = []
    frames = read_frames(
        camera_server.address,
        live=LiveOptions(drop=False, on_event=messages.append, reconnect=20, **QUICK),
    )

    got = [next(frames) for _ in range(70)]
    frames.close()

    assert [frame.index for frame in got] == list(range(70))
    assert camera_server.connections >= 3
    assert [("lost: " in words, "reconnected to" in words) for words in messages[:4]] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert all(camera_server.address in words for words in messages)


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
    match = re.search(r"no reconnection within ([\d.]+) s", skipped[0].reason)
    assert match is not None
    assert 0.4 <= float(match[1]) < 3
    assert skipped[0].frames == 1 + len(rest)


class Clock:
    """Stands for the module `time` and for the event that is waited on: waiting takes no time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def is_set(self) -> bool:
        return False

    def set(self) -> None: ...


@pytest.mark.parametrize("reconnect", [0.2, 10.0, 60.0, 300.0])
def test_a_lost_stream_is_tried_for_the_whole_time_that_was_given(
    monkeypatch: pytest.MonkeyPatch, reconnect: float
) -> None:
    clock, tries = Clock(), []
    monkeypatch.setattr(live_stream, "time", clock)
    monkeypatch.setattr(live_stream, "FIRST_DELAY", 0.5)

    @contextmanager
    def once(*_: object) -> Iterator[tuple[Iterator[live_stream.Take], None]]:
        tries.append(clock.now)
        if len(tries) > 1:
            raise DataError("stream cannot be read (x): connection refused.")
        yield iter([lambda: np.zeros((4, 4, 3), dtype=np.uint8)]), None

    monkeypatch.setattr(live_stream, "_open", once)
    options = LiveOptions(reconnect=reconnect, drop=False)
    reader = live_stream.LiveReader(Source("x", "rtsp://x/y", "stream"), options)
    reader._stop = clock  # type: ignore[assignment]

    with pytest.raises(DataError, match=f"refused; no reconnection within {reconnect:.1f} s"):
        list(reader)

    assert tries[-1] == pytest.approx(1000 + reconnect)
    waits = np.diff(tries[1:])[:-1]
    assert all(waits[1:] <= 2 * waits[:-1])
    assert all(waits <= 30)


def test_without_reconnection_the_first_break_is_the_end(camera_server: Any) -> None:
    camera_server.per_connection = 20
    skipped: list[Skipped] = []
    options = LiveOptions(drop=False, reconnect=0, **QUICK)

    got = list(read_frames(camera_server.address, on_skip=skipped.append, live=options))

    assert 10 <= len(got) <= 20
    assert "ended with an error" in skipped[0].reason
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


def test_a_password_is_never_shown() -> None:
    with pytest.raises(DataError) as caught:
        list(read_frames("rtsp://admin:hunter2@127.0.0.1:9/x", live=LiveOptions(timeout=2.0)))

    assert "hunter2" not in str(caught.value)
    assert "rtsp://127.0.0.1:9/x" in str(caught.value)


def test_reading_ends_when_its_time_is_up_though_no_frame_comes(camera_server: Any) -> None:
    options = LiveOptions(drop=False, timeout=60, stop_after=0.5)
    frames = read_frames(camera_server.address, live=options)
    started = time.monotonic()
    first = next(frames)
    camera_server.pause = 60  # connected, and silent

    rest = list(frames)

    assert 0.4 < time.monotonic() - started < 15
    assert all(frame.seconds < 0.5 for frame in (first, *rest))


def test_reading_ends_when_its_time_is_up_while_the_stream_is_lost(camera_server: Any) -> None:
    camera_server.per_connection = 20
    options = LiveOptions(drop=False, reconnect=math.inf, stop_after=1.5, **QUICK)
    frames = read_frames(camera_server.address, live=options)
    next(frames)
    camera_server.is_down = True
    started = time.monotonic()

    list(frames)

    assert time.monotonic() - started < 15


# --- stored videos at an address -----------------------------------------------------------------


Serve = Callable[[bytes, int], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve bytes, at every page, as a video of a stated length."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(content: bytes, length: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "video/mp4")
                self.send_header("Content-Length", str(length))
                self.end_headers()
                with suppress(ConnectionError):
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("page", ["view", "street.mp4"])
@pytest.mark.parametrize("line", ["breaks", "holds"])
def test_a_stored_video_that_is_cut_off_is_read_once_and_reported(
    make_video: Callable[..., Path], serve: Serve, page: str, line: str
) -> None:
    whole = make_video(frames=250, options={"movflags": "faststart"}).read_bytes()
    part = whole[: len(whole) * 2 // 3]
    address = f"{serve(part, len(whole) if line == 'breaks' else len(part))}/{page}"
    skipped: list[Skipped] = []

    got = []
    for frame in read_frames(address, on_skip=skipped.append, live=LiveOptions(**QUICK)):
        got.append(frame)
        assert len(got) <= 250

    lefts = [int(np.flatnonzero(frame.image[30, :, 0] > 128)[0]) for frame in got[:50]]
    assert lefts == [(4 * number) % 72 for number in range(50)]
    assert [frame.index for frame in got] == list(range(len(got)))
    (entry,) = skipped
    assert entry.frames == len(got) > 50
    words = {"breaks": "video ended with an error", "holds": "video is damaged or truncated"}
    assert words[line] in entry.reason
    assert address in entry.reason


@pytest.mark.parametrize("page", ["view", "street.mp4"])
def test_a_whole_stored_video_ends_without_a_word(
    make_video: Callable[..., Path], serve: Serve, page: str
) -> None:
    whole = make_video(frames=40, options={"movflags": "faststart"}).read_bytes()

    got = list(read_frames(f"{serve(whole, len(whole))}/{page}", live=LiveOptions(**QUICK)))

    assert [frame.index for frame in got] == list(range(40))


def test_every_frame_of_a_video_that_breaks_off_has_its_time(
    make_video: Callable[..., Path], serve: Serve
) -> None:
    whole = make_video(frames=250, options={"movflags": "faststart"}).read_bytes()
    address = f"{serve(whole[: len(whole) * 2 // 3], len(whole))}/street.mp4"

    seconds = [frame.seconds for frame in read_frames(address, on_skip=lambda _: None)]

    assert seconds == pytest.approx([number / 25 for number in range(len(seconds))], abs=1e-4)


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
    monkeypatch.setattr(live_stream.cv2, "VideoCapture", Camera)
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
    assert got[0].image[0, 0].tolist() == [0, 0, 250]


def test_an_unplugged_camera_is_opened_again(camera: type[Camera]) -> None:
    frames = read_frames("0", live=LiveOptions(drop=False, reconnect=10))

    got = [next(frames).index for _ in range(7)]
    frames.close()

    assert got == list(range(7))
    assert len(camera.opened) >= 3


def test_a_missing_camera_is_one_clear_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"camera cannot be opened \(camera:97\)"):
        list(read_frames("camera:97"))

    assert capfd.readouterr().err == ""  # OpenCV would say more


def test_a_camera_without_frames_is_reported_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, camera: type[Camera]
) -> None:
    monkeypatch.setattr(Camera, "read", lambda self: time.sleep(60))

    with pytest.raises(DataError, match=r"camera must send frames; got none in 0.3 s \(camera:0\)"):
        list(read_frames("camera:0", live=LiveOptions(timeout=0.2, stop_after=0.3)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"reconnect": -1.0},
        {"reconnect": math.nan},
        {"timeout": 0.0},
        {"timeout": math.nan},
        {"stop_after": 0.0},
        {"stop_after": -1.0},
        {"stop_after": math.nan},
    ],
)
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
