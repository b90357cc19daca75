from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attendet.boxes import (
    clip_to_image,
    iou_matrix,
    non_maximum_suppression,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

# Whole-number corners keep every comparison of overlaps exact.
corners = st.integers(-200, 800)
sizes = st.integers(1, 300)


@st.composite
def box_arrays(draw: st.DrawFn, max_boxes: int = 12) -> np.ndarray:
    rows = draw(st.lists(st.tuples(corners, corners, sizes, sizes), max_size=max_boxes))
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def plain_nms(boxes, scores, class_ids, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if class_ids[k] == class_ids[index]]
        if all(plain_iou(boxes[k], boxes[index]) <= threshold for k in rivals):
            kept.append(index)
    return kept


@given(box_arrays())
def test_conversions_keep_the_corners(boxes_xyxy: np.ndarray) -> None:
    left, top, right, bottom = boxes_xyxy.T
    x, y, width, height = xyxy_to_xywh(boxes_xyxy).T
    np.testing.assert_array_equal([x, y, x + width, y + height], [left, top, right, bottom])
    x, y, width, height = xyxy_to_cxcywh(boxes_xyxy).T
    np.testing.assert_array_equal([x - width / 2, y - height / 2], [left, top])
    np.testing.assert_array_equal([x + width / 2, y + height / 2], [right, bottom])


def test_conversions_do_not_change_their_argument() -> None:
    boxes = np.array([[1.0, 2.0, 5.0, 9.0]])
    before = boxes.copy()
    for change in (xyxy_to_xywh, xyxy_to_cxcywh):
        change(boxes)
    clip_to_image(boxes, (3, 3))
    np.testing.assert_array_equal(boxes, before)


@pytest.mark.parametrize("change", [xyxy_to_xywh, xyxy_to_cxcywh])
def test_conversions_of_no_boxes_keep_float32(change) -> None:
    assert change(np.zeros((0, 4), dtype=np.float32)).shape == (0, 4)
    assert change(np.ones((2, 4), dtype=np.float32)).dtype == np.float32


@given(box_arrays(), sizes, sizes)
def test_clipped_boxes_are_inside_and_clipping_again_changes_nothing(
    boxes: np.ndarray, height: int, width: int
) -> None:
    clipped = clip_to_image(boxes, (height, width))
    assert (clipped >= 0).all()
    assert (clipped <= [width, height, width, height]).all()
    np.testing.assert_array_equal(clip_to_image(clipped, (height, width)), clipped)
    inside = (boxes >= 0).all(axis=1) & (boxes <= [width, height, width, height]).all(axis=1)
    np.testing.assert_array_equal(clipped[inside], boxes[inside])


@given(box_arrays(), box_arrays())
def test_iou_matches_the_plain_formula(a: np.ndarray, b: np.ndarray) -> None:
    expected = np.array([[plain_iou(one, other) for other in b] for one in a])
    np.testing.assert_allclose(iou_matrix(a, b), expected.reshape(len(a), len(b)), atol=1e-12)


@given(box_arrays(), corners, corners, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_iou_is_symmetric_and_invariant_to_translation_and_scale(
    boxes: np.ndarray, right: int, down: int, scale: float
) -> None:
    overlap = iou_matrix(boxes, boxes)
    np.testing.assert_array_equal(overlap, overlap.T)
    np.testing.assert_array_equal(np.diag(overlap), np.ones(len(boxes)))
    moved = boxes * scale + [right, down, right, down]
    np.testing.assert_allclose(iou_matrix(moved, moved), overlap, atol=1e-12)


def test_iou_of_hand_worked_boxes() -> None:
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 9], [3, 3, 1, 1]], dtype=np.float32)
    b = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [5, 5, 5, 9]], dtype=np.float32)
    expected = [[1, 1 / 7, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(iou_matrix(a, b), expected, atol=1e-12)


@st.composite
def scored_boxes(draw: st.DrawFn):
    boxes = draw(box_arrays(max_boxes=20))
    count = len(boxes)
    # 1/64 steps: ties happen, and float32 holds each exactly.
    scores = draw(arrays(np.int64, count, elements=st.integers(1, 64))) / 64
    class_ids = draw(arrays(np.int64, count, elements=st.integers(0, 3)))
    return boxes, scores.astype(np.float32), class_ids


THRESHOLDS = [2**0.5 / 14, 0.1**0.5, 5**-0.5, 2**-0.5, 0.9**0.5]
"""Irrational: rounding decides nothing, because no IoU of boxes with whole corners equals one."""


@settings(max_examples=150)
@given(scored_boxes(), st.sampled_from(THRESHOLDS))
@example(
    (
        np.array([[-300.0, -300, 10, 10], [0, 0, 310, 310]]),
        np.array([0.5, 0.9], dtype=np.float32),
        np.array([1, 0]),
    ),
    0.3,
)
def test_suppression_matches_the_plain_algorithm(scored, threshold: float) -> None:
    boxes, scores, class_ids = scored
    kept = non_maximum_suppression(boxes, scores, class_ids, iou_threshold=threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == plain_nms(boxes, scores, class_ids, threshold)


@pytest.mark.parametrize("count", [700, 2500])
def test_suppression_of_many_boxes_matches_the_plain_algorithm(count: int) -> None:
    rng = np.random.default_rng(count)
    centers = rng.integers(0, 400, (count, 2))
    boxes = np.hstack([centers, centers + rng.integers(5, 200, (count, 2))]).astype(np.float32)
    scores = rng.permutation(count).astype(np.float32) / count + 1e-4
    class_ids = rng.integers(0, 3, count)
    expected = plain_nms(boxes, scores, class_ids, 0.5)
    for most in (1, 50, 300, count):
        kept = non_maximum_suppression(
            boxes, scores, class_ids, iou_threshold=0.5, max_detections=most
        )
        assert kept.tolist() == expected[:most]


def test_suppression_never_mixes_classes_across_the_edges_of_the_image() -> None:
    # Boxes may leave the network input on any side by any distance.
    spread = np.array([-5000.0, -400, 0, 400, 5000])
    boxes = np.array([[x, y, x + 600, y + 600] for x in spread for y in spread])
    boxes = np.repeat(boxes, 3, axis=0)
    class_ids = np.tile([0, 1, 2], len(boxes) // 3)
    scores = np.linspace(0.9, 0.1, len(boxes)).astype(np.float32)
    kept = non_maximum_suppression(boxes, scores, class_ids, iou_threshold=0.05)
    assert kept.tolist() == plain_nms(boxes, scores, class_ids, 0.05)


def test_suppression_keeps_a_score_of_zero() -> None:
    boxes = np.array([[500.0, 500, 510, 510], [30, 30, 60, 60]])
    kept = non_maximum_suppression(boxes, np.array([0.2, 0.0]), np.zeros(2, dtype=np.int64))
    assert kept.tolist() == [0, 1]


def test_suppression_of_no_boxes() -> None:
    nothing = non_maximum_suppression(
        np.zeros((0, 4), dtype=np.float32), np.zeros(0), np.zeros(0, dtype=np.int64)
    )
    assert nothing.shape == (0,)
    assert nothing.dtype == np.int64


def test_suppression_keeps_at_most_max_detections() -> None:
    boxes = np.array([[20.0 * i, 0, 20 * i + 10, 10] for i in range(6)])
    scores = np.array([0.1, 0.6, 0.2, 0.5, 0.3, 0.4], dtype=np.float32)
    ids = np.zeros(6, dtype=np.int64)
    assert non_maximum_suppression(boxes, scores, ids, max_detections=3).tolist() == [1, 3, 5]
    assert non_maximum_suppression(boxes, scores, ids, max_detections=0).tolist() == []
