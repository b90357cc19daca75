from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.inference.preprocess import Stretch, canvas_hw_for, lay_on_canvas
from attendet.pictures import PAD_VALUE

SIDES = st.integers(1, 3000)


@given(SIDES, SIDES, st.sampled_from([(416, 416), (320, 320), (320, 416), (640, 480)]))
def test_rect_canvas_is_the_smallest_that_holds_the_picture(
    height: int, width: int, input_hw: tuple[int, int]
) -> None:
    canvas = canvas_hw_for((height, width), input_hw, "rect")

    scale = max(input_hw) / max(height, width)
    assert max(canvas) == max(input_hw)
    for side, canvas_side in zip((height, width), canvas, strict=True):
        assert canvas_side % 32 == 0
        assert canvas_side >= round(side * scale)
        assert canvas_side - 32 < max(1, round(side * scale))


def test_canvas_of_the_other_fits_is_the_input() -> None:
    assert canvas_hw_for((480, 640), (352, 416), "square") == (352, 416)
    assert canvas_hw_for((480, 640), (352, 416), "stretch") == (352, 416)


def test_rect_keeps_the_scale_of_the_long_side_and_pads_a_little() -> None:
    canvas, fit = lay_on_canvas(np.zeros((480, 640, 3), dtype=np.uint8), (416, 416), "rect")

    assert canvas.shape == (320, 416, 3)
    assert (canvas[:4] == PAD_VALUE).all()
    assert (canvas[4:-4] == 0).all()
    assert (canvas[-4:] == PAD_VALUE).all()
    back = fit.to_picture(np.array([[0.0, 4.0, 416.0, 316.0]]))
    np.testing.assert_allclose(back, [[0, 0, 640, 480]], atol=1e-4)


@pytest.mark.parametrize("fit_rule", ["rect", "square", "stretch"])
@pytest.mark.parametrize("image_hw", [(480, 640), (640, 480), (100, 90), (31, 977)])
def test_boxes_on_the_canvas_find_back_to_their_pixels(
    fit_rule: str, image_hw: tuple[int, int]
) -> None:
    height, width = image_hw
    box = np.array([width // 5, height // 4, width * 3 // 4, height * 4 // 5])
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255

    canvas, fit = lay_on_canvas(picture, (416, 416), fit_rule)
    rows, columns = np.nonzero(canvas[:, :, 0] > 127)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])

    canvas_pixel = max(height / canvas.shape[0], width / canvas.shape[1], max(image_hw) / 416)
    np.testing.assert_allclose(fit.to_picture(seen)[0], box, atol=1.01 * canvas_pixel)


def test_stretch_fills_the_canvas_and_leaves_a_fitting_picture_alone() -> None:
    picture = np.full((200, 100, 3), 7, dtype=np.uint8)

    canvas, fit = lay_on_canvas(picture, (64, 96), "stretch")
    same, _ = lay_on_canvas(picture[:96, :96], (96, 96), "stretch")

    assert fit == Stretch((200, 100), (64, 96))
    assert canvas.shape == (64, 96, 3)
    assert (canvas == 7).all()
    assert np.shares_memory(same, picture)
