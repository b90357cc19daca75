from __future__ import annotations

import base64
import http.server
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet import prefetch as buffer_module
from attendet.errors import ConfigError, DataError, ImageError, MissingExtraError
from attendet.media import frames as frames_module
from attendet.media import read_frames
from attendet.media.frames import read_images
from attendet.media.sources import Skipped, Source, find_sources
from attendet.prefetch import Buffer, read_in_thread


def _none(skipped: Skipped) -> None:
    """Fail: no image of the test can be skipped."""
    raise AssertionError(skipped.reason)


def test_images_come_in_order_and_broken_ones_are_reported(folder: Path) -> None:
    skipped: list[Skipped] = []
    listed = find_sources([folder, folder / "gone.jpg"])

    read = list(read_images(listed, on_skip=skipped.append, ahead=2))

    assert [source.name for source, _ in read] == ["a", "b", "c"]
    assert [image.shape for _, image in read] == [(480, 640, 3), (300, 200, 3), (64, 64, 3)]
    assert [Path(one.path).name for one in skipped] == ["d.jpg", "gone.jpg"]
    assert "truncated" in skipped[0].reason
    assert "not found" in skipped[1].reason


def test_reading_runs_ahead_by_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []

    def slow(path: Path) -> np.ndarray:
        started.append(path)
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(frames_module, "read_image", slow)
    read = read_images([Source(str(n), Path(str(n))) for n in range(50)], on_skip=_none, ahead=4)

    next(read)
    deadline = time.monotonic() + 5
    while len(started) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(started) == 4
    next(read)
    read.close()
    assert len(started) <= 5
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_an_error_that_is_not_the_images_own_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> np.ndarray:
        raise ZeroDivisionError

    monkeypatch.setattr(frames_module, "read_image", broken)

    with pytest.raises(ZeroDivisionError):
        list(read_images([Source("a", Path("a"))], on_skip=_none))


def test_large_images_are_read_ahead_by_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "MAX_BYTES", 1000)
    started: list[Path] = []

    def read(path: Path) -> np.ndarray:
        started.append(path)
        return np.zeros((10, 10, 3), dtype=np.uint8)

    monkeypatch.setattr(frames_module, "read_image", read)
    images = read_images([Source(str(n), Path(str(n))) for n in range(20)], on_skip=_none, ahead=16)

    next(images)
    time.sleep(0.1)
    assert len(started) <= 4  # three hold 900 bytes
    assert len(list(images)) == 19


def test_images_over_the_limit_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "MAX_BYTES", 10)
    read = read_images([Source(str(n), Path(str(n))) for n in range(5)], on_skip=_none)
    monkeypatch.setattr(
        frames_module, "read_image", lambda path: np.zeros((4, 4, 3), dtype=np.uint8)
    )

    assert len(list(read)) == 5


# --- any kind ----------------------------------------------------------------------------------


def test_frames_of_images_stand_alone(folder: Path) -> None:
    skipped: list[Skipped] = []

    frames = list(read_frames(folder, on_skip=skipped.append))

    assert [(frame.name, frame.index, frame.seconds) for frame in frames] == [
        ("a", 0, None),
        ("b", 0, None),
        ("c", 0, None),
    ]
    assert all(frame.is_still for frame in frames)
    assert len(skipped) == 1


def test_images_and_videos_come_in_the_order_named(
    folder: Path, make_video: Callable[..., Path]
) -> None:
    frames = read_frames([folder / "c.png", make_video(frames=2), folder / "a.png"])

    assert [frame.name for frame in frames] == ["c", "street/000000", "street/000001", "a"]


def test_without_on_skip_what_cannot_be_read_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="truncated"):
        list(read_frames(folder))


def test_numbers_and_words_are_checked_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError, match="every and ahead must be 1 or more; got 0"):
        read_frames(folder, every=0)
    with pytest.raises(ConfigError, match="either all paths or all"):
        read_frames([Source("a", Path("a")), "b"])


def test_a_video_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(MissingExtraError, match=r"videos needs 'av'.*attendet\[video\]"):
        read_frames("a.mp4")


def _jpeg() -> bytes:
    packed = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 99, dtype=np.uint8)).save(packed, "JPEG")
    return packed.getvalue()


def test_a_image_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_jpeg())))

    (frame,) = read_frames("-")

    assert (frame.name, frame.image.shape) == ("stdin", (20, 30, 3))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "standard input"), (b"no image", "standard input"), (b"x" * 2000, "at most")],
)
def test_what_is_no_image_on_standard_input(
    monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    monkeypatch.setattr(frames_module, "MAX_IMAGE_BYTES", 1000)

    with pytest.raises(DataError, match=words):
        list(read_frames("-"))


def test_a_closed_standard_input_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python leaves it after `<&-`

    with pytest.raises(DataError, match="standard input must contain an image; it is closed"):
        list(read_frames("-"))


# --- addresses ---------------------------------------------------------------------------------


asked: list[tuple[str, str | None]] = []
"""The host and the password, as a header holds it, of each question to the server."""


@pytest.fixture
def web() -> Iterator[str]:
    """A server on loopback."""
    asked.clear()
    jpeg = _jpeg()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.path.split("?")[0]
            asked.append((self.headers["Host"], self.headers["Authorization"]))
            if page == "/elsewhere.jpg":
                there = f"http://localhost:{server.server_address[1]}/a.jpg"
                self._answer(302, b"", Location=there)
            elif page == "/moved.jpg":
                self._answer(302, b"", Location="/a.jpg")
            elif page == "/away.jpg":
                self._answer(302, b"", Location="ftp://127.0.0.1/a.jpg")
            elif page in ("/a.jpg", "/snapshot"):
                self._answer(200, jpeg, **{"Content-Type": "image/jpeg"})
            elif page == "/cut.jpg":
                self._answer(200, jpeg[:300], **{"Content-Length": str(len(jpeg))})
            elif page == "/page.jpg":
                self._answer(200, b"<html>no image</html>")
            elif page == "/large.jpg":
                self._answer(200, b"", **{"Content-Length": str(2**40)})
            elif page == "/endless.jpg":
                self._trickle(b"x" * 65536, 0)
            elif page == "/slow.jpg":
                self._trickle(b"x", 0.05)
            else:
                self._answer(404, b"")

        def _answer(self, code: int, content: bytes, **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _trickle(self, chunk: bytes, pause: float) -> None:
            self._answer(200, b"")
            try:
                while True:
                    self.wfile.write(chunk)
                    time.sleep(pause)
            except ConnectionError:
                pass

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("page", ["a.jpg", "a.jpg?size=2", "moved.jpg", "snapshot?camera=1"])
def test_a_image_at_an_address(web: str, page: str) -> None:
    (frame,) = read_frames(f"{web}/{page}")

    assert frame.image.shape == (20, 30, 3)
    assert frame.is_still


def test_a_stream_at_an_address_that_does_not_say_so(camera_server: Any) -> None:
    pytest.importorskip("av")
    frames = read_frames(camera_server.address.replace("live.mjpg", "view"))

    assert not next(frames).is_still
    frames.close()


def test_a_video_at_an_address(make_video: Callable[..., Path]) -> None:
    path = make_video(frames=4, options={"movflags": "faststart"})  # no seeking needed

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(path.parent))

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/street.mp4"
        frames = list(read_frames(address))
        server.shutdown()

    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert not frames[0].source.is_live


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("gone.jpg", "the server returned 404"),
        ("gone", "the server returned 404"),
        ("away.jpg", "redirects to 'ftp'"),
        ("cut.jpg", "truncated after 300 of"),
        ("page.jpg", "image cannot be read"),
        ("large.jpg", "at most 64 MiB"),
        ("endless.jpg", "at most 64 MiB"),
    ],
)
def test_an_address_without_a_good_image_is_one_clear_line(web: str, page: str, words: str) -> None:
    skipped: list[Skipped] = []

    assert list(read_frames([f"{web}/{page}", f"{web}/a.jpg"], on_skip=skipped.append))

    assert len(skipped) == 1
    assert words in skipped[0].reason
    assert f"{web}/{page}" in skipped[0].reason
    assert "\n" not in skipped[0].reason


def test_a_server_that_trickles_is_given_up(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from attendet.media.web_images import fetch_image_bytes

    with pytest.raises(ImageError, match=r"incomplete response after 0\.3 s"):
        fetch_image_bytes(Source("slow", f"{web}/slow.jpg"), max_bytes=10**6, timeout=0.3)


def test_nobody_at_an_address() -> None:
    with pytest.raises(DataError, match=r"address cannot be read \(http://127.0.0.1:9/a.jpg\)"):
        list(read_frames("http://me:secret@127.0.0.1:9/a.jpg"))


PASSWORD = "Basic " + base64.b64encode(b"me:p@ss/w").decode()


@pytest.mark.parametrize("page", ["a.jpg", "snapshot", "moved.jpg"])
def test_a_user_and_password_are_shown_to_the_server_alone(web: str, page: str) -> None:
    with_password = f"{web}/{page}".replace("://", "://me:p@ss%2Fw@")

    (frame,) = read_frames(with_password)

    assert frame.image.shape == (20, 30, 3)
    assert frame.source.label == f"{web}/{page}"
    assert {password for _, password in asked} == {PASSWORD}


def test_a_password_is_not_sent_on_to_another_host(web: str) -> None:
    (frame,) = read_frames(f"{web}/elsewhere.jpg".replace("://", "://me:p@ss%2Fw@"))

    assert frame.is_still
    assert [password for _, password in asked] == [PASSWORD, None]
    assert asked[1][0].startswith("localhost:")


@pytest.mark.parametrize("page", ["gone.jpg", "gone", "away.jpg"])
def test_no_message_about_an_address_contains_its_password(web: str, page: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_frames(f"{web}/{page}".replace("://", "://me:hunter@2@")))

    assert "hunter" not in str(caught.value)
    assert f"({web}/{page})" in str(caught.value)


# --- the buffer --------------------------------------------------------------------------------


def test_a_buffer_holds_no_more_than_it_may() -> None:
    buffer: Buffer[int] = Buffer(10, max_bytes=100)
    put: list[int] = []

    def write() -> None:
        for number in range(6):
            buffer.put(number, 40)
            put.append(number)
        buffer.end()

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.1)
    assert put == [0, 1]
    assert list(buffer) == [0, 1, 2, 3, 4, 5]
    thread.join()


def test_an_item_larger_than_the_limit_passes_alone() -> None:
    assert list(read_in_thread(iter("abc"), ahead=4, size_of=lambda _: 2**40)) == ["a", "b", "c"]


def test_the_latest_item_replaces_the_others() -> None:
    buffer: Buffer[int] = Buffer(4, latest=True)
    for number in range(9):
        buffer.put(number)
    buffer.end()

    assert list(buffer) == [8]


def test_a_reader_waits_no_longer_than_it_shall() -> None:
    buffer: Buffer[int] = Buffer(4)
    buffer.put(7)
    buffer.until = time.monotonic() + 0.1
    much_later = threading.Timer(10, buffer.end)
    much_later.start()

    assert list(buffer) == [7]
    assert 0 <= time.monotonic() - buffer.until < 5
    much_later.cancel()


def test_an_error_comes_behind_the_items() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DataError("no more")

    read = read_in_thread(items(), ahead=4, size_of=lambda _: 0)

    assert next(read) == 1
    with pytest.raises(DataError, match="no more"):
        next(read)
