from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attendet.errors import DataError, PictureError
from attendet.inference import sources as sources_module
from attendet.inference.sources import Skipped, Source, find_sources, read_ahead


def _names(found: list[Source]) -> list[str]:
    return [source.path.name for source in found]


def test_a_folder_gives_its_pictures_in_name_order(folder: Path) -> None:
    assert _names(find_sources([folder])) == ["a.png", "b.jpg", "c.png", "d.jpg"]


def test_a_pattern_gives_the_pictures_that_match(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "e.png").touch()

    assert _names(find_sources([f"{folder}/*.png"])) == ["a.png", "c.png"]
    assert _names(find_sources([f"{folder}/*"])) == ["a.png", "b.jpg", "c.png", "d.jpg"]
    assert _names(find_sources([f"{folder}/**/*.png"])) == ["a.png", "c.png", "e.png"]


def test_a_file_with_brackets_in_its_name_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()

    assert _names(find_sources([tmp_path / "a[1].png"])) == ["a[1].png"]


def test_a_list_names_pictures_beside_it_or_from_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "x" * 5000 + ".png"
    lines = ["# a comment", "", "a.png", "shots/b.jpg", str(folder / "c.png"), "gone.jpg", long]
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8-sig")

    found = find_sources([folder / "list.txt"])

    assert [source.path for source in found] == [
        folder / "a.png",
        Path("shots/b.jpg"),
        folder / "c.png",
        folder / "gone.jpg",
        folder / long,
    ]


def test_a_picture_named_twice_comes_once(folder: Path) -> None:
    found = find_sources([folder / "c.png", folder, f"{folder}/../shots/a.png"])

    assert _names(found) == ["c.png", "a.png", "b.jpg", "d.jpg"]


def test_a_missing_picture_stays_to_be_reported(tmp_path: Path) -> None:
    assert _names(find_sources([tmp_path / "gone.jpg"])) == ["gone.jpg"]


def test_names_of_one_stem_are_told_apart() -> None:
    paths = ["x/a.png", "y/a.png", "a-2.png", "z/A.jpg", "b.png"]

    names = [source.name for source in find_sources(paths)]

    assert names == ["a", "a-3", "a-2", "A-4", "b"]
    assert len({name.casefold() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at, "folder must hold pictures; got none"),
        (lambda at: f"{at}/*.jpg", "pattern must match pictures; got none"),
        (lambda at: at / "empty.txt", "list must name at least one picture"),
        (lambda at: at / "binary.txt", "list must be UTF-8 text"),
    ],
)
def test_sources_without_pictures_are_errors(
    tmp_path: Path, make: Callable[[Path], str | Path], words: str
) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")

    with pytest.raises(DataError, match=words):
        find_sources([make(tmp_path)])


def test_no_source_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="source must name at least one picture"):
        find_sources([])


def test_pictures_come_in_order_and_broken_ones_are_told(folder: Path) -> None:
    skipped: list[Skipped] = []
    listed = find_sources([folder, folder / "gone.jpg"])

    read = list(read_ahead(listed, on_skip=skipped.append, ahead=2))

    assert [source.name for source, _ in read] == ["a", "b", "c"]
    assert [picture.shape for _, picture in read] == [(480, 640, 3), (300, 200, 3), (64, 64, 3)]
    assert [one.path.name for one in skipped] == ["d.jpg", "gone.jpg"]
    assert "truncated" in skipped[0].reason
    assert "not found" in skipped[1].reason


def test_reading_runs_ahead_by_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []

    def slow(path: Path) -> np.ndarray:
        started.append(path)
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(sources_module, "read_picture", slow)
    read = read_ahead([Source(str(n), Path(str(n))) for n in range(50)], ahead=4)

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


def test_an_error_that_is_not_the_pictures_own_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> np.ndarray:
        raise ZeroDivisionError

    monkeypatch.setattr(sources_module, "read_picture", broken)

    with pytest.raises(ZeroDivisionError):
        list(read_ahead([Source("a", Path("a"))]))


def test_broken_pictures_may_go_unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> np.ndarray:
        raise PictureError("no")

    monkeypatch.setattr(sources_module, "read_picture", broken)

    assert list(read_ahead([Source("a", Path("a"))])) == []
