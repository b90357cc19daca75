from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from attendet.errors import DataError
from attendet.files import read_json_lines, replacing, replacing_folder, write_atomically


def test_text_and_bytes_are_written_with_folders_on_the_way(tmp_path: Path) -> None:
    assert write_atomically(tmp_path / "a/b/c.txt", "größer\n") == tmp_path / "a/b/c.txt"
    write_atomically(tmp_path / "d.bin", b"\x00\xff")

    assert (tmp_path / "a/b/c.txt").read_bytes() == "größer\n".encode()
    assert (tmp_path / "d.bin").read_bytes() == b"\x00\xff"


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "state.txt"
    target.write_text("old")

    def interrupted() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_file_stays_readable_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "state.txt"
    target.write_text("old")

    with replacing(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
        assert partial.parent == target.parent  # a rename across file systems would copy

    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomically(tmp_path / "atomic", "")

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "atomic")]
    assert modes[0] == modes[1]


@pytest.mark.skipif(os.name == "nt", reason="names of 255 bytes")
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    longest = tmp_path / f"{'x' * 251}.jpg"

    write_atomically(longest, "whole")

    assert longest.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [longest]


def test_the_file_in_the_making_is_hidden_and_known_by_its_end(tmp_path: Path) -> None:
    with replacing(tmp_path / "state.txt") as partial:
        assert partial.name.startswith(".")
        assert partial.name.endswith(".part")


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    too_long, folder = tmp_path / f"{'x' * 252}.jpg", tmp_path / "folder"
    (folder / "full").mkdir(parents=True)

    for path in (too_long, folder):
        with pytest.raises(OSError) as caught:
            write_atomically(path, "whole")
        assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [folder]  # and nothing beside it


def test_a_full_disk_names_the_file_that_was_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "state.txt", "whole")

    assert caught.value.filename == str(tmp_path / "state.txt")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    def copy() -> None:
        with replacing(tmp_path / "copy.txt") as partial:
            partial.write_bytes((tmp_path / "gone.txt").read_bytes())

    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        copy()


def test_a_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "data"
    target.mkdir()
    (target / "old.txt").touch()
    rename = Path.rename

    def blocked(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise PermissionError(errno.EACCES, "denied", str(path))
        return rename(path, to)

    def replace() -> None:
        with replacing_folder(target) as staging:
            (staging / "new.txt").touch()

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", blocked)
        with pytest.raises(PermissionError):
            replace()
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    replace()
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_of_json_lines_only_the_last_may_be_truncated(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    assert read_json_lines(path) == []
    path.write_text('{"a": 1}\n{"b": 2}\n{"c"')
    assert read_json_lines(path) == [{"a": 1}, {"b": 2}]
    path.write_text('{"a": 1}\n{"b"\n{"c": 3}\n')
    with pytest.raises(DataError, match=r"must be valid JSON; got an invalid line .*runs\.jsonl:2"):
        read_json_lines(path)
