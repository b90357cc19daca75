"""A real RTSP stream, served on loopback by GStreamer.

Its server comes with the system's own Python. Debian: apt install gir1.2-gst-rtsp-server-1.0
python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("av")

from attendet.media import LiveOptions, read_frames

PYTHON = "/usr/bin/python3"
SERVER = """
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

Gst.init(None)
if Gst.ElementFactory.find("x264enc"):
    coder = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay"
else:
    coder = "jpegenc ! rtpjpegpay"
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=20/1 "
    f"! videoconvert ! video/x-raw,format=I420 ! {coder} name=pay0 pt=96 )"
)
factory.set_shared(True)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit("the port cannot be had")
print("ready", flush=True)
GLib.MainLoop().run()
"""
PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); gi.require_version('Gst', '1.0'); "
    "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
    "raise SystemExit(not Gst.ElementFactory.find('rtpjpegpay'))"
)


class RtspServer:
    """The server, which can be stopped and started again at its address."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"rtsp://127.0.0.1:{self.port}/live"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-c", SERVER, str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    try:
        found = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"needs {PYTHON}")
    if found.returncode != 0:
        pytest.skip("needs GStreamer's RTSP server: gir1.2-gst-rtsp-server-1.0 and python3-gi")
    server = RtspServer()
    server.start()
    yield server
    server.stop()


def test_a_stream_gives_its_frames_in_time(rtsp: RtspServer) -> None:
    frames = read_frames(rtsp.address, live=LiveOptions(drop=False))

    got = [next(frames) for _ in range(30)]
    frames.close()

    assert [frame.index for frame in got] == list(range(30))
    assert all(frame.image.shape == (120, 160, 3) for frame in got)
    assert any((frame.image != got[0].image).any() for frame in got[1:])
    assert got[-1].seconds is not None
    assert got[-1].seconds < 10


def test_a_stream_whose_server_dies_comes_back(rtsp: RtspServer) -> None:
    messages: list[str] = []
    options = LiveOptions(drop=False, timeout=2, reconnect=60, on_event=messages.append)
    frames = read_frames(rtsp.address, live=options)
    before = [next(frames) for _ in range(5)]

    rtsp.stop()
    threading.Timer(1.0, rtsp.start).start()
    while not any("back after" in words for words in messages):
        last = next(frames)
    frames.close()

    assert last.index >= before[-1].index
    assert "is lost" in messages[0]
