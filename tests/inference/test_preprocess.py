from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.images import PAD_VALUE
from attendet.inference.preprocess import Stretch, input_hw_for, resize_to_input

SIDES = st.integers(1, 3000)


@given(SIDES, SIDES, st.sampled_from([(416, 416), (320, 320), (320, 416), (640, 480)]))
def test_rect_input_is_the_smallest_that_holds_the_image(
    height: int, width: int, input_hw: tuple[int, int]
) -> None:
    padded = input_hw_for((height, width), input_hw, "rect")

    scale = max(input_hw) / max(height, width)
    assert max(padded) == max(input_hw)
    for side, input_side in zip((height, width), padded, strict=True):
        assert input_side % 32 == 0
        assert input_side >= round(side * scale)
        assert input_side - 32 < max(1, round(side * scale))


def test_letterbox_and_stretch_use_the_whole_input() -> None:
    assert input_hw_for((480, 640), (352, 416), "letterbox") == (352, 416)
    assert input_hw_for((480, 640), (352, 416), "stretch") == (352, 416)


def test_rect_scales_the_long_side_and_pads() -> None:
    padded, transform = resize_to_input(np.zeros((480, 640, 3), dtype=np.uint8), (416, 416), "rect")

    assert padded.shape == (320, 416, 3)
    assert (padded[:4] == PAD_VALUE).all()
    assert (padded[4:-4] == 0).all()
    assert (padded[-4:] == PAD_VALUE).all()
    back = transform.to_image(np.array([[0.0, 4.0, 416.0, 316.0]]))
    np.testing.assert_allclose(back, [[0, 0, 640, 480]], atol=1e-4)


@pytest.mark.parametrize("resize", ["rect", "letterbox", "stretch"])
@pytest.mark.parametrize("image_hw", [(480, 640), (640, 480), (100, 90), (31, 977)])
def test_boxes_are_mapped_back_to_the_image(resize: str, image_hw: tuple[int, int]) -> None:
    height, width = image_hw
    box = np.array([width // 5, height // 4, width * 3 // 4, height * 4 // 5])
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255

    padded, transform = resize_to_input(image, (416, 416), resize)
    rows, columns = np.nonzero(padded[:, :, 0] > 127)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])

    input_pixel = max(height / padded.shape[0], width / padded.shape[1], max(image_hw) / 416)
    np.testing.assert_allclose(transform.to_image(seen)[0], box, atol=1.01 * input_pixel)


def test_stretch_fills_the_input_and_copies_an_image_of_its_size() -> None:
    image = np.full((200, 100, 3), 7, dtype=np.uint8)

    padded, transform = resize_to_input(image, (64, 96), "stretch")
    same, _ = resize_to_input(image[:96, :96], (96, 96), "stretch")

    assert transform == Stretch((200, 100), (64, 96))
    assert padded.shape == (64, 96, 3)
    assert (padded == 7).all()
    assert not np.shares_memory(same, image)  # which may be a view or read-only
    assert (same == 7).all()
