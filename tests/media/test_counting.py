from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.media import counting
from attendet.media.counting import LineCounter, ZoneCounter


def _at(centers: Sequence[tuple[float, float]], track_ids: Sequence[int] | None) -> Detections:
    middle = np.array(centers, dtype=np.float32).reshape(-1, 2)
    return Detections(
        np.concatenate([middle - 5, middle + 5], axis=1),
        np.full(len(middle), 0.9, dtype=np.float32),
        np.zeros(len(middle), dtype=np.int64),
        ("car",),
        (100, 200),
        None if track_ids is None else np.array(track_ids, dtype=np.int64),
    )


counts_at_lines = pytest.mark.skipif(
    find_spec("supervision") is None, reason="needs supervision, which counts at lines"
)

DOWN = (100, 0, 100, 100)
"""From its start to its end it looks down the image: its left is the image's right."""


@counts_at_lines
def test_a_line_counts_each_way() -> None:
    counter = LineCounter(DOWN)
    for x in range(20, 190, 10):
        counter.update(_at([(x, 50), (200 - x, 20)], [1, 2]))

    assert counter.counts == {"line": [100.0, 0.0, 100.0, 100.0], "in": 1, "out": 1}


@counts_at_lines
def test_right_to_left_as_seen_along_the_line_is_in() -> None:
    counter = LineCounter(DOWN)
    for x in range(20, 190, 10):
        counter.update(_at([(x, 50)], [1]))

    assert (counter.counts["in"], counter.counts["out"]) == (1, 0)


@counts_at_lines
def test_who_turns_back_on_the_line_or_passes_its_end_is_not_counted() -> None:
    counter = LineCounter((100, 0, 100, 40))
    for x in [80, 90, 98, 103, 98, 90, 80]:
        counter.update(_at([(x, 20)], [1]))
    for x in range(20, 190, 10):
        counter.update(_at([(x, 80)], [2]))

    assert (counter.counts["in"], counter.counts["out"]) == (0, 0)


@counts_at_lines
def test_objects_without_a_number_are_not_counted() -> None:
    counter = LineCounter(DOWN)
    for x in range(20, 190, 10):
        counter.update(_at([(x, 50)], [0]))
    counter.update(_at([], []))

    assert (counter.counts["in"], counter.counts["out"]) == (0, 0)
    with pytest.raises(ConfigError, match="needs tracked detections"):
        counter.update(_at([(10, 10)], None))


@counts_at_lines
def test_unconfirmed_tracks_do_not_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = LineCounter(DOWN)
    seen: list[list[int]] = []
    monkeypatch.setattr(
        counter._zone, "trigger", lambda theirs: seen.append(theirs.tracker_id.tolist())
    )

    counter.update(_at([(20, 50), (180, 50), (60, 50)], [0, 7, 0]))
    counter.update(_at([(20, 50)], [0]))

    assert seen == [[7], []]


def test_a_zone_counts_who_is_inside_and_who_came() -> None:
    counter = ZoneCounter((45, 0, 145, 0, 145, 100, 45, 100))
    inside = []
    for x in range(10, 200, 20):
        counts = counter.update(_at([(x, 50), (x - 40, 50)], [1, 2]))
        inside.append(counts["inside"])

    assert inside == [0, 0, 1, 1, 2, 2, 2, 1, 1, 0]
    assert counter.counts["most"] == 2
    assert counter.counts["visits"] == 2
    assert counter.text == "inside 0, at most 2, 2 visits"


def test_a_zone_needs_no_tracks() -> None:
    counter = ZoneCounter((50, 0, 150, 0, 100, 100))

    assert counter.update(_at([(100, 20), (10, 90)], None)) == {
        "zone": [50.0, 0.0, 150.0, 0.0, 100.0, 100.0],
        "inside": 1,
        "most": 1,
    }
    assert counter.update(_at([], None))["inside"] == 0


def test_a_zone_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    counter = ZoneCounter((50, 10, 150, 10, 100, 90))

    inside = counter.update(_at([(100, 10), (99.5, 88), (60, 80), (199, 99)], None))["inside"]

    assert inside == 2  # one on the edge, one just above the lowest corner


def test_visitors_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "FORGET_AFTER", 50)
    counter = ZoneCounter((0, 0, 200, 0, 200, 100, 0, 100))
    for number in range(1, 301):
        counter.update(_at([(100, 50)], [number]))

    assert counter.counts["visits"] == 300
    assert len(counter._visitors) <= 100


@pytest.mark.parametrize(
    ("make", "values", "words"),
    [
        (LineCounter, (1, 2, 3), "counting line must be x1,y1,x2,y2 in pixels"),
        (LineCounter, (1, 2, 3, 4, 5, 6), "counting line must be"),
        (LineCounter, (1, 2, 1, 2), "must have two different points; got 1,2,1,2"),
        (LineCounter, (1, 2, float("nan"), 2), "counting line must be"),
        (ZoneCounter, (1, 2, 3, 4), "x,y of three or more corners"),
        (ZoneCounter, (1, 2, 3, 4, 5, 6, 7), "x,y of three or more corners"),
    ],
    ids=["three", "six", "point", "nan", "two corners", "odd"],
)
def test_what_is_no_line_or_zone_is_refused(
    make: type[LineCounter] | type[ZoneCounter], values: tuple[float, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(values)


@pytest.mark.parametrize("corner", [(300, 50), (50, 101), (-1, 50), (1e9, 1e9)])
def test_a_zone_outside_the_image_is_refused(corner: tuple[float, float]) -> None:
    counter = ZoneCounter((0, 0, 50, 0, *corner))

    with pytest.raises(ConfigError, match="must be inside the image of 200 x 100 pixels"):
        counter.update(_at([], None))


@counts_at_lines
@pytest.mark.parametrize("line", [(250, 0, 250, 90), (0, 101, 200, 101), (-9, -9, -1, 50)])
def test_a_line_beside_the_image_is_reported(line: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="must not be outside the image of 200 x 100 pixels; got"):
        LineCounter(line).check((100, 200))


@counts_at_lines
@pytest.mark.parametrize("line", [(0, 50, 1280, 50), (200, 0, 200, 100), (-9, 50, 9, 50)])
def test_a_line_may_reach_out_of_the_image(line: tuple[float, ...]) -> None:
    LineCounter(line).check((100, 200))
