from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attendet.boxes import iou_matrix
from attendet.errors import ConfigError
from attendet.images import Letterbox
from attendet.inference import postprocess
from attendet.inference.postprocess import Selection, select_detections

TRANSFORM = Letterbox.for_image((480, 640), (320, 416))
CLASSES = ("cat", "dog")


def _select(
    boxes: object, scores: object, transform: Letterbox = TRANSFORM, **selection: object
) -> tuple[list[list[float]], list[float], list[int]]:
    found = select_detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32).reshape(-1, len(CLASSES)),
        transform,
        CLASSES,
        Selection(**selection),  # type: ignore[arg-type]
    )
    assert found.boxes_xyxy.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    assert found.image_hw == transform.image_hw
    return (
        found.boxes_xyxy.astype(float).round(2).tolist(),
        found.scores.astype(float).round(3).tolist(),
        found.class_ids.tolist(),
    )


def test_a_hand_worked_case() -> None:
    boxes = [[0, 4, 65, 69], [130, 134, 195, 199], [131, 134, 195, 199], [-65, 4, 65, 134]]
    scores = [[0.1, 0.2], [0.5, 0.3], [0.6, 0.1], [0.0, 0.9]]

    assert _select(boxes, scores) == (
        [[0, 0, 100, 200], [201.54, 200, 300, 300]],
        [0.9, 0.6],
        [1, 0],
    )


def test_multi_label_keeps_a_box_for_every_class() -> None:
    boxes, scores = [[0, 4, 65, 69]], [[0.5, 0.4]]

    assert _select(boxes, scores)[1:] == ([0.5], [0])
    assert _select(boxes, scores, multi_label=True)[1:] == ([0.5, 0.4], [0, 1])
    assert _select(boxes, scores, multi_label=True, confidence=0.45)[1:] == ([0.5], [0])


def test_a_score_equal_to_the_confidence_is_kept() -> None:
    assert _select([[0, 4, 65, 69]], [[0.25, 0.0]], confidence=0.25)[1] == [0.25]


def test_only_filters_before_max_detections() -> None:
    boxes = [[0, 4, 65, 69], [100, 100, 150, 150]]
    scores = [[0.9, 0.5], [0.3, 0.4]]

    assert _select(boxes, scores, only=(1,), max_detections=1)[1:] == ([0.4], [1])


@pytest.mark.parametrize(
    "box",
    [
        [500, 10, 600, 50],  # right of the image
        [10, -50, 50, 3.5],  # in the gray border above it
        [40, 40, 40, 60],
        [60, 40, 40, 60],
        [np.nan, 40, 50, 60],
    ],
)
def test_boxes_outside_the_image_are_removed(box: list[float]) -> None:
    assert _select([box], [[0.9, 0.0]]) == ([], [], [])


def test_infinite_boxes_are_clipped_and_nan_scores_removed() -> None:
    inf = np.inf
    boxes = [[-inf, -inf, inf, inf], [0, 4, 65, 69]]

    assert _select(boxes, [[0.9, 0.0], [np.nan, np.nan]])[0] == [[0, 0, 640, 480]]


def test_no_boxes() -> None:
    assert _select([], []) == ([], [], [])


def test_only_the_best_candidates_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(10, 300, (500, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 50, (500, 2))], axis=1)
    scores = rng.uniform(0, 1, (500, 2))
    whole = _select(boxes, scores, max_detections=20, multi_label=True)

    monkeypatch.setattr(postprocess, "MAX_CANDIDATES", 200)

    assert _select(boxes, scores, max_detections=20, multi_label=True) == whole


def _naive(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], selection: Selection
) -> list[tuple[int, int]]:
    """Greedy selection, pair by pair, as a textbook writes it."""
    pairs = [
        (float(scores[row, k]), row, k)
        for row in range(len(boxes))
        for k in range(scores.shape[1])
        if scores[row, k] >= selection.confidence
        and (selection.multi_label or k == int(scores[row].argmax()))
    ]
    kept: list[tuple[int, int]] = []
    overlaps = iou_matrix(boxes, boxes)
    for _, row, k in sorted(pairs, key=lambda pair: -pair[0]):
        if all(
            k != other_k or overlaps[row, other] <= selection.nms_iou for other, other_k in kept
        ):
            kept.append((row, k))
    return kept[: selection.max_detections]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.booleans(),
    st.sampled_from([1, 5, 300]),
)
def test_selection_agrees_with_textbook_nms(
    seed: int, count: int, iou: float, multi_label: bool, max_detections: int
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 40, (count, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    scores = rng.uniform(0, 1, (count, 3)).astype(np.float32)
    selection = Selection(0.4, iou, max_detections, multi_label=multi_label)
    transform = Letterbox.for_image((128, 128), (128, 128))  # image pixels are network input pixels

    found = select_detections(boxes, scores, transform, ("a", "b", "c"), selection)
    expected = _naive(boxes, scores, selection)

    assert found.class_ids.tolist() == [k for _, k in expected]
    rows = [row for row, _ in expected]
    np.testing.assert_allclose(found.boxes_xyxy, boxes[rows].reshape(-1, 4), rtol=1e-6)
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("confidence", -0.1), ("confidence", 1.5), ("nms_iou", 2), ("nms_iou", float("nan"))],
)
def test_a_threshold_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be from 0 to 1; got {value}"):
        Selection(**{field: value})  # type: ignore[arg-type]


def test_max_detections_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_detections must be 1 or more; got 0"):
        Selection(max_detections=0)
