from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError, ImageError
from attendet.images import read_image
from attendet.media import Frame, Result
from attendet.media.sinks import SINKS, open_sinks
from attendet.media.sources import Source

SOURCES = [Source("000139", Path("in/000139.jpg")), Source("ö,b", Path("in/ö,b.png"))]
FOUND = Detections(
    boxes_xyxy=np.array([[10, 20, 30, 60], [0, 0, 50, 50]], dtype=np.float32),
    scores=np.array([0.9, 0.5], dtype=np.float32),
    class_ids=np.array([1, 0]),
    classes=("cat", "dog"),
    image_hw=(80, 100),
)
NOTHING = Detections.empty(("cat", "dog"), (80, 100))


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.full((80, 100, 3), 90, dtype=np.uint8)


def _result(
    source: Source,
    image: NDArray[np.uint8],
    found: Detections = FOUND,
    index: int = 0,
    seconds: float | None = None,
    **more: Any,
) -> Result:
    return Result(Frame(source, image, index, seconds), found, **more)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _fill(names: list[str], folder: Path, image: NDArray[np.uint8]) -> None:
    with open_sinks(names, folder, SOURCES) as sinks:
        for sink in sinks:
            for source, found in zip(SOURCES, (FOUND, NOTHING), strict=True):
                sink.write(_result(source, image, found))


def test_every_form_is_written_under_its_name(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    _fill(list(SINKS), tmp_path / "new" / "out", image)

    assert _files(tmp_path / "new" / "out") == [
        *("000139.jpg", "coco.json", "crops/cat/000139-2.jpg", "crops/dog/000139-1.jpg"),
        *("detections.csv", "detections.json", "detections.jsonl"),
        *("yolo/000139.txt", "yolo/ö,b.txt", "ö,b.jpg"),
    ]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in tmp_path.rglob("*"))


def test_json_holds_an_entry_a_image(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    _fill(["json"], tmp_path, image)

    written = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    assert written["images"][0] == {
        "image": str(SOURCES[0].path),
        "name": "000139",
        "image_hw": [80, 100],
        "detections": FOUND.to_dicts(),
    }
    assert written["images"][1]["name"] == "ö,b"
    assert written["images"][1]["detections"] == []


def test_csv_holds_a_row_a_detection(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    with open_sinks(["csv"], tmp_path, SOURCES) as sinks:
        sinks[0].write(_result(SOURCES[1], image))

    with (tmp_path / "detections.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["dog", "cat"]
    assert rows[0] == {
        "image": str(SOURCES[1].path),
        "class_id": "1",
        "name": "dog",
        "score": "0.9",
        **{"left": "10.0", "top": "20.0", "right": "30.0", "bottom": "60.0"},
        **{"frame": "", "seconds": "", "track_id": ""},
    }


def test_yolo_text_is_empty_where_nothing_is_found(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    _fill(["yolo"], tmp_path, image)

    lines = (tmp_path / "yolo" / "000139.txt").read_text().splitlines()
    assert lines[0].split() == ["1", "0.200000", "0.500000", "0.200000", "0.500000", "0.900000"]
    assert (tmp_path / "yolo" / "ö,b.txt").read_text() == ""


def test_coco_results_number_the_images_that_have_numbers(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    sources = [*SOURCES, Source("139", Path("other/139.jpg"))]
    with open_sinks(["coco"], tmp_path, sources) as sinks:
        for source in sources:
            sinks[0].write(_result(source, image))

    written = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [entry["image_id"] for entry in written] == [139, 139, "ö,b", "ö,b", "139", "139"]
    assert written[0] == {
        "image_id": 139,
        "category_id": 2,
        "bbox": [10.0, 20.0, 20.0, 40.0],
        "score": 0.9,
    }


def test_no_detections_are_whole_files_too(tmp_path: Path) -> None:
    with open_sinks(["json", "coco", "csv"], tmp_path, SOURCES):
        pass

    assert json.loads((tmp_path / "detections.json").read_text()) == {"images": []}
    assert json.loads((tmp_path / "coco.json").read_text()) == []
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 1


def test_drawn_images_show_the_boxes(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    _fill(["image"], tmp_path, image)

    drawn = read_image(tmp_path / "000139.jpg").astype(int)
    assert drawn.shape == image.shape
    assert abs(drawn[:, 10:30] - 90).max() > 60
    assert abs(drawn[65:, 60:] - 90).max() < 10
    assert (image == 90).all()


def test_a_run_that_breaks_off_leaves_no_partial_file(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    (tmp_path / "detections.json").write_text("of the last run")

    def break_off() -> None:
        with open_sinks(["json", "csv", "coco"], tmp_path, SOURCES) as sinks:
            for sink in sinks:
                sink.write(_result(SOURCES[0], image))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()

    assert _files(tmp_path) == ["detections.json"]
    assert (tmp_path / "detections.json").read_text() == "of the last run"


def test_source_images_are_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [Source("a", Path("a.png")), Source("b", Path("b.jpg"))]

    with (
        pytest.raises(ConfigError, match=r"source; got .*b\.jpg.*another output folder"),
        open_sinks(["image"], tmp_path, sources),
    ):
        pass
    with open_sinks(["json"], tmp_path, sources):
        pass


def test_an_unknown_form_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ConfigError,
            match=r"save must be a known kind; got 'jsno' \(--save\)\. Did you mean 'json'",
        ),
        open_sinks(["jsno"], tmp_path / "out", SOURCES),
    ):
        pass
    assert not (tmp_path / "out").exists()


def test_a_image_too_wide_for_jpeg_is_an_error_of_that_image(tmp_path: Path) -> None:
    wide = np.zeros((1, 70_000, 3), dtype=np.uint8)
    with (
        pytest.raises(ImageError, match="at most 65500 pixels"),
        open_sinks(["image"], tmp_path, SOURCES) as sinks,
    ):
        sinks[0].write(_result(SOURCES[0], wide, Detections.empty(("cat",), (1, 70_000))))


def test_a_name_that_is_no_text_is_written_escaped(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    odd = Source("x", Path("in/\udc80.jpg"))
    with open_sinks(["json", "csv"], tmp_path, [odd]) as sinks:
        for sink in sinks:
            sink.write(_result(odd, image))

    written = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    assert written["images"][0]["image"] == str(odd.path)


# --- frames of videos --------------------------------------------------------------------------

STREET = Source("street", Path("in/street.mp4"), "video")
PLAZA = Source("plaza", Path("in/plaza.mp4"), "video")
TRACKED = dataclasses.replace(FOUND, track_ids=np.array([7, 0]))


def _frames(
    source: Source, image: NDArray[np.uint8], count: int = 3, found: Detections = FOUND
) -> Iterator[Result]:
    for number in range(count):
        yield _result(source, image, found, number, number / 25)


def test_frames_are_filed_under_their_video(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    with open_sinks(["image", "yolo", "crops"], tmp_path, [STREET]) as sinks:
        for result in _frames(STREET, image, 2):
            for sink in sinks:
                sink.write(result)

    assert _files(tmp_path) == [
        *("crops/cat/street/000000-2.jpg", "crops/cat/street/000001-2.jpg"),
        *("crops/dog/street/000000-1.jpg", "crops/dog/street/000001-1.jpg"),
        *("frames/street/000000.jpg", "frames/street/000001.jpg"),
        *("yolo/street/000000.txt", "yolo/street/000001.txt"),
    ]


def test_text_has_frame_time_track_and_counts(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    counts = [{"line": [0.0, 0.0, 9.0, 9.0], "in": 1, "out": 2}]
    with open_sinks(["json", "jsonl", "csv", "coco"], tmp_path, [STREET]) as sinks:
        for number in range(2):
            for sink in sinks:
                sink.write(_result(STREET, image, TRACKED, number, number / 25, counts=counts))

    lines = (tmp_path / "detections.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert entries[1] == {
        "image": str(STREET.path),
        "name": "street",
        "frame": 1,
        "seconds": 0.04,
        "image_hw": [80, 100],
        "detections": TRACKED.to_dicts(),
        "counts": counts,
    }
    assert entries[1]["detections"][0]["track_id"] == 7
    assert json.loads((tmp_path / "detections.json").read_text())["images"] == entries
    with (tmp_path / "detections.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["frame"], row["seconds"], row["track_id"]) for row in rows] == [
        *(("0", "0.0", "7"), ("0", "0.0", "")),
        *(("1", "0.04", "7"), ("1", "0.04", "")),
    ]
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco[2]["image_id"] == "street/000001"


def test_crops_are_the_objects_alone(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 8000, dtype=np.uint8).reshape(80, 100)
    image = np.stack([ramp, ramp[::-1], ramp // 2], axis=2)
    odd = dataclasses.replace(
        FOUND,
        boxes_xyxy=np.array([[10.4, 20.6, 29.5, 59.2], [99.6, 79.7, 100, 80]], dtype=np.float32),
        classes=("../up", "a/b"),
    )
    with open_sinks(["crops"], tmp_path / "out", SOURCES) as sinks:
        sinks[0].write(_result(SOURCES[0], image, odd))

    assert _files(tmp_path) == ["out/crops/.._up/000139-2.jpg", "out/crops/a_b/000139-1.jpg"]
    crop = read_image(tmp_path / "out/crops/a_b/000139-1.jpg")
    assert crop.shape == (40, 20, 3)
    assert np.abs(crop.astype(int) - image[20:60, 10:30]).mean() < 5
    assert read_image(tmp_path / "out/crops/.._up/000139-2.jpg").shape == (1, 1, 3)


def test_crops_of_a_frame_and_of_a_image_named_like_it_are_both_kept(
    tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    still = Source("street-000001", Path("in/street-000001.jpg"))
    results = [*_frames(STREET, image, 2), _result(still, image)]
    with open_sinks(["crops"], tmp_path, [STREET, still]) as sinks:
        for result in results:
            sinks[0].write(result)

    assert len(_files(tmp_path)) == len(FOUND) * len(results)


def test_videos_are_drawn_one_after_the_other(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    av = pytest.importorskip("av")
    with open_sinks(["annotated"], tmp_path, [STREET, SOURCES[0], PLAZA]) as sinks:
        for result in [
            *_frames(STREET, image, found=TRACKED),
            _result(SOURCES[0], image),
            *_frames(PLAZA, image, 2),
        ]:
            sinks[0].write(result)

    assert _files(tmp_path) == ["000139.jpg", "plaza.mp4", "street.mp4"]
    with av.open(str(tmp_path / "street.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [float(frame.time) for frame in frames] == pytest.approx([0, 0.04, 0.08], abs=1e-4)
    drawn = frames[0].to_ndarray(format="rgb24").astype(int)
    assert abs(drawn[:, 8:32] - 90).max() > 60
    assert abs(drawn[65:, 60:] - 90).max() < 12


def test_a_video_that_breaks_off_leaves_no_file(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    pytest.importorskip("av")

    def break_off() -> None:
        with open_sinks(["video"], tmp_path, [STREET]) as sinks:
            for result in _frames(STREET, image):
                sinks[0].write(result)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_a_source_video_is_never_written_over(tmp_path: Path) -> None:
    here = Source("street", tmp_path / "street.mp4", "video")
    for kind in ("annotated", "video"):
        with (
            pytest.raises(ConfigError, match="replace a source"),
            open_sinks([kind], tmp_path, [here]),
        ):
            pass


def test_tracks_and_counts_are_drawn(image: NDArray[np.uint8]) -> None:
    pytest.importorskip("supervision")
    from attendet.media.counting import LineCounter, ZoneCounter

    plain = _result(STREET, image, NOTHING)
    line, zone = LineCounter((0, 70, 100, 70)), ZoneCounter((60, 5, 95, 5, 95, 40))
    marked = _result(STREET, image, NOTHING, counters=(line, zone))

    assert (plain.annotated == image).all()
    assert (marked.annotated[70, 20:80] > 200).all()
    assert (marked.annotated[5, 65:90] > 200).all()
    assert (image == 90).all()


# --- what cannot be written --------------------------------------------------------------------


class FullDisk:
    """Raises ENOSPC where files are opened for writing, from a moment on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def fill(self, target: str) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.monkeypatch.setattr(target, full)


def test_a_file_that_cannot_be_written_is_reported_and_the_rest_goes_on(
    tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    disk = FullDisk(monkeypatch)
    with open_sinks(["json", "yolo"], tmp_path, SOURCES, on_fail=failed.append) as sinks:
        for sink in sinks:
            sink.write(_result(SOURCES[0], image))
        with monkeypatch.context():
            disk.fill("attendet.media.sinks.write_atomically")
            for sink in sinks:
                sink.write(_result(SOURCES[1], image))

    assert len(failed) == 1
    assert "No space left on device" in failed[0]
    assert str(tmp_path / "yolo") in failed[0]
    assert _files(tmp_path) == ["detections.json", "yolo/000139.txt"]
    assert len(json.loads((tmp_path / "detections.json").read_text())["images"]) == 2


def test_without_on_fail_what_cannot_be_written_is_an_error(
    tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch).fill("attendet.media.sinks.write_atomically")

    with (
        pytest.raises(OSError, match="No space left"),
        open_sinks(["yolo"], tmp_path, SOURCES) as s,
    ):
        s[0].write(_result(SOURCES[0], image))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["video", "json", "jsonl", "csv", "coco", "image", "crops"])
def test_a_full_disk_costs_the_file_that_does_not_fit(small_disk: Path, kind: str) -> None:
    pytest.importorskip("av")
    failed: list[str] = []
    noise = np.random.default_rng(0)
    sources = [STREET, PLAZA]
    is_text = kind in ("json", "jsonl", "csv", "coco")
    many = dataclasses.replace(
        FOUND,
        **{
            name: np.repeat(getattr(FOUND, name), 40 if is_text else 3, axis=0)
            for name in ("boxes_xyxy", "scores", "class_ids")
        },
    )
    with open_sinks([kind], small_disk / "out", sources, on_fail=failed.append) as sinks:
        for number in range(20):
            image = noise.integers(0, 255, (160, 200, 3), dtype=np.uint8)
            sinks[0].write(_result(STREET, image, many, number, number / 25))
        for result in _frames(PLAZA, np.zeros((80, 100, 3), dtype=np.uint8), found=NOTHING):
            sinks[0].write(result)

    assert failed
    assert all("No space left on device" in words and "\n" not in words for words in failed)
    left = _files(small_disk)
    assert not any(".part" in name for name in left)
    if kind == "video":
        assert left == ["out/plaza.mp4"]  # the second source is done
        assert len(failed) == 1
    elif is_text:
        assert left == []
        assert len(failed) == 1
    else:
        for path in small_disk.rglob("*.jpg"):
            read_image(path)  # each is whole
