from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attendet.errors import ConfigError, MissingExtraError
from attendet.inference import Detector, stream
from attendet.inference.runtimes.base import Limits
from attendet.media import Frame, FrameOptions, predict_frames, read_frames
from attendet.media.sources import Skipped, Source

STREET = Source("street", Path("street.mp4"), "video")


def _frames(scene: Any, count: int, source: Source = STREET, step: int = 4) -> Iterator[Frame]:
    for number in range(count):
        left = 10 + step * number
        image = scene((96, 192), (left, 30, left + 30, 60))
        yield Frame(source, image, number, number / 25)


def test_results_come_in_order_in_batches(bright: Any, scene: Any) -> None:
    runtime = bright(input_hw=(96, 192))

    results = list(predict_frames(Detector(runtime), _frames(scene, 7), batch=3))

    assert [result.frame.index for result in results] == list(range(7))
    assert [shape[0] for shape in runtime.shapes] == [3, 3, 1]
    lefts = [result.detections.boxes_xyxy[0, 0] for result in results]
    assert lefts == pytest.approx([10 + 4 * n for n in range(7)], abs=1)


def test_live_frames_do_not_wait_for_each_other(bright: Any, scene: Any) -> None:
    taken: list[int] = []

    def frames() -> Iterator[Frame]:
        for frame in _frames(scene, 3, Source("cam", "camera:0", "camera")):
            taken.append(frame.index)
            yield frame

    results = predict_frames(Detector(bright()), frames(), batch=8)

    next(results)
    assert taken == [0]


def test_large_frames_run_in_smaller_batches(
    bright: Any, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_BYTES", 2 * 2 * 96 * 192 * 3)  # image and network input
    runtime = bright(input_hw=(96, 192))

    list(predict_frames(Detector(runtime), _frames(scene, 5), batch=8))

    assert [shape[0] for shape in runtime.shapes] == [2, 2, 1]


def test_wanted_classes_and_tiles_reach_the_detector(bright: Any, scene: Any) -> None:
    runtime = bright(input_hw=(96, 96))
    frame = Frame(Source("a", Path("a.png")), scene((200, 300), (100, 50, 160, 90)))

    (cats,) = predict_frames(Detector(runtime), [frame], FrameOptions(only=["cat"]))
    (tiled,) = predict_frames(Detector(runtime), [frame], FrameOptions(tile=160, overlap=0.5))

    assert len(cats.detections) == 0  # its best class is dog
    assert sum(shape[0] for shape in runtime.shapes) == 1 + 2 * 3 + 1
    np.testing.assert_allclose(tiled.detections.boxes_xyxy, [[100, 50, 160, 90]], atol=2)


def test_tracks_and_counts_restart_with_each_video(bright: Any, scene: Any) -> None:
    pytest.importorskip("trackers")
    plaza = Source("plaza", Path("plaza.mp4"), "video")
    frames = [*_frames(scene, 30), *_frames(scene, 30, plaza)]
    watch = FrameOptions(lines=[(96, 96, 96, 0)], zones=[(60, 0, 140, 0, 140, 96, 60, 96)])

    results = list(predict_frames(Detector(bright(input_hw=(96, 192))), frames, watch))

    for part in (results[:30], results[30:]):
        assert part[0].detections.track_ids.tolist() == [0]
        assert {tuple(one.detections.track_ids.tolist()) for one in part[1:]} == {(1,)}
        line, zone = part[-1].counts
        assert line["in"] + line["out"] == 1
        assert (zone["inside"], zone["most"], zone["visits"]) == (0, 1, 1)
        assert part[0].counts[1]["most"] == 0


def test_images_that_stand_alone_are_one_sequence(bright: Any, scene: Any) -> None:
    pytest.importorskip("trackers")
    frames = [
        Frame(Source(str(number), Path(f"{number}.png")), frame.image)
        for number, frame in enumerate(_frames(scene, 4))
    ]

    results = list(
        predict_frames(Detector(bright(input_hw=(96, 192))), frames, FrameOptions(track=True))
    )

    assert [one.detections.track_ids.tolist() for one in results] == [[0], [1], [1], [1]]


def test_the_confidence_stays_what_was_asked_for(bright: Any, scene: Any) -> None:
    pytest.importorskip("trackers")
    detector = Detector(bright(input_hw=(96, 192)), confidence=0.95)

    results = list(predict_frames(detector, _frames(scene, 4), FrameOptions(track=True)))

    assert [len(one.detections) for one in results] == [0, 0, 0, 0]


@pytest.mark.parametrize(("confidence", "lowest"), [(None, 0.3), (0.8, 0.32)])
def test_tracking_uses_no_score_below_that_of_the_file(
    bright: Any, scene: Any, confidence: float | None, lowest: float
) -> None:
    pytest.importorskip("trackers")
    runtime = bright(input_hw=(96, 192))
    runtime.limits = Limits(confidence=0.3, nms_iou=0.5, max_detections=50)
    detector = Detector(runtime, confidence)
    asked: list[float] = []
    stream = detector.stream
    detector.stream = lambda *words, **rule: (
        asked.append(rule["confidence"]) or stream(*words, **rule)
    )

    results = list(predict_frames(detector, _frames(scene, 3), FrameOptions(track=True)))

    assert asked == [pytest.approx(lowest)]
    assert [one.detections.track_ids.tolist() for one in results] == [[0], [1], [1]]


# --- lines and zones that do not fit -----------------------------------------------------------

ZONE = FrameOptions(zones=[(0, 0, 150, 0, 150, 90)])


def _of_size(name: str, image_hw: tuple[int, int], count: int = 3) -> list[Frame]:
    source = Source(name, Path(f"{name}.mp4"), "video")
    image = np.zeros((*image_hw, 3), dtype=np.uint8)
    return [Frame(source, image, number, number / 25) for number in range(count)]


def test_a_video_that_a_zone_does_not_fit_is_skipped_and_the_others_go_on(
    bright: Any,
) -> None:
    frames = [*_of_size("a", (96, 192)), *_of_size("small", (50, 60)), *_of_size("b", (96, 192))]
    skipped: list[Skipped] = []

    results = predict_frames(Detector(bright()), frames, ZONE, on_skip=skipped.append)

    assert [one.frame.source.name for one in results] == ["a"] * 3 + ["b"] * 3
    assert [one.path for one in skipped] == ["small.mp4"]
    assert skipped[0].reason == (
        "counting zone must be inside the image of 60 x 50 pixels; "
        "got 0,0,150,0,150,90 (small.mp4)."
    )


def test_images_that_a_zone_does_not_fit_are_skipped_at_any_position(bright: Any) -> None:
    small, large = np.zeros((50, 60, 3), np.uint8), np.zeros((96, 192, 3), np.uint8)
    frames = [
        Frame(Source(name, Path(f"{name}.png")), image)
        for name, image in (("a", small), ("b", large), ("c", small))
    ]
    skipped: list[Skipped] = []

    results = predict_frames(Detector(bright()), frames, ZONE, on_skip=skipped.append)

    assert [one.frame.name for one in results] == ["b"]
    assert [one.path for one in skipped] == ["a.png", "c.png"]


def test_without_a_listener_a_zone_that_does_not_fit_is_an_error(bright: Any) -> None:
    frames = _of_size("small", (50, 60))

    with pytest.raises(ConfigError, match=r"image of 60 x 50 pixels; got .* \(small\.mp4\)"):
        list(predict_frames(Detector(bright()), frames, ZONE))


def test_a_camera_that_a_zone_does_not_fit_is_not_waited_for(bright: Any) -> None:
    camera = Source("camera-0", "camera:0", "camera")

    def endless() -> Iterator[Frame]:
        yield Frame(camera, np.zeros((50, 60, 3), np.uint8), 0, 0.0)
        raise AssertionError("it was read on")

    skipped: list[Skipped] = []

    assert not list(predict_frames(Detector(bright()), endless(), ZONE, on_skip=skipped.append))
    assert len(skipped) == 1


# --- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrameOptions(tile=5), "tile must be 32"),
        (lambda: FrameOptions(tile=64, overlap=1.0), "overlap must be"),
        (lambda: FrameOptions(only=[]), "only must name at least one class; got none"),
    ],
    ids=["tile", "overlap", "only"],
)
def test_what_is_wrong_is_said_at_once(make: Callable[[], FrameOptions], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "options",
    [FrameOptions(track=True), FrameOptions(lines=[(0, 0, 9, 9)])],
    ids=["track", "line"],
)
def test_what_needs_an_extra_says_which_at_once(
    bright: Any, monkeypatch: pytest.MonkeyPatch, options: FrameOptions
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)

    with pytest.raises(MissingExtraError, match=r"needs 'trackers'.*attendet\[track\]"):
        next(predict_frames(Detector(bright()), [], options))


def test_a_batch_of_none_is_refused(bright: Any) -> None:
    with pytest.raises(ConfigError, match="batch must be 1 or more; got 0"):
        next(predict_frames(Detector(bright()), [], batch=0))


def test_the_whole_way_from_a_video(bright: Any, make_video: Callable[..., Path]) -> None:
    detector = Detector(bright(input_hw=(64, 96)))

    results = list(predict_frames(detector, read_frames(make_video(frames=9)), batch=4))

    lefts = [one.detections.boxes_xyxy[0, 0] for one in results]
    assert lefts == pytest.approx([4 * n for n in range(9)], abs=1)
