"""Images on a network input, and boxes there and back."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attendet.images import (
    Letterbox,
    common_aspect,
    letterbox,
    stretched,
)

sides = st.integers(1, 3000)
inputs = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda hw: (32 * hw[0], 32 * hw[1]))


@given(st.tuples(sides, sides), inputs)
def test_letterbox_fits_whole_and_touches_two_edges(
    image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    fit = Letterbox.for_image(image_hw, input_hw)
    whole = np.array([[0.0, 0.0, image_hw[1], image_hw[0]]])
    left, top, right, bottom = fit.to_input(whole)[0]
    assert left >= 0
    assert top >= 0
    assert right <= input_hw[1] + 1
    assert bottom <= input_hw[0] + 1
    touches = np.isclose([right - left, bottom - top], input_hw[::-1])
    assert touches.any()


@given(st.tuples(sides, sides), inputs, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
def test_letterbox_maps_boxes_there_and_back(
    image_hw: tuple[int, int], input_hw: tuple[int, int], relative_boxes: list[tuple[float, ...]]
) -> None:
    fit = Letterbox.for_image(image_hw, input_hw)
    boxes = np.array(relative_boxes, dtype=np.float64).reshape(-1, 4) * [
        *image_hw[::-1],
        *image_hw[::-1],
    ]
    np.testing.assert_allclose(fit.to_image(fit.to_input(boxes)), boxes, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("image_hw", "input_hw"),
    [
        ((480, 640), (416, 416)),
        ((100, 50), (416, 416)),
        ((33, 1000), (96, 224)),
        ((1, 1), (64, 32)),
    ],
)
def test_letterbox_moves_box_and_pixels_together(
    image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    height, width = image_hw
    image = np.zeros((*image_hw, 3), dtype=np.uint8)
    box = np.array([[width // 4, height // 4, width - width // 3, height - height // 3]])
    left, top, right, bottom = box[0]
    image[top:bottom, left:right] = 255
    padded, fit = letterbox(image, input_hw)
    assert padded.shape == (*input_hw, 3)
    assert padded.dtype == np.uint8
    white = padded[..., 0] > 200
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(found, fit.to_input(box)[0], atol=max(1.5, fit.scale))


@pytest.mark.parametrize(
    ("scaled", "method"),
    [(256, "linear"), (129, "linear"), (128, "area"), (85, "area"), (64, "area")],
)
@pytest.mark.parametrize("resize", [lambda *args: letterbox(*args)[0], stretched])
def test_images_are_averaged_from_half_the_size_on(
    scaled: int, method: str, resize: Callable[..., NDArray[np.uint8]]
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    flag = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}[method]
    expected = cv2.resize(image, (scaled, scaled), interpolation=flag)
    np.testing.assert_array_equal(resize(image, (scaled, scaled)), expected)


def test_half_the_size_is_the_mean_of_four_pixels() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[::2, ::2] = 200
    assert (letterbox(image, (32, 32))[0] == 50).all()


def test_an_image_that_is_enlarged_on_one_side_is_interpolated() -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 20, 3), dtype=np.uint8)
    expected = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(stretched(image, (64, 64)), expected)


def test_letterbox_border_is_gray_and_a_image_of_that_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    padded, fit = letterbox(image, (96, 96))
    assert (fit.scale, fit.top, fit.left) == (1.0, 16, 0)
    np.testing.assert_array_equal(padded[16:80], image)
    assert (padded[:16] == 114).all()
    assert (padded[80:] == 114).all()


def test_common_aspect() -> None:
    assert common_aspect([]) == 1.0
    assert common_aspect([(1, 2), (1, 1), (3, 1)]) == 1.0
