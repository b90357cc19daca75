from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attendet.errors import ConfigError, DataError
from attendet.media.sources import Source, find_sources


def _names(found: list[Source]) -> list[str]:
    return [source.path.name for source in found]


def test_a_folder_gives_its_images_in_name_order(folder: Path) -> None:
    assert _names(find_sources([folder])) == ["a.png", "b.jpg", "c.png", "d.jpg"]


def test_a_pattern_gives_the_images_that_match(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "e.png").touch()

    assert _names(find_sources([f"{folder}/*.png"])) == ["a.png", "c.png"]
    assert _names(find_sources([f"{folder}/*"])) == ["a.png", "b.jpg", "c.png", "d.jpg"]
    assert _names(find_sources([f"{folder}/**/*.png"])) == ["a.png", "c.png", "e.png"]


def test_a_file_with_brackets_in_its_name_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()

    assert _names(find_sources([tmp_path / "a[1].png"])) == ["a[1].png"]


def test_a_list_names_images_beside_it_or_from_here(
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


def test_a_image_named_twice_comes_once(folder: Path) -> None:
    found = find_sources([folder / "c.png", folder, f"{folder}/../shots/a.png"])

    assert _names(found) == ["c.png", "a.png", "b.jpg", "d.jpg"]


def test_a_missing_image_stays_to_be_reported(tmp_path: Path) -> None:
    assert _names(find_sources([tmp_path / "gone.jpg"])) == ["gone.jpg"]


def test_names_of_one_stem_stay_distinct() -> None:
    paths = ["x/a.png", "y/a.png", "a-2.png", "z/A.jpg", "b.png"]

    names = [source.name for source in find_sources(paths)]

    assert names == ["a", "a-3", "a-2", "A-4", "b"]
    assert len({name.casefold() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at, "folder must contain images or videos; got none"),
        (lambda at: f"{at}/*.jpg", "pattern must match images or videos; got none"),
        (lambda at: at / "empty.txt", "list must name at least one image"),
        (lambda at: at / "binary.txt", "list must be UTF-8 text"),
    ],
)
def test_sources_without_images_are_errors(
    tmp_path: Path, make: Callable[[Path], str | Path], words: str
) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")

    with pytest.raises(DataError, match=words):
        find_sources([make(tmp_path)])


def test_no_source_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="source must name at least one image"):
        find_sources([])


def test_videos_are_found_among_the_images(folder: Path) -> None:
    (folder / "b.MP4").touch()

    found = find_sources([folder])

    assert [(one.path.name, one.kind) for one in found] == [
        ("a.png", "image"),
        ("b.MP4", "video"),
        ("b.jpg", "image"),
        ("c.png", "image"),
        ("d.jpg", "image"),
    ]
    assert [one.name for one in found] == ["a", "b", "b-2", "c", "d"]
    assert [one.kind for one in find_sources([f"{folder}/*.MP4"])] == ["video"]


@pytest.mark.parametrize(
    ("word", "kind", "name"),
    [
        ("-", "image", "stdin"),
        ("0", "camera", "camera-0"),
        ("camera:1", "camera", "camera-1"),
        ("camera:/dev/video2", "camera", "camera-video2"),
        ("rtsp://10.0.0.7:554/lobby/main?x=1", "stream", "main"),
        ("RTSP://10.0.0.7", "stream", "10.0.0.7"),
        ("udp://239.0.0.1:1234", "stream", "239.0.0.1"),
        ("http://host/a/slide%201.JPG?size=2", "image", "slide_201"),
        ("https://host/street.mp4", "video", "street"),
        ("http://host/live.m3u8", "stream", "live"),
        ("http://host/video.mjpg", "stream", "video"),
        ("http://host/snapshot?camera=1", "address", "snapshot"),
        ("http://host", "address", "host"),
        ("http://me:p[ss@host/a.jpg", "image", "a"),
        ("rtsp://me:p@s[s@host", "stream", "host"),
    ],
)
def test_words_for_what_is_no_file(word: str, kind: str, name: str) -> None:
    (found,) = find_sources([word])

    assert (found.kind, found.name, found.path) == (kind, name, word)
    assert found.is_live == (kind in ("camera", "stream"))


def test_a_folder_named_as_a_number_is_no_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.png").touch()

    assert _names(find_sources(["0"])) == ["a.png"]
    assert find_sources(["camera:0"])[0].kind == "camera"


def test_a_list_may_hold_addresses(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://host/a.jpg\nb.mp4\n")

    found = find_sources([tmp_path / "list.txt"])

    assert [(one.path, one.kind) for one in found] == [
        ("http://host/a.jpg", "image"),
        (tmp_path / "b.mp4", "video"),
    ]


def test_a_label_contains_no_password() -> None:
    assert Source("a", "rtsp://me:secret@host/x", "stream").label == "rtsp://host/x"
    assert Source("a", "http://host?mail=a@b", "address").label == "http://host?mail=a@b"
    assert Source("a", "rtsp://me:p@ss@host:9/x@y", "stream").label == "rtsp://host:9/x@y"
    assert Source("a", "http://me:a@b@host#me@c", "address").label == "http://host#me@c"
    assert Source("a", Path("x@y/a.jpg")).label == str(Path("x@y/a.jpg"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["camera:front"], r"camera must be a number or a device; got 'camera:front'"),
        (["rstp://host/x"], r"known scheme; got 'rstp://'. Did you mean 'rtsp'"),
        (["file:///etc/passwd"], r"known scheme; got 'file://'"),
        (["http://[::1/x"], r"must have a valid host; got 'http://\[::1/x'"),
        (["0", "a.jpg"], r"a live source must be the only source.*got camera|got 0 and 1 more"),
        (["rtsp://me:pw@host/x", "a.jpg"], r"got rtsp://host/x and 1 more"),
    ],
)
def test_words_that_cannot_be_read_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_sources(words)
