"""The one decode, against numbers worked by hand and a plain-Python reference."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from attendet.models.decode import decode_boxes, decode_maps, split_raw_map  # noqa: E402


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_zero_terms_are_the_anchor_in_the_middle_of_the_cell():
    boxes = decode_boxes(torch.zeros(1, 2, 3, 1, 4), torch.tensor([[10.0, 20.0]]), 32, 1.05)
    # Row 1, column 2: center (80, 48).
    assert boxes[0, 1, 2, 0].tolist() == pytest.approx([75, 38, 85, 58], abs=1e-4)


@pytest.mark.parametrize(
    ("scale", "x"),
    [
        (1.0, (0.75 + 1) * 16),  # sigmoid(ln 3) = 3/4, column 1
        (1.05, (0.75 * 1.05 - 0.025 + 1) * 16),  # 28.2
        (2.0, (0.75 * 2 - 0.5 + 1) * 16),  # 32: the cell's right edge
    ],
)
def test_scale_x_y_by_hand(scale: float, x: float):
    terms = torch.zeros(1, 1, 2, 1, 4)
    terms[0, 0, 1, 0] = torch.tensor([math.log(3), -math.log(3), math.log(2), math.log(0.5)])
    box = decode_boxes(terms, torch.tensor([[10.0, 8.0]]), 16, scale)[0, 0, 1, 0]
    y = (0.25 * scale - (scale - 1) / 2) * 16
    assert box.tolist() == pytest.approx([x - 10, y - 2, x + 10, y + 2], abs=1e-4)


def test_new_coords_by_hand():
    terms = torch.tensor([math.log(3), 0.0, math.log(3), -math.log(3)]).view(1, 1, 1, 1, 4)
    box = decode_boxes(terms, torch.tensor([[8.0, 16.0]]), 16, 2.0, "new_coords").view(4)
    # Center (0.75 * 2 - 0.5, 0.5) cells; size 8 * 1.5^2 = 18 by 16 * 0.5^2 = 4.
    assert box.tolist() == pytest.approx([16 - 9, 8 - 2, 16 + 9, 8 + 2], abs=1e-4)


def test_region_by_hand():
    raw_map = torch.tensor([0.0, 0, math.log(2), 0, 0, math.log(6), math.log(2), 0])
    anchors = [torch.tensor([[10.0, 20.0]])]
    boxes, scores = decode_maps([raw_map.view(1, 8, 1, 1)], anchors, (32,), 1.0, "region")
    assert boxes[0, 0].tolist() == pytest.approx([6, 6, 26, 26], abs=1e-4)
    assert scores[0, 0].tolist() == pytest.approx([0.5 * 6 / 9, 0.5 * 2 / 9, 0.5 / 9])


@pytest.mark.parametrize("scale", [1.0, 1.05, 2.0])
def test_reach_of_the_center(scale: float):
    terms = torch.full((1, 1, 1, 1, 4), 0.0)
    terms[..., 0], terms[..., 1] = 50.0, -50.0
    left, top, right, bottom = decode_boxes(terms, torch.ones(1, 2), 32, scale).view(4).tolist()
    reach = 32 * (scale - 1) / 2
    assert (left + right) / 2 == pytest.approx(32 + reach, abs=1e-4)
    assert (top + bottom) / 2 == pytest.approx(-reach, abs=1e-4)


def test_order_of_boxes_is_level_row_column_anchor():
    """One box is raised at a time; its place among all is counted by hand."""
    anchors = [torch.tensor([[30.0, 31], [40, 41], [50, 51]]), torch.tensor([[5.0, 6], [7, 8]])]
    maps = [torch.full((1, 3 * 6, 2, 3), -20.0), torch.full((1, 2 * 6, 4, 6), -20.0)]
    strides = (32, 16)
    place = 0
    for level, (rows, columns) in enumerate([(2, 3), (4, 6)]):
        for row in range(rows):
            for column in range(columns):
                for anchor in range(len(anchors[level])):
                    raw = [one.clone() for one in maps]
                    raw[level].view(1, -1, 6, rows, columns)[0, anchor, :, row, column] = (
                        torch.tensor([0.0, 0, 0, 0, 20, 20])
                    )
                    boxes, scores = decode_maps(raw, anchors, strides, 1.0)
                    assert scores[0, :, 0].argmax() == place
                    assert scores[0, place, 0] > 0.999
                    left, top, right, bottom = boxes[0, place].tolist()
                    stride = strides[level]
                    assert (left + right) / 2 == pytest.approx((column + 0.5) * stride)
                    assert (top + bottom) / 2 == pytest.approx((row + 0.5) * stride)
                    assert [right - left, bottom - top] == pytest.approx(
                        anchors[level][anchor].tolist()
                    )
                    place += 1
    assert place == boxes.shape[1] == 2 * 3 * 3 + 4 * 6 * 2


def test_against_a_plain_loop():
    torch.manual_seed(0)
    classes, anchors = 2, [[(12.0, 20.0), (33.0, 8.0)], [(5.0, 5.0), (9.0, 4.0)]]
    maps = [torch.randn(2, 2 * 7, 2, 3), torch.randn(2, 2 * 7, 4, 6)]
    boxes, scores = decode_maps(maps, [torch.tensor(one) for one in anchors], (32, 16), 1.05)
    for image in range(2):
        place = 0
        for raw_map, stride, level in zip(maps, (32, 16), anchors, strict=True):
            for row in range(raw_map.shape[2]):
                for column in range(raw_map.shape[3]):
                    for number, (width, height) in enumerate(level):
                        t = raw_map[image, number * 7 : number * 7 + 7, row, column].tolist()
                        x = (_sigmoid(t[0]) * 1.05 - 0.025 + column) * stride
                        y = (_sigmoid(t[1]) * 1.05 - 0.025 + row) * stride
                        w, h = width * math.exp(t[2]), height * math.exp(t[3])
                        expected = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                        box = boxes[image, place].tolist()
                        assert box == pytest.approx(expected, rel=1e-4, abs=1e-3)
                        given_scores = scores[image, place].tolist()
                        wanted = [_sigmoid(t[4]) * _sigmoid(t[5 + k]) for k in range(classes)]
                        assert given_scores == pytest.approx(wanted, rel=1e-4)
                        place += 1


def test_split_keeps_anchors_and_terms_apart():
    raw_map = torch.arange(2 * 7 * 2 * 3, dtype=torch.float32).view(1, 14, 2, 3)
    box_terms, objectness, classes = split_raw_map(raw_map, 2)
    assert box_terms.shape == (1, 2, 3, 2, 4)
    # Channel c at row 1, column 2 holds 6 c + 5; anchor 1 begins at channel 7.
    assert box_terms[0, 1, 2, 1].tolist() == [6 * c + 5 for c in (7, 8, 9, 10)]
    assert objectness[0, 1, 2, 1] == 6 * 11 + 5
    assert classes[0, 1, 2, 1].tolist() == [6 * c + 5 for c in (12, 13)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decodes_in_float32_whatever_the_maps_are_in(dtype: torch.dtype):
    torch.manual_seed(0)
    anchors = [torch.tensor([[10.0, 14], [344, 319]])]
    raw_map = torch.randn(1, 2 * 6, 13, 13).to(dtype)
    boxes, scores = decode_maps([raw_map], anchors, (32,), 1.05)
    exact_boxes, exact_scores = decode_maps([raw_map.double()], anchors, (32,), 1.05)
    assert boxes.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(boxes, exact_boxes, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(scores, exact_scores, rtol=1e-6, atol=1e-7)


def test_decodes_in_float32_under_autocast():
    raw_map = torch.randn(1, 2 * 6, 4, 4)
    anchors = [torch.tensor([[10.0, 14], [344, 319]])]
    plain = decode_maps([raw_map], anchors, (32,), 1.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = decode_maps([raw_map], anchors, (32,), 1.05)
    assert all(torch.equal(one, two) for one, two in zip(plain, under, strict=True))


@given(st.floats(-1e4, 1e4), st.sampled_from([1.0, 1.05, 2.0]))
def test_any_finite_term_gives_a_finite_upright_box(term: float, scale: float):
    terms = torch.full((1, 1, 1, 1, 4), term, requires_grad=True)
    box = decode_boxes(terms, torch.tensor([[344.0, 319.0]]), 32, scale).view(4)
    assert box.isfinite().all()
    assert (box[2:] >= box[:2]).all()
    box.sum().backward()
    assert terms.grad.isfinite().all()
