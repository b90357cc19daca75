from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError, PictureError
from attendet.inference.sinks import SINKS, open_sinks
from attendet.inference.sources import Source
from attendet.pictures import read_picture

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
def picture() -> NDArray[np.uint8]:
    return np.full((80, 100, 3), 90, dtype=np.uint8)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _fill(names: list[str], folder: Path, picture: NDArray[np.uint8]) -> None:
    with open_sinks(names, folder, SOURCES) as sinks:
        for sink in sinks:
            for source, found in zip(SOURCES, (FOUND, NOTHING), strict=True):
                sink.write(source, picture, found)


def test_every_form_is_written_under_its_name(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    _fill(list(SINKS), tmp_path / "new" / "out", picture)

    assert _files(tmp_path / "new" / "out") == [
        *("000139.jpg", "coco.json", "detections.csv", "detections.json"),
        *("yolo/000139.txt", "yolo/ö,b.txt", "ö,b.jpg"),
    ]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in tmp_path.rglob("*"))


def test_json_holds_an_entry_a_picture(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    _fill(["json"], tmp_path, picture)

    written = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    assert written["pictures"][0] == {
        "picture": str(SOURCES[0].path),
        "name": "000139",
        "image_hw": [80, 100],
        "detections": FOUND.to_dicts(),
    }
    assert written["pictures"][1]["name"] == "ö,b"
    assert written["pictures"][1]["detections"] == []


def test_csv_holds_a_row_a_detection(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    with open_sinks(["csv"], tmp_path, SOURCES) as sinks:
        sinks[0].write(SOURCES[1], picture, FOUND)

    with (tmp_path / "detections.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["dog", "cat"]
    assert rows[0] == {
        "picture": str(SOURCES[1].path),
        "class_id": "1",
        "name": "dog",
        "score": "0.9",
        **{"left": "10.0", "top": "20.0", "right": "30.0", "bottom": "60.0"},
    }


def test_yolo_text_is_empty_where_nothing_is_found(
    tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    _fill(["yolo"], tmp_path, picture)

    lines = (tmp_path / "yolo" / "000139.txt").read_text().splitlines()
    assert lines[0].split() == ["1", "0.200000", "0.500000", "0.200000", "0.500000", "0.900000"]
    assert (tmp_path / "yolo" / "ö,b.txt").read_text() == ""


def test_coco_results_number_the_pictures_that_have_numbers(
    tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    sources = [*SOURCES, Source("139", Path("other/139.jpg"))]
    with open_sinks(["coco"], tmp_path, sources) as sinks:
        for source in sources:
            sinks[0].write(source, picture, FOUND)

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

    assert json.loads((tmp_path / "detections.json").read_text()) == {"pictures": []}
    assert json.loads((tmp_path / "coco.json").read_text()) == []
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 1


def test_drawn_pictures_show_the_boxes(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    _fill(["picture"], tmp_path, picture)

    drawn = read_picture(tmp_path / "000139.jpg").astype(int)
    assert drawn.shape == picture.shape
    assert abs(drawn[:, 10:30] - 90).max() > 60
    assert abs(drawn[65:, 60:] - 90).max() < 10
    assert (picture == 90).all()


def test_a_run_that_breaks_off_leaves_no_partial_file(
    tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    (tmp_path / "detections.json").write_text("of the last run")

    def break_off() -> None:
        with open_sinks(["json", "csv", "coco"], tmp_path, SOURCES) as sinks:
            for sink in sinks:
                sink.write(SOURCES[0], picture, FOUND)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()

    assert _files(tmp_path) == ["detections.json"]
    assert (tmp_path / "detections.json").read_text() == "of the last run"


def test_source_pictures_are_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [Source("a", Path("a.png")), Source("b", Path("b.jpg"))]

    with (
        pytest.raises(ConfigError, match=r"source picture; got .*b\.jpg.*another output folder"),
        open_sinks(["picture"], tmp_path, sources),
    ):
        pass
    with open_sinks(["json"], tmp_path, sources):
        pass


def test_an_unknown_form_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"no way to save as 'jsno'\. Did you mean 'json'"),
        open_sinks(["jsno"], tmp_path / "out", SOURCES),
    ):
        pass
    assert not (tmp_path / "out").exists()


def test_a_picture_too_wide_for_jpeg_is_an_error_of_that_picture(tmp_path: Path) -> None:
    wide = np.zeros((1, 70_000, 3), dtype=np.uint8)
    with (
        pytest.raises(PictureError, match="at most 65500 pixels"),
        open_sinks(["picture"], tmp_path, SOURCES) as sinks,
    ):
        sinks[0].write(SOURCES[0], wide, Detections.empty(("cat",), (1, 70_000)))


def test_a_name_that_is_no_text_is_written_escaped(
    tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    odd = Source("x", Path("in/\udc80.jpg"))
    with open_sinks(["json", "csv"], tmp_path, [odd]) as sinks:
        for sink in sinks:
            sink.write(odd, picture, FOUND)

    written = json.loads((tmp_path / "detections.json").read_text(encoding="utf-8"))
    assert written["pictures"][0]["picture"] == str(odd.path)
