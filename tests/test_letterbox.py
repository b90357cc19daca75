"""Pictures on a canvas, and boxes there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.pictures import (
    Letterbox,
    common_aspect,
    letterbox,
)

sides = st.integers(1, 3000)
canvases = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(
    lambda hw: (32 * hw[0], 32 * hw[1])
)


@given(st.tuples(sides, sides), canvases)
def test_letterbox_fits_whole_and_touches_two_edges(
    image_hw: tuple[int, int], canvas_hw: tuple[int, int]
) -> None:
    fit = Letterbox.fit(image_hw, canvas_hw)
    whole = np.array([[0.0, 0.0, image_hw[1], image_hw[0]]])
    left, top, right, bottom = fit.to_canvas(whole)[0]
    assert left >= 0
    assert top >= 0
    assert right <= canvas_hw[1] + 1
    assert bottom <= canvas_hw[0] + 1
    touches = np.isclose([right - left, bottom - top], canvas_hw[::-1])
    assert touches.any()


@given(st.tuples(sides, sides), canvases, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
def test_letterbox_maps_boxes_there_and_back(
    image_hw: tuple[int, int], canvas_hw: tuple[int, int], shares: list[tuple[float, ...]]
) -> None:
    fit = Letterbox.fit(image_hw, canvas_hw)
    boxes = np.array(shares, dtype=np.float64).reshape(-1, 4) * [*image_hw[::-1], *image_hw[::-1]]
    np.testing.assert_allclose(fit.to_picture(fit.to_canvas(boxes)), boxes, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("image_hw", "canvas_hw"),
    [
        ((480, 640), (416, 416)),
        ((100, 50), (416, 416)),
        ((33, 1000), (96, 224)),
        ((1, 1), (64, 32)),
    ],
)
def test_letterbox_moves_box_and_pixels_together(
    image_hw: tuple[int, int], canvas_hw: tuple[int, int]
) -> None:
    height, width = image_hw
    picture = np.zeros((*image_hw, 3), dtype=np.uint8)
    box = np.array([[width // 4, height // 4, width - width // 3, height - height // 3]])
    left, top, right, bottom = box[0]
    picture[top:bottom, left:right] = 255
    canvas, fit = letterbox(picture, canvas_hw)
    assert canvas.shape == (*canvas_hw, 3)
    assert canvas.dtype == np.uint8
    white = canvas[..., 0] > 200
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(found, fit.to_canvas(box)[0], atol=max(1.5, fit.scale))


def test_letterbox_border_is_grey_and_a_picture_of_that_size_is_untouched() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    canvas, fit = letterbox(picture, (96, 96))
    assert (fit.scale, fit.top, fit.left) == (1.0, 16, 0)
    np.testing.assert_array_equal(canvas[16:80], picture)
    assert (canvas[:16] == 114).all()
    assert (canvas[80:] == 114).all()


def test_common_aspect() -> None:
    assert common_aspect([]) == 1.0
    assert common_aspect([(1, 2), (1, 1), (3, 1)]) == 1.0
