from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.inference import Detector, Runtime
from attendet.media import predict_tiled, tiling
from attendet.media.tiling import merge_tiles, tile_windows
from attendet.models.metadata import WeightsMetadata

CLASSES = ("red", "green")


class BlobRuntime(Runtime):
    """Boxes every blob of red or green; slivers of less than six pixels escape it."""

    def __init__(self) -> None:
        self.metadata = WeightsMetadata(classes=CLASSES, input_hw=(96, 96))
        self.inputs = 0

    def run(self, inputs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.inputs += len(inputs)
        boxes = np.zeros((len(inputs), 64, 4), dtype=np.float32)
        scores = np.zeros((len(inputs), 64, 2), dtype=np.float32)
        for index, padded in enumerate(inputs):
            place = 0
            for class_id in (0, 1):
                other = padded[:, :, 1 - class_id]
                mask = ((padded[:, :, class_id] > 180) & (other < 80)).astype(np.uint8)
                _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
                for left, top, width, height, _ in stats[1:]:
                    if min(width, height) < 6:
                        continue
                    boxes[index, place] = [left, top, left + width, top + height]
                    scores[index, place, class_id] = 0.9
                    place += 1
        return boxes, scores


def _scene(
    image_hw: tuple[int, int], objects: Sequence[tuple[int, Sequence[int]]]
) -> NDArray[np.uint8]:
    image = np.zeros((*image_hw, 3), dtype=np.uint8)
    for class_id, (left, top, right, bottom) in objects:
        image[top:bottom, left:right, class_id] = 255
    return image


def _detector() -> Detector:
    return Detector(BlobRuntime(), nms_iou=0.5)


def _assert_found(
    found: Detections, objects: Sequence[tuple[int, Sequence[int]]], within: float = 2.0
) -> None:
    assert len(found) == len(objects)
    gt = np.array([box for _, box in objects], dtype=np.float32)
    for class_id, box in zip(found.class_ids, found.boxes_xyxy, strict=True):
        nearest = np.abs(gt - box).max(axis=1).argmin()
        assert np.abs(gt[nearest] - box).max() <= within
        assert objects[nearest][0] == class_id
        gt[nearest] = 1e6  # each is found once


# --- windows -----------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.integers(32, 300),
    st.floats(0, 0.9),
)
def test_windows_cover_the_image_and_overlap_enough(
    image_hw: tuple[int, int], tile: int, overlap: float
) -> None:
    windows = tile_windows(image_hw, tile, overlap)

    for axis, length in ((0, image_hw[1]), (1, image_hw[0])):
        spans = np.unique(windows[:, [axis, axis + 2]], axis=0)
        assert spans[0, 0] == 0
        assert spans[-1, 1] == length
        assert set((spans[:, 1] - spans[:, 0]).tolist()) == {min(tile, length)}
        shared = spans[:-1, 1] - spans[1:, 0]
        assert (shared >= np.floor(tile * overlap) - 1).all()


def test_no_more_windows_than_are_needed() -> None:
    assert len(tile_windows((640, 640), 640, 0.2)) == 1
    assert len(tile_windows((640, 641), 640, 0.2)) == 2
    assert len(tile_windows((1152, 1152), 640, 0.2)) == 4
    assert len(tile_windows((1153, 1152), 640, 0.2)) == 6


@pytest.mark.parametrize(("tile", "overlap"), [(31, 0.2), (0, 0.2), (64, -0.1), (64, 0.95)])
def test_windows_out_of_range_are_refused(tile: int, overlap: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        tile_windows((100, 100), tile, overlap)


# --- whole images ----------------------------------------------------------------------------


def test_small_objects_are_found_that_the_whole_image_hides() -> None:
    objects = [(0, (30, 40, 42, 52)), (1, (500, 300, 513, 311)), (0, (250, 90, 262, 101))]
    image = _scene((400, 600), objects)
    detector = _detector()

    assert len(detector.predict(image)) == 0  # 12 pixels are 2 at the network's input
    _assert_found(predict_tiled(detector, image, tile=96, overlap=0.25), objects)


def test_an_object_on_the_edges_of_four_tiles_is_found_once() -> None:
    objects = [(0, (85, 85, 105, 107))]

    found = predict_tiled(_detector(), _scene((180, 180), objects), tile=96, overlap=0.1)

    _assert_found(found, objects)


@pytest.mark.parametrize(
    "box",
    [
        (20, 20, 150, 60),  # longer than a tile is wide, over two columns
        (20, 20, 60, 260),  # over four rows
        (30, 30, 250, 240),  # over everything
        (60, 10, 130, 50),
    ],
    ids=["wide", "high", "large", "across one edge"],
)
def test_pieces_of_one_object_are_joined(box: tuple[int, int, int, int]) -> None:
    objects = [(1, box)]
    image = _scene((300, 300), objects)

    _assert_found(predict_tiled(_detector(), image, tile=96, overlap=0.2, whole=False), objects)


def test_neighbors_of_one_class_stay_two() -> None:
    # The edge of the first tile, at 96, lies in the first object; the second begins behind it.
    objects = [(0, (70, 40, 99, 70)), (0, (104, 40, 140, 70))]

    found = predict_tiled(_detector(), _scene((160, 170), objects), tile=96, overlap=0.25)

    _assert_found(found, objects)


def test_pieces_of_different_classes_are_not_joined() -> None:
    objects = [(0, (20, 40, 100, 70)), (1, (101, 40, 165, 70))]

    found = predict_tiled(
        _detector(), _scene((96, 180), objects), tile=96, overlap=0.1, whole=False
    )

    assert sorted(found.class_ids.tolist()) == [0, 1]


@settings(max_examples=25)
@given(st.data())
def test_whatever_lies_where_each_object_is_found_once(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(100, 260)), data.draw(st.integers(100, 260))
    taken = np.zeros((height, width), dtype=bool)
    objects = []
    for _ in range(data.draw(st.integers(1, 6))):
        w, h = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
        left, top = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
        around = np.s_[max(top - 10, 0) : top + h + 10, max(left - 10, 0) : left + w + 10]
        if not taken[around].any():
            taken[top : top + h, left : left + w] = True
            objects.append((data.draw(st.integers(0, 1)), (left, top, left + w, top + h)))

    found = predict_tiled(_detector(), _scene((height, width), objects), tile=96, overlap=0.5)

    _assert_found(found, objects)


def test_a_image_smaller_than_a_tile_is_predicted_as_ever() -> None:
    image = _scene((90, 80), [(0, (10, 10, 40, 40))])
    detector = _detector()

    plain, tiled = detector.predict(image), predict_tiled(detector, image, tile=96)

    np.testing.assert_array_equal(plain.boxes_xyxy, tiled.boxes_xyxy)
    assert detector.runtime.inputs == 2


def test_the_selection_reaches_the_tiles() -> None:
    objects = [(0, (30, 40, 50, 60)), (1, (150, 40, 170, 60))]
    image = _scene((100, 250), objects)

    found = predict_tiled(_detector(), image, tile=96, only=["green"], confidence=0.5)
    nothing = predict_tiled(_detector(), image, tile=96, confidence=0.95)

    assert found.names == ["green"]
    assert len(nothing) == 0
    assert nothing.image_hw == (100, 250)


# --- merging, by hand --------------------------------------------------------------------------


def _tile(boxes: Sequence[Sequence[float]], scores: Sequence[float]) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        np.zeros(len(scores), dtype=np.int64),
        CLASSES,
        (100, 100),
    )


TWO = np.array([[0, 0, 100, 100], [80, 0, 180, 100]])


def test_a_cut_box_gives_way_to_a_whole_one_of_lower_score() -> None:
    # By the suppression alone the cut box would stay: its overlap with the whole one is 0.4.
    found = [_tile([[88, 10, 100, 40]], [0.95]), _tile([[8, 10, 38, 40]], [0.6])]

    merged = merge_tiles(found, TWO, (100, 180))

    assert merged.boxes_xyxy.tolist() == [[88, 10, 118, 40]]
    assert merged.scores.tolist() == pytest.approx([0.6])


def test_a_cut_box_that_nothing_explains_stays() -> None:
    merged = merge_tiles([_tile([[88, 10, 100, 40]], [0.95]), _tile([], [])], TWO, (100, 180))

    assert merged.boxes_xyxy.tolist() == [[88, 10, 100, 40]]


def test_boxes_at_the_edge_of_the_image_are_whole() -> None:
    found = [_tile([[0, 0, 30, 30]], [0.5]), _tile([[70, 60, 100, 100]], [0.4])]

    merged = merge_tiles(found, TWO, (100, 180))

    assert merged.boxes_xyxy.tolist() == [[0, 0, 30, 30], [150, 60, 180, 100]]


def test_joined_pieces_have_the_better_score() -> None:
    found = [_tile([[20, 10, 100, 50]], [0.7]), _tile([[0, 12, 70, 50]], [0.8])]

    merged = merge_tiles(found, TWO, (100, 180))

    assert merged.boxes_xyxy.tolist() == [[20, 10, 150, 50]]
    assert merged.scores.tolist() == pytest.approx([0.8])


def test_pieces_that_lie_elsewhere_along_the_edge_stay_apart() -> None:
    found = [_tile([[20, 0, 100, 30]], [0.7]), _tile([[0, 60, 70, 100]], [0.8])]

    assert len(merge_tiles(found, TWO, (100, 180))) == 2


def test_joining_many_pieces_compares_each_pair_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.arange(0, 100, 10)
    windows = np.array([[left, 0, left + 100, 100] for left in range(0, 800, 80)])
    boxes = [[0, row, 100, row + 8] for row in rows]
    compared = []
    interval_iou = tiling._interval_iou

    def counted(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        compared.append(len(a) * len(b))
        return interval_iou(a, b)

    monkeypatch.setattr(tiling, "_interval_iou", counted)

    merged = merge_tiles([_tile(boxes, [0.5] * 10) for _ in windows], windows, (100, 820))

    assert sorted(merged.boxes_xyxy.tolist()) == [[0, row, 820, row + 8] for row in rows]
    assert sum(compared) <= 6 * 100**2  # two sides: all pairs, then four rows for each join


def test_a_thousand_random_boxes_stay_sound() -> None:
    rng = np.random.default_rng(0)
    windows = tile_windows((300, 300), 100, 0.2)
    found = []
    for _ in windows:
        corners = rng.uniform(0, 70, (80, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(3, 30, (80, 2))], axis=1)
        found.append(_tile(boxes, rng.uniform(0.1, 1, 80)))

    merged = merge_tiles(found, windows, (300, 300))

    overlap = iou_matrix(merged.boxes_xyxy, merged.boxes_xyxy)
    np.fill_diagonal(overlap, 0)
    assert overlap.max() <= 0.5
    assert (np.diff(merged.scores) <= 0).all()
    assert merged.boxes_xyxy.min() >= 0
    assert merged.boxes_xyxy.max() <= 300
