"""One sink that fails in any way, and the others beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.media import Frame, Result
from attendet.media import sinks as drawn_sinks
from attendet.media.sinks import SINKS, open_sinks
from attendet.media.sources import Source

SOURCES = [Source(name, Path(f"in/{name}.jpg")) for name in ("a", "b")]
STREET = Source("street", Path("in/street.mp4"), "video")


class Brittle:
    """A sink that cannot do some of the three things that sinks do."""

    def __init__(self, **issues: BaseException) -> None:
        self.issues = issues

    def _do(self, what: str) -> None:
        if what in self.issues:
            raise self.issues[what]

    def write(self, result: Result) -> None:
        self._do("write")

    def drop(self) -> str:
        self._do("drop")
        return "brittle.txt"

    def close(self, *, whole: bool) -> None:
        self._do("close")


def _result(source: Source, seconds: float | None = None) -> Result:
    image = np.full((80, 100, 3), 90, dtype=np.uint8)
    return Result(Frame(source, image, 0, seconds), Detections.empty(("cat",), (80, 100)))


def _brittle(monkeypatch: pytest.MonkeyPatch, **issues: BaseException) -> None:
    monkeypatch.setitem(SINKS, "brittle", lambda *_: Brittle(**issues))


def _written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fill(folder: Path, **options: Any) -> None:
    with open_sinks(["json", "brittle", "csv"], folder, SOURCES, **options) as sinks:
        for source in SOURCES:
            for sink in sinks:
                sink.write(_result(source))


@pytest.mark.parametrize("moment", ["write", "close"])
@pytest.mark.parametrize(
    ("issue", "words"),
    [
        (
            ValueError("an odd\n value"),
            "brittle.txt could not be written: ValueError an odd value.",
        ),
        (OSError("disk full"), "brittle.txt could not be written: disk full."),
        (KeyError(), "brittle.txt could not be written: KeyError."),
        (ConfigError("there is no encoder."), "there is no encoder."),
    ],
    ids=["value", "os", "silent", "own"],
)
def test_whatever_goes_wrong_in_one_sink_costs_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, issue: Exception, words: str
) -> None:
    _brittle(monkeypatch, **{moment: issue})
    failed: list[str] = []

    _fill(tmp_path, on_fail=failed.append)

    assert failed == [words] * (2 if moment == "write" else 1)
    assert _written(tmp_path) == ["detections.csv", "detections.json"]
    assert len(json.loads((tmp_path / "detections.json").read_text())["images"]) == 2


def test_a_file_that_cannot_even_be_removed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _brittle(monkeypatch, close=OSError("disk full"), drop=OSError("no right"))
    failed: list[str] = []

    _fill(tmp_path, on_fail=failed.append)

    assert failed == ["a result of --save brittle could not be written: disk full."]
    assert _written(tmp_path) == ["detections.csv", "detections.json"]


@pytest.mark.parametrize("issue", [ValueError("first"), KeyboardInterrupt("first")])
def test_without_a_listener_the_others_are_filed_and_the_first_error_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issue: BaseException
) -> None:
    _brittle(monkeypatch, close=issue)
    monkeypatch.setitem(SINKS, "worse", lambda *_: Brittle(close=ValueError("second")))

    with (
        pytest.raises(type(issue), match="first"),
        open_sinks(["json", "brittle", "worse", "csv"], tmp_path, SOURCES),
    ):
        pass

    assert _written(tmp_path) == ["detections.csv", "detections.json"]


def test_a_run_that_breaks_off_reports_its_first_error_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _brittle(monkeypatch, close=ValueError("second"))

    with (
        pytest.raises(KeyboardInterrupt, match="first"),
        open_sinks(["json", "brittle", "csv"], tmp_path, SOURCES),
    ):
        raise KeyboardInterrupt("first")

    assert _written(tmp_path) == []


def test_a_sink_that_cannot_be_opened_leaves_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Brittle:
        raise ValueError

    monkeypatch.setitem(SINKS, "broken", broken)

    with pytest.raises(ValueError), open_sinks(["json", "broken"], tmp_path, SOURCES):
        pass

    assert _written(tmp_path) == []


def test_a_video_that_cannot_be_begun_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such codec")

    monkeypatch.setattr(drawn_sinks, "VideoWriter", broken)
    failed: list[str] = []

    with open_sinks(["annotated", "json"], tmp_path, [STREET], on_fail=failed.append) as sinks:
        for sink in sinks:
            sink.write(_result(STREET, 0.0))

    name = tmp_path / "street.mp4"
    assert failed == [f"{name} could not be written: RuntimeError no such codec."]
    assert _written(tmp_path) == ["detections.json"]


@pytest.mark.parametrize("issue", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_video_that_cannot_be_finished_costs_nothing_of_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issue: Exception
) -> None:
    av = pytest.importorskip("av")
    plaza = Source("plaza", Path("in/plaza.mp4"), "video")
    close, closed = drawn_sinks.VideoWriter.close, []

    def close_all_but_two(writer: drawn_sinks.VideoWriter) -> None:
        closed.append(writer)
        if len(closed) <= 2:
            raise issue
        close(writer)

    monkeypatch.setattr(drawn_sinks.VideoWriter, "close", close_all_but_two)
    failed: list[str] = []

    with open_sinks(["annotated"], tmp_path, [STREET, plaza], on_fail=failed.append) as sinks:
        for source, seconds in [
            *((STREET, 0.0), (SOURCES[0], None), (dataclasses.replace(STREET, name="b"), 0.0)),
            *((plaza, 0.0), (plaza, 0.04)),
        ]:
            sinks[0].write(_result(source, seconds))

    for words, name in zip(failed, ("street.mp4", "b.mp4"), strict=True):
        assert words.startswith(f"{tmp_path / name} could not be written: ")
    assert _written(tmp_path) == ["a.jpg", "plaza.mp4"]
    with av.open(str(tmp_path / "plaza.mp4")) as video:
        assert len(list(video.decode(video=0))) == 2


@pytest.mark.parametrize(
    ("kind", "name"), [("image", "a.jpg"), ("annotated", "a.jpg"), ("yolo", "yolo/a.txt")]
)
def test_a_file_that_cannot_be_written_is_named_whole(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name / "in the way").mkdir(parents=True)
    failed: list[str] = []

    with open_sinks([kind], tmp_path, SOURCES, on_fail=failed.append) as sinks:
        sinks[0].write(_result(SOURCES[0]))

    assert len(failed) == 1
    assert failed[0].startswith(f"{tmp_path / name} could not be written: ")
