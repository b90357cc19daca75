"""Live view of the annotated frames in a browser.

The package depends on the headless OpenCV, which has no windows. A web page also works on a server,
through an SSH tunnel. Only this machine can open it.
"""

from __future__ import annotations

import html
import http.server
import sys
import threading
from typing import TYPE_CHECKING, Any

from attendet.errors import ConfigError
from attendet.media.sinks import Sink
from attendet.media.video import scale_down
from attendet.report.draw import to_jpeg

if TYPE_CHECKING:
    from attendet.images import ImageArray
    from attendet.media.pipeline import Result

QUALITY = 80
BOUNDARY = "frame"
HOST = "127.0.0.1"

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>attendet: {title}</title>
<style>body {{ margin: 0; background: #1f2328; }}
img {{ display: block; margin: auto; max-width: 100vw; max-height: 100vh; }}</style>
<img src="/stream.mjpeg" alt="live view"></html>
"""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error, unless the browser disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LiveView(Sink):
    """Sink that shows the latest result at ``http://127.0.0.1:PORT/`` and writes no file.

    Frames are encoded only while a browser is connected.

    Args:
        port: port of the page; 0 for any free port.
        max_side: images with a longer side are scaled down to this many pixels.
        title: title of the page.

    Raises:
        ConfigError: if the port is not available.
    """

    def __init__(self, port: int = 0, *, max_side: int = 1280, title: str = "live view") -> None:
        self._max_side, self._title = max_side, title
        self._changed = threading.Condition()
        self._latest: ImageArray | None = None
        self._jpeg: bytes | None = None
        self._number = 0
        self._viewers = 0
        self._closed = False
        try:
            self._server = _Server((HOST, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port of the live view must be free; got {port} ({error}). Choose another."
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    @property
    def page(self) -> bytes:
        """The page, as HTML."""
        return PAGE.format(title=html.escape(self._title)).encode()

    def write(self, result: Result) -> None:
        """Show a result if a browser is connected."""
        if self._viewers == 0:
            return
        with self._changed:
            self._latest, self._jpeg = result.annotated, None
            self._number += 1
            self._changed.notify_all()

    def close(self, *, whole: bool) -> None:
        """Stop the server."""
        del whole
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_viewers(self, change: int) -> None:
        """Count a viewer that connects (1) or disconnects (-1)."""
        with self._changed:
            self._viewers += change

    def next_jpeg(self, seen: int) -> tuple[bytes, int] | None:
        """Wait for a frame after number ``seen``; return its JPEG and number; None at the end."""
        with self._changed:
            while self._number <= seen and not self._closed:
                self._changed.wait(0.5)
            if self._closed or self._latest is None:
                return None
            if self._jpeg is None:
                self._jpeg = to_jpeg(scale_down(self._latest, self._max_side), QUALITY)
            return self._jpeg, self._number


def _handler(view: LiveView) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._send("text/html; charset=utf-8", view.page)
            elif self.path == "/stream.mjpeg":
                self._stream()
            else:
                self.send_error(404)

        def _send(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            view.add_viewers(1)
            seen = 0
            try:
                while (shown := view.next_jpeg(seen)) is not None:
                    jpeg, seen = shown
                    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n"
                    head += f"Content-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
            finally:
                view.add_viewers(-1)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler
