from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attendet.data.sample_sets import bccd as module
from attendet.data.sample_sets.bccd import get_bccd, safe_unpack
from attendet.errors import DataError


def zip_of(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in entries.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


# safe_unpack


def unpack(content: bytes, tmp_path: Path, *, max_bytes: int = 10_000, max_files: int = 10) -> Path:
    archive = tmp_path / "archive.zip"
    archive.write_bytes(content)
    return safe_unpack(archive, tmp_path / "out", max_bytes=max_bytes, max_files=max_files)


def test_unpack_gives_the_files(tmp_path: Path) -> None:
    folder = unpack(zip_of({"a.txt": b"one", "deep/": b"", "deep/er/b.txt": b"two"}), tmp_path)
    assert (folder / "a.txt").read_bytes() == b"one"
    assert (folder / "deep" / "er" / "b.txt").read_bytes() == b"two"
    assert {path.name for path in tmp_path.iterdir()} == {"archive.zip", "out"}


def link_entry(kind: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        entry = zipfile.ZipInfo("link")
        entry.create_system = 3
        entry.external_attr = (kind | 0o777) << 16
        bundle.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def lying_bomb() -> bytes:
    """Return a zip whose directory says that its file is one byte long."""
    content = bytearray(zip_of({"a": b"\0" * 1_000_000}))
    real = (1_000_000).to_bytes(4, "little")
    while (at := content.find(real)) >= 0:
        content[at : at + 4] = (1).to_bytes(4, "little")
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(zip_of({"a": b"secret"}))
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    return bytes(content)


def corrupted() -> bytes:
    content = bytearray(zip_of({"a": b"some text that is packed, some text that is packed"}))
    content[35] ^= 0xFF
    return bytes(content)


EVIL: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: zip_of({"good": b"x", "../evil": b"x"}), "plain files with relative names"),
    "hidden parent": (lambda: zip_of({"a/../../evil": b"x"}), "plain files with relative names"),
    "absolute": (lambda: zip_of({"/tmp/evil": b"x"}), "plain files with relative names"),
    "drive": (lambda: zip_of({"C:/evil": b"x"}), "plain files with relative names"),
    "backslash": (lambda: zip_of({"..\\evil": b"x"}), "plain files with relative names"),
    "symbolic link": (
        lambda: link_entry(stat.S_IFLNK),
        "relative names; got 'link'",
    ),
    "pipe": (lambda: link_entry(stat.S_IFIFO), "relative names; got 'link'"),
    "bomb": (lambda: zip_of({"a": b"\0" * 1_000_000}), "at most 10000 bytes"),
    "bomb in pieces": (lambda: zip_of(dict.fromkeys("ab", bytes(6000))), "at most 10000 bytes"),
    "lying bomb": (lying_bomb, "zip file|at most 10000 bytes"),
    "many files": (lambda: zip_of({str(n): b"" for n in range(11)}), "at most 10 files; got 11"),
    "file as folder": (lambda: zip_of({"a": b"1", "a/b": b"2"}), "must have unique names"),
    "folder as file": (lambda: zip_of({"a/b": b"1", "a": b"2"}), "must have unique names"),
    "encrypted": (encrypted, "intact zip file"),
    "corrupted": (corrupted, "intact zip file"),
    "cut": (lambda: zip_of({"a": b"x" * 100})[:-30], "intact zip file"),
    "web page": (lambda: b"<html>not found</html>", "intact zip file"),
    "empty": (lambda: b"", "intact zip file"),
}


@pytest.mark.parametrize("name", EVIL)
def test_unpack_refuses_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    make, message = EVIL[name]
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(DataError, match=message):
        unpack(make(), inner)
    assert [path.name for path in inner.iterdir()] == ["archive.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_unpack_takes_no_folder_with_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(DataError, match="folder must be empty"):
        unpack(zip_of({"a": b"x"}), tmp_path)
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_unpack_without_an_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="archive not found"):
        safe_unpack(tmp_path / "none.zip", tmp_path / "out", max_bytes=1, max_files=1)


# get_bccd


@pytest.fixture(scope="module")
def bccd_zip(shared_data: Path) -> bytes:
    """The repository's archive, remade from the unpacked files."""
    source = shared_data / "bccd"
    entries = {
        f"BCCD_Dataset-d272fb1/BCCD/{path.relative_to(source).as_posix()}": path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.name != "LICENSE"
    }
    entries["BCCD_Dataset-d272fb1/LICENSE"] = (source / "LICENSE").read_bytes()
    entries["BCCD_Dataset-d272fb1/README.md"] = b"a readme"
    return zip_of(entries)


def test_bccd_arrives_whole_once(
    server: Any, bccd_zip: bytes, shared_data: Path, tmp_path: Path
) -> None:
    url = server.give("/bccd.zip", bccd_zip)
    folder = get_bccd(tmp_path / "sets" / "bccd", url=url)
    source = shared_data / "bccd"
    expected = {p.relative_to(source): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == expected
    assert [path.name for path in folder.parent.iterdir()] == ["bccd"]
    assert get_bccd(folder, url=url) == folder
    assert server.asked == ["/bccd.zip"]


def test_bccd_of_other_content_is_refused(server: Any, tmp_path: Path) -> None:
    url = server.give("/bccd.zip", zip_of({"x/BCCD/JPEGImages/a.jpg": b"other"}))
    with pytest.raises(DataError, match="content must be the published data set"):
        get_bccd(tmp_path / "bccd", url=url)
    assert list(tmp_path.iterdir()) == []


def test_bccd_leaves_a_folder_with_other_files_alone(server: Any, tmp_path: Path) -> None:
    (tmp_path / "bccd").mkdir()
    (tmp_path / "bccd" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="folder must be empty"):
        get_bccd(tmp_path / "bccd", url=server.url)
    assert (tmp_path / "bccd" / "mine.txt").read_text() == "mine"
    assert server.asked == []


def test_bccd_takes_an_empty_folder(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"r/BCCD/JPEGImages/a.jpg": b"image", "r/BCCD/Annotations/a.xml": b"label"}
    (tmp_path / "bccd").mkdir()
    with pytest.raises(DataError, match="got ") as caught:
        get_bccd(tmp_path / "bccd", url=server.give("/z", zip_of(files)))
    assert module.BCCD_URL not in str(caught.value)
    unpacked = unpack(zip_of(files), tmp_path)
    checksum = module.content_sha256(unpacked / "r" / "BCCD", module._BCCD_PATTERNS)
    monkeypatch.setattr(module, "_BCCD_SHA256", checksum)
    folder = get_bccd(tmp_path / "bccd", url=server.url + "/z")
    assert (folder / "JPEGImages" / "a.jpg").read_bytes() == b"image"


def test_checksum_is_of_names_and_bytes(tmp_path: Path) -> None:
    def checksum(name: str, content: bytes) -> str:
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / name).write_bytes(content)
        return module.content_sha256(tmp_path, ("*",))

    assert len({checksum("a", b"x"), checksum("a", b"y"), checksum("b", b"x")}) == 3
    assert checksum("a", b"x") == checksum("a", b"x")
