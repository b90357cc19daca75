from __future__ import annotations

import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.media import Frame, LiveOptions, Result, read_frames
from attendet.media.live_view import LiveView
from attendet.media.sources import Source

SOURCE = Source("street", Path("street.mp4"), "video")


def _result(gray: int = 90) -> Result:
    image = np.full((60, 200, 3), gray, dtype=np.uint8)
    return Result(Frame(SOURCE, image, 0, 0.0), Detections.empty(("cat",), (60, 200)))


def test_the_page_shows_the_frames_scaled_down() -> None:
    pytest.importorskip("av")
    view = LiveView(max_side=100, title="<street>")
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.02):
            view.write(_result())

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with urllib.request.urlopen(view.address, timeout=5) as page:
            text = page.read().decode()
        assert "stream.mjpeg" in text
        assert "&lt;street&gt;" in text
        options = LiveOptions(drop=False, reconnect=0, timeout=5)
        frames = read_frames(f"{view.address}stream.mjpeg", live=options)
        frame = next(frames)
        frames.close()
        assert frame.image.shape == (30, 100, 3)
        assert abs(int(frame.image[15, 50, 0]) - 90) < 4
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{view.address}etc/passwd", timeout=5)
    finally:
        done.set()
        worker.join()
        view.close(whole=True)


def test_nothing_is_drawn_while_nobody_looks() -> None:
    view = LiveView()
    result = _result()

    view.write(result)
    view.close(whole=True)

    assert "annotated" not in vars(result)


def test_it_is_served_to_this_machine_alone() -> None:
    view = LiveView()

    assert view._server.server_address[0] == "127.0.0.1"
    view.close(whole=False)


def test_a_viewer_is_let_go_at_the_end() -> None:
    view = LiveView()
    answer = urllib.request.urlopen(f"{view.address}stream.mjpeg", timeout=5)
    deadline = time.monotonic() + 5
    while view._viewers == 0 and time.monotonic() < deadline:
        time.sleep(0.01)

    view.close(whole=True)

    assert answer.read() == b""


def test_a_browser_that_disconnects_is_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView()
    address = ("127.0.0.1", int(view.address.rstrip("/").rsplit(":", 1)[1]))
    with socket.create_connection(address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET / HT")  # and then a reset
    with urllib.request.urlopen(view.address, timeout=5) as page:
        page.read()
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(5)
    view.close(whole=True)

    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_refused() -> None:
    view = LiveView()
    port = int(view.address.rstrip("/").rsplit(":", 1)[1])

    for wrong in (port, 10**6):
        with pytest.raises(ConfigError, match=f"port of the live view must be free; got {wrong}"):
            LiveView(wrong)
    view.close(whole=True)
