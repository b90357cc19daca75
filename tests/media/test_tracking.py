from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("trackers")

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.media import Tracker


def _found(lefts: Sequence[float], scores: Sequence[float] | None = None) -> Detections:
    boxes = [[left, 20, left + 30, 50] for left in lefts]
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores or [0.9] * len(lefts), dtype=np.float32),
        np.zeros(len(lefts), dtype=np.int64),
        ("car",),
        (100, 400),
    )


def _ids(tracked: Detections) -> list[int]:
    assert tracked.track_ids is not None
    return tracked.track_ids.tolist()


def test_objects_keep_their_numbers_whatever_their_order() -> None:
    tracker = Tracker()
    seen = []
    for number in range(8):
        lefts = [10 + 5 * number, 300 - 5 * number]
        order = [0, 1] if number % 2 else [1, 0]
        tracked = tracker.update(_found([lefts[place] for place in order]), number / 25)
        seen.append(dict(zip(order, _ids(tracked), strict=True)))

    assert seen[0] == {0: 0, 1: 0}  # not confirmed yet
    assert all(one == seen[1] for one in seen[1:])
    assert sorted(seen[1].values()) == [1, 2]


def test_an_object_that_fades_is_followed_and_one_that_is_never_sure_is_not() -> None:
    tracker = Tracker(confidence=0.5)
    tracker.update(_found([10], [0.9]), 0.0)
    tracker.update(_found([12], [0.9]), 0.04)

    tracked = tracker.update(_found([14, 300], [0.25, 0.25]), 0.08)

    assert _ids(tracked) == [1]
    assert tracked.boxes_xyxy[0, 0] == 14


def test_an_object_comes_back_within_the_patience_and_not_after() -> None:
    for gap, same in ((0.5, True), (3.0, False)):
        tracker = Tracker(patience=1.0)
        for number in range(3):
            tracker.update(_found([10]), number / 25)
        tracker.update(_found([]), 0.12 + gap / 2)
        back = [tracker.update(_found([10]), 0.12 + gap + number / 25) for number in range(2)]

        assert (_ids(back[1]) == [1]) == same


def test_detections_of_one_time_and_without_times_are_taken() -> None:
    tracker, plain = Tracker(), Tracker()
    for _ in range(3):
        same = tracker.update(_found([10]), 1.0)
        untimed = plain.update(_found([10]))

    assert _ids(same) == _ids(untimed) == [1]


def test_tracked_detections_have_track_numbers() -> None:
    tracker = Tracker()
    first = tracker.update(_found([10]), 0.0)
    second = tracker.update(_found([10, 200]), 0.04)

    assert first.to_dicts()[0]["track_id"] is None
    assert [entry["track_id"] for entry in second] == [1, None]
    assert second[:1].track_ids.tolist() == [1]
    assert second.to_supervision().tracker_id.tolist() == [1, 0]
    assert "track_id" not in _found([10]).to_dicts()[0]
    assert _found([10]).to_supervision().tracker_id is None


def test_memory_is_that_of_the_objects_in_sight() -> None:
    tracker = Tracker(patience=0.1)
    for number in range(300):
        tracker.update(_found([(number * 97) % 350]), number / 25)

    assert len(tracker._tracker.tracks) < 20


@pytest.mark.parametrize("wrong", [{"confidence": 1.5}, {"patience": -1.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Tracker(**wrong)
