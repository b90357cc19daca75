from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from attendet.files import replacing, write_atomically


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
