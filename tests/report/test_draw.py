from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.report.draw import (
    PALETTE,
    color_of,
    draw_detections,
    draw_gate_profiles,
    draw_side_by_side,
    draw_sorted_gates,
    gate_overlay,
    image_grid,
    text_color_on,
)


def gray(height=120, width=160):
    return np.full((height, width, 3), 128, dtype=np.uint8)


def changed(drawn, image):
    return (drawn != image).any(axis=2)


def test_the_outline_is_on_the_edges_of_the_box_and_the_image_is_unchanged():
    image = gray()
    drawn = draw_detections(image, np.array([[40.0, 30.0, 100.0, 90.0]]), None, [0])
    assert (image == 128).all()
    touched = changed(drawn, image)
    rows, columns = np.nonzero(touched)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 90, 40, 100)
    assert not touched[31:90, 41:100].any()
    assert (drawn[touched] == PALETTE[0]).all()


def test_an_edge_outside_the_image_is_not_drawn():
    drawn = draw_detections(gray(), np.array([[-9.0, -9.0, 60.0, 50.0]]), None, [0])
    rows, columns = np.nonzero(changed(drawn, gray()))
    assert set(rows) == set(range(51))
    assert set(columns) == set(range(61))
    assert not changed(drawn, gray())[:50, :60].any()


def test_tags_are_above_the_box_or_inside_it_at_the_top_edge():
    image = gray()
    low = draw_detections(image, np.array([[40.0, 60.0, 100.0, 90.0]]), ["cat"], [1])
    high = draw_detections(image, np.array([[40.0, 0.0, 100.0, 50.0]]), ["cat"], [1])
    assert changed(low, image)[50:57, 45:55].all()
    assert changed(high, image)[3:9, 45:55].all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4),
    st.text(max_size=30),
    st.floats(0, 1),
)
def test_any_box_and_label_can_be_drawn_on_any_image(height, width, box, label, score):
    image = gray(height, width)
    drawn = draw_detections(image, np.array([box]), [label], [9], np.array([score]))
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8


def test_a_label_wider_than_the_image_is_cut_to_fit():
    image = gray(40, 60)
    drawn = draw_detections(image, np.array([[30.0, 25.0, 55.0, 38.0]]), ["x" * 80], [0])
    tag = (drawn == PALETTE[0]).all(axis=2)
    assert tag[12:22].any(axis=0).sum() > 40
    assert tag.any(axis=1)[12:22].all()


def test_the_best_detection_is_drawn_on_top():
    boxes = np.array([[20.0, 40.0, 100.0, 100.0]] * 2)
    for scores, top in (([0.9, 0.1], 0), ([0.1, 0.9], 1)):
        drawn = draw_detections(gray(), boxes, None, [0, 1], np.array(scores))
        assert tuple(drawn[70, 20]) == PALETTE[top]
    assert tuple(draw_detections(gray(), boxes, None, [0, 1])[70, 20]) == PALETTE[0]


def test_lists_of_different_lengths_are_an_error():
    with pytest.raises(ConfigError, match=r"must be of one length; got \[1, 2\]"):
        draw_detections(gray(), np.zeros((1, 4)), ["a", "b"], [0])


def test_an_image_without_boxes_is_unchanged():
    assert (draw_detections(gray(), np.zeros((0, 4)), [], []) == 128).all()


def test_draw_side_by_side_shows_only_confident_detections():
    boxes = np.array([[20, 20, 60, 60], [80, 20, 120, 60]], dtype=np.float32)
    found = Detections(
        boxes, np.array([0.9, 0.1], np.float32), np.array([0, 1]), ("a", "b"), (120, 160)
    )
    sheet = draw_side_by_side(gray(), boxes, np.array([0, 1]), found)
    left, right = sheet[:, :168], sheet[:, 168:]
    assert (left == PALETTE[0]).all(axis=2).any()
    assert (left == PALETTE[1]).all(axis=2).any()
    assert (right == PALETTE[0]).all(axis=2).any()
    assert not (right == PALETTE[1]).all(axis=2).any()


def test_grid_keeps_every_image_whole():
    images = [np.full((h, w, 3), v, np.uint8) for h, w, v in ((10, 20, 1), (30, 20, 2), (8, 20, 3))]
    sheet = image_grid(images, 2)
    assert sheet.shape == (8 + 30 + 8 + 8 + 8, 8 + 20 + 8 + 20 + 8, 3)
    assert [(sheet[..., 0] == value).sum() for value in (1, 2, 3)] == [200, 600, 160]
    assert image_grid(images, 3, cell_width=40).shape == (8 + 60 + 8, 3 * 40 + 4 * 8, 3)


def test_an_empty_grid_is_an_error():
    with pytest.raises(ConfigError, match="images must be at least one; got 0"):
        image_grid([], 2)
    with pytest.raises(ConfigError, match=r"captions must be one per image \(1\); got 2"):
        image_grid([gray()], 1, captions=["a", "b"])


def test_overlay_is_yellow_where_the_gate_is_open_and_blue_where_it_is_closed():
    gate = np.zeros((3, 4))
    gate[0, 3] = 1.0
    heat = gate_overlay(gray(), gate).astype(int)
    assert heat[5, 155, 0] > heat[5, 155, 2] + 50
    assert heat[115, 5, 2] > heat[115, 5, 0] + 20
    flat = gate_overlay(gray(), np.full((3, 4), 0.5))
    assert (flat == flat[0, 0]).all()
    fixed = gate_overlay(gray(), np.full((3, 4), 1.0), value_range=(0.0, 1.0))
    assert (fixed[0, 0] == gate_overlay(gray(), gate)[0, -1]).all()


def test_profiles_are_widest_where_the_gate_is_greatest():
    rows, columns = np.zeros(6), np.zeros(8)
    rows[4], columns[1] = 0.9, 0.8
    sheet = draw_gate_profiles(gray(), rows, columns)
    right = changed(sheet[:120, 165:], np.uint8(255)).sum(axis=1)
    below = changed(sheet[125:, :160], np.uint8(255)).sum(axis=0)
    assert right.argmax() // 20 == 4
    assert below.argmax() // 20 == 1
    assert (sheet[:120, :160] == 128).all()


def test_profiles_of_one_range_can_be_compared():
    rows, columns = np.full(6, 0.5), np.linspace(0.0, 1.0, 8)

    half = draw_gate_profiles(gray(), rows, columns, row_range=(0.0, 1.0))
    full = draw_gate_profiles(gray(), rows, columns, row_range=(0.0, 0.5))

    def filled(sheet):
        return changed(sheet[:120, 165:], np.uint8(255)).sum(axis=1).mean()

    assert filled(half) == pytest.approx(filled(full) / 2, rel=0.1)


def test_gates_are_sorted_and_drawn_from_the_bottom():
    gates = np.array([0.1, 0.9, 0.5])
    sheet = draw_sorted_gates(gates, 120, 100)
    heights = changed(sheet, np.uint8(255)).sum(axis=0)
    assert sheet.shape == (100, 120, 3)
    assert heights[2] > heights[60] > heights[117]
    assert heights[2] == pytest.approx(90, abs=4)
    assert changed(sheet, np.uint8(255))[-1].all()
    doubled = draw_sorted_gates(gates * 2, 120, 100, top=2.0)
    assert changed(doubled, np.uint8(255)).sum(axis=0)[2] == pytest.approx(heights[2], abs=3)


def test_colors_differ_and_text_is_readable_on_them():
    colors = [color_of(index) for index in range(21)]
    assert len(set(colors)) == 21
    for color in colors:
        assert text_color_on(color) in ((0, 0, 0), (255, 255, 255))
    assert text_color_on((255, 255, 255)) == (0, 0, 0)
    assert text_color_on((0, 0, 0)) == (255, 255, 255)
