from __future__ import annotations

import errno
import io
import json
import os
import signal
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402

Predict = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: every score is near 0.005."""
    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("cat", "dog"), attention="ca", width=0.25, input_hw=(96, 96)
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_weights(path, build_from_metadata(metadata), metadata)


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Three good pictures of two sizes; a truncated one amid them."""
    folder = tmp_path / "shots"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, image_hw in (("a", (60, 90)), ("c", (90, 60)), ("d", (60, 90))):
        picture = rng.integers(0, 256, (*image_hw, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.jpg")
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:1500])
    return folder


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Predict:
    def call(*words: object, confidence: float = 0.001) -> int:
        start = ["predict", weights, *words, "--output", tmp_path / "out", "--device", "cpu"]
        return main([str(word) for word in [*start, "--confidence", confidence]])

    return call


def test_a_folder_is_predicted_and_the_broken_picture_named(
    run: Predict, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shots, "--save", "picture,json,csv,yolo,coco", "--batch", 2) == 0

    said = capsys.readouterr()
    assert said.out.startswith("3 pictures in ")
    assert "detections\n" in said.out
    assert f"written: picture, json, csv, yolo, coco in {tmp_path / 'out'}" in said.out
    assert "1 skipped:\n" in said.err
    assert said.err.count(str(shots / "b.jpg")) == 1
    assert "truncated" in said.err
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("*.jpg")) == ["a.jpg", "c.jpg", "d.jpg"]
    pictures = json.loads((out / "detections.json").read_text())["pictures"]
    assert [entry["name"] for entry in pictures] == ["a", "c", "d"]
    total = sum(len(entry["detections"]) for entry in pictures)
    assert f"\n{total} detections\n" in said.out
    assert total > 0
    assert len(json.loads((out / "coco.json").read_text())) == total
    assert len((out / "detections.csv").read_text().splitlines()) == total + 1


def test_batches_of_any_size_give_the_same(run: Predict, shots: Path, tmp_path: Path) -> None:
    results = []
    for batch in (1, 2, 8):
        assert run(shots, "--save", "json", "--batch", batch) == 0
        written = json.loads((tmp_path / "out" / "detections.json").read_text())
        results.append([[one["box_xyxy"] for one in e["detections"]] for e in written["pictures"]])

    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert len(one) == pytest.approx(len(same), abs=2)
            np.testing.assert_allclose(one[:3], same[:3], atol=0.1)


def test_pictures_of_one_stem_keep_their_own_results(
    run: Predict, shots: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    Image.open(shots / "a.jpg").save(tmp_path / "more" / "a.png")

    assert run(shots / "a.jpg", tmp_path / "more", "--save", "yolo,picture") == 0

    names = sorted(path.name for path in (tmp_path / "out").rglob("a*"))
    assert names == ["a-2.jpg", "a-2.txt", "a.jpg", "a.txt"]


def test_only_wanted_classes_are_kept(run: Predict, shots: Path, tmp_path: Path) -> None:
    assert run(shots / "a.jpg", "--classes", "dog", "--save", "json", "--max-detections", 3) == 0

    found = json.loads((tmp_path / "out" / "detections.json").read_text())["pictures"][0]
    assert [one["name"] for one in found["detections"]] == ["dog"] * 3


def test_nothing_needs_to_be_written(run: Predict, shots: Path, tmp_path: Path) -> None:
    assert run(shots / "a.jpg", "--save", "none", confidence=0.99) == 0

    assert list((tmp_path / "out").iterdir()) == []


def test_when_nothing_can_be_read_the_exit_code_says_so(
    run: Predict, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shots / "b.jpg", tmp_path / "gone.jpg") == 1

    said = capsys.readouterr()
    assert "2 skipped:" in said.err
    assert "picture not found" in said.err
    assert "written" not in said.out


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--classes", "dgo"], 2, "no class 'dgo'. Did you mean 'dog'?"),
        (["--save", "jpg"], 2, "no way to save as 'jpg'"),
        (["--iou", "5"], 2, "iou must be from 0 to 1; got 5.0"),
        (["--size", "100"], 2, "multiples of 32; got (100, 100). Nearest: 96x96"),
        (["--batch", "0"], 2, "--batch must be 1 or more; got 0"),
        (["--max-detections", "0"], 2, "max_detections must be 1 or more; got 0"),
        (["--device", "gpu"], 2, "device must be one that PyTorch can use here; got 'gpu'"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(
    weights: Path,
    shots: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    words: str,
) -> None:
    start = ["predict", str(weights), str(shots), "--output", str(tmp_path / "out")]

    assert main([*start, *flags]) == code

    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_none_is_refused_by_the_parser(
    run: Predict, shots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(shots, "--size", "big")
    assert caught.value.code == 2
    assert "must be like 416 or 320x416; got 'big'" in capsys.readouterr().err


def test_other_sizes_are_taken(run: Predict, shots: Path) -> None:
    assert run(shots / "a.jpg", "--size", "128", "--save", "none") == 0
    assert run(shots / "a.jpg", "--size", "64x96", "--save", "none") == 0


@pytest.mark.parametrize("name", ["text.safetensors", "folder", "gone.safetensors", "old.pth"])
def test_what_is_no_weights_file_is_one_clear_line(
    shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "text.safetensors").write_text("words, no weights at all")
    (tmp_path / "old.pth").touch()
    (tmp_path / "folder").mkdir()

    assert main(["predict", str(tmp_path / name), str(shots)]) == 4

    said = capsys.readouterr().err
    assert str(tmp_path / name) in said
    assert said.count("\n") == 1


def test_the_output_may_not_be_the_folder_of_the_pictures(
    weights: Path, shots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (shots / "a.jpg").read_bytes()

    assert main(["predict", str(weights), str(shots), "--output", str(shots)]) == 2

    assert "Choose another output folder" in capsys.readouterr().err
    assert (shots / "a.jpg").read_bytes() == before


# --- videos, cameras, streams, addresses -------------------------------------------------------


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_video_becomes_a_drawn_video_and_lines(
    run: Predict, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    av = pytest.importorskip("av")

    assert run(make_video(frames=7), "--save", "drawn,jsonl", "--max-detections", 3) == 0

    said = capsys.readouterr()
    assert said.out.startswith("7 frames in ")
    assert "frames/s)" in said.out
    assert "written: drawn, jsonl" in said.out
    assert said.err == ""
    with av.open(str(tmp_path / "out" / "street.mp4")) as video:
        times = [float(frame.time) for frame in video.decode(video=0)]
    assert times == pytest.approx([n / 25 for n in range(7)], abs=1e-4)
    lines = _lines(tmp_path / "out" / "detections.jsonl")
    assert [line["frame"] for line in lines] == list(range(7))
    assert all(len(line["detections"]) == 3 for line in lines)


def test_pictures_and_videos_are_done_together_whatever_is_broken(
    run: Predict, shots: Path, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("av")
    cut = make_video("shots/cut.mkv", frames=100)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (shots / "text.mp4").write_text("no video")

    code = run(shots, make_video(frames=3), "--save", "drawn", "--every", 2, "--max-detections", 3)

    said = capsys.readouterr()
    assert code == 0
    assert said.out.startswith("3 pictures, ")
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["a.jpg", "c.jpg", "cut.mp4", "d.jpg", "street.mp4"]
    faults = said.err.splitlines()
    assert faults[0] == "2 skipped:"
    assert "b.jpg" in faults[1]
    assert "text.mp4" in faults[2]
    assert faults[3] == "1 not read to the end:"
    assert "cut.mkv" in faults[4]
    assert len(faults) == 5


def _png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it has so many grey pixels and holds none."""
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
        "page.jpg": (b"<html>no picture</html>", "cannot be read"),
        "archive.png": (b"PK\3\4" + bytes(100), "cannot be read"),
    }
    for name, (content, _) in odd.items():
        (tmp_path / name).write_bytes(content)

    assert run(*(tmp_path / name for name in odd), shots / "a.jpg", "--save", "drawn") == 0

    said = capsys.readouterr()
    assert said.out.startswith("1 picture in ")
    faults = said.err.splitlines()
    assert faults[0] == "5 skipped:"
    for fault, (name, (_, words)) in zip(faults[1:], odd.items(), strict=True):
        assert name in fault
        assert words in fault
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_objects_are_tracked_and_counted(
    run: Predict, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("av")
    pytest.importorskip("trackers")
    words = ["--save", "jsonl,drawn", "--max-detections", 2]
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


def test_large_pictures_are_looked_at_in_tiles(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(shots / "a.jpg", "--tile", 48, "--overlap", 0.5, "--save", "json") == 0

    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())["pictures"]
    boxes = np.array([one["box_xyxy"] for one in entry["detections"]])
    assert len(boxes) > 0
    assert boxes.min() >= 0
    assert (boxes[:, 2:].max(axis=0) <= [90, 60]).all()


def test_a_picture_comes_on_standard_input(
    run: Predict, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (shots / "a.jpg").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert run("-", "--save", "drawn,yolo") == 0

    assert (tmp_path / "out" / "stdin.jpg").is_file()
    assert (tmp_path / "out" / "yolo" / "stdin.txt").read_text()


def test_a_stream_is_read_until_the_time_is_up(
    run: Predict, camera_server: Any, tmp_path: Path, capsys: Capture
) -> None:
    av = pytest.importorskip("av")
    words = ["--save", "drawn,jsonl", "--max-detections", 3, "--stop-after", 1]

    assert run(camera_server.address, *words) == 0

    lines = _lines(tmp_path / "out" / "detections.jsonl")
    assert lines[0]["seconds"] < 0.5
    assert lines[-1]["seconds"] >= 1
    assert all(line["seconds"] < 1 for line in lines[:-1])
    assert f"{len(lines)} frames in" in capsys.readouterr().out
    with av.open(str(tmp_path / "out" / "live.mp4")) as video:
        assert len(list(video.decode(video=0))) == len(lines)


def test_what_a_stream_gave_is_kept_at_ctrl_c(
    run: Predict, camera_server: Any, tmp_path: Path, capsys: Capture
) -> None:
    av = pytest.importorskip("av")

    def interrupt() -> None:
        while camera_server.sent < 40:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()

    assert run(camera_server.address, "--save", "drawn,json", "--max-detections", 3) == 0

    thread.join()
    said = capsys.readouterr()
    assert " frames in " in said.out or " frame in " in said.out
    assert said.err == ""
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())["pictures"]
    with av.open(str(tmp_path / "out" / "live.mp4")) as video:
        assert len(list(video.decode(video=0))) == len(entries) > 0
    assert not list((tmp_path / "out").glob(".*"))


def test_a_broken_stream_is_told_while_it_runs(
    run: Predict, camera_server: Any, capsys: Capture
) -> None:
    pytest.importorskip("av")
    camera_server.per_connection = 25
    words = ["--save", "none", "--stop-after", 1, "--all-frames", "--size", 32]

    assert run(camera_server.address, *words, confidence=0.5) == 0

    said = capsys.readouterr().err
    assert f"{camera_server.address} is lost" in said
    assert "is back after" in said


def test_the_live_view_tells_where_it_is(
    run: Predict, make_video: Callable[..., Path], capsys: Capture
) -> None:
    pytest.importorskip("av")

    assert run(make_video(frames=2), "--show", "--save", "none") == 0

    assert capsys.readouterr().out.startswith("live view: http://127.0.0.1:")


def test_what_cannot_be_written_is_told_and_the_code_says_so(
    run: Predict,
    shots: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("attendet.inference.drawn_sinks.write_atomically", full)

    assert run(shots, "--save", "drawn,json") == 1

    said = capsys.readouterr()
    assert said.out.startswith("3 pictures in ")
    assert "3 not written:\n" in said.err
    assert said.err.count("No space left on device") == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["camera:97"], "camera must be there and free; got none (camera:97)"),
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
        (["--timeout", "0"], "timeout above 0 seconds"),
        (["--count-zone", "1,2"], "x,y of three corners or more"),
        (["--count-line", "1,2,1,2"], "must have a length"),
        (["0"], "a live source must be the only one"),
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
    assert "must be numbers with commas; got '1,2,x,4'" in capsys.readouterr().err


def test_many_faults_are_counted(run: Predict, tmp_path: Path, capsys: Capture) -> None:
    missing = [tmp_path / f"{number}.jpg" for number in range(25)]

    assert run(*missing) == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0] == "25 skipped:"
    assert said[-1] == "  and 5 more"
    assert len(said) == 22
