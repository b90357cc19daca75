"""Fixtures that every room's tests share."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Machines differ in speed, so no deadline; in continuous integration the same examples each time.
settings.register_profile("attendet", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("attendet")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder.relative_to(SHARED.parent)} beside the repository")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of published evaluator cases beside the repository."""
    return _shared("cases")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in YOLO layout: ten training and four validation pictures of coloured squares."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            name = f"{split}{number:02}"
            height, width = (int(side) for side in rng.integers(64, 97, 2))
            picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            lines = []
            for class_id in rng.integers(0, 2, 2).tolist():
                side = int(rng.integers(14, 30))
                x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
                picture[y : y + side, x : x + side] = ((230, 60, 40), (40, 220, 90))[class_id]
                centre = f"{(x + side / 2) / width} {(y + side / 2) / height}"
                lines.append(f"{class_id} {centre} {side / width} {side / height}\n")
            Image.fromarray(picture).save(root / "images" / split / f"{name}.png")
            (root / "labels" / split / f"{name}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [red, green]\n", encoding="utf-8"
    )
    return root


def _moving_square(number: int, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    left = (4 * number) % (width - 24)
    picture[20:44, left : left + 24] = 255
    return picture


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Make a video of a white square that moves 4 pixels to the right a frame, on black."""
    av = pytest.importorskip("av")

    def make(
        name: str = "street.mp4",
        frames: int = 12,
        image_hw: tuple[int, int] = (64, 96),
        times: Sequence[float] | None = None,
        options: dict[str, str] | None = None,
        codec: str = "libx264",
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        clock = Fraction(1, 90_000) if times is not None else Fraction(1, 25)
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = image_hw
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = clock
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(_moving_square(number, image_hw), "rgb24")
                frame.pts = number if times is None else round(times[number] / clock)
                frame.time_base = clock
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


class CameraServer:
    """A network camera on loopback: motion JPEG over HTTP, which can be broken and mended.

    Attributes:
        per_connection: frames after which the line breaks; None: never.
        is_down: whether it turns everyone away.
        pause: seconds between two frames.
        connections: how often somebody came.
    """

    def __init__(self) -> None:
        self.per_connection: int | None = None
        self.is_down = False
        self.pause = 0.02
        self.connections = 0
        self.sent = 0
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.connections += 1
                if camera.is_down:
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=edge")
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    camera.send(self.wfile)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/live.mjpg"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def send(self, stream: IO[bytes]) -> None:
        """Send frames until the line breaks."""
        sent = 0
        while not self.is_down and (self.per_connection is None or sent < self.per_connection):
            picture = Image.fromarray(_moving_square(self.sent, (64, 96)))
            packed = io.BytesIO()
            picture.save(packed, "JPEG")
            jpeg = packed.getvalue()
            head = f"--edge\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            stream.write(head.encode() + jpeg + b"\r\n")
            sent += 1
            self.sent += 1
            time.sleep(self.pause)

    def close(self) -> None:
        """Take it from the net."""
        self.is_down = True
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def camera_server() -> Iterator[CameraServer]:
    """A network camera on loopback."""
    server = CameraServer()
    yield server
    server.close()
