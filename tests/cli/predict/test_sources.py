"""Videos, cameras, streams, addresses, and what goes wrong with them."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import struct
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")


Predict = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_video_becomes_a_drawn_video_and_lines(
    run: Predict, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    av = pytest.importorskip("av")

    assert run(make_video(frames=7), "--save", "annotated,jsonl", "--max-detections", 3) == 0

    said = capsys.readouterr()
    assert said.out.startswith("7 frames in ")
    assert "frames/s)" in said.out
    assert "written: annotated, jsonl" in said.out
    assert said.err == ""
    with av.open(str(tmp_path / "out" / "street.mp4")) as video:
        times = [float(frame.time) for frame in video.decode(video=0)]
    assert times == pytest.approx([n / 25 for n in range(7)], abs=1e-4)
    lines = _lines(tmp_path / "out" / "detections.jsonl")
    assert [line["frame"] for line in lines] == list(range(7))
    assert all(len(line["detections"]) == 3 for line in lines)


def test_images_and_videos_are_done_together_whatever_is_broken(
    run: Predict, shots: Path, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("av")
    cut = make_video("shots/cut.mkv", frames=100)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (shots / "text.mp4").write_text("no video")

    code = run(
        shots, make_video(frames=3), "--save", "annotated", "--every", 2, "--max-detections", 3
    )

    said = capsys.readouterr()
    assert code == 0
    assert said.out.startswith("3 images, ")
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["a.jpg", "c.jpg", "cut.mp4", "d.jpg", "street.mp4"]
    issues = said.err.splitlines()
    assert issues[0] == "2 skipped:"
    assert "b.jpg" in issues[1]
    assert "text.mp4" in issues[2]
    assert issues[3] == "1 not read to the end:"
    assert "cut.mkv" in issues[4]
    assert len(issues) == 5


def _png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it has so many gray pixels and holds none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(bytes(width + 1))), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_bombs_and_other_files_are_a_line_each(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = b"a\0\0" + zlib.compress(bytes(80_000_000), 9)
    odd = {
        "huge.png": (_png(30_000, 30_000), "at most 178956970 pixels"),
        "bomb.png": (_png(8, 8, (b"zTXt", text)), "too large"),
        "empty.jpg": (b"", "cannot be read"),
        "page.jpg": (b"<html>no image</html>", "cannot be read"),
        "archive.png": (b"PK\3\4" + bytes(100), "cannot be read"),
    }
    for name, (content, _) in odd.items():
        (tmp_path / name).write_bytes(content)

    assert run(*(tmp_path / name for name in odd), shots / "a.jpg", "--save", "annotated") == 0

    said = capsys.readouterr()
    assert said.out.startswith("1 image in ")
    issues = said.err.splitlines()
    assert issues[0] == "5 skipped:"
    for issue, (name, (_, words)) in zip(issues[1:], odd.items(), strict=True):
        assert name in issue
        assert words in issue
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_objects_are_tracked_and_counted(
    run: Predict, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("av")
    pytest.importorskip("trackers")
    words = ["--save", "jsonl,annotated", "--max-detections", 2]
    words += ["--count-line", "48,0,48,64", "--count-zone", "0,0,96,0,96,64,0,64"]

    assert run(make_video(frames=5), *words) == 0

    lines = _lines(tmp_path / "out" / "detections.jsonl")
    assert "track_id" in lines[-1]["detections"][0]
    line, zone = lines[-1]["counts"]
    assert line["line"] == [48, 0, 48, 64]
    assert zone["inside"] == len(lines[-1]["detections"]) == zone["most"]
    said = capsys.readouterr().out
    assert "street.mp4: line 48,0,48,64: in 0, out 0" in said
    assert f"zone 0,0,96,0,96,64,0,64: inside {zone['inside']}, most {zone['most']}" in said


def test_large_images_are_looked_at_in_tiles(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(shots / "a.jpg", "--tile", 48, "--overlap", 0.5, "--save", "json") == 0

    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    boxes = np.array([one["box_xyxy"] for one in entry["detections"]])
    assert len(boxes) > 0
    assert boxes.min() >= 0
    assert (boxes[:, 2:].max(axis=0) <= [90, 60]).all()


def test_a_image_comes_on_standard_input(
    run: Predict, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (shots / "a.jpg").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert run("-", "--save", "annotated,yolo") == 0

    assert (tmp_path / "out" / "stdin.jpg").is_file()
    assert (tmp_path / "out" / "yolo" / "stdin.txt").read_text()


def test_a_stream_is_read_until_the_time_is_up(
    run: Predict, camera_server: Any, tmp_path: Path, capsys: Capture
) -> None:
    av = pytest.importorskip("av")
    words = ["--save", "annotated,jsonl", "--max-detections", 3, "--stop-after", 1]

    assert run(camera_server.address, *words) == 0

    lines = _lines(tmp_path / "out" / "detections.jsonl")
    assert lines[0]["seconds"] < 0.5
    assert 0.5 < lines[-1]["seconds"] < 1
    assert f"{len(lines)} frames in" in capsys.readouterr().out
    with av.open(str(tmp_path / "out" / "live.mp4")) as video:
        assert len(list(video.decode(video=0))) == len(lines)


@pytest.mark.parametrize("page", ["live.mjpg", "view"], ids=["a stream's address", "any address"])
def test_what_a_stream_gave_is_kept_at_ctrl_c(
    run: Predict, camera_server: Any, tmp_path: Path, capsys: Capture, page: str
) -> None:
    av = pytest.importorskip("av")

    def interrupt() -> None:
        while camera_server.sent < 40:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()

    address = camera_server.address.replace("live.mjpg", page)
    assert run(address, "--save", "annotated,json", "--max-detections", 3) == 0

    thread.join()
    said = capsys.readouterr()
    assert " frames in " in said.out or " frame in " in said.out
    assert said.err == ""
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    with av.open(str(tmp_path / "out" / f"{Path(page).stem}.mp4")) as video:
        assert len(list(video.decode(video=0))) == len(entries) > 0
    assert not list((tmp_path / "out").glob(".*"))


def test_a_stream_that_falls_silent_ends_when_the_time_is_up(
    run: Predict, camera_server: Any, tmp_path: Path
) -> None:
    pytest.importorskip("av")

    def silence() -> None:
        while camera_server.sent < 30:
            time.sleep(0.02)
        camera_server.pause = 60

    thread = threading.Thread(target=silence)
    thread.start()
    started = time.monotonic()

    words = ["--save", "jsonl", "--size", 32, "--stop-after", 3, "--timeout", 50]
    assert run(camera_server.address, *words) == 0

    thread.join()
    assert time.monotonic() - started < 25
    assert _lines(tmp_path / "out" / "detections.jsonl")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stop-after", "0"], "stop_after must be above 0 seconds; got 0.0"),
        (["--stop-after", "-3"], "stop_after must be above 0 seconds; got -3.0"),
        (["--stop-after", "nan"], "stop_after must be above 0 seconds; got nan"),
        (["--reconnect", "nan"], "reconnect must be 0 or more seconds; got nan"),
    ],
)
def test_times_that_are_none_are_one_clear_line(
    run: Predict, shots: Path, capsys: Capture, flags: list[str], words: str
) -> None:
    assert run(shots, *flags) == 2

    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_password_appears_in_no_result_and_no_message(
    run: Predict, camera_server: Any, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("av")
    address = camera_server.address.replace("://", "://me:hunt@er2@")
    titles: list[str] = []

    def look() -> None:
        while camera_server.sent < 5:
            time.sleep(0.02)
        port = re.search(r"live view: (\S+)", capsys.readouterr().out)
        assert port is not None
        with urllib.request.urlopen(port[1], timeout=5) as page:
            titles.append(page.read().decode())

    thread = threading.Thread(target=look)
    thread.start()
    words = ["--save", "json,csv,annotated", "--stop-after", 2, "--show", "--max-detections", 1]
    assert run(address, *words) == 0
    thread.join()

    said = capsys.readouterr()
    results = [(tmp_path / "out" / f"detections.{kind}").read_text() for kind in ("json", "csv")]
    assert len(titles) == 1
    for text in (*titles, *results, said.out + said.err):
        assert "er2" not in text
    assert all(camera_server.address in text for text in (*titles, *results))


def test_a_drawn_video_too_wide_for_its_format_costs_no_other_file(
    run: Predict, shots: Path, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("av")
    wide = make_video("wide.avi", frames=3, image_hw=(32, 16_500), codec="ffv1")

    assert run(shots / "a.jpg", wide, "--save", "annotated,json", "--max-detections", 3) == 1

    said = capsys.readouterr().err
    assert "1 not written:\n" in said
    assert "wide.mp4 could not be written: " in said
    assert "with frames of 16500 x 32" in said
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert [entry["name"] for entry in entries] == ["a", "wide", "wide", "wide"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jpg",
        "detections.json",
    ]


def test_a_broken_stream_is_reported_while_it_runs(
    run: Predict, camera_server: Any, capsys: Capture
) -> None:
    pytest.importorskip("av")
    camera_server.per_connection = 25
    words = ["--save", "none", "--stop-after", 1, "--all-frames", "--size", 32]

    assert run(camera_server.address, *words, confidence=0.5) == 0

    said = capsys.readouterr().err
    assert f"connection to {camera_server.address} lost: " in said
    assert f"reconnected to {camera_server.address} after" in said


def test_the_live_view_prints_its_address(
    run: Predict, make_video: Callable[..., Path], capsys: Capture
) -> None:
    pytest.importorskip("av")

    assert run(make_video(frames=2), "--show", "--save", "none") == 0

    assert capsys.readouterr().out.startswith("live view: http://127.0.0.1:")


def test_files_that_cannot_be_written_are_reported_with_an_exit_code(
    run: Predict,
    shots: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("attendet.media.sinks.write_atomically", full)

    assert run(shots, "--save", "annotated,json") == 1

    said = capsys.readouterr()
    assert said.out.startswith("3 images in ")
    assert "3 not written:\n" in said.err
    assert said.err.count("No space left on device") == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["camera:97"], "camera cannot be opened (camera:97)"),
        (["rtsp://127.0.0.1:9/x"], "stream cannot be read (rtsp://127.0.0.1:9/x)"),
        (["http://127.0.0.1:9/a.jpg"], "address cannot be read (http://127.0.0.1:9/a.jpg)"),
        (["gone.mp4"], "video cannot be read (gone.mp4): No such file"),
    ],
)
def test_a_source_that_is_not_there_is_named(
    run: Predict, capsys: Capture, words: list[str], message: str
) -> None:
    pytest.importorskip("av")

    assert run(*words, "--timeout", 2) == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0] == "1 skipped:"
    assert message in said[1]
    assert len(said) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tile", "10"], "tile must be 32 pixels or more; got 10"),
        (["--tile", "64", "--overlap", "1"], "overlap must be from 0 to 0.9; got 1.0"),
        (["--every", "0"], "every and ahead must be 1 or more"),
        (["--max-side", "0"], "--max-side must be 32 or more; got 0"),
        (["--timeout", "0"], "timeout must be above 0 seconds; got 0.0"),
        (["--count-zone", "1,2"], "x,y of three or more corners"),
        (["--count-line", "1,2,1,2"], "must have two different points; got 1,2,1,2"),
        (["0"], "a live source must be the only source"),
    ],
)
def test_a_wrong_number_of_videos_is_one_clear_line(
    run: Predict, shots: Path, capsys: Capture, flags: list[str], words: str
) -> None:
    pytest.importorskip("trackers")

    assert run(shots / "a.jpg", *flags) == 2

    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_what_are_no_numbers_is_refused_by_the_parser(
    run: Predict, shots: Path, capsys: Capture
) -> None:
    with pytest.raises(SystemExit):
        run(shots, "--count-line", "1,2,x,4")
    assert "must be numbers separated by commas; got '1,2,x,4'" in capsys.readouterr().err


def test_many_issues_are_counted(run: Predict, tmp_path: Path, capsys: Capture) -> None:
    missing = [tmp_path / f"{number}.jpg" for number in range(25)]

    assert run(*missing) == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0] == "25 skipped:"
    assert said[-1] == "  and 5 more"
    assert len(said) == 22
