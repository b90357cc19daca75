from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from attendet.errors import TrainingError
from attendet.training import checkpoint
from attendet.training.checkpoint import BackgroundWriter, read_state, write_state


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.arange(3.0)}, "epoch": 4, "best": 0.25, "names": ["x"]}

    write_state(tmp_path / "resume.pt", state)
    again = read_state(tmp_path / "resume.pt")

    assert torch.equal(again["weights"]["a"], torch.arange(3.0))
    assert {key: again[key] for key in ("epoch", "best", "names")} == {
        "epoch": 4,
        "best": 0.25,
        "names": ["x"],
    }


def test_layouts_come_back_too(tmp_path: Path) -> None:
    weight = torch.rand(2, 3, 3, 3).to(memory_format=torch.channels_last)

    write_state(tmp_path / "resume.pt", {"weight": weight})

    assert read_state(tmp_path / "resume.pt")["weight"].stride() == weight.stride()


def test_a_full_disk_is_reported_and_keeps_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path / "resume.pt", {"epoch": 1})
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")

    @contextlib.contextmanager
    def onto_a_full_disk(_: Path) -> Iterator[Path]:
        yield full

    monkeypatch.setattr(checkpoint, "replacing", onto_a_full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        write_state(tmp_path / "resume.pt", {"epoch": 2, "weights": torch.rand(100_000)})

    assert read_state(tmp_path / "resume.pt")["epoch"] == 1


def test_a_missing_state_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to resume .*resume\.pt"):
        read_state(tmp_path / "resume.pt")


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "bytes turned"])
def test_a_damaged_state_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "resume.pt"
    write_state(path, {"weights": torch.rand(1000)})
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"words, no state at all",
        "cut": content[: len(content) // 2],
        "bytes turned": content[:200] + bytes(b ^ 0xFF for b in content[200:700]) + content[700:],
    }
    path.write_bytes(damaged[kind])

    with pytest.raises(TrainingError, match=r"damaged|version") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo broken in",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_state_is_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], zipped: bool
) -> None:
    path = tmp_path / "resume.pt"
    if zipped:
        torch.save({"state_version": 1, "evil": _Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"state_version": 1, "evil": _Evil()}))

    with pytest.raises(TrainingError, match="damaged"):
        read_state(path)
    assert "broken in" not in capfd.readouterr().out


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path / "resume.pt", {})
    monkeypatch.setattr(checkpoint, "STATE_VERSION", 99)

    with pytest.raises(TrainingError, match="version"):
        read_state(tmp_path / "resume.pt")


def test_an_interrupted_write_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path / "resume.pt", {"epoch": 1})

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        write_state(tmp_path / "resume.pt", {"epoch": 2})

    assert read_state(tmp_path / "resume.pt")["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["resume.pt"]


def test_the_first_value_is_written_at_once_and_the_newest_at_the_end() -> None:
    written: list[int] = []
    first = threading.Event()

    def write(value: int) -> None:
        written.append(value)
        first.set()

    writer = BackgroundWriter(write, 1000)
    writer.submit(0)
    assert first.wait(60)
    for value in (1, 2, 3):
        writer.submit(value)
    writer.close()

    assert written == [0, 3]


def test_a_value_that_waits_is_written_once_the_interval_is_over() -> None:
    written: list[int] = []
    second = threading.Event()

    def write(value: int) -> None:
        written.append(value)
        if value == 1:
            second.set()

    writer = BackgroundWriter(write, 0.05)
    writer.submit(0)
    writer.submit(1)  # may replace 0
    assert second.wait(60)
    writer.close()

    assert written in ([0, 1], [1])


def test_values_are_submitted_while_one_is_written() -> None:
    written: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def write(value: int) -> None:
        begun.set()
        assert go_on.wait(60)
        written.append(value)

    writer = BackgroundWriter(write, 0)
    writer.submit(0)
    assert begun.wait(60)
    writer.submit(1)
    writer.submit(2)
    assert written == []
    go_on.set()
    writer.close()

    assert written == [0, 2]


def test_an_error_in_the_thread_is_raised_by_the_next_call() -> None:
    failed = threading.Event()

    def fail(_: int) -> None:
        failed.set()
        raise OSError("No space left on device")

    writer = BackgroundWriter(fail, 0)
    writer.submit(0)
    assert failed.wait(60)
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    writer.close()  # once


def test_a_writer_without_values_has_no_thread() -> None:
    before = threading.active_count()
    writer = BackgroundWriter(print, 0)
    assert threading.active_count() == before
    writer.close()
